"""What is trained, and how one step of it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from course_lib.training.checkpoints import CheckpointError

# Its import takes over a second, and a module that only derives from Algorithm needs none of it.
if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Algorithm:
    """What is trained, and how one step of it goes.

    A subclass sets networks (``nn.Module``), optimisers, and if it has them schedulers, averages
    (``AveragedModel``), generators and tensors (counters, running means) as attributes of its own, and defines
    ``step``. They are found by their type: placed on the device, wrapped for the strategy, saved, restored. Plain
    numbers are settings and are not saved; what changes during training and is a number belongs in a tensor.

    Without ``fit`` an algorithm is an ordinary object: ``algorithm.step(batch)`` works on the plain modules.
    """

    #: methods besides ``forward`` by which ``step`` calls a network; with several processes they go through DDP
    forward_methods: tuple[str, ...] = ("loss",)

    fabric: Fabric | None = None
    _plain: Mapping[str, Any] | None = None  # while set up: the user's objects …
    _wired: Mapping[str, Any] | None = None  # … and Fabric's wrappers of them

    def step(self, batch: Any) -> Mapping[str, Tensor | float]:
        """One update. Returns named scalars (nats, accuracies, …); attached to the graph or not."""
        raise NotImplementedError(f"{type(self).__name__} has to define step(batch) -> dict of scalars")

    # -- what it consists of

    def parts(self) -> dict[str, Any]:
        """The attributes that hold state, by name: the user's own objects, never Fabric's wrappers."""
        if self._plain is not None:
            return dict(self._plain)
        kinds = (nn.Module, Optimizer, LRScheduler, torch.Generator, Tensor)
        found = {}
        for name, value in vars(self).items():
            inside = list(value.values()) if isinstance(value, dict) else value
            inside = inside if isinstance(inside, list | tuple) else ()
            if any(isinstance(item, kinds[:3]) for item in inside):
                raise ValueError(
                    f"{type(self).__name__}.{name} is a {type(value).__name__} of networks or optimisers, which "
                    "would not be saved: make each an attribute, or use nn.ModuleList/nn.ModuleDict"
                )
            if isinstance(value, ReduceLROnPlateau):
                raise ValueError(
                    f"{type(self).__name__}.{name}: ReduceLROnPlateau needs a metric; step it yourself"
                )
            if isinstance(value, nn.Parameter):
                raise ValueError(
                    f"{type(self).__name__}.{name} is a bare nn.Parameter: put it into an nn.Module"
                )
            if isinstance(value, kinds):
                found[name] = value
        return found

    # -- Fabric

    def setup(self, fabric: Fabric) -> None:
        """Place every part on the device and wrap the trained networks and their optimisers for the strategy."""
        plain = self.parts()
        optimised = {
            id(p)
            for o in plain.values()
            if isinstance(o, Optimizer)
            for g in o.param_groups
            for p in g["params"]
        }
        wired = dict(plain)
        for name, part in plain.items():
            if isinstance(part, AveragedModel):
                fabric.to_device(part)
                part.n_averaged = (
                    part.n_averaged.cpu()
                )  # it is read every step: on a GPU each read would wait
            elif isinstance(part, nn.Module):
                if not any(id(p) in optimised for p in part.parameters()):
                    fabric.to_device(part)  # frozen: only a tool of the loss; its mode (train, eval) stays
                    continue
                part.train()
                wired[name] = fabric.setup_module(part)
                for method in self.forward_methods:
                    if hasattr(part, method):
                        wired[name].mark_forward_method(method)
            elif isinstance(part, Tensor):
                setattr(self, name, part.to(fabric.device))
        for name, part in plain.items():
            if isinstance(part, Optimizer):
                _move_optimizer_state(part)
                wired[name] = fabric.setup_optimizers(part)
        self.fabric, self._plain, self._wired = fabric, plain, wired
        self._set(wired)

    def teardown(self) -> None:
        """Undo ``setup``: the attributes are the user's own objects again (trained, on the device)."""
        if self._plain is not None:
            self._set(self._plain)
        self.fabric = self._plain = self._wired = None

    @contextmanager
    def unwrapped(self) -> Iterator[Algorithm]:
        """Inside, the attributes are the plain modules: for sampling and validation on one process."""
        plain, wired = self._plain or {}, self._wired or {}
        modes = [
            (m, m.training) for part in plain.values() if isinstance(part, nn.Module) for m in part.modules()
        ]
        self._set(plain)
        try:
            yield self
        finally:
            self._set(wired)
            for module, training in modes:
                module.training = training

    def _set(self, attributes: Mapping[str, Any]) -> None:
        for name, part in attributes.items():
            if not isinstance(
                part, Tensor
            ):  # a step may put a new tensor in its place: that one is the state
                setattr(self, name, part)

    # -- for use in step

    def backward(self, loss: Tensor) -> None:
        """``loss.backward()``, with what precision and strategy need around it."""
        if self.fabric is None:
            loss.backward()
        else:
            self.fabric.backward(loss)

    def autocast(self) -> AbstractContextManager:
        """The precision of this run. Needed around methods of networks other than ``forward``."""
        return nullcontext() if self.fabric is None else self.fabric.autocast()

    def plain(self, name: str) -> Any:
        """The part called ``name`` without Fabric's wrapper."""
        return getattr(self, name) if self._plain is None else self._plain[name]

    @contextmanager
    def frozen(self, name: str) -> Iterator[nn.Module]:
        """The plain network ``name`` with gradients only to its inputs: the critic, while the generator learns.

        It skips the critic's weight gradients, and with several processes their exchange.
        """
        network = self.plain(name)
        learning = [p for p in network.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield network
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Every part's state by the part's name: tensors, numbers, strings and their containers only."""
        return {name: _part_state(self._current(name, part)) for name, part in self.parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put a state back.

        Raises:
            CheckpointError: when names or shapes differ; it says which, and nothing has been modified.
        """
        parts = self.parts()
        problems = _differences("parts", parts, state)
        for name in parts.keys() & state.keys():
            problems += _part_problems(name, self._current(name, parts[name]), state[name])
        if problems:
            shown = "\n  ".join(
                problems[:12] + ([f"… and {len(problems) - 12} more"] if len(problems) > 12 else [])
            )
            raise CheckpointError(
                f"this state is not one of this {type(self).__name__}; nothing was changed:\n  {shown}"
            )
        for name, part in parts.items():
            part = self._current(name, part)
            if isinstance(part, torch.Generator):
                part.set_state(state[name])
            elif isinstance(part, Tensor):
                part.data.copy_(state[name])
            else:
                part.load_state_dict(state[name])

    def _current(self, name: str, part: Any) -> Any:
        return getattr(self, name) if isinstance(part, Tensor) else part


class SingleLoss(Algorithm):
    """One network, one loss, one optimiser: ``model.loss(*batch)`` returns named terms, ``"loss"`` among them.

    Args:
        model: has ``loss(*batch) -> {"loss": scalar, …}``.
        optimizer: over the model's parameters.
        scheduler: a ``torch.optim.lr_scheduler``, stepped once a step (not once an epoch).
        ema: ``AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))``; use ``ema.module`` to sample.
        clip_grad: largest norm of the gradient; the norm is then reported as ``grad_norm``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        ema: AveragedModel | None = None,
        clip_grad: float | None = None,
    ) -> None:
        if not callable(getattr(model, "loss", None)):
            raise ValueError(f"{type(model).__name__} has no method loss(*batch) -> dict with the key 'loss'")
        if clip_grad is not None and not clip_grad > 0:
            raise ValueError(f"clip_grad={clip_grad}: expected None or a positive norm")
        self.model, self.optimizer, self.scheduler, self.ema = model, optimizer, scheduler, ema
        self.clip_grad = clip_grad

    def step(self, batch: Any) -> Mapping[str, Tensor | float]:
        self.optimizer.zero_grad()
        with self.autocast():
            terms = self.model.loss(*batch) if isinstance(batch, tuple | list) else self.model.loss(batch)
        self.backward(terms["loss"])
        if self.clip_grad is not None:
            terms = {**terms, "grad_norm": self._clip()}
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.plain("model"))
        return terms

    def _clip(self) -> Tensor:
        if self.fabric is None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        # The finite check of Fabric would make every step wait for the device; the loop checks the metric instead.
        return self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.clip_grad, error_if_nonfinite=False
        )


def _move_optimizer_state(optimizer: Optimizer) -> None:
    """The state of an optimiser that has run before follows its parameters to the device."""
    if optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())


def _part_state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.detach() if isinstance(part, Tensor) else part.state_dict()


def _part_problems(name: str, part: Any, state: Any) -> list[str]:
    """What would go wrong in ``part.load_state_dict(state)``, found out before anything is modified."""
    expects_tensor = isinstance(part, Tensor | torch.Generator)
    if expects_tensor != isinstance(state, Tensor) or not isinstance(state, Tensor | Mapping):
        return [f"{name}: expected the state of a {type(part).__name__}, got a {type(state).__name__}"]
    if isinstance(part, Tensor):
        return [] if part.shape == state.shape else [_shape_problem(name, part, state)]
    if isinstance(part, nn.Module):
        ours = part.state_dict()
        both = ((k, v) for k, v in ours.items() if k in state and isinstance(v, Tensor))
        return _differences(name, ours, state) + [
            _shape_problem(f"{name}.{key}", value, state[key])
            for key, value in both
            if value.shape != state[key].shape
        ]
    if isinstance(part, Optimizer):
        ours, theirs = (
            [len(g["params"]) for g in s.get("param_groups", ())] for s in (part.state_dict(), state)
        )
        return [] if ours == theirs else [f"{name}: parameters per group {theirs} in the file, {ours} here"]
    return _differences(name, part.state_dict(), state) if isinstance(part, LRScheduler) else []


def _differences(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    missing = [f"{name}: {key!r} is not in the file" for key in ours if key not in theirs]
    return missing + [f"{name}: {key!r} is only in the file" for key in theirs if key not in ours]


def _shape_problem(name: str, ours: Tensor, theirs: Tensor) -> str:
    return f"{name}: shape {tuple(theirs.shape)} in the file, {tuple(ours.shape)} here"
