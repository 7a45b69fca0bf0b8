"""The VQ-VAE: an autoencoder whose code is a grid of integers, each the number of a vector in a learned codebook.

The encoder returns a vector z_e at every place of a grid (h, w); the quantiser replaces it by the nearest of K vectors,

    z_q = e_k*,    k* = argmin_k ‖z_e − e_k‖,

and the decoder sees only z_q. As a VAE, the posterior puts all its mass on one code at each place: its entropy is 0,

    ELBO(x) = log p_θ(x|z_q) − h·w·log K    under a uniform prior.

The argmin has no gradient: the decoder's gradient at z_q is copied to z_e (straight through). That trains encoder and
decoder, but not the codebook. The loss therefore has three terms, sg[·] being the value without its gradient:

    −log p_θ(x|z_q) + ‖sg[z_e] − e‖² + β ‖z_e − sg[e]‖².

The second moves the codebook only; or, in its place, every code follows the mean of the vectors that choose it.

Papers: A. van den Oord, O. Vinyals, K. Kavukcuoglu (2017), Neural Discrete Representation Learning, arXiv:1711.00937,
with the moving averages in its appendix A.1; D. Sculley (2010), Web-scale k-means clustering, WWW; Y. Bengio,
N. Léonard, A. Courville (2013), straight-through, arXiv:1308.3432; P. Dhariwal et al. (2020), restarts of unused codes,
arXiv:2005.00341. Departures: the counts in the moving averages are smoothed (Laplace), as DeepMind's code does and the
paper does not say; a 3×3 convolution stands at either side of the codes, from the same code; the model's loss adds the
distances up over the grid, as its log-likelihood does over the pixels, where the paper takes their mean over the grid.

Logs are natural; likelihoods are nats per example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from course_lib.latent.autoencoder import check_input
from course_lib.latent.likelihoods import Gaussian, Likelihood
from course_lib.latent.vae import full_precision

#: Distances that exist at a time (16 MiB). A quarter of it is no slower on an idle CPU, but many short parallel regions
#: suffer from every busy neighbour.
CHUNK = 2**22


# --- The quantiser --------------------------------------------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    """(z_e, z_q) → z_q, with the gradient of the result passed to z_e as it is, and none to z_q."""

    @staticmethod
    def forward(ctx, z_e: Tensor, z_q: Tensor) -> Tensor:
        return z_q.view_as(z_q)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor, chunk: int = CHUNK) -> Tensor:
    """argmin_k ‖z_n − e_k‖ of vectors (N, D) among codes (K, D): int64 (N,), the first of equals.

    ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², whose first term is the same for all k: one matrix product, no square root, and
    never all N·K distances at a time, but at most `chunk` of them (one row at least).
    """
    if z.ndim != 2 or codebook.ndim != 2 or z.shape[1] != codebook.shape[1]:
        raise ValueError(f"expected (N, D) and (K, D), got {tuple(z.shape)} and {tuple(codebook.shape)}")
    rows = max(1, min(len(z), chunk // len(codebook)))
    squares = codebook.square().sum(dim=1)
    scores = z.new_empty(rows, len(codebook))
    indices = z.new_empty(len(z), dtype=torch.int64)
    for part, index in zip(z.split(rows), indices.split(rows), strict=True):
        out = torch.addmm(squares, part, codebook.t(), alpha=-2, out=scores[: len(part)])
        torch.argmin(out, dim=1, out=index)
    return indices


def perplexity(counts: Tensor) -> Tensor:
    """exp H of the code frequencies (K,): how many codes are in use, 1 if all vectors share one, K if all are equal."""
    frequencies = counts / counts.sum()
    return torch.special.entr(frequencies).sum().exp()


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns."""

    z_q: Tensor  # like z_e; its gradient goes to z_e
    indices: Tensor  # int64 (N,) or (B, H, W)
    loss: Tensor  # codebook + β · commitment, without codebook if that follows moving averages
    losses: dict[str, Tensor]  # the terms without their weights, means over all elements
    perplexity: Tensor  # of the codes of this batch


class VectorQuantizer(nn.Module):
    """Vectors, (N, dim) or at every pixel of (B, dim, H, W), replaced by the nearest of `num_codes` learned ones.

    beta: weight of the commitment loss. ema: every code is the moving average of the vectors that chose it,

        N_k ← γ N_k + (1−γ) n_k,    m_k ← γ m_k + (1−γ) Σ z_e,    e_k = m_k / N_k    (appendix A.1),

    with γ = `decay`, updated by every call in training mode after it has used the codes; otherwise the codebook is a
    parameter, and "codebook" a term of the loss. eps: Laplace smoothing, N_k becomes N (N_k + ε)/(N + Kε), N = Σ N_k.

    restart_below: codes whose N_k, a moving average of the vectors that choose the code in one batch, falls below it
    become random vectors of the batch; 0: never. (Without: N_k and m_k of an unused code fall towards 0 together, and ε
    then draws the code to the origin.)

    With several processes (torch.distributed initialised) n_k and Σ z_e are sums over all of them, and the first one's
    vectors restart codes, so the codebooks stay the same: all must call, or none, in training mode.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: float = 0.25,
        ema: bool = True,
        decay: float = 0.99,
        eps: float = 1e-5,
        restart_below: float = 0.0,
    ):
        super().__init__()
        if num_codes < 1 or dim < 1:
            raise ValueError(f"expected num_codes ≥ 1 and dim ≥ 1, got {num_codes} and {dim}")
        if not beta >= 0:
            raise ValueError(f"beta should be at least 0, got {beta}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay should lie in [0, 1), got {decay}")
        if not eps > 0:
            raise ValueError(f"eps should be positive, got {eps}")
        if not 0 <= restart_below < math.inf:
            raise ValueError(f"restart_below should be at least 0 and finite, got {restart_below}")
        self.num_codes, self.dim, self.beta, self.ema = num_codes, dim, beta, ema
        self.decay, self.eps, self.restart_below = decay, eps, restart_below
        codebook = torch.randn(num_codes, dim) / math.sqrt(dim)  # of length about 1
        if ema:
            self.register_buffer("codebook", codebook)
            self.register_buffer("sums", codebook.clone())  # m_k
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("sizes", torch.ones(num_codes))  # N_k

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.dim}, beta={self.beta}, ema={self.ema}, decay={self.decay}"

    def forward(self, z_e: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise z_e (N, dim) or (B, dim, H, W). Half precision becomes float32. The generator serves restarts."""
        z_e = full_precision(z_e)
        self._check(z_e)
        flat = z_e.movedim(1, -1).reshape(-1, self.dim)
        with torch.autocast(z_e.device.type, enabled=False):
            indices = nearest(flat.detach(), self.codebook.detach())
        codes = F.embedding(indices, self.codebook)
        commitment = F.mse_loss(flat, codes.detach())
        loss, losses = self.beta * commitment, {"commitment": commitment}
        if not self.ema:
            losses["codebook"] = F.mse_loss(codes, flat.detach())
            loss = losses["codebook"] + loss
        z_q = StraightThrough.apply(flat, codes.detach())
        counts = torch.bincount(indices, minlength=self.num_codes).to(flat.dtype)
        if self.training:
            counts = self._follow(flat.detach(), indices, counts, generator)
        shape = (len(z_e), *z_e.shape[2:])
        z_q = z_q.view(*shape, self.dim).movedim(-1, 1)
        return Quantized(z_q, indices.view(shape), loss, losses, perplexity(counts))

    @torch.no_grad()
    def encode(self, z_e: Tensor) -> Tensor:
        """The numbers of the nearest codes: (N, dim) → int64 (N,), (B, dim, H, W) → (B, H, W). Nothing is updated."""
        z_e = full_precision(z_e)
        self._check(z_e)
        flat = z_e.movedim(1, -1).reshape(-1, self.dim)
        with torch.autocast(z_e.device.type, enabled=False):
            return nearest(flat, self.codebook).view(len(z_e), *z_e.shape[2:])

    def decode(self, indices: Tensor) -> Tensor:
        """The codes of these numbers: (N,) → (N, dim), (B, H, W) → (B, dim, H, W); exactly the z_q of this codebook."""
        if indices.ndim not in (1, 3) or indices.dtype not in (torch.int64, torch.int32, torch.uint8):
            raise ValueError(
                f"expected integer codes (N,) or (B, H, W), got {indices.dtype} {tuple(indices.shape)}"
            )
        if indices.numel() and not (indices.min() >= 0 and indices.max() < self.num_codes):
            low, high = int(indices.min()), int(indices.max())
            raise ValueError(f"codes should lie in 0 … {self.num_codes - 1}, got {low} to {high}")
        return F.embedding(indices.long(), self.codebook).movedim(-1, 1)

    def _check(self, z_e: Tensor) -> None:
        if z_e.ndim not in (2, 4) or z_e.shape[1] != self.dim or z_e.numel() == 0:
            raise ValueError(
                f"expected vectors (N, {self.dim}) or (B, {self.dim}, H, W), got {tuple(z_e.shape)}"
            )
        if z_e.dtype != self.codebook.dtype:
            raise ValueError(f"the codebook is {self.codebook.dtype}, the vectors are {z_e.dtype}")

    @torch.no_grad()
    def _follow(
        self, z: Tensor, indices: Tensor, counts: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Move N_k, m_k and e_k, restart dead codes; the counts n_k (K,) of all processes come back."""
        sums = z.new_zeros(self.num_codes, self.dim)
        if self.ema:
            sums.index_add_(0, indices, z)
        if _several_processes():
            both = torch.cat([sums, counts.unsqueeze(1)], dim=1)
            distributed.all_reduce(both)
            sums, counts = both[:, :-1], both[:, -1]
        self.sizes.lerp_(counts, 1 - self.decay)
        if self.ema:
            self.sums.lerp_(sums, 1 - self.decay)
            self.codebook.copy_(self.sums / self._smoothed_sizes().unsqueeze(1))
        if self.restart_below > 0:
            self._restart(z, generator)
        return counts

    def _smoothed_sizes(self) -> Tensor:
        total = self.sizes.sum()
        return total * (self.sizes + self.eps) / (total + self.num_codes * self.eps)

    def _restart(self, z: Tensor, generator: torch.Generator | None) -> None:
        """Codes with N_k < restart_below become vectors of z, different ones as long as there are enough."""
        dead = self.sizes < self.restart_below
        order = torch.randperm(
            len(z), generator=generator, device=z.device if generator is None else generator.device
        )
        vectors = z[order.to(z.device)[torch.arange(self.num_codes, device=z.device) % len(z)]]
        if _several_processes():
            distributed.broadcast(vectors, src=0)
        self.codebook.copy_(torch.where(dead.unsqueeze(1), vectors, self.codebook))
        self.sizes.masked_fill_(dead, self.restart_below)
        if self.ema:
            self.sums.copy_(torch.where(dead.unsqueeze(1), vectors * self.restart_below, self.sums))


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


# --- The model ------------------------------------------------------------------------------------------------


class VQVAE(nn.Module):
    """An encoder, a quantiser, a decoder: images ↔ grids of codes.

    encoder: (B, C, H, W) → (B, quantizer.dim, h, w). decoder: (B, quantizer.dim, h, w) →
    (B, *likelihood.parameter_shape(input_shape)). latent_shape: (h, w).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: VectorQuantizer,
        likelihood: Likelihood,
        latent_shape: Sequence[int],
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if len(latent_shape) != 2 or any(side < 1 for side in latent_shape):
            raise ValueError(f"latent_shape should be (h, w), got {latent_shape}")
        self.encoder, self.decoder = encoder, decoder
        self.quantizer, self.likelihood = quantizer, likelihood
        self.latent_shape = tuple(latent_shape)
        self.input_shape = None if input_shape is None else tuple(input_shape)

    @property
    def prior_nats(self) -> float:
        """h·w·log K: what the codes of one image cost under a uniform prior, in nats."""
        return math.prod(self.latent_shape) * math.log(self.quantizer.num_codes)

    @property
    def prior_bits(self) -> float:
        """h·w·log2 K: the same in bits."""
        return self.prior_nats / math.log(2)

    def encode(self, x: Tensor) -> Tensor:
        """z_e (B, dim, h, w), before quantisation."""
        check_input(x, self.input_shape)
        z_e = self.encoder(self.likelihood.encoder_input(x))
        if z_e.shape != (len(x), self.quantizer.dim, *self.latent_shape):
            wanted = ", ".join(map(str, (self.quantizer.dim, *self.latent_shape)))
            raise ValueError(f"the encoder should return (B, {wanted}), got {tuple(z_e.shape)}")
        return full_precision(z_e)

    def decode(self, z_q: Tensor) -> Tensor:
        """Parameters of p(x|z_q) for z_q (B, dim, h, w)."""
        return full_precision(self.decoder(z_q))

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: "loss", "recon", "commitment", "kl", "perplexity", and without EMA "codebook".

        recon = −log p(x|z_q). codebook = Σ ‖sg[z_e] − e‖² and commitment = Σ ‖z_e − sg[e]‖² are sums over the places.
        loss = recon + codebook + β · commitment; kl = h·w·log K is a constant and not in it: −(recon + kl) is the ELBO.
        In training mode the codebook moves. `label` is ignored.
        """
        x = self._prepare(x, generator)
        quantized = self.quantizer(self.encode(x), generator)
        recon = -self.likelihood.log_prob(x, self.decode(quantized.z_q)).mean()
        elements = self.quantizer.dim * math.prod(self.latent_shape)
        terms = {"loss": recon + elements * quantized.loss, "recon": recon}
        terms |= {name: elements * value for name, value in quantized.losses.items()}
        return terms | {"kl": recon.new_tensor(self.prior_nats), "perplexity": quantized.perplexity}

    @torch.no_grad()
    def elbo(self, x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """{"elbo", "log_likelihood", "kl"}, each (B,): log p(x|z_q) − h·w·log K, the prior being uniform."""
        x = self._prepare(x, generator)
        indices = self.quantizer.encode(self.encode(x))
        log_likelihood = self.likelihood.log_prob(x, self.decode(self.quantizer.decode(indices)))
        kl = torch.full_like(log_likelihood, self.prior_nats)
        return {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}

    @torch.no_grad()
    def encode_indices(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The codes of images: int64 (B, h, w). The generator serves to binarise x."""
        return self.quantizer.encode(self.encode(self._prepare(x, generator)))

    @torch.no_grad()
    def decode_indices(self, indices: Tensor) -> Tensor:
        """Mean of p(x|z_q), an image in [0, 1], for each grid of integer codes (B, h, w)."""
        if indices.shape[1:] != self.latent_shape:
            h, w = self.latent_shape
            raise ValueError(f"expected codes (B, {h}, {w}), got {tuple(indices.shape)}")
        return self.likelihood.mean(self.decode(self.quantizer.decode(indices))).clamp(0, 1)

    def reconstruct(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean of p(x|z_q) at the codes of x, of x's shape, in [0, 1]."""
        return self.decode_indices(self.encode_indices(x, generator))

    @torch.no_grad()
    def code_counts(self, x: Tensor) -> Tensor:
        """How often images choose each code, int64 (K,); `perplexity` of it is the use of the codebook."""
        return torch.bincount(self.encode_indices(x).flatten(), minlength=self.quantizer.num_codes)

    def _prepare(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        check_input(x, self.input_shape)
        return self.likelihood.prepare(x, generator)


class ResidualBlock(nn.Module):
    """h + conv1×1(ReLU(conv3×3(ReLU(h)))) (section 4.1)."""

    def __init__(self, width: int, residual_width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, residual_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(residual_width, width, 1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


def vq_encoder(
    channels: int, dim: int, width: int, residual_width: int, residual_layers: int, downsamplings: int
) -> nn.Sequential:
    """(B, C, H, W) → (B, dim, H/2^s, W/2^s), s = downsamplings: strided 4×4 convolutions, 3×3, residual blocks, 1×1."""
    layers: list[nn.Module] = []
    for inputs in [channels, *[width] * (downsamplings - 1)]:
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1)]
    layers += [ResidualBlock(width, residual_width) for _ in range(residual_layers)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, dim, 1))


def vq_decoder(
    channels: int, dim: int, width: int, residual_width: int, residual_layers: int, upsamplings: int
) -> nn.Sequential:
    """The mirror: (B, dim, h, w) → (B, C, 2^s·h, 2^s·w), with transposed convolutions."""
    layers: list[nn.Module] = [nn.Conv2d(dim, width, 3, padding=1)]
    layers += [ResidualBlock(width, residual_width) for _ in range(residual_layers)]
    for outputs in [*[width] * (upsamplings - 1), channels]:
        layers += [nn.ReLU(), nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


def conv_vqvae(
    input_shape: Sequence[int],
    num_codes: int = 128,
    dim: int = 32,
    *,
    width: int = 64,
    residual_width: int = 32,
    residual_layers: int = 2,
    downsamplings: int = 2,
    likelihood: Likelihood | None = None,
    **options: object,
) -> VQVAE:
    """A VQ-VAE for images (C, H, W), H and W divisible by 2^downsamplings, by default with a Gaussian of learned σ.

    options are those of `VectorQuantizer`. The paper's size: num_codes=512, width=256, residual_width=256.
    """
    sizes = (num_codes, dim, width, residual_width, downsamplings)
    if min(sizes) < 1 or residual_layers < 0:
        raise ValueError(f"sizes should be positive, got {sizes}, {residual_layers} residual layers")
    factor = 2**downsamplings
    if isinstance(input_shape, int) or len(input_shape) != 3 or any(s % factor for s in input_shape[1:]):
        raise ValueError(
            f"expected an image shape (C, H, W) with H and W divisible by {factor}, got {input_shape}"
        )
    likelihood = Gaussian(sigma="learned") if likelihood is None else likelihood
    channels, height, side = likelihood.parameter_shape(input_shape)
    quantizer = VectorQuantizer(num_codes, dim, **options)
    body = (dim, width, residual_width, residual_layers, downsamplings)
    encoder, decoder = vq_encoder(input_shape[0], *body), vq_decoder(channels, *body)
    return VQVAE(encoder, decoder, quantizer, likelihood, (height // factor, side // factor), input_shape)
