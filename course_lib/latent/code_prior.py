"""A prior over the codes of a VQ-VAE or VQ-VAE-2, and by it new images: the second stage of training.

The autoencoder was trained as if all codes were equally likely: log K nats for each. Of real images they are not, nor
are they independent. With the autoencoder fixed, an autoregressive model learns the distribution of its codes,

    p(codes) = ∏ p(k_i | k_1 … k_(i−1)),        of two levels p(top) p(bottom | top),

by maximum likelihood. That does three things: new images, codes drawn from it and decoded; a shorter description,
log p(codes) in place of h·w·log K; and a better bound, log p(x) ≥ log p(x|codes) + log p(codes), since the codes of x
are one value of the latent variables among all others. In the terms of compression, −log p(codes) is the *rate* and
−log p(x|codes) the *distortion*.

The prior is a Gated PixelCNN whose inputs are learned vectors, one for each code; that of the bottom level is
conditioned on a map computed from the top codes.

Papers: A. van den Oord, O. Vinyals, K. Kavukcuoglu (2017), arXiv:1711.00937, section 3.2 (the prior is "kept constant
and uniform" in training, then a PixelCNN is fitted); A. Razavi, A. van den Oord, O. Vinyals (2019), arXiv:1906.00446,
section 3.2 and algorithm 2. Departures: no self-attention in the top prior; both priors are trained in one loop, which
changes neither, as they share no parameter.

Logs are natural; likelihoods are nats per example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from course_lib.autoregressive.model import PixelModel
from course_lib.latent.likelihoods import Gaussian
from course_lib.latent.vqvae import VQVAE, ResidualBlock
from course_lib.latent.vqvae2 import VQVAE2


class CodePrior(nn.Module):
    """A trained autoencoder, which is not trained further here, and priors over its codes.

    prior: of (1, h, w) codes; for a VQVAE2 of its top level, and then bottom: of its bottom level, under the condition
    `condition(top)`. condition: int64 top codes (B, h/2, w/2) → maps (B, d, h, w). Only the priors have gradients.
    """

    def __init__(
        self,
        autoencoder: VQVAE | VQVAE2,
        prior: PixelModel,
        bottom: PixelModel | None = None,
        condition: nn.Module | None = None,
    ):
        super().__init__()
        shapes, sizes = code_shapes(autoencoder), code_sizes(autoencoder)
        given = [model for model in (prior, bottom) if model is not None]
        found = [(model.shape, model.levels) for model in given]
        wanted = [((1, *shape), size) for shape, size in zip(shapes, sizes, strict=True)]
        if found != wanted:
            raise ValueError(f"expected priors of (shape, levels) {wanted}, got {found}")
        if (condition is None) != (bottom is None):
            raise ValueError("a bottom prior and its condition are given together or not at all")
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.prior, self.bottom, self.condition = prior, bottom, condition

    def train(self, mode: bool = True) -> CodePrior:
        super().train(mode)
        self.autoencoder.eval()  # its codebook must not move
        return self

    # --- Codes

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The codes of images (B, C, H, W): int64 (B, T), level by level, top first. What `loss` takes."""
        codes = self.autoencoder.encode_indices(x, generator)
        return torch.cat([c.flatten(1) for c in (codes if isinstance(codes, tuple) else (codes,))], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Images in [0, 1] for codes (B, T): the mean of p(x|codes)."""
        return self.autoencoder.decode_indices(*self.levels(codes))

    def levels(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Codes (B, T) as grids: ((B, h, w),), or ((B, h/2, w/2), (B, h, w)). Raises: ValueError for another T."""
        shapes = code_shapes(self.autoencoder)
        counts = [math.prod(shape) for shape in shapes]
        if codes.ndim != 2 or codes.shape[1] != sum(counts):
            raise ValueError(f"expected codes (B, {sum(counts)}), got {tuple(codes.shape)}")
        parts = zip(codes.split(counts, dim=1), shapes, strict=True)
        return tuple(part.unflatten(1, shape) for part, shape in parts)

    # --- Likelihood

    def nats(self, codes: Tensor) -> tuple[Tensor, ...]:
        """−log p of each level's codes, given those above, for codes (B, T): (B,) each."""
        grids = [grid.unsqueeze(1) for grid in self.levels(codes)]
        first = -self.prior.log_prob(grids[0])
        if self.bottom is None:
            return (first,)
        return first, -self.bottom.log_prob(grids[1], self.condition(grids[0].squeeze(1)))

    def loss(self, codes: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars, means over the batch of codes (B, T): "loss" = rate, in nats per image; "bits_per_code"; with two
        levels also "rate_top" and "rate_bottom". `label` is ignored."""
        nats = [n.mean() for n in self.nats(codes)]
        rate = sum(nats)
        terms = {"loss": rate, "bits_per_code": rate / (codes.shape[1] * math.log(2))}
        return terms | (dict(zip(("rate_top", "rate_bottom"), nats, strict=True)) if len(nats) == 2 else {})

    @torch.no_grad()
    def rate_distortion(self, x: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Each (B,), nats: "rate" = −log p(codes), "uniform_rate" = Σ h·w·log K, "distortion" = −log p(x|codes).

        −(rate + distortion) is a lower bound on log p(x). With a Gaussian likelihood it is a log-density.
        """
        x = self.autoencoder.likelihood.prepare(x, generator)
        uniform = self.autoencoder.elbo(x)
        rate = sum(self.nats(self.encode(x)))
        return {"rate": rate, "uniform_rate": uniform["kl"], "distortion": -uniform["log_likelihood"]}

    def bits_per_dim(
        self, x: Tensor, generator: torch.Generator | None = None, grey_levels: int = 256
    ) -> Tensor:
        """(rate + distortion) / (C·H·W·log 2): (B,), bits.

        A Gaussian gives densities of grey values in [0, 1]; the probability of one of `grey_levels` levels is then
        taken as the density times the levels' distance 1/(L−1), which adds log₂(L−1) bits to each dimension.
        """
        terms = self.rate_distortion(x, generator)
        bits = (terms["rate"] + terms["distortion"]) / (x[0].numel() * math.log(2))
        return bits + math.log2(grey_levels - 1) * isinstance(self.autoencoder.likelihood, Gaussian)

    # --- New images

    def sample_codes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes drawn from the prior, those of the bottom given those of the top: int64 (n, T)."""
        was_training = self.training
        self.eval()
        try:
            codes = [self.prior.sample(n, generator)]
            if self.bottom is not None:
                with torch.no_grad():
                    condition = self.condition(codes[0].squeeze(1))
                codes.append(self.bottom.sample(n, generator, condition=condition))
        finally:
            self.train(was_training)
        return torch.cat([c.flatten(1) for c in codes], dim=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n new images (n, C, H, W) in [0, 1]: codes from the prior, decoded to the mean of p(x|codes)."""
        return self.decode(self.sample_codes(n, generator))

    def reconstruct(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """That of the autoencoder."""
        return self.autoencoder.reconstruct(x, generator)


class TopCondition(nn.Module):
    """Top codes (B, h/2, w/2) → what the bottom prior is told of them, (B, width, h, w): learned vectors, residual
    blocks, each vector repeated for the four places below it."""

    def __init__(self, num_codes: int, width: int, residual_layers: int = 2):
        super().__init__()
        self.embedding = nn.Embedding(num_codes, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(residual_layers)))

    def forward(self, top: Tensor) -> Tensor:
        told = self.blocks(self.embedding(top).movedim(-1, 1))
        return told.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def code_shapes(autoencoder: VQVAE | VQVAE2) -> tuple[tuple[int, int], ...]:
    """(h, w) of each level, top first."""
    return autoencoder.latent_shapes if isinstance(autoencoder, VQVAE2) else (autoencoder.latent_shape,)


def code_sizes(autoencoder: VQVAE | VQVAE2) -> tuple[int, ...]:
    """K of each level, top first."""
    quantizers = autoencoder.quantizers if isinstance(autoencoder, VQVAE2) else (autoencoder.quantizer,)
    return tuple(quantizer.num_codes for quantizer in quantizers)


def gated_prior(
    autoencoder: VQVAE | VQVAE2, *, channels: int = 64, layers: int = 6, embed_dim: int = 32, **options: int
) -> CodePrior:
    """Gated PixelCNNs over the codes, one for each level, with the options of `GatedPixelCNN`."""
    sizes: Sequence[int] = code_sizes(autoencoder)
    options = {"channels": channels, "layers": layers, "embed_dim": embed_dim, "kernel_size": 3} | options
    options = {"first_kernel_size": 5, "head_channels": 2 * channels} | options
    grids = [(1, *shape) for shape in code_shapes(autoencoder)]
    first = GatedPixelCNN(grids[0], sizes[0], **options)
    if len(sizes) == 1:
        return CodePrior(autoencoder, first)
    bottom = GatedPixelCNN(grids[1], sizes[1], condition_dim=channels, **options)
    return CodePrior(autoencoder, first, bottom, TopCondition(sizes[0], channels))
