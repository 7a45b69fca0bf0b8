"""What the exercises' test cells are written with: the same text checks a notebook and judges a submission.

    from course_lib.classroom import checks

    mu, logvar = torch.zeros(2, 3), torch.zeros(2, 3)
    checks.close(gaussian_kl(mu, logvar), torch.zeros(2), "N(0, 1) has no distance from itself")

In a notebook `gaussian_kl` is the student's function, and everything happens in the notebook's own process. In the
judge (`course_lib.classroom.judge`) the same name stands for a function in *another* process, which an untrusted
submission controls: a call sends numbers there and takes numbers back, and the assertions below are evaluated where
the submission cannot reach. That is why the verbs (`build`, `gradient`, `generator`, `seeded`) exist: each does what
a test would otherwise do with the student's object itself.

Assertions raise `Failed`. Its message is for the student whose check is visible; its `hint` says the same without
any number of the test, for a check whose inputs are hidden.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Failed(AssertionError):
    """A check that did not hold. `hint` is the message without the numbers of the test (default: the message)."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = message if hint is None else hint


class Remote:
    """An object of the student's that lives in another process; the judge's proxies are its subclasses.

    They are called like the object itself, and have the verbs of this module as methods `_build`, `_gradient`,
    `_seeded` and `_value`.
    """


# --- verbs -------------------------------------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    """A random generator with that seed: the same one wherever the function that is given it runs.

    Make a new one for each call. A call in a notebook moves the generator on, a call in the judge moves a copy.
    """
    return torch.Generator().manual_seed(seed)


def rng(name: str) -> torch.Generator:
    """The generator for the inputs of a hidden test: from COURSE_GRADING_SEED (default 0) and the test's `name`.

    The seed is the lecturer's, so that the published tests do not tell the inputs by which a class is graded.
    """
    key = f"{os.environ.get('COURSE_GRADING_SEED', '0')}/{name}"
    return generator(int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big"))


def seeded(seed: int, function: Callable, /, *args: object, **kwargs: object) -> Any:
    """function(*args, **kwargs) after torch.manual_seed(seed), for a function that takes no generator."""
    if isinstance(function, Remote):
        return function._seeded(seed, *args, **kwargs)
    torch.manual_seed(seed)
    return function(*args, **kwargs)


def build(
    cls: Callable,
    /,
    *args: object,
    weights: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    **kwargs: object,
) -> Handle:
    """An instance cls(*args, **kwargs) to be used through a `Handle`.

    Args:
        cls: a class of the student's, or a function that makes an object.
        weights: a state dict to load (strictly) after building.
        seed: torch.manual_seed(seed) comes before building.
    """
    if isinstance(cls, Remote):
        return cls._build(*args, weights=weights, seed=seed, **kwargs)
    return Handle(seeded(seed, cls, *args, **kwargs), weights)


def value(thing: object) -> Any:
    """A student's variable (a number, a tensor, …) as plain data: `checks.value(answer)`."""
    return thing._value() if isinstance(thing, Remote) else thing


def gradient(
    function: Callable,
    /,
    *inputs: object,
    wrt: int | tuple[int, ...] = 0,
    weight: Tensor | None = None,
    output: int | str | None = None,
    **kwargs: object,
) -> Any:
    """The gradient of (function(*inputs) · weight).sum() with respect to the input(s) at position(s) `wrt`.

    Args:
        function: a student's function, a handle, or any callable.
        wrt: a position, or several; the inputs there are floating-point tensors. The caller's stay untouched.
        weight: of the output's shape; default: ones.
        output: index or key of the part meant, where the function returns a tuple, list or dict.
    Returns: a tensor of the input's shape, or a tuple of them; zeros for an input that the output does not depend on.
    Raises: Failed if the output is not a floating-point tensor or has not the weight's shape.
    """
    if isinstance(function, Remote):
        return function._gradient(*inputs, wrt=wrt, weight=weight, output=output, **kwargs)
    positions = (wrt,) if isinstance(wrt, int) else tuple(wrt)
    given = list(inputs)
    for position in positions:
        given[position] = given[position].detach().clone().requires_grad_()
    with torch.enable_grad():
        result = function(*given, **kwargs)
        grads = _gradients(result, [given[p] for p in positions], weight, output)
    return grads[0] if isinstance(wrt, int) else tuple(grads)


def _gradients(
    result: Any, leaves: Sequence[Tensor], weight: Tensor | None, output: int | str | None
) -> list[Tensor]:
    """d(result · weight).sum() / d leaf for each leaf."""
    if output is not None:
        result = result[output]
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise Failed(f"expected a floating-point tensor to differentiate, got {_kind(result)}")
    if weight is not None and weight.shape != result.shape:
        raise Failed(f"expected an output of shape {tuple(weight.shape)}, got {tuple(result.shape)}")
    total = (result if weight is None else result * weight).sum()
    if not total.requires_grad or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads, strict=True)]


class Handle:
    """An object built by `build`: an instance of the student's class, wherever it lives."""

    def __init__(self, instance: Any, weights: Mapping[str, Tensor] | None = None) -> None:
        self._instance = instance
        if weights is not None:
            self.load(weights)

    def __call__(self, *inputs: object, **kwargs: object) -> Any:
        """The object called with the inputs (for a module: its forward)."""
        return self._instance(*inputs, **kwargs)

    def call(self, method: str, *args: object, **kwargs: object) -> Any:
        """The result of a method."""
        return getattr(self._instance, method)(*args, **kwargs)

    def attribute(self, name: str) -> Any:
        """An attribute's value (data only, no objects); dots lead to attributes of attributes."""
        found = self._instance
        for part in name.split("."):
            found = getattr(found, part)
        return found.detach().clone() if isinstance(found, Tensor) else found

    def state(self) -> dict[str, Tensor]:
        """A copy of the module's state dict."""
        return {name: tensor.detach().clone() for name, tensor in self._instance.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict, strictly."""
        self._instance.load_state_dict(dict(state))

    def gradient(
        self, *inputs: object, weight: Tensor | None = None, output: int | str | None = None, **kwargs: object
    ) -> dict[str, Tensor]:
        """{parameter: gradient of (self(*inputs) · weight).sum()}; zeros where the output does not depend on it."""
        parameters = {name: p for name, p in self._instance.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            result = self._instance(*inputs, **kwargs)
            grads = _gradients(result, list(parameters.values()), weight, output)
        return dict(zip(parameters, grads, strict=True))

    def train(self) -> Handle:
        """Switch to training mode."""
        self._instance.train()
        return self

    def eval(self) -> Handle:
        """Switch to evaluation mode."""
        self._instance.eval()
        return self


# --- assertions --------------------------------------------------------------------------------------------------


def close(
    got: object,
    expected: object,
    hint: str = "",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    mistakes: Mapping[str, object] | None = None,
) -> None:
    """Numbers, arrays or tensors agree: |got − expected| ≤ atol + rtol·|expected| everywhere, shapes first.

    The dtype is not compared (computed in float64). NaN equals only NaN. Tuples, lists and dicts are compared part
    by part. If `got` has the value of one of the `mistakes` and the expected value has not, its text is the message.

    Raises: Failed.
    """
    got, expected = value(got), value(expected)

    def differs(other: object) -> tuple[str, str] | None:
        return _difference(got, other, lambda g, e: torch.isclose(g, e, rtol, atol, equal_nan=True))

    _judge(differs, got, expected, hint, mistakes)


def equal(
    got: object, expected: object, hint: str = "", *, mistakes: Mapping[str, object] | None = None
) -> None:
    """Whole numbers, truth values, strings, None, or arrays and tensors of them, are the same; shapes first.

    2 equals 2.0, and a tuple equals a list of the same parts; a truth value equals no number. Raises: Failed.
    """
    got, expected = value(got), value(expected)
    _judge(lambda other: _difference(got, other, torch.eq), got, expected, hint, mistakes)


def shape(got: object, expected: Sequence[int]) -> None:
    """A tensor or array has that shape. Raises: Failed."""
    got = value(got)
    _numbers(got)
    if tuple(np.shape(got)) != tuple(expected):
        raise Failed(
            f"expected the shape {tuple(expected)}, got {tuple(np.shape(got))}", "another shape was expected"
        )


def true(condition: object, hint: str) -> None:
    """The condition (a bool, or a tensor with one) holds. Raises: Failed with the hint."""
    condition = value(condition)
    holds = condition if isinstance(condition, bool | np.bool_) else _numbers(condition)
    if isinstance(holds, Tensor) and (holds.numel() != 1 or holds.dtype != torch.bool):
        raise Failed(f"expected one truth value, got {_kind(condition)}. {hint}".strip(), hint)
    if not bool(holds):
        raise Failed(hint)


def raises(
    error: type[Exception], function: Callable, /, *args: object, message: str = "", **kwargs: object
) -> None:
    """function(*args, **kwargs) raises `error`, with `message` somewhere in its text (case does not matter).

    An unsolved stub's NotImplementedError never counts. Raises: Failed.
    """
    try:
        function(*args, **kwargs)
    except Exception as raised:
        if not isinstance(raised, error) or (
            isinstance(raised, NotImplementedError) and error is not type(raised)
        ):
            found = f"got {type(raised).__name__}: {raised}"
            raise Failed(f"expected {error.__name__}, {found}", f"expected {error.__name__}") from None
        if message.lower() not in str(raised).lower():
            wanted = f"expected “{message}” in the text of the {error.__name__}"
            raise Failed(f"{wanted}, got “{raised}”", wanted) from None
        return
    raise Failed(f"expected {error.__name__}, but nothing was raised")


def finite(got: object, hint: str = "") -> None:
    """No NaN and no infinity in a number, tensor or array. Raises: Failed."""
    numbers = _numbers(value(got))
    if not bool(torch.isfinite(numbers).all()):
        bad = "NaN" if bool(torch.isnan(numbers).any()) else "an infinity"
        raise Failed(f"the result holds {bad}. {hint}".strip())


def is_tensor(got: object) -> None:
    """A torch tensor came back. Raises: Failed."""
    if not isinstance(value(got), Tensor):
        raise Failed(f"expected a tensor, got {_kind(value(got))}")


# --- how they compare --------------------------------------------------------------------------------------------


def _judge(
    differs: Callable[[object], tuple[str, str] | None],
    got: object,
    expected: object,
    hint: str,
    mistakes: Mapping[str, object] | None,
) -> None:
    """Raise Failed if `got` differs from `expected`, with the text of the mistake whose value it has, if any."""
    difference = differs(expected)
    if difference is None:
        return
    for text, wrong in (mistakes or {}).items():
        if differs(value(wrong)) is None:
            raise Failed(f"it looks as if {text}. {hint}".strip())
    full, public = difference
    raise Failed(f"{full}. {hint}".strip(), f"{public}. {hint}".strip())


def _difference(
    got: object, expected: object, same: Callable[[Tensor, Tensor], Tensor], where: str = ""
) -> tuple[str, str] | None:
    """None, or how the two differ: with numbers, and without."""
    if isinstance(expected, str | None):
        if type(got) is type(expected) and got == expected:
            return None
        return f"expected {expected!r}{where}, got {_kind(got)}", f"another value was expected{where}"
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(expected):
            keys = f"expected a dict with the keys {sorted(expected)}{where}"
            found = sorted(map(str, got)) if isinstance(got, Mapping) else _kind(got)
            return f"{keys}, got {found}", keys
        parts = [(got[key], expected[key], f"[{key!r}]") for key in expected]
    elif isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            wanted = f"expected {len(expected)} values in a tuple or list{where}"
            return f"{wanted}, got {_kind(got)}", wanted
        parts = [(g, e, f"[{i}]") for i, (g, e) in enumerate(zip(got, expected, strict=True))]
    else:
        return _numeric_difference(got, expected, same, where)
    for part_got, part_expected, name in parts:
        place = f"{where}{name}" if where else f" at {name}"
        if found := _difference(part_got, part_expected, same, place):
            return found
    return None


def _numeric_difference(
    got: object, expected: object, same: Callable[[Tensor, Tensor], Tensor], where: str
) -> tuple[str, str] | None:
    """`_difference` for numbers, arrays and tensors."""
    wanted = _numbers(expected)
    try:
        found = _numbers(got)
    except Failed as error:
        return f"{error}{where}", f"{error.hint}{where}"
    if found.shape != wanted.shape:
        public = f"the shape is {tuple(found.shape)}{where}"
        return f"{public}, expected {tuple(wanted.shape)}", f"{public}, which is not the expected one"
    if (found.dtype == torch.bool) != (wanted.dtype == torch.bool):
        kinds = ("truth values", "numbers") if wanted.dtype == torch.bool else ("numbers", "truth values")
        return (f"expected {kinds[0]}{where}, got {kinds[1]}",) * 2
    agree = same(*_common(found, wanted))
    if bool(agree.all()):
        return None
    wrong = ~agree
    for test, name in ((torch.isnan, "NaN"), (torch.isinf, "an infinity")):
        if bool((test(found) & wrong).any()) and bool(torch.isfinite(wanted).all()):
            return (f"the result holds {name}{where}",) * 2
    index = tuple(wrong.nonzero()[0].tolist()) if wrong.dim() else ()
    place = f"{where} at {index if len(index) > 1 else index[0]}" if index else where
    count = f" ({int(wrong.sum())} of {wrong.numel()} values differ)" if wrong.numel() > 1 else ""
    values = f"got {_show(found[index])}, expected {_show(wanted[index])}"
    return f"{values}{place}{count}", f"the values differ from the expected ones{where}"


def _common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in a dtype that holds both exactly enough: whole numbers stay whole."""
    if a.is_complex() or b.is_complex():
        return a.to(torch.complex128), b.to(torch.complex128)
    if a.is_floating_point() or b.is_floating_point():
        return a.to(torch.float64), b.to(torch.float64)
    return a.to(torch.int64), b.to(torch.int64)


def _numbers(thing: object) -> Tensor:
    """A number, tensor or array as a detached tensor on the CPU. Raises: Failed for anything else."""
    if isinstance(thing, Tensor):
        return thing.detach().cpu()
    if isinstance(thing, np.ndarray | np.generic) and thing.dtype.kind in "biufc":
        return torch.from_numpy(np.array(thing))
    if isinstance(thing, bool | int | float | complex):
        big = isinstance(thing, int) and not -(2**63) <= thing < 2**63
        return torch.tensor(float(thing) if big and abs(thing) < 10**300 else math.inf if big else thing,
                            dtype=torch.float64 if isinstance(thing, float) or big else None)  # fmt: skip
    wanted = "expected a number, a tensor or an array"
    raise Failed(
        f"{wanted}, got {_kind(thing)}", f"{wanted}, got {'None' if thing is None else 'something else'}"
    )


def _show(number: Tensor) -> str:
    """A number for people."""
    item = number.item()
    return f"{item:.6g}" if isinstance(item, float) else str(item)


def _kind(thing: object) -> str:
    """What a value is, in a few words."""
    if isinstance(thing, Tensor):
        return f"a tensor of {thing.dtype} with shape {tuple(thing.shape)}"
    if isinstance(thing, np.ndarray):
        return f"an array of {thing.dtype} with shape {thing.shape}"
    if isinstance(thing, tuple | list | dict):
        return f"a {type(thing).__name__} of length {len(thing)}"
    if thing is None:
        return "None (is a return missing?)"
    text = repr(thing) if isinstance(thing, bool | int | float | str) else type(thing).__name__
    return text if len(text) <= 80 else f"{text[:80]}…"
