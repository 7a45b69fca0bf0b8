"""Contestants in turns within one run: the machine's speed drifts, so only such times may be compared."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Race(NamedTuple):
    """By contestant: the quickest step's seconds, and what its first and its last step returned."""

    times: dict[str, float]
    first: dict[str, float]
    last: dict[str, float]

    def ratios(self, peer: str, *ours: str) -> dict[str, float]:
        """How many times as fast as the peer's the others' steps are."""
        return {name: self.times[peer] / self.times[name] for name in ours}


def race(benchmark, steps: Mapping[str, Callable[[], float]], rounds: int, warmup_rounds: int) -> Race:
    """One step of each contestant a round. `benchmark`: pytest-benchmark's fixture."""
    seconds = {name: [] for name in steps}
    first, last = {}, {}

    def one_round():
        for name, step in steps.items():
            start = time.perf_counter()
            last[name] = step()
            seconds[name].append(time.perf_counter() - start)
            first.setdefault(name, last[name])

    benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=warmup_rounds)
    return Race({name: min(values) for name, values in seconds.items()}, first, last)
