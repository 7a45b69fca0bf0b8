"""Named numbers, step by step."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


class History:
    """Named numbers, one row a step.

    ``history["loss"]`` is an array as long as ``history.steps``; NaN where a term was not reported in that step (a
    generator that learns every fifth step, a validation every hundredth). ``series(name)`` leaves those out.

    Attributes:
        interrupted: training ended by Ctrl-C, before its last step.
    """

    def __init__(self) -> None:
        self._steps = array("q")
        self._columns: dict[str, array] = {}
        self.interrupted = False

    def record(self, step: int, terms: Mapping[str, float]) -> None:
        """Add numbers to the row of ``step``, the latest or a new one."""
        if not self._steps or step > self._steps[-1]:
            self._steps.append(step)
            for column in self._columns.values():
                column.append(math.nan)
        elif step < self._steps[-1]:
            raise ValueError(f"step {step} comes after step {self._steps[-1]}: rows are in order")
        for name, value in terms.items():
            if name not in self._columns:
                self._columns[name] = array("d", [math.nan]) * len(self._steps)
            self._columns[name][-1] = float(value)

    @property
    def steps(self) -> np.ndarray:
        """The step of each row, counted from 1."""
        return np.array(self._steps, dtype=np.int64)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise KeyError(f"{name!r}; this history has {', '.join(self._columns) or 'no terms yet'}")
        return np.array(self._columns[name], dtype=np.float64)

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of the steps that reported ``name``."""
        values = self[name]
        reported = ~np.isnan(values)
        return self.steps[reported], values[reported]

    def latest(self) -> dict[str, float]:
        """The last reported value of each term."""
        reported = (
            (k, next((v for v in reversed(c) if not math.isnan(v)), math.nan))
            for k, c in self._columns.items()
        )
        return dict(reported)

    def mean(self, name: str, last: int = 100) -> float:
        """Mean of the last ``last`` reported values."""
        return float(self.series(name)[1][-last:].mean())

    def save_csv(self, path: str | Path) -> None:
        """Write ``step, term, term, …``; a term that a step did not report is an empty cell."""
        rows = zip(self._steps, *self._columns.values(), strict=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *self._columns])
            writer.writerows([s, *("" if math.isnan(v) else repr(v) for v in values)] for s, *values in rows)

    def __repr__(self) -> str:
        latest = ", ".join(f"{name} {value:.4g}" for name, value in self.latest().items())
        state = ", interrupted" if self.interrupted else ""
        return f"History({len(self)} rows to step {self._steps[-1] if self._steps else 0}{state}: {latest})"

    def state_dict(self) -> dict[str, Any]:
        columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in self._columns.items()}
        return {"steps": torch.tensor(self._steps, dtype=torch.int64), "columns": columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = array("q", state["steps"].tolist())
        self._columns = {name: array("d", values.tolist()) for name, values in state["columns"].items()}
