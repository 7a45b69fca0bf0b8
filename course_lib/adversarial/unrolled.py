"""The discriminator as it will be: steps of an optimiser through which gradients pass.

L. Metz et al. (2017), Unrolled Generative Adversarial Networks, arXiv:1611.02163, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer


class Functional:
    """A network with other weights than its own."""

    def __init__(self, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.network, self.weights = network, weights

    def __call__(self, *inputs: Tensor) -> Tensor:
        return functional_call(self.network, self.weights, inputs)


class DifferentiableUpdate:
    """The next steps of an Adam or SGD, from its present state, as differentiable functions of the gradients."""

    @staticmethod
    def check(optimizer: Optimizer) -> None:
        """ValueError unless it is a plain Adam or SGD with one group of parameters."""
        group = optimizer.param_groups[0]
        extras = [name for name in ("weight_decay", "momentum", "amsgrad", "maximize") if group.get(name)]
        known = isinstance(optimizer, torch.optim.Adam | torch.optim.SGD)
        if not known or extras or len(optimizer.param_groups) > 1:
            raise ValueError(
                "unrolling knows Adam and SGD with one group of parameters and without weight decay or momentum; "
                f"got {type(optimizer).__name__}, {len(optimizer.param_groups)} groups, {', '.join(extras) or 'plain'}"
            )

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self.group = optimizer.param_groups[0]
        self.adam = isinstance(optimizer, torch.optim.Adam)
        states = [optimizer.state.get(p, {}) for p in parameters]
        self.first = [s.get("exp_avg", torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)]
        self.second = [
            s.get("exp_avg_sq", torch.zeros_like(p)) for s, p in zip(states, parameters, strict=True)
        ]
        self.steps = [
            s["step"].to(p.device) if "step" in s else 0 for s, p in zip(states, parameters, strict=True)
        ]

    def __call__(self, weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> list[Tensor]:
        lr = self.group["lr"]
        if not self.adam:
            return [w - lr * g for w, g in zip(weights, slopes, strict=True)]
        beta1, beta2 = self.group["betas"]
        self.steps = [t + 1 for t in self.steps]
        self.first = [beta1 * m + (1 - beta1) * g for m, g in zip(self.first, slopes, strict=True)]
        self.second = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(self.second, slopes, strict=True)]
        moved = []
        for w, m, v, t in zip(weights, self.first, self.second, self.steps, strict=True):
            # The small number under the root: the root's slope is infinite at 0, where a dead unit's v is.
            scale = (v / (1 - beta2**t) + 1e-16).sqrt() + self.group["eps"]
            moved.append(w - lr * (m / (1 - beta1**t)) / scale)
        return moved
