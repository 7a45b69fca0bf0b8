"""Copies of a notebook's names in which code can be run again without touching the notebook.

cloudpickle takes some names with everything that their functions refer to, and gives back a namespace of its own: the
functions in it see the copies, an optimiser still holds the parameters of the copied model. Shared with the notebook,
not copied: modules, classes of the notebook, figures, widgets, and Python's generators, which nothing can copy.

`Randomness` holds the global generators of Python, NumPy and PyTorch; a `torch.Generator` of the notebook is copied
like any other value.
"""

import io
import pickle
import random
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cloudpickle
import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure

SHARED = (types.ModuleType, types.GeneratorType, Figure, ipywidgets.Widget)


class _Pickler(cloudpickle.Pickler):
    """Writes what is shared with the notebook as a key of the dictionary `shared`."""

    def __init__(self, file: io.BytesIO, shared: dict[int, Any]) -> None:
        super().__init__(file)
        self.shared = shared

    def persistent_id(self, value: Any) -> int | None:
        of_notebook = isinstance(value, type) and value.__module__ == "__main__"
        if not of_notebook and not isinstance(value, SHARED):
            return None
        self.shared[id(value)] = value
        return id(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[int, Any]) -> None:
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, key: int) -> Any:
        return self.shared[key]


class Frozen(NamedTuple):
    """A copied namespace at rest; `thaw` can be called again and again."""

    content: bytes
    shared: dict[int, Any]

    def thaw(self) -> tuple[dict[str, Any], Any]:
        """The namespace, which functions in it have as their globals, and the extra value that came with it."""
        carrier, extra = _Unpickler(io.BytesIO(self.content), self.shared).load()
        return carrier.__globals__, extra


def freeze(namespace: dict[str, Any], names: Iterable[str], extra: Any = None) -> Frozen:
    """The names (those that exist) and all that their functions refer to. `extra` shares objects with them.

    Raises what pickling raises (TypeError, AttributeError, PicklingError, RuntimeError) for what cannot be copied.
    """
    present = sorted(name for name in set(names) if name in namespace)
    # A function that mentions them is what cloudpickle copies together with the globals it needs.
    text = f"def carrier():\n return [{', '.join(present)}]"
    code = next(c for c in compile(text, "carrier", "exec").co_consts if isinstance(c, types.CodeType))
    file, shared = io.BytesIO(), {}
    _Pickler(file, shared).dump((types.FunctionType(code, namespace), extra))
    return Frozen(file.getvalue(), shared)


class Randomness(NamedTuple):
    """The state of the global generators."""

    python: tuple
    numpy: dict[str, Any]
    torch: torch.Tensor
    cuda: list[torch.Tensor]
    mps: torch.Tensor | None

    @classmethod
    def now(cls) -> "Randomness":
        """The present state."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is what is meant)
        return cls(random.getstate(), numpy, torch.get_rng_state(), cuda, mps)

    def restore(self) -> None:
        """Make this the state again."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


@contextmanager
def randomness(state: Randomness) -> Iterator[None]:
    """Inside, the generators go on from `state`; afterwards from where they were."""
    present = Randomness.now()
    state.restore()
    try:
        yield
    finally:
        present.restore()
