"""What the game measures: the optimal discriminator, the value and the divergences of densities on a grid.

V(G, D) = ∫ p_data log D + p_g log(1 − D) is largest at D* = p_data/(p_data + p_g), where it is 2 JSD − 2 log 2.
I. Goodfellow et al. (2014), Generative Adversarial Networks, arXiv:1406.2661, propositions 1 and 2, theorem 1.

Densities are tensors on a grid, with the size of a grid cell (or quadrature weights) beside them. Logs are natural.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def optimal_discriminator(p_data: Tensor, p_g: Tensor) -> Tensor:
    """D* = p_data/(p_data + p_g), of the densities' shape, in [0, 1] (Goodfellow et al., proposition 1).

    Where both densities are 0 no discriminator is better than another; the ½ given there enters no integral.
    """
    _check_densities(p_data, p_g)
    total = p_data + p_g
    return torch.where(total > 0, p_data / torch.where(total > 0, total, 1), 0.5)


def kl_divergence(p: Tensor, q: Tensor, cell: float | Tensor = 1.0) -> Tensor:
    """KL(p ‖ q) = ∫ p log(p/q) of densities on one grid: a scalar, nats. Infinite where p > 0 = q somewhere.

    p, q: any shape. cell: length (area, …) of a grid cell; a tensor of quadrature weights that broadcasts; or 1 for
    probabilities. The densities are taken as they are: whoever cuts the tails off a grid gets the rest's integral.
    """
    _check_densities(p, q, cell)
    log_q = torch.where((q > 0) | (p == 0), _log(q), -math.inf)
    return (torch.where(p > 0, p * (_log(p) - log_q), 0.0) * cell).sum()


def js_divergence(p: Tensor, q: Tensor, cell: float | Tensor = 1.0) -> Tensor:
    """JSD(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½(p + q): a scalar in [0, log 2], nats. Arguments as `kl_divergence`.

    log 2 where the supports are disjoint, however far apart; 0 only for p = q.
    """
    _check_densities(p, q, cell)
    # p log(p/m) with log m = log(p + q) − log 2 from the logarithms: m itself underflows in the tails.
    log_p, log_q = (torch.where(d > 0, _log(d), -math.inf) for d in (p, q))
    log_sum = torch.where(p + q > 0, torch.logaddexp(log_p, log_q), 0.0)
    terms = [torch.where(d > 0, d * (_log(d) - log_sum + math.log(2)), 0.0) for d in (p, q)]
    return (0.5 * (terms[0] + terms[1]).clamp(min=0) * cell).sum()  # at p = q rounding may give −1e-17


def value_function(p_data: Tensor, p_g: Tensor, d: Tensor, cell: float | Tensor = 1.0) -> Tensor:
    """V(G, D) = ∫ p_data log D + p_g log(1 − D): a scalar ≤ 0, nats; −∞ where D is certain and wrong.

    d: probabilities D(x) of the densities' shape. Where a density is below the other's rounding error, D* is rounded to
    exactly 0 or 1; such a D counts as the nearest number beside it, not as a mistake that costs infinitely much.
    """
    _check_densities(p_data, p_g, cell)
    if d.shape != p_data.shape or not bool(((d >= 0) & (d <= 1)).all()):
        raise ValueError(
            f"d should hold probabilities in [0, 1] of shape {tuple(p_data.shape)}; got {_range(d)}"
        )
    tiny = torch.finfo(d.dtype).eps
    to_0, to_1 = (d == 0) & (p_data <= tiny * p_g), (d == 1) & (p_g <= tiny * p_data)
    # 0 · log 0 = 0. What does not count is replaced before the logarithm, so that its gradient is 0, too, and not NaN.
    log_d = torch.where(to_0, math.log(tiny), torch.where((p_data > 0) & ~to_0, d, 1.0).log())
    log_not_d = torch.where(to_1, math.log(tiny), torch.log1p(torch.where((p_g > 0) & ~to_1, -d, 0.0)))
    return ((p_data * log_d + p_g * log_not_d) * cell).sum()


def _log(density: Tensor) -> Tensor:
    """log, and 0 where the density is 0: for use under a `where`, whose gradient the −∞ would spoil."""
    return torch.where(density > 0, density, 1).log()


def _check_densities(p: Tensor, q: Tensor, cell: float | Tensor = 1.0) -> None:
    if p.shape != q.shape or not p.is_floating_point() or not q.is_floating_point():
        raise ValueError(
            f"expected two densities of one shape and floating type, got {p.dtype} {tuple(p.shape)} "
            f"and {q.dtype} {tuple(q.shape)}"
        )
    for density in (p, q):
        if not bool(((density >= 0) & density.isfinite()).all()):
            raise ValueError(f"densities should be finite and not negative, got {_range(density)}")
    if not bool((torch.as_tensor(cell) > 0).all()):
        raise ValueError(f"cell should be the positive size of a grid cell, got {cell}")


def _range(x: Tensor) -> str:
    return f"shape {tuple(x.shape)}, values {x.min().item():.4g} to {x.max().item():.4g}"
