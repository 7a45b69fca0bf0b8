"""Antialiased drawing by signed distances, a batch of images at once.

A shape is a function of coordinates that is negative inside and positive outside and grows like a distance; ``cover``
turns it into the share of a pixel that it covers. Union is ``minimum``, cutting out is ``maximum`` with the negative.
Everything is float32 with + − × ÷ √ min max, which every IEEE machine rounds alike (see ``random_bits``).

Coordinates: x to the right, y downwards, the image is [−1, 1]².
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from course_lib.data.random_bits import COS, SIN, TURN

Array = np.ndarray


def column(values: Array) -> Array:
    """(N,) → (N, 1, 1) float32, to meet coordinate planes."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def plane(side: int) -> tuple[Array, Array]:
    """Coordinates x, y of the pixel centres, each (1, side, side) float32."""
    tick = (np.arange(side, dtype=np.float32) * 2 + 1) / np.float32(side) - 1
    return np.broadcast_to(tick, (1, side, side)), np.broadcast_to(tick[:, None], (1, side, side))


def to_local(
    x: Array, y: Array, centre_x: Array, centre_y: Array, scale: Array, turn: Array
) -> tuple[Array, Array]:
    """Coordinates in the frame of an object at (centre_x, centre_y), ``turn`` in 1/256 of a full turn, clockwise."""
    cos, sin = column(COS[turn % TURN]), column(SIN[turn % TURN])
    dx, dy = (x - column(centre_x)) / column(scale), (y - column(centre_y)) / column(scale)
    return cos * dx + sin * dy, cos * dy - sin * dx


def cover(distance: Array, pixel: Array | float) -> Array:
    """Share of each pixel inside the shape: 1 half a pixel inside the edge, 0 half a pixel outside.

    ``pixel`` is the width of a pixel in the units of ``distance``.
    """
    return np.clip(np.float32(0.5) - distance / np.float32(pixel), 0, 1)


def paint(canvas: Array, colour: Array | float, share: Array) -> Array:
    """Lays ``colour`` over the canvas where ``share`` says."""
    return canvas + (colour - canvas) * share


def disc(x: Array, y: Array, cx: Array | float, cy: Array | float, radius: Array | float) -> Array:
    return np.sqrt((x - cx) * (x - cx) + (y - cy) * (y - cy)) - radius


def box(x: Array, y: Array, left: Array, top: Array, right: Array, bottom: Array) -> Array:
    """Rectangle by its sides (distance to the nearest side; exact but for the outside of the corners)."""
    return np.maximum(np.maximum(left - x, x - right), np.maximum(top - y, y - bottom))


def ellipse(x: Array, y: Array, cx: float, cy: float, a: float, b: float) -> Array:
    """Half axes a and b; the distance is exact on the shorter axis only."""
    u, v = (x - cx) / np.float32(a), (y - cy) / np.float32(b)
    return (np.sqrt(u * u + v * v) - 1) * np.float32(min(a, b))


def capsule(
    x: Array, y: Array, ax: Array, ay: Array, bx: Array, by: Array, radius: float, end: float | None = None
):
    """Thick line from a to b; with ``end`` the radius changes from one end to the other."""
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
    u, v = x - ax - along * dx, y - ay - along * dy
    thick = radius if end is None else radius + along * np.float32(end - radius)
    return np.sqrt(u * u + v * v) - thick


def polygon(x: Array, y: Array, corners: Sequence[tuple[Array | float, Array | float]]) -> Array:
    """Any simple polygon: distance to the nearest side, negative inside (even–odd rule)."""
    nearest, inside = np.float32(1e9), np.zeros((1, 1, 1), dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        dx, dy = np.float32(1) * (bx - ax), np.float32(1) * (by - ay)
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        u, v = x - ax - along * dx, y - ay - along * dy
        nearest = np.minimum(nearest, u * u + v * v)
        # A ray to the left crosses this side: one end above, one below, and the crossing to the left of the pixel.
        crosses = ((ay > y) != (by > y)) & (
            (x - ax) * (by - ay) * np.sign(by - ay) > (y - ay) * dx * np.sign(by - ay)
        )
        inside = inside ^ crosses
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def union(*shapes: Array) -> Array:
    together = shapes[0]
    for shape in shapes[1:]:
        together = np.minimum(together, shape)
    return together


def to_bytes(canvas: Array) -> Array:
    """[0, 1] → uint8, rounded to the nearest."""
    return np.floor(np.clip(canvas, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
