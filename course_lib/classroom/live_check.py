"""Is what was typed into a live cell right? It is compared with the lecture's own code, by running both.

The state before the cell (`remember`) is copied, the lecture's code runs in the copy with the same random numbers, and
then:

- Values that the rest of the lecture reads or that the cell prints (if there are none: those in its assertions) are
  compared: tensors, arrays and numbers, containers of them, modules and optimisers by their state, other objects by
  their attributes. What the cell changes without naming it anew, such as a model that it trains, is among them. If a
  value still has its graph, its gradients with respect to the parameters are compared, too: a forgotten `detach`
  changes no value.
- All functions of the cell are compared on the first calls that the lecture itself makes of them: in the cell, else in
  the next cells that call them, which run in the copy as far as they are needed, unseen. Each call is made twice from
  equal copies of its arguments and of everything it refers to, once with the lecture's function and once with what was
  typed; result, gradients and changed arguments must agree.

What it cannot see: names that the lecture does not use again (so a lecturer's own helpers are free); mistakes below the
tolerance (floats: a thousandth of the largest value) or on inputs that the lecture does not try; figures and what is
printed. A right solution that draws its random numbers in another order gives other values and is called wrong; the
message says so. Python's iterators cannot be copied: the lecture's code draws from the notebook's own.
"""

import ast
import functools
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import PicklingError
from typing import Any, NamedTuple
from unittest import mock

import comm
import numpy as np
import torch
from IPython.utils.capture import capture_output
from matplotlib import pyplot as plt
from torch import Tensor, nn

from course_lib.classroom.flow import flow
from course_lib.classroom.live_lecture import Task
from course_lib.classroom.world import Frozen, Randomness, freeze, randomness

RELATIVE, ABSOLUTE = 1e-3, 1e-6  # of the largest value, and for values around zero
CALLS, CALL_SECONDS = 20, 2.0  # of each function that are compared; after this time none but the first
SECONDS = 30.0  # no further cell of the lecture is started to see a call after this
NOT_COPIED = (TypeError, AttributeError, RuntimeError, NotImplementedError, PicklingError)  # by `freeze`
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Before(NamedTuple):
    """The state before a live cell ran."""

    names: Frozen
    random: Randomness


class Report(NamedTuple):
    """`problems`: what differs.  `compared`: what was found to agree.  `unseen`: functions that were never called.

    `random`: the lecture's code draws random numbers.
    """

    problems: list[str]
    compared: list[str]
    unseen: list[str]
    random: bool


def remember(task: Task, namespace: dict[str, Any]) -> Before:
    """Copy what the lecture's code for this cell needs. Raises what `freeze` raises for what cannot be copied."""
    names = set[str](task.changed).union(*(flow(source).reads for source in (task.source, *task.later)))
    return Before(freeze(namespace, names), Randomness.now())


def check(task: Task, before: Before, typed: str, namespace: dict[str, Any]) -> Report:
    """Compare the namespace after `typed` ran with what the lecture's code makes of the state before it."""
    missing = [name for name in task.names if name not in namespace]
    if missing:
        return Report([f"{name} is not defined" for name in missing], [], [], False)
    world, _ = before.names.thaw()
    trial = Trial(task, world, typed, namespace)
    with _behind_the_scenes(), randomness(before.random):
        before_it = _drawn(world)
        trial.run(task.source)
        trial.random |= _drawn(world) != before_it
        trial.compare_values()
        trial.see_calls()
    return trial.report()


def _drawn(world: dict[str, Any]) -> list[Any]:
    """The states of the generators that lectures draw from: equal as long as nothing is drawn."""
    own = [value.get_state() for value in world.values() if isinstance(value, torch.Generator)]
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *own)]


@contextmanager
def _behind_the_scenes() -> Iterator[None]:
    """Nothing that runs inside shows: no text, no picture, no widget, no figure left open."""
    figures = set(plt.get_fignums())
    with capture_output(), mock.patch.object(comm, "create_comm", comm.DummyComm):
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - figures:
                plt.close(number)


class _Enough(BaseException):
    """Every function was called often enough; no error, so `except Exception` in a lecture does not catch it."""


class Recorder:
    """Stands for a function of the lecture and lets the trial compare its calls. A copy of it is the function."""

    def __init__(self, name: str, original: Callable, trial: "Trial") -> None:
        functools.update_wrapper(self, original)
        self.name, self.original, self.trial, self.calls = name, original, trial, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.trial.call(self, args, kwargs)

    def __reduce__(self) -> tuple:
        return _itself, (self.original,)


def _itself(value: Any) -> Any:
    return value


class Trial:
    """One check: the lecture's code runs in `world`, which is a copy; `namespace` is the notebook's and only read."""

    def __init__(self, task: Task, world: dict[str, Any], typed: str, namespace: dict[str, Any]) -> None:
        self.task, self.world, self.namespace = task, world, namespace
        self.recorders: dict[str, Recorder] = {}
        self.problems: dict[str, list[str]] = {}  # by name
        self.may_stop = self.random = False
        self.spent = 0.0  # seconds in calls that were compared
        definitions = [node for node in ast.parse(typed).body if _defines_function(node)]
        self.definitions = ast.unparse(ast.Module(definitions, []))
        self.own = flow(self.definitions)

    def run(self, source: str) -> None:
        """Run a cell of the lecture statement by statement, so that a function's calls in its own cell are seen."""
        for statement in ast.parse(source).body:
            exec(compile(ast.Module([statement], []), "<the lecture's own code>", "exec"), self.world)
            for name in self.task.names:
                if name not in self.recorders and isinstance(self.world.get(name), types.FunctionType):
                    self.world[name] = self.recorders[name] = Recorder(name, self.world[name], self)

    def compare_values(self) -> None:
        """Compare what is no function."""
        names = [name for name in (*self.task.names, *self.task.changed) if name in self.world]
        here, there = (parameters({n: space[n] for n in names}) for space in (self.namespace, self.world))
        for name in names:
            typed, right = self.namespace.get(name), self.world[name]
            if isinstance(right, Recorder) or (name in self.task.changed and not _has_state(right)):
                continue
            found = list(differences(name, typed, right))
            self._note(
                name, found or list(slope_differences(name, slopes(typed, here), slopes(right, there)))
            )

    def see_calls(self) -> None:
        """Run later cells of the lecture until each function was called; those that never were are reported."""
        self.may_stop, deadline = True, time.monotonic() + SECONDS
        for source in self.task.later:
            if all(recorder.calls for recorder in self.recorders.values()) or time.monotonic() > deadline:
                return
            try:
                self.run(source)
            except (_Enough, Exception):  # a cell may fail in the copy: not every cell before it ran there
                return

    def call(self, recorder: Recorder, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Make a call of the lecture, and the same call of what was typed; returns the lecture's result."""
        if recorder.calls >= CALLS or (recorder.calls and self.spent > CALL_SECONDS):
            if self.may_stop and all(other.calls for other in self.recorders.values()):
                raise _Enough
            return recorder.original(*args, **kwargs)
        lent = {
            name: self.namespace[name]
            for name in (self.own.reads - set(self.world)) | (set(self.recorders) - self.own.writes)
            if name in self.namespace
        }
        try:
            frozen = freeze(self.world, self.own.reads, (args, kwargs, lent))
        except NOT_COPIED:  # such as arguments inside torch.func's transforms: this call is not compared
            return recorder.original(*args, **kwargs)
        recorder.calls += 1
        start = time.monotonic()
        state, drawn = Randomness.now(), _drawn(self.world)
        result = recorder.original(*args, **kwargs)
        self.random |= _drawn(self.world) != drawn
        with randomness(state):
            self._note(
                recorder.name, self._call_differences(recorder.name, frozen, Call.of(result, args, kwargs))
            )
        self.spent += time.monotonic() - start
        return result

    def _call_differences(self, name: str, frozen: Frozen, right: "Call") -> list[str]:
        """What the typed function does differently in this call."""
        space, (args, kwargs, lent) = frozen.thaw()
        space.update(lent)
        try:
            exec(self.definitions, space)
            result = space[name](*args, **kwargs)
        except Exception as error:  # of the typed code, whatever it is: that is what the lecturer has to know
            return [f"{name} raises {type(error).__name__}: {error}"]
        typed = Call.of(result, args, kwargs)
        return [
            *differences(f"the result of {name}", typed.result, right.result),
            *slope_differences(f"the result of {name}", typed.slopes, right.slopes),
            *differences(f"after {name}, its arguments:", typed.arguments, right.arguments),
        ]

    def _note(self, name: str, found: list[str]) -> None:
        self.problems.setdefault(name, []).extend(found)

    def report(self) -> Report:
        """What was found."""
        problems = [found[0] for found in self.problems.values() if found]
        compared = [name for name, found in self.problems.items() if not found]
        unseen = [name for name, recorder in self.recorders.items() if not recorder.calls]
        return Report(
            problems, [name for name in compared if name in self.task.names] or compared, unseen, self.random
        )


class Call(NamedTuple):
    """What a call gave: its result, the gradients of that, and its arguments as they are afterwards."""

    result: Any
    slopes: dict[str, Tensor] | None
    arguments: dict[str, Any]

    @classmethod
    def of(cls, result: Any, args: tuple, kwargs: dict[str, Any]) -> "Call":
        arguments = {**{f"argument {number}": value for number, value in enumerate(args, 1)}, **kwargs}
        return cls(result, slopes(result, differentiable(arguments)), arguments)


def _defines_function(node: ast.stmt) -> bool:
    return isinstance(node, _DEFINITIONS) or (
        isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
    )


def _has_state(value: Any) -> bool:
    """Whether code can change the value without assigning its name, and the values of interest are in it."""
    return isinstance(value, Tensor | np.ndarray | nn.Module | list | dict)


# ------------------------------------------------------------------------------------------------------------ gradients


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a value, each with where it is: a tensor, a module's parameters, the same in containers."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        yield from ((f"{name}.{key}", parameter) for key, parameter in value.named_parameters())
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tensors(item, f"{name}[{number}]")


def differentiable(value: Any) -> dict[str, Tensor]:
    """The tensors in a value with respect to which there are gradients."""
    return {name: tensor for name, tensor in tensors(value) if tensor.requires_grad}


def parameters(value: Any) -> dict[str, Tensor]:
    """Those of them that are the result of nothing else."""
    return {name: tensor for name, tensor in differentiable(value).items() if tensor.is_leaf}


def slopes(value: Any, variables: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The gradient of one fixed combination of all numbers in `value`, for each variable that it depends on.

    None if the code has gone backward through this graph itself: its gradients are then in what it made of them.
    """
    outputs = [tensor for _, tensor in tensors(value) if tensor.grad_fn is not None]
    if not outputs or not variables:
        return {}
    total = torch.zeros(())
    for tensor in outputs:
        weights = torch.arange(tensor.numel(), device=tensor.device).cos().view(tensor.shape)
        total = total + (weights * tensor).sum().real.cpu()
    try:
        found = torch.autograd.grad(total, list(variables.values()), retain_graph=True, allow_unused=True)
    except RuntimeError:  # PyTorch has no other way to say that a graph is used up
        return None
    return {name: slope for name, slope in zip(variables, found, strict=True) if slope is not None}


def slope_differences(
    name: str, typed: dict[str, Tensor] | None, right: dict[str, Tensor] | None
) -> Iterator[str]:
    """Where gradients differ; what is not there counts as zero."""
    if typed is None or right is None:
        return
    for variable in sorted({*typed, *right}):
        present = right[variable] if variable in right else typed[variable]
        pair = [found.get(variable, torch.zeros_like(present)) for found in (typed, right)]
        yield from differences(f"the gradient of {name} for {variable}", *pair)


# ----------------------------------------------------------------------------------------------------------- comparison


def differences(name: str, typed: Any, right: Any, depth: int = 8) -> Iterator[str]:
    """Each difference of a value from the right one, as a sentence that begins with the name."""
    numbers, right_numbers = _numbers(typed), _numbers(right)
    if right_numbers is not None:
        if numbers is None:
            yield f"{name} is {_kind(typed)}; it should be {_kind(right)}"
        else:
            yield from _number_differences(name, numbers, right_numbers)
        if (
            isinstance(typed, Tensor)
            and isinstance(right, Tensor)
            and right.is_leaf
            and right.grad is not None
        ):
            yield from differences(f"{name}.grad", typed.grad, right.grad)
    elif isinstance(right, dict):
        yield from _dict_differences(name, typed, right, depth)
    elif isinstance(right, list | tuple):
        if not isinstance(typed, list | tuple) or len(typed) != len(right):
            yield f"{name} is {_kind(typed)}; it should be {_kind(right)}"
        else:
            for number, (a, b) in enumerate(zip(typed, right, strict=True)):
                yield from differences(f"{name}[{number}]", a, b, depth)
    elif isinstance(right, str | bytes | range | slice | None | set | frozenset):
        if typed != right:
            yield f"{name} is {_kind(typed)}; it should be {_kind(right)}"
    elif not callable(right) or isinstance(right, nn.Module):
        yield from _object_differences(name, typed, right, depth)
    elif not callable(typed):
        yield f"{name} is {_kind(typed)}; it should be a function"


def _dict_differences(name: str, typed: Any, right: dict, depth: int) -> Iterator[str]:
    if not isinstance(typed, dict) or set(typed) != set(right):
        yield f"{name} is {_kind(typed)}; it should be {_kind(right)}"
        return
    for key in right:
        yield from differences(f"{name}[{key!r}]", typed[key], right[key], depth)


def _object_differences(name: str, typed: Any, right: Any, depth: int) -> Iterator[str]:
    """Modules and optimisers by their state, anything else by its attributes."""
    if type(typed) is not type(right):
        yield f"{name} is {_kind(typed)}; it should be {_kind(right)}"
    elif isinstance(right, nn.Module) and repr(typed) != repr(right):
        yield f"{name} has other layers than the lecture's"
    elif isinstance(right, nn.Module | torch.optim.Optimizer):
        yield from differences(name, typed.state_dict(), right.state_dict(), depth)
    elif isinstance(right, torch.Generator):
        return  # how many numbers were drawn so far is nothing that must agree
    elif depth and hasattr(right, "__dict__"):
        for key, value in vars(right).items():
            if key in vars(typed):
                yield from differences(f"{name}.{key}", vars(typed)[key], value, depth - 1)


def _numbers(value: Any) -> Tensor | None:
    """A number, an array or a tensor as a tensor on the CPU; None for anything else."""
    if isinstance(value, bool | int | float | complex | Tensor):
        return torch.as_tensor(value).detach().cpu()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        return torch.as_tensor(np.asarray(value).copy())
    return None


def _number_differences(name: str, typed: Tensor, right: Tensor) -> Iterator[str]:
    if typed.shape != right.shape:
        yield f"{name} has the shape {tuple(typed.shape)}; it should be {tuple(right.shape)}"
        return
    whole = not (right.is_floating_point() or right.is_complex())
    if right.ndim and typed.is_floating_point() == whole:
        yield f"{name} holds {typed.dtype}; it should hold {right.dtype}"
        return
    typed, right = (torch.view_as_real(x.to(torch.complex128)) for x in (typed, right))
    same = (typed == right) | (typed.isnan() & right.isnan())
    finite = right[right.isfinite()].abs()
    scale = finite.max().item() if len(finite) else 0.0
    allowed = 0.0 if whole else RELATIVE * scale + ABSOLUTE
    gap = (typed - right).abs()[~same]
    if not (gap <= allowed).all():
        gap = gap.nan_to_num(torch.inf).max().item()
        yield f"{name} differs by up to {gap:.3g}; its largest value should be {scale:.3g}"


def _kind(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        return f"a dictionary of {', '.join(map(repr, list(value)[:6])) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of the shape {tuple(value.shape)}"
    text = repr(value)
    return (
        text
        if isinstance(value, str | int | float | None) and len(text) < 60
        else f"a {type(value).__name__}"
    )
