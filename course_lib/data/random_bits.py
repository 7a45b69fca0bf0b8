"""Random numbers that are the same on every machine and with every version of NumPy.

NumPy promises a fixed stream for a bit generator (``PCG64.random_raw``), but not for the distributions built on it
(NEP 19), so the generated sets make their own from the raw 64-bit words, by integer arithmetic and exact divisions by
powers of two. The renderers use only + − × ÷ √, which IEEE 754 rounds in one way, and sums over no axis; sines
and cosines come from a table rounded far above the last digit.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

# cos and sin of k · 360°/256, rounded to 2⁻²⁰: two libraries that differ in the last digit give the same table.
TURN = 256
COS = np.array(
    [round(math.cos(2 * math.pi * k / TURN) * 2**20) / 2**20 for k in range(TURN)], dtype=np.float32
)
SIN = np.array(
    [round(math.sin(2 * math.pi * k / TURN) * 2**20) / 2**20 for k in range(TURN)], dtype=np.float32
)


class Bits:
    """Independent uniform draws from the stream of one (name, split, chunk)."""

    def __init__(self, *key: str | int) -> None:
        words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def below(self, n: int, size: int) -> np.ndarray:
        """Integers 0…n−1, int64 (size,): the upper 32 bits times n, shifted down (bias below n/2³²)."""
        return ((self._bits.random_raw(size) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(
            np.int64
        )

    def choice(self, values: Sequence[int], size: int) -> np.ndarray:
        """Equally likely elements of ``values``, int64 (size,)."""
        return np.asarray(values, dtype=np.int64)[self.below(len(values), size)]

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        """Floats in [low, high), float32 (size,), on a grid of 2⁻¹⁶ of the range."""
        step = self.below(2**16, size).astype(np.float32) / np.float32(2**16)
        return np.float32(low) + step * np.float32(high - low)

    def bernoulli(self, share: float, size: int) -> np.ndarray:
        """True with probability ``share`` (to 2⁻¹⁶), bool (size,)."""
        return self.below(2**16, size) < round(share * 2**16)

    def bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 noise of any shape."""
        count = math.prod(shape)
        words = self._bits.random_raw(-(-count // 8)).astype("<u8")  # little-endian bytes on every machine
        return words.view(np.uint8)[:count].reshape(shape)

    def normal(self, size: int) -> np.ndarray:
        """Standard normal draws, float64 (size,), by Box and Muller. Equal to the last digits of log, cos and sin."""
        words = self._bits.random_raw(2 * size).reshape(size, 2) >> np.uint64(11)
        # 53 bits and a half step, so that the logarithm never sees 0.
        u, v = ((words.astype(np.float64) + 0.5) / 2**53).T
        return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def shuffled(n: int, *key: str | int) -> np.ndarray:
    """A fixed permutation of 0…n−1, int64."""
    words = Bits(*key)._bits.random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)
