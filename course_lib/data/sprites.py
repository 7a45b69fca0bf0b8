"""Coloured shapes on textured backgrounds, every factor drawn independently: data whose truth is known.

In the spirit of dSprites (Matthey et al. 2017) and 3D Shapes (Burgess & Kim 2018), but drawn on the fly, in colour, at
any size. Disentangling, style mixing and image translation are judged by these factors: the plain and the striped
half of the set, say, are two unpaired domains with the same content.
"""

from __future__ import annotations

import numpy as np
import torch

from course_lib.data.catalogue import Description, Request
from course_lib.data.datasets import ImageDataset
from course_lib.data.random_bits import Bits
from course_lib.data.raster import box, column, cover, disc, paint, plane, polygon, to_bytes, to_local, union

SHAPES = ("disc", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "orange", "yellow", "lime", "green", "teal", "blue", "violet", "magenta", "white")
TEXTURES = ("plain", "stripes", "dots", "checks")
BACKGROUNDS = ("night", "moss", "plum", "slate", "sand", "mist")
BACKDROPS = ("plain", "gradient", "waves", "tiles")

_RGB = np.array(
    [
        [232, 48, 56], [245, 130, 32], [250, 208, 44], [160, 214, 56], [40, 164, 82],
        [38, 186, 186], [56, 116, 236], [136, 84, 224], [232, 84, 184], [244, 244, 240],
    ],
    dtype=np.float32,
) / 255  # fmt: skip
# Backgrounds are dull, so that every colour stands out from every background.
_BACKGROUND_RGB = np.array(
    [[26, 32, 52], [46, 62, 48], [66, 42, 66], [84, 92, 104], [148, 134, 112], [120, 142, 150]], dtype=np.float32
) / 255  # fmt: skip

CHUNK = 500  # images drawn at once: the working set of 500·32·32 floats stays in the cache

DESCRIPTIONS = {
    "sprites": Description(
        name="sprites",
        summary="a coloured, textured shape on a background; all factors independent and uniform",
        shape=(3, 32, 32),
        sizes={"train": 12_000, "val": 2_000, "test": 2_000},
        label_names=SHAPES,
        factors={
            "shape": ", ".join(SHAPES) + " (also the label)",
            "colour": ", ".join(COLOURS),
            "texture": ", ".join(TEXTURES) + " (of the shape)",
            "background": ", ".join(BACKGROUNDS),
            "backdrop": ", ".join(BACKDROPS) + " (pattern of the background)",
            "size": "0.38…0.62, radius in half widths of the image",
            "x": "−0.34…0.34, centre, to the right",
            "y": "−0.34…0.34, centre, downwards",
            "turn": "−32…32 steps of 1/256 turn, clockwise (−45°…45°)",
        },
        generated=True,
        source="generated, seeded",
        licence="CC0 1.0",
    )
}


def _star(points: int = 5, inner: float = 0.46) -> list[tuple[float, float]]:
    # Corners of a star with one point up; rounded, so that they are the same floats everywhere.
    corners = []
    for k in range(2 * points):
        radius, angle = (1.0 if k % 2 == 0 else inner), np.pi * (k / points - 0.5)
        corners.append((round(float(radius * np.cos(angle)), 4), round(float(radius * np.sin(angle)), 4)))
    return corners


def _outline(kind: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of a shape of about unit radius, in its own frame."""
    if kind == 0:
        return disc(x, y, 0, 0, np.float32(0.92))
    if kind == 1:
        return box(x, y, -0.8, -0.8, 0.8, 0.8)
    if kind == 2:
        return polygon(x, y, [(0.0, -0.98), (0.98, 0.76), (-0.98, 0.76)])
    if kind == 3:
        return polygon(x, y, [(1.1 * a, 1.1 * b) for a, b in _star()])
    if kind == 4:
        lobes = union(disc(x, y, -0.44, -0.3, np.float32(0.5)), disc(x, y, 0.44, -0.3, np.float32(0.5)))
        return union(lobes, polygon(x, y, [(0.0, -0.45), (0.84, 0.0), (0.0, 0.98), (-0.84, 0.0)]))
    return union(box(x, y, -0.34, -0.95, 0.34, 0.95), box(x, y, -0.95, -0.34, 0.95, 0.34))


def _wave(x: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1: distance to the nearest whole number, 0…½."""
    return np.abs(x - np.floor(x + np.float32(0.5)))


def _texture(kind: int, x: np.ndarray, y: np.ndarray, pixel: np.ndarray) -> np.ndarray | None:
    """Share of the second colour at each pixel, in the frame of the shape; None where there is none."""
    if kind == 1:  # stripes, period 0.5
        return cover(_wave(x * 2) * np.float32(0.5) - np.float32(0.125), pixel)
    if kind == 2:  # dots on a square lattice of step 0.5
        u, v = _wave(x * 2) * np.float32(0.5), _wave(y * 2) * np.float32(0.5)
        return cover(np.sqrt(u * u + v * v) - np.float32(0.145), pixel)
    if kind == 3:  # checks with sides of 0.5: same colour where both stripes agree
        a = cover(_wave(x) - np.float32(0.25), pixel)
        b = cover(_wave(y) - np.float32(0.25), pixel)
        return a + b - 2 * a * b
    return None


def _backdrop(kind: int, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """Brightness factor of the background, about 1, broadcastable to (1, side, side)."""
    if kind == 1:
        return np.float32(1) - np.float32(0.28) * y
    if kind == 2:  # slanted soft waves
        return np.float32(0.82) + np.float32(0.8) * _wave(np.float32(1.25) * x + np.float32(2) * y)
    if kind == 3:  # tiles with dark joints
        u, v = _wave(x * 2) * np.float32(0.5), _wave(y * 2 + np.float32(0.5)) * np.float32(0.5)
        return np.float32(1.1) - np.float32(0.4) * cover(np.minimum(u, v) - np.float32(0.03), pixel)
    return np.ones_like(x)


def _factors(request: Request, chunk: int) -> dict[str, np.ndarray]:
    """The factors of one chunk, each from its own stream, so that none depends on another."""

    def bits(what: str) -> Bits:
        return Bits("sprites", request.split, chunk, what)

    return {
        "shape": bits("shape").choice(request.classes or range(len(SHAPES)), CHUNK),
        "colour": bits("colour").below(len(COLOURS), CHUNK),
        "texture": bits("texture").below(len(TEXTURES), CHUNK),
        "background": bits("background").below(len(BACKGROUNDS), CHUNK),
        "backdrop": bits("backdrop").below(len(BACKDROPS), CHUNK),
        "size": bits("size").uniform(0.38, 0.62, CHUNK),
        "x": bits("x").uniform(-0.34, 0.34, CHUNK),
        "y": bits("y").uniform(-0.34, 0.34, CHUNK),
        "turn": bits("turn").below(65, CHUNK) - 32,
    }


def _each(values: np.ndarray):
    """(value, mask of the images that have it), for the values that occur."""
    for value in np.unique(values):
        yield int(value), values == value


def render(factors: dict[str, np.ndarray], side: int) -> np.ndarray:
    """Factors (N,) each, as in ``DESCRIPTIONS`` → images (N, 3, side, side) uint8."""
    x, y = plane(side)
    n = len(factors["shape"])
    u, v = to_local(x, y, factors["x"], factors["y"], factors["size"], factors["turn"])
    pixel = 2 / (side * column(factors["size"]))

    inside = np.empty((n, side, side), dtype=np.float32)
    for kind, chosen in _each(factors["shape"]):
        inside[chosen] = cover(_outline(kind, u[chosen], v[chosen]), pixel[chosen])
    shade = np.ones((n, side, side), dtype=np.float32)
    for kind, chosen in _each(factors["texture"]):
        second = _texture(kind, u[chosen], v[chosen], pixel[chosen])
        if second is not None:
            shade[chosen] -= np.float32(0.62) * second
    light = np.empty((n, side, side), dtype=np.float32)
    for kind, chosen in _each(factors["backdrop"]):
        light[chosen] = _backdrop(kind, x, y, 2 / side)

    images = np.empty((n, 3, side, side), dtype=np.uint8)
    for channel in range(3):
        background = column(_BACKGROUND_RGB[factors["background"], channel]) * light
        colour = column(_RGB[factors["colour"], channel]) * shade
        images[:, channel] = to_bytes(paint(background, colour, inside))
    return images


def make(request: Request) -> ImageDataset:
    """The requested sprites (the first n of a longer request are the same)."""
    n, side = request.count(DESCRIPTIONS["sprites"]), request.image_size or 32
    images = torch.empty((n, 3, side, side), dtype=torch.uint8)
    rows = []
    for start in range(0, n, CHUNK):
        part = {name: values[: n - start] for name, values in _factors(request, start // CHUNK).items()}
        images[start : start + CHUNK] = torch.from_numpy(render(part, side))
        rows.append(part)
    factors = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}
    return ImageDataset(
        images,
        factors["shape"],
        name="sprites",
        split=request.split,
        label_names=SHAPES,
        factors=factors,
        factor_values={
            "shape": SHAPES,
            "colour": COLOURS,
            "texture": TEXTURES,
            "background": BACKGROUNDS,
            "backdrop": BACKDROPS,
        },
        levels=request.levels,
    )
