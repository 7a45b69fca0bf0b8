"""Running a causal network one pixel at a time, so that sampling does not compute anything twice.

The naive sampler runs the whole network for every pixel and keeps one position of what comes out. But no output of a
causal layer depends on a later pixel: what has been computed stays right. So every layer has a *stepper*, which keeps
what later positions need and computes one position at a time. The pixels come in raster order, and there are two times
at which work can be done:

    row()          a row begins: whatever depends on complete rows only is computed for the whole width at once
    pixel(j, x)    the input of column j of this row is x, (n, channels); returns the output there

`pixel` may be called again at the same j: with three colours, the network runs once for each of them, and each time
one more channel of the input is known. What was kept for j is then replaced. Only after `write(j, x)`, or after
`pixel` with its last x, is the position final.

Composite layers (a residual block, two stacks) are steppers made of steppers; their `row` and `pixel` may take and
return more than one tensor. The outputs are those of the full forward, at a cost per pixel that does not depend on
how many pixels have been drawn. The idea, for one-dimensional convolutions: T. Le Paine et al. (2016), Fast Wavenet
Generation Algorithm, arXiv:1611.09482; for images: P. Ramachandran et al. (2017), Fast Generation for Convolutional
Autoregressive Models, arXiv:1704.06001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn


class Stepper:
    """A layer that is run one pixel at a time; this one has nothing to keep. See the module's text."""

    def row(self) -> None:
        """The next row begins; the first call is for row 0."""

    def pixel(self, j: int, x: Tensor) -> Tensor:
        """The output at column j of the current row for the input x (n, in): (n, out)."""
        raise NotImplementedError(f"{type(self).__name__} has to define pixel(j, x)")

    def write(self, j: int, x: Tensor) -> None:
        """The input at column j is final and is x; nothing is computed."""


class Pointwise(Stepper):
    """A function of one position, such as an activation."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def pixel(self, j: int, x: Tensor) -> Tensor:
        return self.function(x)


class Chain(Stepper):
    """One stepper after the other."""

    def __init__(self, steppers: Iterable[Stepper]):
        self.steppers = list(steppers)

    def row(self) -> None:
        for stepper in self.steppers:
            stepper.row()

    def pixel(self, j: int, x: Tensor) -> Tensor:
        for stepper in self.steppers:
            x = stepper.pixel(j, x)
        return x

    def write(self, j: int, x: Tensor) -> None:
        """The input of the first one is final."""
        self.steppers[0].write(j, x)


class Residual(Stepper):
    """The input plus what a stepper makes of it."""

    def __init__(self, branch: Stepper):
        self.branch = branch

    def row(self) -> None:
        self.branch.row()

    def pixel(self, j: int, x: Tensor) -> Tensor:
        return x + self.branch.pixel(j, x)


#: Layers of torch that treat every value on its own, and so need no memory.
ELEMENTWISE = (nn.Identity, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)


def stepper(layer: nn.Module, n: int, width: int) -> Stepper:
    """The stepper of a layer for n images of the given width: its own, or that of a chain or an activation.

    Raises: ValueError for a layer that has none.
    """
    if hasattr(layer, "stepper"):
        return layer.stepper(n, width)
    if isinstance(layer, nn.Sequential):
        return Chain(stepper(part, n, width) for part in layer)
    if isinstance(layer, ELEMENTWISE):
        return Pointwise(layer)
    raise ValueError(f"{type(layer).__name__} cannot run one pixel at a time: it has no stepper(n, width)")
