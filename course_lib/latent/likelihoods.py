"""What a decoder's output means: the distribution p(x|z) of an image whose parameters a network computes.

Three choices, and what they are for: `Bernoulli` (black and white pixels), `Gaussian` (continuous pixels, σ
fixed or learned), `CategoricalPixels` (the grey levels themselves, so that nats per image compare with those
of other models of discrete pixels).

Every likelihood is used in the same four steps: `prepare(x)` turns an image in [0, 1] into the variable that
is modelled (binarised, or integer levels); `encoder_input` turns that into what a network reads;
`log_prob(x, parameters)` scores it; `mean` and `sample` go back to images. A decoder has to return
`parameter_shape(image_shape)` values.

Papers: Y. Burda et al. (2016), dynamic binarisation, arXiv:1509.00519; A. van den Oord et al. (2016), pixels as
categories, arXiv:1601.06759; O. Rybkin et al. (2021), learned σ, arXiv:2006.13202. Departure: the smooth lower
bound of a learned σ is a parameter here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.latent.autoencoder import gaussian_noise

LOG_2PI = math.log(2 * math.pi)


class Likelihood(nn.Module):
    """p(x|z) for images (B, C, H, W) or points (B, D), given the decoder's parameters.

    `parameters_per_value`: how many numbers the decoder returns for each value of x, in that many blocks
    of channels. Parameters may carry a leading sample axis (k, B, …); results then do as well.
    """

    parameters_per_value = 1

    def __init__(self) -> None:
        super().__init__()
        self._checked_devices: set[torch.device] = set()

    def parameter_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for one example of the given shape: channels × parameters_per_value."""
        return (self.parameters_per_value * shape[0], *shape[1:])

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The variable that is modelled, from an image in [0, 1]. Prepared input comes back as it is."""
        raise NotImplementedError

    def encoder_input(self, x: Tensor) -> Tensor:
        """Prepared x as floats for a network."""
        return x

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x|z) of prepared x (B, …), summed over pixels: (B,), or (k, B) for k sets of parameters; nats."""
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], an image."""
        raise NotImplementedError

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw x ~ p(x|z), pixel by pixel, as an image."""
        raise NotImplementedError

    def _blocks(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, ...]:
        """The decoder's output cut into `parameters_per_value` blocks of x's shape; ValueError if it does not fit."""
        wanted = (len(x), *self.parameter_shape(x.shape[1:]))
        if parameters.shape[-x.ndim :] != wanted:
            raise ValueError(
                f"{self} needs decoder outputs of shape {wanted} for x {tuple(x.shape)}, got {tuple(parameters.shape)}"
            )
        return parameters.chunk(self.parameters_per_value, dim=1 - x.ndim)

    def _check_unit_interval(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise ValueError(f"{self} needs floating-point images in [0, 1], got {x.dtype}")
        # Reading a value back from an accelerator makes it wait, so there only the first batch is looked at.
        if x.device.type != "cpu":
            if x.device in self._checked_devices:
                return
            self._checked_devices.add(x.device)
        low, high = (value.item() for value in x.detach().aminmax())
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise ValueError(f"{self} needs images in [0, 1], got values from {low:.4g} to {high:.4g}")


class Bernoulli(Likelihood):
    """Independent black-and-white pixels; the decoder returns logits.

    binarize: "dynamic" draws a fresh binary image, x ~ Bernoulli(grey level), each time an image is shown (Burda
    et al., 5.1), so that log_prob is that of binary data. None takes x as it is: on grey levels the result is a
    cross-entropy, common as a loss, but not the log-likelihood of anything; on binary images it is exact.
    """

    def __init__(self, binarize: str | None = None):
        super().__init__()
        if binarize not in (None, "dynamic"):
            raise ValueError(f'binarize should be None or "dynamic", got {binarize!r}')
        self.binarize = binarize

    def extra_repr(self) -> str:
        return f"binarize={self.binarize!r}"

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x in [0, 1], binarised if `binarize`. Binary images stay as they are. ValueError outside [0, 1]."""
        self._check_unit_interval(x)
        if self.binarize is None:
            return x
        device = x.device if generator is None else generator.device
        # u < x with u uniform on [0, 1): twice as fast as torch.bernoulli, and exact at 0 and 1.
        return (torch.rand(x.shape, generator=generator, device=device).to(x.device) < x).to(x.dtype)

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Σ x log p + (1−x) log(1−p) with p = sigmoid(logits), computed from the logits: no log 0 anywhere."""
        (logits,) = self._blocks(x, parameters)
        target = x.expand_as(logits)
        negative = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return -negative.flatten(logits.ndim - x.ndim + 1).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Probability of white."""
        return parameters.sigmoid()

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Binary images."""
        return Bernoulli("dynamic").prepare(parameters.sigmoid(), generator)


class Gaussian(Likelihood):
    """Independent Gaussian pixels N(μ_θ(z), σ²). log_prob is a log-*density*: it may be positive, and grows
    without limit as σ → 0 on data that can be reproduced exactly.

    sigma: a positive number keeps σ fixed; "learned" makes it one parameter shared by all pixels (its optimum is
    the root mean squared error, Rybkin et al.); "per_pixel" lets the decoder return σ_θ(z) for each pixel beside
    μ_θ(z).

    min_sigma: lower bound of a learned σ. log σ = log min_sigma + softplus(raw − log min_sigma): the bound is
    smooth, reached only in the limit, and far above it log σ = raw. A fixed sigma is not touched.
    """

    def __init__(self, sigma: float | str = 1.0, min_sigma: float = math.exp(-6)):
        super().__init__()
        fixed = isinstance(sigma, int | float) and not isinstance(sigma, bool)
        if sigma not in ("learned", "per_pixel") and not (fixed and 0 < sigma < math.inf):
            raise ValueError(f'sigma should be a positive number, "learned" or "per_pixel", got {sigma!r}')
        if not 0 < min_sigma < 1:
            raise ValueError(f"min_sigma should lie in (0, 1), got {min_sigma}")
        self.sigma, self.min_sigma = sigma, min_sigma
        if sigma == "learned":
            self.raw_log_sigma = nn.Parameter(torch.zeros(()))  # starts at σ ≈ 1
        elif sigma == "per_pixel":
            self.parameters_per_value = 2

    def extra_repr(self) -> str:
        return f"sigma={self.sigma!r}"

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x itself; any real values. ValueError for integers."""
        if not x.is_floating_point():
            raise ValueError(f"{self} needs floating-point data, got {x.dtype}")
        return x

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Σ −½((x−μ)/σ)² − log σ − ½ log 2π."""
        blocks = self._blocks(x, parameters)
        mu, log_sigma = blocks[0], self.log_sigma(parameters, x.ndim)
        error = ((x - mu) * torch.exp(-log_sigma)).square()
        log_density = -0.5 * error - log_sigma - 0.5 * LOG_2PI
        return log_density.flatten(mu.ndim - x.ndim + 1).sum(-1)

    def log_sigma(self, parameters: Tensor, ndim: int | None = None) -> Tensor:
        """log σ: a scalar, or per pixel (…, C, H, W). ndim: dimensions of a batch, default those of `parameters`."""
        if self.sigma == "per_pixel":
            _, raw = parameters.chunk(2, dim=1 - (ndim or parameters.ndim))
            return self._bound(raw)
        if self.sigma == "learned":
            return self._bound(self.raw_log_sigma)
        return parameters.new_full((), math.log(self.sigma))

    def mean(self, parameters: Tensor) -> Tensor:
        """μ_θ(z), not clamped: it may leave [0, 1]."""
        return parameters.chunk(self.parameters_per_value, dim=1)[0]

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """μ + σε, not clamped."""
        mu = self.mean(parameters)
        return mu + self.log_sigma(parameters).exp() * gaussian_noise(mu.shape, mu, generator)

    def _bound(self, raw: Tensor) -> Tensor:
        low = math.log(self.min_sigma)
        return low + F.softplus(raw - low)


class CategoricalPixels(Likelihood):
    """Each pixel and channel is one of `levels` grey levels 0 … levels−1, with a softmax over them.

    log_prob is the log of an exact probability, so −log_prob / (dimensions · log 2) is a number of bits per
    dimension that a compressor could reach. The decoder returns (levels·C, H, W) logits, level-major.
    """

    def __init__(self, levels: int = 256):
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels should be an integer of at least 2, got {levels!r}")
        self.levels = self.parameters_per_value = levels

    def extra_repr(self) -> str:
        return f"levels={self.levels}"

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """int64 levels. Integers are taken as levels; floats in [0, 1] go to the nearest of the `levels` levels."""
        if x.is_floating_point():
            self._check_unit_interval(x)
            return (x * (self.levels - 1)).round().long()
        low, high = (int(value) for value in x.aminmax())
        if low < 0 or high >= self.levels:
            raise ValueError(f"{self} needs levels 0 to {self.levels - 1}, got {low} to {high}")
        return x.long()

    def encoder_input(self, x: Tensor) -> Tensor:
        """Levels as grey values in [0, 1]; floats stay."""
        return x if x.is_floating_point() else x.to(torch.get_default_dtype()) / (self.levels - 1)

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Σ log softmax(logits)[x]."""
        logits = torch.stack(self._blocks(x, parameters), dim=-1)  # (…, B, C, H, W, L)
        target = x.expand(logits.shape[:-1])
        negative = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        return -negative.view(target.shape).flatten(target.ndim - x.ndim + 1).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Σ_l p_l · l/(levels−1), in [0, 1]."""
        values = torch.linspace(0, 1, self.levels).to(parameters)
        return self._probabilities(parameters) @ values

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A level for each pixel, returned as a grey value l/(levels−1) in [0, 1]."""
        p = self._probabilities(parameters)
        flat = p.flatten(0, -2).to(p.device if generator is None else generator.device)
        levels = torch.multinomial(flat, 1, generator=generator).view(p.shape[:-1])
        return levels.to(p) / (self.levels - 1)

    def _probabilities(self, parameters: Tensor) -> Tensor:
        """(B, L·C, H, W) → (B, C, H, W, L)."""
        logits = parameters.unflatten(1, (self.levels, -1))
        return logits.movedim(1, -1).softmax(-1)
