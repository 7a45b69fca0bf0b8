"""Densities in the plane: to be looked at, sampled and evaluated.

``ring`` and ``grid`` are the mixtures on which mode collapse is counted (Metz et al. 2016, *Unrolled GANs*,
arXiv:1611.02163; Srivastava et al. 2017, *VEEGAN*, arXiv:1705.07761); ``moons`` and ``spiral`` are curves with Gaussian
noise; ``pinwheel`` is the one of Johnson et al. 2016 (arXiv:1603.06277).

All five have a density that we can evaluate:

* ring, grid: log Σ_k 1/K N(x; μ_k, σ²I).
* moons, spiral: log ∫ N(x; c(t), σ²I) dt over the curve c, by Gauss–Legendre quadrature with so many nodes that the
  error is far below float32.
* pinwheel: stretched Gaussians, then every circle about the origin is rotated by an angle that grows with its radius.
  A rotation of circles keeps areas, so the density is that of the point before the twist. (We depart from Johnson et
  al., who let the angle depend on the coordinate along the arm: that twist has no closed inverse.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from course_lib.data.catalogue import Description, Request
from course_lib.data.datasets import PointDataset
from course_lib.data.random_bits import Bits

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class RoundMixture:
    """K equally likely round Gaussians: means (K, 2), one standard deviation."""

    means: Tensor
    std: float

    def log_prob(self, x: Tensor) -> Tensor:
        """log 1/K Σ_k N(x; μ_k, σ²I): (…, 2) → (…,) nats."""
        squared = ((x[..., None, :] - self.means.to(x)) ** 2).sum(-1)
        log_normal = -0.5 * squared / self.std**2 - LOG_2PI - 2 * math.log(self.std)
        return torch.logsumexp(log_normal, dim=-1) - math.log(len(self.means))

    def sample(self, n: int, key: tuple) -> tuple[np.ndarray, np.ndarray]:
        label = Bits(*key, "label").below(len(self.means), n)
        return self.means.numpy()[label] + self.std * _noise(n, key), label


@dataclass(frozen=True)
class NoisyCurves:
    """K equally likely curves in the plane, t uniform in [0, 1], with round Gaussian noise."""

    kind: str
    count: int
    std: float
    nodes: int  # of the quadrature, per curve

    def curve(self, t: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Points (N, 2) at t of the curves with these numbers."""
        if (
            self.kind == "moons"
        ):  # two half circles, one upside down, as in scikit-learn; centred and enlarged
            upper = np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], axis=-1)
            lower = np.stack([1 - np.cos(np.pi * t), 0.5 - np.sin(np.pi * t)], axis=-1)
            return 1.5 * (np.where(label[..., None] == 0, upper, lower) - np.array([0.5, 0.25]))
        angle = 3 * np.pi * t + np.pi * label  # spiral: one turn and a half, radius growing with the angle
        radius = 0.4 + 2.4 * t
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log 1/K Σ_k ∫₀¹ N(x; c_k(t), σ²I) dt: (…, 2) → (…,) nats."""
        node, weight = np.polynomial.legendre.leggauss(self.nodes)
        t = np.tile(0.5 * (node + 1), self.count)
        label = np.repeat(np.arange(self.count), self.nodes)
        centres = torch.from_numpy(self.curve(t, label)).to(x)
        log_weight = torch.from_numpy(np.log(np.tile(0.5 * weight, self.count) / self.count)).to(x)
        constant = -LOG_2PI - 2 * math.log(self.std)
        parts = []
        for part in x.reshape(-1, 2).split(4096):  # every point meets every node: not all at once
            squared = (part[:, :1] - centres[:, 0]) ** 2 + (part[:, 1:] - centres[:, 1]) ** 2
            parts.append(torch.logsumexp(log_weight - 0.5 * squared / self.std**2, dim=-1) + constant)
        return torch.cat(parts).reshape(x.shape[:-1])

    def sample(self, n: int, key: tuple) -> tuple[np.ndarray, np.ndarray]:
        label = Bits(*key, "label").below(self.count, n)
        t = Bits(*key, "t").uniform(0, 1, n).astype(np.float64)
        return self.curve(t, label) + self.std * _noise(n, key), label


@dataclass(frozen=True)
class Pinwheel:
    """K Gaussians stretched along rays, then twisted: the circle of radius r is turned by ``rate`` · r."""

    arms: int = 5
    radius: float = 1.8
    along: float = 0.5
    across: float = 0.12
    rate: float = 0.7

    def log_prob(self, x: Tensor) -> Tensor:
        """Untwist (area stays), then log 1/K Σ_k N(x; arm k): (…, 2) → (…,) nats."""
        turn = -self.rate * x.norm(dim=-1)
        arm = 2 * math.pi * torch.arange(self.arms, dtype=x.dtype, device=x.device) / self.arms
        angle = turn[..., None] - arm  # turning arm k back onto the x axis in the same go
        u = angle.cos() * x[..., :1] - angle.sin() * x[..., 1:]
        v = angle.sin() * x[..., :1] + angle.cos() * x[..., 1:]
        exponent = -0.5 * (((u - self.radius) / self.along) ** 2 + (v / self.across) ** 2)
        constant = -LOG_2PI - math.log(self.along * self.across) - math.log(self.arms)
        return torch.logsumexp(exponent, dim=-1) + constant

    def sample(self, n: int, key: tuple) -> tuple[np.ndarray, np.ndarray]:
        label = Bits(*key, "label").below(self.arms, n)
        noise = _noise(n, key)
        u, v = self.radius + self.along * noise[:, 0], self.across * noise[:, 1]
        angle = 2 * np.pi * label / self.arms + self.rate * np.hypot(u, v)
        return np.stack(
            [np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v], -1
        ), label


def _noise(n: int, key: tuple) -> np.ndarray:
    return np.stack([Bits(*key, "noise x").normal(n), Bits(*key, "noise y").normal(n)], axis=-1)


def _ring_means(modes: int = 8, radius: float = 2.0) -> Tensor:
    angle = 2 * torch.pi * torch.arange(modes, dtype=torch.float64) / modes
    return radius * torch.stack([angle.cos(), angle.sin()], dim=-1)


def _grid_means(side: int = 5, spacing: float = 1.0) -> Tensor:
    ticks = spacing * (torch.arange(side, dtype=torch.float64) - (side - 1) / 2)
    return torch.cartesian_prod(ticks, ticks)


DENSITIES = {
    "toy2d/ring": RoundMixture(_ring_means(), std=0.05),
    "toy2d/grid": RoundMixture(_grid_means(), std=0.05),
    "toy2d/moons": NoisyCurves("moons", count=2, std=0.1, nodes=80),
    "toy2d/spiral": NoisyCurves("spiral", count=2, std=0.1, nodes=288),
    "toy2d/pinwheel": Pinwheel(),
}


def _description(name: str, summary: str, label_names: tuple[str, ...]) -> Description:
    return Description(
        name=name,
        summary=summary,
        shape=(2,),
        sizes={"train": 10_000, "val": 2_000, "test": 2_000},
        label_names=label_names,
        levels=0,
        generated=True,
        source="generated, seeded; log_prob(x) gives the density in nats",
        licence="CC0 1.0",
    )


DESCRIPTIONS = {
    d.name: d
    for d in (
        _description(
            "toy2d/ring", "8 Gaussians (σ = 0.05) on a circle of radius 2", tuple(map(str, range(8)))
        ),
        _description(
            "toy2d/grid", "25 Gaussians (σ = 0.05) on a 5×5 grid of step 1", tuple(map(str, range(25)))
        ),
        _description("toy2d/moons", "two interleaved half circles with noise (σ = 0.1)", ("upper", "lower")),
        _description("toy2d/spiral", "two arms of a spiral with noise (σ = 0.1)", ("first", "second")),
        _description("toy2d/pinwheel", "five twisted Gaussian arms", tuple(map(str, range(5)))),
    )
}


def make(request: Request) -> PointDataset:
    """The requested points, from their own random stream (the first n of a longer request are the same points)."""
    density = DENSITIES[request.name]
    description = DESCRIPTIONS[request.name]
    n = request.count(description)
    points, labels = density.sample(n, (request.name, request.split))
    mixture = isinstance(density, RoundMixture)
    return PointDataset(
        torch.from_numpy(points).float(),
        torch.from_numpy(labels),
        name=request.name,
        split=request.split,
        label_names=description.label_names,
        log_density=density.log_prob,
        means=density.means.float() if mixture else None,
        std=density.std if mixture else None,
    )
