"""The VQ-VAE-2: two grids of codes, a coarse one for what concerns the whole image, a fine one for the rest.

    h_bottom = E_bottom(x)                      a quarter of the side
    z_top    = E_top(h_bottom)                  an eighth                    e_top = nearest codes
    z_bottom = 1×1 [h_bottom, D_top(e_top)]     a quarter                    e_bottom = nearest codes
    p(x | e_top, e_bottom) = D([e_top twice as large, e_bottom])

The bottom encoder is told what the top codes already say, and the decoder sees both. Each level has its own codebook
and its own terms of the loss, which are those of `vqvae`; the ELBO under uniform priors is

    log p_θ(x | e_top, e_bottom) − h_top·w_top·log K_top − h_bottom·w_bottom·log K_bottom.

Paper: A. Razavi, A. van den Oord, O. Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2,
arXiv:1906.00446, section 3.1 and algorithm 1. Departures: those of `vqvae`; the networks are its convolutions and
residual blocks at the course's sizes. The priors over the codes are in `code_prior`.

Logs are natural; likelihoods are nats per example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.latent.autoencoder import check_input
from course_lib.latent.likelihoods import Gaussian, Likelihood
from course_lib.latent.vae import full_precision
from course_lib.latent.vqvae import Quantized, VectorQuantizer, vq_decoder, vq_encoder


class Networks(NamedTuple):
    """The five networks; w: any number of channels, d_top, d_bottom: those of the codes."""

    encode_bottom: nn.Module  # x (B, C, H, W) → h_bottom (B, w, h, w)
    encode_top: nn.Module  # h_bottom → z_top (B, d_top, h/2, w/2)
    decode_top: nn.Module  # e_top → (B, w', h, w), what it says to the bottom encoder
    combine: nn.Module  # both of them, (B, w + w', h, w) → z_bottom (B, d_bottom, h, w)
    enlarge_top: nn.Module  # e_top → (B, d', h, w), for the decoder
    decode: nn.Module  # (B, d' + d_bottom, h, w) → parameters of p(x | ·)


class VQVAE2(nn.Module):
    """Images ↔ two grids of codes, `top` and `bottom`. latent_shapes: ((h, w) of the top, of the bottom)."""

    def __init__(
        self,
        networks: Networks,
        top: VectorQuantizer,
        bottom: VectorQuantizer,
        likelihood: Likelihood,
        latent_shapes: Sequence[Sequence[int]],
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if len(latent_shapes) != 2 or any(len(s) != 2 or min(s) < 1 for s in latent_shapes):
            raise ValueError(
                f"latent_shapes should be ((h, w) of the top, of the bottom), got {latent_shapes}"
            )
        for name, network in networks._asdict().items():
            setattr(self, name, network)
        self.top, self.bottom, self.likelihood = top, bottom, likelihood
        self.latent_shapes = tuple(tuple(shape) for shape in latent_shapes)
        self.input_shape = None if input_shape is None else tuple(input_shape)

    @property
    def quantizers(self) -> tuple[VectorQuantizer, VectorQuantizer]:
        """Of the top and of the bottom."""
        return self.top, self.bottom

    @property
    def prior_nats(self) -> float:
        """What the codes of one image cost under uniform priors: Σ h·w·log K over the levels, nats."""
        levels = zip(self.latent_shapes, self.quantizers, strict=True)
        return sum(math.prod(shape) * math.log(quantizer.num_codes) for shape, quantizer in levels)

    # --- The two halves, with the quantisers given: in training they return more than in use

    def _bottom(self, h: Tensor, e_top: Tensor) -> Tensor:
        """z_bottom, given h_bottom and what the top codes say."""
        z = self.combine(torch.cat([h, self.decode_top(e_top).to(h.dtype)], dim=1))
        return full_precision(z)

    def decode_quantized(self, e_top: Tensor, e_bottom: Tensor) -> Tensor:
        """Parameters of p(x | e_top, e_bottom) for codes (B, d_top, h/2, w/2) and (B, d_bottom, h, w)."""
        larger = self.enlarge_top(e_top)
        return full_precision(self.decode(torch.cat([larger, e_bottom.to(larger.dtype)], dim=1)))

    def quantize(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Quantized, Quantized]:
        """Both levels of x (B, C, H, W), top first; in training mode the codebooks move."""
        check_input(x, self.input_shape)
        h = self.encode_bottom(self.likelihood.encoder_input(x))
        top = self.top(full_precision(self.encode_top(h)), generator)
        return top, self.bottom(self._bottom(h, top.z_q), generator)

    # --- Training

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: "loss", "recon", "kl", and for each level "commitment_top", "perplexity_top",
        "commitment_bottom", …, without EMA also "codebook_top" and "codebook_bottom".

        As in `VQVAE.loss`, the terms are sums over the places, loss = recon + Σ over levels (codebook + β commitment),
        and kl is the constant `prior_nats`: −(recon + kl) is the ELBO. `label` is ignored.
        """
        x = self._prepare(x, generator)
        levels = dict(zip(("top", "bottom"), self.quantize(x, generator), strict=True))
        recon = -self.likelihood.log_prob(x, self.decode_quantized(*(q.z_q for q in levels.values()))).mean()
        terms = {"loss": recon, "recon": recon, "kl": recon.new_tensor(self.prior_nats)}
        for name, quantized in levels.items():
            elements = quantized.z_q[0].numel()
            terms["loss"] = terms["loss"] + elements * quantized.loss
            terms |= {f"{term}_{name}": elements * value for term, value in quantized.losses.items()}
            terms[f"perplexity_{name}"] = quantized.perplexity
        return terms

    # --- Use

    @torch.no_grad()
    def encode_indices(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The codes of images, top first: int64 (B, h/2, w/2) and (B, h, w). The generator serves to binarise x."""
        x = self._prepare(x, generator)
        h = self.encode_bottom(self.likelihood.encoder_input(x))
        top = self.top.encode(self.encode_top(h))
        return top, self.bottom.encode(self._bottom(h, self.top.decode(top)))

    @torch.no_grad()
    def decode_indices(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Mean of p(x | codes), images in [0, 1], for integer codes (B, h/2, w/2) and (B, h, w)."""
        shapes = (tuple(top.shape[1:]), tuple(bottom.shape[1:]))
        if shapes != self.latent_shapes or len(top) != len(bottom):
            raise ValueError(
                f"expected codes (B, *{self.latent_shapes[0]}) and (B, *{self.latent_shapes[1]}), "
                f"got {tuple(top.shape)} and {tuple(bottom.shape)}"
            )
        parameters = self.decode_quantized(self.top.decode(top), self.bottom.decode(bottom))
        return self.likelihood.mean(parameters).clamp(0, 1)

    @torch.no_grad()
    def elbo(self, x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """{"elbo", "log_likelihood", "kl"}, each (B,): log p(x | codes) − `prior_nats`, the priors being uniform."""
        x = self._prepare(x, generator)
        codes = self.encode_indices(x)
        quantized = (quantizer.decode(c) for quantizer, c in zip(self.quantizers, codes, strict=True))
        log_likelihood = self.likelihood.log_prob(x, self.decode_quantized(*quantized))
        kl = torch.full_like(log_likelihood, self.prior_nats)
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}

    def reconstruct(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean of p(x | codes) at the codes of x, of x's shape, in [0, 1]."""
        return self.decode_indices(*self.encode_indices(x, generator))

    def code_counts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How often images choose each code of the top and of the bottom, int64 (K,) each."""
        levels = zip(self.encode_indices(x), self.quantizers, strict=True)
        top, bottom = (torch.bincount(c.flatten(), minlength=q.num_codes) for c, q in levels)
        return top, bottom

    def _prepare(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_input(x, self.input_shape)
        return self.likelihood.prepare(x, generator)


def conv_vqvae2(
    input_shape: Sequence[int],
    num_codes: int | tuple[int, int] = 128,
    dim: int = 32,
    *,
    width: int = 64,
    residual_width: int = 32,
    residual_layers: int = 2,
    downsamplings: int = 2,
    likelihood: Likelihood | None = None,
    **options: object,
) -> VQVAE2:
    """A VQ-VAE-2 for images (C, H, W) whose sides 2^(downsamplings + 1) divides. num_codes: of both levels, or (of the
    top, of the bottom).

    downsamplings: halvings to the bottom level; one more to the top. options are those of `VectorQuantizer`. By default
    with a Gaussian of learned σ. The paper's sizes: num_codes=512, dim=64, width=128, residual_width=64.
    """
    codes = (num_codes, num_codes) if isinstance(num_codes, int) else tuple(num_codes)
    sizes = (*codes, dim, width, residual_width, downsamplings)
    if min(sizes) < 1 or residual_layers < 0:
        raise ValueError(f"sizes should be positive, got {sizes}, {residual_layers} residual layers")
    factor = 2 ** (downsamplings + 1)
    if isinstance(input_shape, int) or len(input_shape) != 3 or any(s % factor for s in input_shape[1:]):
        raise ValueError(
            f"expected an image shape (C, H, W) with H and W divisible by {factor}, got {input_shape}"
        )
    likelihood = Gaussian(sigma="learned") if likelihood is None else likelihood
    channels, height, side = likelihood.parameter_shape(input_shape)
    body = (width, residual_width, residual_layers)
    networks = Networks(
        encode_bottom=vq_encoder(input_shape[0], width, *body, downsamplings),
        encode_top=vq_encoder(width, dim, *body, 1),
        decode_top=vq_decoder(width, dim, *body, 1),
        combine=nn.Conv2d(2 * width, dim, 1),
        enlarge_top=nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1),
        decode=vq_decoder(channels, 2 * dim, *body, downsamplings),
    )
    top, bottom = (VectorQuantizer(k, dim, **options) for k in codes)
    shapes = ((height // factor, side // factor), (2 * height // factor, 2 * side // factor))
    return VQVAE2(networks, top, bottom, likelihood, shapes, input_shape)
