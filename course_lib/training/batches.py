"""Batches without end, in an order that can be begun again anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DistributedSampler

from course_lib.training.randomness import mix, random_state_kept, seed_data_order


class Batches:
    """Batches without end, in an order that is a function of (seed, epoch), and a place in it that can be kept."""

    def __init__(self, loader: Iterable, fabric: Fabric, seed: int) -> None:
        self.device, self.fabric, self.seed = fabric.device, fabric, seed
        self.epoch, self.position = 0, 0  # position: batches of this epoch that have been handed out
        if fabric.world_size > 1:
            loader = fabric.setup_dataloaders(loader, move_to_device=False)
        self.loader = loader
        self.samplers = [s for s in _samplers(loader) if isinstance(s, DistributedSampler)]
        for sampler in self.samplers:
            sampler.seed = seed
        self.generators = _generators(loader)
        self._found = [generator.get_state() for generator in self.generators]
        self._loader_seed = self.generators[0].initial_seed() if self.generators else 0
        self._iterator, self._ahead = None, None

    def start(self, epoch: int, position: int) -> None:
        """Go to a place: begin the epoch anew and pass over its first batches."""
        self.epoch, self.position = epoch, position
        self._begin_epoch()
        for _ in range(position):
            self._next_in_epoch()

    def next(self) -> Any:
        batch = self._next_in_epoch()
        if batch is None:
            self.epoch, self.position = self.epoch + 1, 0
            self._begin_epoch()
            batch = self._next_in_epoch()
        if batch is None:
            raise ValueError(
                "the loader gives no batches: is the data set smaller than one batch (drop_last)?"
            )
        self.position += 1
        return self._to_device(batch)

    def _next_in_epoch(self) -> Any:
        if self._ahead is not None:
            batch, self._ahead = self._ahead, None
            return batch
        return next(self._iterator, None)

    def _begin_epoch(self) -> None:
        # The first batch is fetched here because samplers draw their order when they are first asked.
        seed = mix(self.seed, self._loader_seed, self.epoch)
        for sampler in self.samplers:
            sampler.set_epoch(self.epoch)
        if hasattr(self.loader, "_num_iter_calls"):
            self.loader._num_iter_calls = self.epoch  # Fabric counts epochs from the start of the process
        with random_state_kept(self.device):
            seed_data_order(seed)
            for generator in self.generators:
                generator.manual_seed(seed)
            self._iterator = iter(self.loader)
            self._ahead = next(self._iterator, None)

    def _to_device(self, batch: Any) -> Any:
        if self.device.type == "cpu":
            return batch
        if isinstance(batch, tuple | list) and all(isinstance(x, Tensor) for x in batch):
            return tuple(x.to(self.device, non_blocking=True) for x in batch)
        return self.fabric.to_device(batch)

    def close(self) -> None:
        """Stop workers, and leave the loader's generators as they were found."""
        self._iterator = self._ahead = None
        for generator, state in zip(self.generators, self._found, strict=True):
            generator.set_state(state)


def _samplers(loader: Iterable) -> list[Any]:
    outer = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    inner = [getattr(sampler, "sampler", None) for sampler in outer]
    return list({id(s): s for s in outer + inner if s is not None}.values())


def _generators(loader: Iterable) -> list[torch.Generator]:
    found = [getattr(owner, "generator", None) for owner in [loader, *_samplers(loader)]]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
