"""What all autoregressive models of images share: the chain rule, the likelihood, the sampler.

An image x of integer levels 0 … L−1 has the probability

    p(x) = ∏_i p(x_i | x_1 … x_{i−1}),

with the pixels in raster order and, within a pixel, its channels one after the other (R, G, B). A causal network gives
the parameters of all these distributions in one pass over a known image: the likelihood is exact. An unknown image
has to be drawn value by value: `sample`, and `complete` where some pixels are given.

Papers: A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759;
H. Larochelle, I. Murray (2011), The Neural Autoregressive Distribution Estimator, AISTATS (the factorisation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.autoregressive.incremental import Stepper


class PixelModel(nn.Module):
    """p(x) = ∏ p(x_i | x_<i) for images of integer levels; a softmax over the levels unless a subclass says otherwise.

    shape: (C, H, W). levels: L ≥ 2. embed_dim: each level enters the network as a learned vector of that length, for
    levels that are names and not amounts (the codes of a VQ-VAE); None: as a number, scaled to [−1, 1].

    A subclass defines `network` and, to sample fast, `stepper`. One that is not a softmax over levels redefines
    `parameters_per_pixel`, `passes`, `draws`, `log_prob_of` and `draw`.
    """

    def __init__(self, shape: Sequence[int], levels: int, embed_dim: int | None = None):
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape should be (channels, height, width), got {tuple(shape)}")
        if levels < 2:
            raise ValueError(f"levels should be at least 2, got {levels}")
        self.shape, self.levels = tuple(shape), levels
        channels = shape[0]
        self.embedding = None if embed_dim is None else nn.Embedding(levels, embed_dim)
        self.in_channels = channels * (embed_dim or 1)  # of the network; consecutive blocks for the colours
        self.parameters_per_pixel = channels * levels  # consecutive blocks for the colours
        self.passes = channels  # how often the network runs for a pixel: once for each colour
        self.draws = channels  # uniform numbers that one pixel needs

    # --- What a subclass defines

    def network(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        """Network inputs (B, in_channels, H, W) → parameters of every pixel (B, parameters_per_pixel, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has to define network(inputs, condition)")

    def stepper(self, n: int, condition: Tensor | None = None) -> Stepper:
        """The network for n images, one pixel at a time: row(), pixel(j, inputs) and write(j, inputs)."""
        raise NotImplementedError(f"{type(self).__name__} has no cached sampler; use cached=False")

    # --- Likelihood

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Parameters of p(x_i | x_<i) at every pixel of integer x (B, C, H, W): (B, parameters_per_pixel, H, W)."""
        self._check(x)
        return self.network(self.to_input(x), condition)

    def log_prob(
        self, x: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x) for x (B, C, H, W): (B,), nats, exact. x: integer levels; or, with 2 levels, see `prepare`."""
        x = self.prepare(x, generator)
        return self.log_prob_of(x, self(x, condition)).flatten(1).sum(dim=1)

    def bits_per_dim(
        self, x: Tensor, condition: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """−log₂ p(x) / (C·H·W): (B,), bits. A uniform model over 256 levels has 8."""
        return -self.log_prob(x, condition, generator) / (math.prod(self.shape) * math.log(2))

    def loss(self, x: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars, means over the batch: {"loss": −log p(x) in nats per image, "bits_per_dim"}.

        label (B,) is the condition of a model that is conditioned on classes, and ignored by any other.
        """
        nll = -self.log_prob(x, label if getattr(self, "num_classes", None) else None).mean()
        return {"loss": nll, "bits_per_dim": nll / (math.prod(self.shape) * math.log(2))}

    def log_prob_of(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x_i | x_<i) of integer x (B, C, H, W) under the parameters (B, C·L, H, W): (B, C, H, W), nats."""
        logits = parameters.unflatten(1, (self.shape[0], self.levels)).transpose(1, 2)  # (B, L, C, H, W)
        return -F.cross_entropy(logits, x.long(), reduction="none")

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Integer levels, int64. With 2 levels, grey values in [0, 1] are the probabilities of 1, and are drawn.

        A fresh draw each time is the dynamic binarisation of Burda et al. (2016, arXiv:1509.00519).
        """
        if self.levels == 2 and x.is_floating_point():
            if not bool(((x >= 0) & (x <= 1)).all()):
                raise ValueError(f"grey values should lie in [0, 1], got {x.min():.3g} to {x.max():.3g}")
            x = (torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) < x).long()
        self._check(x)
        return x.long()

    def to_input(self, x: Tensor) -> Tensor:
        """Integer levels (B, C, …) → what the network reads: (B, in_channels, …), floats."""
        if self.embedding is None:
            weight = next(self.parameters())
            return x.to(weight.dtype) * (2 / (self.levels - 1)) - 1
        return self.embedding(x.long()).movedim(-1, 2).flatten(1, 2)

    # --- Sampling

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        cached: bool = True,
        condition: Tensor | None = None,
    ) -> Tensor:
        """n images of integer levels, int64 (n, C, H, W), drawn exactly from p(x), or p(x | condition).

        cached: compute each position once (see `incremental`); False: run the whole network for every value. Both
        draw the same images from the same generator.
        """
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        x = torch.zeros(n, *self.shape, dtype=torch.long, device=self.device_of_weights)
        known = torch.zeros(self.shape[1:], dtype=torch.bool, device=self.device_of_weights)
        return self.complete(x, known, generator, cached, condition)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        generator: torch.Generator | None = None,
        cached: bool = True,
        condition: Tensor | None = None,
    ) -> Tensor:
        """x with every pixel that is not `known` drawn, given all *earlier* pixels: int64 (n, C, H, W).

        x: integer levels (n, C, H, W); what it holds where it is not known does not matter, as long as it is a level.
        known: boolean, (H, W) or (n, H, W); all channels of a pixel are known or none. With known pixels that come
        after unknown ones, this is not a draw from the conditional distribution: those before do not see those after.
        """
        self._check(x)
        n, (_, height, width) = len(x), self.shape
        if known.dtype != torch.bool or known.shape not in ((height, width), (n, height, width)):
            raise ValueError(
                f"known should be boolean, ({height}, {width}) or ({n}, {height}, {width}); got {known.dtype} "
                f"{tuple(known.shape)}"
            )
        unknown = ~known.expand(n, height, width).to(x.device)
        wanted = unknown.any(dim=0).tolist()  # one transfer, not one for each pixel
        uniform = self._uniform((height, width, n, self.draws), generator)
        x = x.long() * ~unknown.unsqueeze(1)
        was_training = self.training
        self.eval()  # without dropout: one distribution for all pixels
        try:
            return self._draw_pixels(x, unknown, wanted, uniform, cached, condition)
        finally:
            self.train(was_training)

    def _draw_pixels(
        self,
        x: Tensor,
        unknown: Tensor,
        wanted: list[list[bool]],
        uniform: Tensor,
        cached: bool,
        condition: Tensor | None,
    ) -> Tensor:
        n, _, height, width = x.shape
        network = self.stepper(n, condition) if cached else WholeNetwork(self, x, condition)
        for i in range(height):
            network.row()
            for j in range(width):
                pixel = x[:, :, i, j]
                if wanted[i][j]:
                    for step in range(self.passes):
                        drawn = self.draw(network.pixel(j, self.to_input(pixel)), pixel, step, uniform[i, j])
                        pixel = torch.where(unknown[:, i, j, None], drawn, pixel)
                    x[:, :, i, j] = pixel
                elif cached:  # nothing to draw, but later positions need what the layers hold here
                    network.pixel(j, self.to_input(pixel))
                network.write(j, self.to_input(pixel))
        return x

    def draw(self, parameters: Tensor, pixel: Tensor, step: int, uniform: Tensor) -> Tensor:
        """The pixel (n, C) with its colour number `step` drawn: from parameters (n, C·L) and uniform (n, draws)."""
        logits = parameters.unflatten(1, (self.shape[0], self.levels))[:, step]
        drawn = pixel.clone()
        drawn[:, step] = draw_category(logits, uniform[:, step])
        return drawn

    @property
    def device_of_weights(self) -> torch.device:
        return next(self.parameters()).device

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Uniform numbers in [0, 1), all of them before the first pixel: both samplers then read the same ones."""
        device = self.device_of_weights if generator is None else generator.device
        dtype = next(self.parameters()).dtype
        return torch.rand(shape, generator=generator, device=device, dtype=dtype).to(self.device_of_weights)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected images (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"expected integer levels 0 to {self.levels - 1}, got {x.dtype}")
        # Reading values back from an accelerator makes it wait; there a wrong level fails in the lookup itself.
        if x.device.type == "cpu" and x.numel() and (int(x.min()) < 0 or int(x.max()) >= self.levels):
            raise ValueError(f"expected levels 0 to {self.levels - 1}, got {int(x.min())} to {int(x.max())}")


def draw_category(logits: Tensor, uniform: Tensor) -> Tensor:
    """A category for each row of logits (n, K) by inverting the distribution function at uniform (n,): int64 (n,)."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # The last sum may be a little less than 1: it is left out, and the last category takes what remains.
    return (cumulative[:, :-1] <= uniform[:, None]).sum(dim=-1)


class WholeNetwork(Stepper):
    """The naive sampler: the whole network for every position, of which one output is kept."""

    def __init__(self, model: PixelModel, x: Tensor, condition: Tensor | None = None):
        self.network: Callable[..., Tensor] = model.network
        self.inputs, self.condition, self.i = model.to_input(x), condition, -1

    def row(self) -> None:
        self.i += 1

    def write(self, j: int, x: Tensor) -> None:
        self.inputs[:, :, self.i, j] = x

    def pixel(self, j: int, x: Tensor) -> Tensor:
        self.write(j, x)
        return self.network(self.inputs, self.condition)[:, :, self.i, j]


def receptive_field(
    function: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    position: tuple[int, int],
    channels: slice | int = slice(None),
    *,
    trials: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Which inputs reach the output at `position`, by backpropagating from it: (C, H, W), largest |gradient|.

    function: inputs (B, C, H, W) → (B, K, H, W), in the given dtype. channels: of the output, which of the K. The
    gradient is exactly 0 for an input that the output does not depend on; an input that it does depend on can have a
    gradient of 0 by accident (a ReLU that is off), so the maximum over `trials` random inputs is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(trials, *shape, generator=generator, dtype=dtype).requires_grad_()
    i, j = position
    out = function(x)[:, channels, i, j]
    weight = torch.randn(out.shape, generator=generator, dtype=dtype)  # so that channels do not cancel
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    return gradient.abs().amax(dim=0)
