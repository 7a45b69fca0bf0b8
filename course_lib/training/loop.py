"""The loop: steps, metrics, callbacks, the bar, checkpoints, and stopping well."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import FSDPStrategy
from torch import Tensor, nn
from tqdm.auto import tqdm
from tqdm.notebook import tqdm as notebook_tqdm
from tqdm.std import tqdm as text_tqdm

from course_lib.training.algorithm import Algorithm
from course_lib.training.batches import Batches
from course_lib.training.checkpoints import (
    CHECKPOINT_FORMAT,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from course_lib.training.device import make_fabric
from course_lib.training.history import History
from course_lib.training.randomness import (
    mix,
    random_state,
    random_state_kept,
    seed_everything,
    set_random_state,
)

REDRAW_SECONDS = 0.5  # of the bar; on a GPU also how often the metrics are fetched and checked
SYNC_STEPS = 16  # with several processes: how often they agree on whether to stop


class NonFiniteError(FloatingPointError):
    """A metric (or a weight) became NaN or infinite.

    Attributes: ``step`` (from 1), ``name`` of the metric or parameter, ``value``.
    """

    def __init__(self, step: int, name: str, value: float, checkpoint: str | Path | None = None) -> None:
        self.step, self.name, self.value = step, name, value
        kept = f" The last checkpoint, {checkpoint}, was left as it is." if checkpoint is not None else ""
        super().__init__(
            f"{name} is {value} at step {step}: training stopped.{kept} Try a lower learning rate, a warm-up, "
            "clip_grad=1.0, precision='32-true', or a lower bound on variances and logarithms; "
            "torch.autograd.set_detect_anomaly(True) shows the operation that made it."
        )


class _Interrupt:
    """The first Ctrl-C asks the loop to stop after this step; the second raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _Interrupt:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._former = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._former)

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _reads_at_once(device: torch.device) -> bool:
    """On a CPU there is nothing to wait for, and a bad number is seen in its step."""
    return device.type == "cpu"


class _Stop(Exception):
    """Leave the loop: interrupted."""


class _Run:
    """The state of one call of ``fit``."""

    def __init__(
        self,
        algorithm: Algorithm,
        loader: Iterable,
        fabric: Fabric,
        *,
        steps: int,
        seed: int,
        checkpoint: str | Path | None,
        every: int | None,
        callbacks: Sequence[tuple[int, Callable]],
        progress: bool,
        log_every: int,
    ) -> None:
        self.algorithm, self.fabric, self.history = algorithm, fabric, History()
        self.steps, self.seed, self.every, self.log_every = steps, seed, every, log_every
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.callbacks, self.progress = callbacks, progress
        self.batches = Batches(loader, fabric, seed)
        self.step = 0
        self._unread: list[tuple[int, Mapping[str, Tensor | float]]] = []
        self._read_at_once = (
            fabric.device.type == "cpu"
        )  # nothing to wait for: a bad number is seen in its step
        self._bad: tuple[int, str, float] | None = None

    # -- resume and save

    def begin(self) -> None:
        """Start at step 0, or where the checkpoint was written."""
        if self.checkpoint is None or not self.checkpoint.exists():
            seed_everything(mix(self.seed, self.fabric.global_rank) if self.fabric.global_rank else self.seed)
            self.batches.start(0, 0)
            return
        content = load_checkpoint(self.checkpoint)
        self._check(content)
        try:
            self.algorithm.load_state_dict(content["state"])
        except CheckpointError as error:
            raise CheckpointError(f"{self.checkpoint}: {error}") from None
        self.history.load_state_dict(content["history"])
        self.step = content["step"]
        self.batches.start(content["epoch"], content["position"])
        states, rank = content["random"], self.fabric.global_rank
        if len(states) == self.fabric.world_size:
            set_random_state(states[rank], self.fabric.device)
        else:  # another number of processes: it cannot be exact, but no two of them may draw the same
            seed_everything(mix(self.seed, rank, self.step))

    def _check(self, content: Mapping[str, Any]) -> None:
        ours = {"algorithm": type(self.algorithm).__name__, "seed": self.seed}
        for key, value in ours.items():
            if content[key] != value:
                raise CheckpointError(
                    f"{self.checkpoint} was written with {key} {content[key]!r}, this run has {value!r}; nothing was "
                    "changed. Use the same, or another path"
                )

    def save(self) -> None:
        """Write the checkpoint, unless a weight is not finite (a loss can still be, at the step that broke it)."""
        if self.checkpoint is None:
            return
        for name, part in self.algorithm.parts().items():
            for key, value in part.named_parameters() if isinstance(part, nn.Module) else ():
                if not bool(torch.isfinite(value).all()):
                    raise NonFiniteError(self.step, f"{name}.{key}", math.nan, self.checkpoint)
        random_states = self._random_states()
        if self.fabric.is_global_zero:
            save_checkpoint(
                self.checkpoint,
                {
                    "format": CHECKPOINT_FORMAT,
                    "algorithm": type(self.algorithm).__name__,
                    "step": self.step,
                    "seed": self.seed,
                    "epoch": self.batches.epoch,
                    "position": self.batches.position,
                    "random": random_states,
                    "history": self.history.state_dict(),
                    "state": self.algorithm.state_dict(),
                },
            )
        self.fabric.barrier()

    def _random_states(self) -> list[dict[str, Tensor]]:
        """Of every process, in the order of their ranks."""
        states = [random_state(self.fabric.device)] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        return states

    # -- metrics

    def report(self, terms: Mapping[str, Tensor | float]) -> None:
        """Keep the terms of a step. On a GPU they are fetched later, many at a time: a step waits for nothing."""
        if self._read_at_once:
            terms = {k: v.item() if isinstance(v, Tensor) else v for k, v in terms.items()}
            self._check_finite(self.step, terms)
        else:
            terms = {k: v.detach() if isinstance(v, Tensor) else v for k, v in terms.items()}
        self._unread.append((self.step, terms))

    def flush(self) -> None:
        """Fetch the metrics that are still on the device, in one transfer, check them, and write the history."""
        unread, self._unread = self._unread, []
        tensors = [v.float() for _, terms in unread for v in terms.values() if isinstance(v, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        for step, terms in unread:
            terms = {k: next(numbers) if isinstance(v, Tensor) else v for k, v in terms.items()}
            if step % self.log_every == 0 or step == self.steps:
                self.history.record(step, terms)
            if not self._read_at_once:
                self._check_finite(step, terms)

    def _check_finite(self, step: int, terms: Mapping[str, float]) -> None:
        if self._bad is None and not all(map(math.isfinite, terms.values())):
            name = next(name for name, value in terms.items() if not math.isfinite(value))
            self._bad = (step, name, terms[name])
            if self.fabric.world_size == 1:
                self._raise_if_bad()

    def _raise_if_bad(self) -> None:
        if self._bad is not None:
            raise NonFiniteError(*self._bad, self.checkpoint)

    # -- the loop

    def train(self) -> None:
        """The loop, and what comes after it however it ends."""
        first = self.step
        with _Interrupt() as interrupt, self.bar() as bar:
            try:
                self.loop(interrupt, bar)
            except (KeyboardInterrupt, _Stop):
                self.history.interrupted = True
            self._redraw(bar)
            if self.step > first:
                self.save()
        if self.history.interrupted:
            self.say_how_to_go_on()

    def loop(self, interrupt: _Interrupt, bar: Any) -> None:
        redraw = time.perf_counter() + REDRAW_SECONDS
        several = self.fabric.world_size > 1
        while self.step < self.steps:
            terms = self.algorithm.step(self._batch(interrupt))
            self.step += 1
            self.report(terms)
            if (now := time.perf_counter()) >= redraw and not several:
                self._redraw(bar)
                redraw = now + REDRAW_SECONDS
            if several and (self.step % SYNC_STEPS == 0 or self._is_due()):
                self._agree(interrupt)
                self._redraw(bar)
            if self._is_due():
                self._run_due()
            if interrupt.requested and not several:
                raise _Stop
        self.flush()
        if several:
            self._agree(interrupt)

    def _batch(self, interrupt: _Interrupt) -> Any:
        try:
            return self.batches.next()
        except RuntimeError as error:
            if interrupt.requested:  # Ctrl-C reaches the loader's workers, too, and ends them
                raise _Stop from error
            raise

    def _is_due(self) -> bool:
        step = self.step
        return (self.every is not None and step % self.every == 0) or any(
            step % n == 0 for n, _ in self.callbacks
        )

    def _run_due(self) -> None:
        self.flush()
        if self.fabric.is_global_zero:
            due = [function for n, function in self.callbacks if self.step % n == 0]
            if due:
                with self.algorithm.unwrapped() as algorithm, random_state_kept(self.fabric.device):
                    for function in due:
                        function(algorithm, self.step, self.history)
        if self.every is not None and self.step % self.every == 0 and self.step < self.steps:
            self.save()

    def _agree(self, interrupt: _Interrupt) -> None:
        """Several processes stop together or not at all: one that left alone would leave the others waiting."""
        self.flush()
        flags = torch.tensor([interrupt.requested, self._bad is not None], dtype=torch.float32)
        stop, bad = self.fabric.all_reduce(flags.to(self.fabric.device), reduce_op="sum").tolist()
        if bad:
            self._raise_if_bad()
            raise NonFiniteError(self.step, "a metric of another process", math.nan, self.checkpoint)
        if stop:
            raise _Stop

    # -- what is seen

    def bar(self) -> Any:
        in_notebook = issubclass(tqdm, notebook_tqdm)
        options = {
            "total": self.steps,
            "initial": self.step,
            "disable": not (self.progress and self.fabric.is_global_zero),
            "unit": "step",
            "miniters": 1,
            # A log file is not a terminal: a line every ten seconds is enough there.
            "mininterval": 0.0 if in_notebook or sys.stderr.isatty() else 10.0,
            "file": sys.stderr,
        }
        try:
            return tqdm(**options)
        except ImportError:  # a notebook without ipywidgets
            return text_tqdm(**options)

    def _redraw(self, bar: Any) -> None:
        self.flush()
        if not bar.disable:
            bar.set_postfix(
                {k: f"{v:.4g}" for k, v in list(self.history.latest().items())[:4]}, refresh=False
            )
            bar.update(self.step - bar.n)

    def say_how_to_go_on(self) -> None:
        how = (
            f"It is in {self.checkpoint}: the same call goes on from there, exactly."
            if self.checkpoint is not None
            else "The weights are in your model; with checkpoint=… the same call would go on exactly from here."
        )
        if self.fabric.is_global_zero:
            print(f"Interrupted after step {self.step:,} of {self.steps:,}. {how}", file=sys.stderr)


def fit(
    algorithm: Algorithm,
    loader: Iterable,
    *,
    steps: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int | None = None,
    callbacks: Sequence[tuple[int, Callable[[Algorithm, int, History], None]]] = (),
    device: str | torch.device = "auto",
    precision: str = "32-true",
    strategy: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    fabric: Fabric | None = None,
    progress: bool = True,
    log_every: int = 1,
) -> History:
    """Take ``steps`` steps of ``algorithm`` over the batches of ``loader``, epoch after epoch.

    Args:
        loader: a ``DataLoader`` (or, on one process, anything that can be iterated again and again). Its order in
            each epoch follows from ``seed``, the loader's own seed and the number of the epoch.
        steps: the number of the last step, also when going on from a checkpoint at an earlier one.
        seed: of Python's, NumPy's and torch's global generators.
        checkpoint: a file. If it is there, training goes on from it, exactly. It is written every ``every`` steps,
            at the end, and on Ctrl-C.
        callbacks: pairs ``(n, function)``; every n steps ``function(algorithm, step, history)`` runs on the first
            process, with the algorithm's plain modules. Modes and random states that it changes are put back;
            ``history.record(step, {"val_loss": …})`` adds to the history.
        device: "auto" (CUDA, MPS, CPU) or a device. precision: "32-true", "bf16-mixed", or "auto" (the faster).
        strategy, devices, num_nodes: of Fabric ("ddp", "fsdp", …). fabric: one of your own, launched, instead.
        progress: show a bar (a widget in a notebook, else text on stderr).
        log_every: record every n-th step only, for runs of millions of steps.

    Returns:
        The history, all steps since step 0. With ``history.interrupted``, Ctrl-C ended it; what was learned is kept.
        The user's own modules are trained, unwrapped, on the device.

    Raises:
        ValueError: an argument out of range, a loader without batches.
        NonFiniteError: a metric or weight became NaN or infinite; the last good checkpoint stays.
        CheckpointError: the checkpoint is damaged or of another run; nothing was modified.
        OSError: a checkpoint could not be written.
    """
    _check_arguments(algorithm, loader, steps, every, callbacks, log_every)
    algorithm.parts()  # its complaints come before processes are started
    fabric = make_fabric(device, precision, strategy, devices, num_nodes) if fabric is None else fabric
    if checkpoint is not None and isinstance(fabric.strategy, FSDPStrategy):
        raise ValueError(
            "checkpoint: with fsdp the weights are spread over processes; save them with fabric.save"
        )
    run = _Run(
        algorithm,
        loader,
        fabric,
        steps=steps,
        seed=seed,
        checkpoint=checkpoint,
        every=every,
        callbacks=callbacks,
        progress=progress,
        log_every=log_every,
    )
    try:
        algorithm.setup(fabric)
        run.begin()
        run.train()
    finally:
        algorithm.teardown()
        run.batches.close()
    return run.history


def _check_arguments(
    algorithm: Any, loader: Any, steps: Any, every: Any, callbacks: Any, log_every: Any
) -> None:
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            f"algorithm is a {type(algorithm).__name__}; expected an Algorithm, e.g. SingleLoss(model, …)"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise ValueError(
            f"loader is a {type(loader).__name__}; expected a DataLoader, which can be iterated again"
        )
    for name, value in (("steps", steps), ("every", every), ("log_every", log_every)):
        if not (value is None and name == "every") and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}={value!r}: expected an integer of at least 1")
    for pair in callbacks:
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int) and callable(pair[1])
        ):
            raise ValueError(
                f"callback {pair!r}: expected a pair (every n steps, function(algorithm, step, history))"
            )
        if pair[0] < 1:
            raise ValueError(f"callback every {pair[0]} steps: expected at least 1")
