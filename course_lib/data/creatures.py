"""Dogs, birds, cars and planes: the example by which the chapter asks what a one-dimensional code can hold.

Two factors decide what is in the picture, *alive* and *flies*; where, how large, how tilted, how bright and in which
pose are nuisance. 1×32×32, a bright silhouette on black, drawn from capsules, ellipses and polygons.
"""

from __future__ import annotations

import numpy as np
import torch

from course_lib.data.catalogue import Description, Request
from course_lib.data.datasets import ImageDataset
from course_lib.data.random_bits import Bits
from course_lib.data.raster import (
    box,
    capsule,
    column,
    cover,
    disc,
    ellipse,
    paint,
    plane,
    polygon,
    to_bytes,
    to_local,
    union,
)

LABELS = ("dog", "bird", "car", "plane")
ALIVE = (1, 1, 0, 0)
FLIES = (0, 1, 0, 1)
CHUNK = 500

DESCRIPTIONS = {
    "creatures": Description(
        name="creatures",
        summary="silhouettes of a dog, a bird, a car or a plane",
        shape=(1, 32, 32),
        sizes={"train": 4000, "val": 500, "test": 500},
        label_names=LABELS,
        factors={
            "alive": "0 or 1 (dog and bird)",
            "flies": "0 or 1 (bird and plane)",
            "x": "−0.1…0.1, centre in half widths",
            "y": "−0.1…0.1, downwards",
            "scale": "0.74…0.92",
            "tilt": "−8…8 steps of 1/256 turn, clockwise",
            "pose": "0…1: step of the legs, beat of the wings, height of the roof, sweep of the wing",
            "brightness": "0.75…1",
        },
        generated=True,
        source="generated, seeded",
        licence="CC0 1.0",
    )
}


def _dog(x, y, pose):
    step = (pose - 0.5) * np.float32(0.24)
    legs = [
        capsule(x, y, foot_x, 0.15, foot_x + sign * step, 0.66, 0.085, 0.06)
        for foot_x, sign in ((-0.5, 1), (-0.34, -1), (0.2, 1), (0.36, -1))
    ]
    tail = capsule(x, y, -0.56, -0.08, -0.84, -0.28 - 0.3 * pose, 0.08, 0.04)
    body = capsule(x, y, -0.42, 0.04, 0.28, 0.02, 0.21, 0.23)
    neck = capsule(x, y, 0.34, -0.06, 0.5, -0.36, 0.17, 0.15)
    head = union(disc(x, y, 0.54, -0.42, 0.19), capsule(x, y, 0.58, -0.38, 0.84, -0.32, 0.13, 0.08))
    ear = ellipse(x, y, 0.42, -0.38, 0.085, 0.21)
    eye = disc(x, y, 0.62, -0.47, 0.045)
    return union(*legs, tail, body, neck, head), [(ear, 0.55), (eye, 0.1)]


def _bird(x, y, pose):
    tip = -0.84 + 0.62 * pose  # height of the wing tips
    body = capsule(x, y, -0.34, 0.12, 0.3, 0.02, 0.14, 0.21)
    tail = polygon(x, y, [(-0.3, 0.02), (-0.9, 0.0), (-0.8, 0.16), (-0.9, 0.32), (-0.3, 0.22)])
    head = disc(x, y, 0.5, -0.14, 0.18)
    beak = polygon(x, y, [(0.62, -0.24), (0.93, -0.1), (0.62, -0.04)])
    near = polygon(x, y, [(0.22, 0.02), (-0.16, 0.1), (-0.62, tip), (-0.3, tip - 0.04)])
    far = polygon(x, y, [(0.3, -0.05), (0.05, -0.05), (0.1, tip + 0.06), (0.34, tip)])
    eye = disc(x, y, 0.56, -0.18, 0.045)
    return union(body, tail, head, near, far), [(beak, 0.6), (eye, 0.1)]


def _car(x, y, pose):
    roof = -0.36 - 0.16 * pose
    body = union(
        box(x, y, -0.8, -0.08, 0.8, 0.24),
        capsule(x, y, -0.78, 0.12, 0.78, 0.12, 0.14),
        disc(x, y, 0.76, 0.06, 0.1),
    )
    cabin = polygon(x, y, [(-0.62, -0.05), (-0.42, roof), (0.2, roof), (0.5, -0.05)])
    glass = union(
        polygon(x, y, [(-0.48, -0.08), (-0.35, roof + 0.09), (-0.12, roof + 0.09), (-0.12, -0.08)]),
        polygon(x, y, [(-0.03, -0.08), (-0.03, roof + 0.09), (0.15, roof + 0.09), (0.34, -0.08)]),
    )
    tyres = union(disc(x, y, -0.45, 0.28, 0.25), disc(x, y, 0.45, 0.28, 0.25))
    wheels = union(disc(x, y, -0.45, 0.28, 0.19), disc(x, y, 0.45, 0.28, 0.19))
    hubs = union(disc(x, y, -0.45, 0.28, 0.08), disc(x, y, 0.45, 0.28, 0.08))
    return union(body, cabin), [(glass, 0.25), (tyres, 0.0), (wheels, 0.7), (hubs, 0.15)]


def _plane(x, y, pose):
    sweep = 0.25 + 0.3 * pose
    fuselage = union(
        capsule(x, y, -0.82, -0.02, 0.5, 0.0, 0.07, 0.16), capsule(x, y, 0.4, 0.0, 0.82, 0.05, 0.16, 0.08)
    )
    fin = polygon(x, y, [(-0.88, -0.04), (-0.98, -0.5), (-0.78, -0.5), (-0.5, -0.06)])
    near = polygon(x, y, [(0.22, 0.04), (-0.14, 0.04), (-0.2 - sweep, 0.56), (0.0 - sweep, 0.56)])
    far = polygon(x, y, [(0.2, -0.1), (-0.08, -0.1), (0.02 - sweep, -0.44), (0.14 - sweep, -0.44)])
    stabiliser = polygon(x, y, [(-0.64, 0.0), (-0.84, 0.0), (-0.98, 0.2), (-0.86, 0.2)])
    windows = union(*(disc(x, y, centre, -0.05, 0.045) for centre in (-0.3, -0.1, 0.1, 0.3)))
    cockpit = polygon(x, y, [(0.54, -0.12), (0.64, -0.12), (0.78, -0.01), (0.58, -0.01)])
    return union(fuselage, fin, near, far, stabiliser), [(windows, 0.2), (cockpit, 0.2)]


_DRAWINGS = (_dog, _bird, _car, _plane)


def _factors(request: Request, chunk: int) -> dict[str, np.ndarray]:
    """The factors of one chunk, each from its own stream, so that none depends on another."""

    def bits(what: str) -> Bits:
        return Bits("creatures", request.split, chunk, what)

    label = bits("label").choice(request.classes or range(4), CHUNK)
    return {
        "label": label,
        "alive": np.array(ALIVE)[label],
        "flies": np.array(FLIES)[label],
        "x": bits("x").uniform(-0.1, 0.1, CHUNK),
        "y": bits("y").uniform(-0.1, 0.1, CHUNK),
        "scale": bits("scale").uniform(0.74, 0.92, CHUNK),
        "tilt": bits("tilt").below(17, CHUNK) - 8,
        "pose": bits("pose").uniform(0, 1, CHUNK),
        "brightness": bits("brightness").uniform(0.75, 1, CHUNK),
    }


def render(factors: dict[str, np.ndarray], side: int) -> np.ndarray:
    """Factors (N,) each → images (N, 1, side, side) uint8."""
    images = np.zeros((len(factors["label"]), 1, side, side), dtype=np.uint8)
    x, y = plane(side)
    for kind, drawing in enumerate(_DRAWINGS):
        chosen = factors["label"] == kind
        if not chosen.any():
            continue
        f = {name: values[chosen] for name, values in factors.items()}
        u, v = to_local(x, y, f["x"], f["y"], f["scale"], f["tilt"])
        pixel = 2 / (side * column(f["scale"]))
        silhouette, details = drawing(u, v, column(f["pose"]))
        canvas = cover(silhouette, pixel)
        for shape, shade in details:
            canvas = paint(canvas, np.float32(shade), cover(shape, pixel))
        images[chosen, 0] = to_bytes(canvas * column(f["brightness"]))
    return images


def make(request: Request) -> ImageDataset:
    """The requested creatures (the first n of a longer request are the same)."""
    n = request.count(DESCRIPTIONS["creatures"])
    images, rows = [], []
    for chunk in range(-(-n // CHUNK)):
        part = {name: values[: n - chunk * CHUNK] for name, values in _factors(request, chunk).items()}
        images.append(render(part, request.image_size or 32))
        rows.append(part)
    factors = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}
    labels = factors.pop("label")
    return ImageDataset(
        torch.from_numpy(np.concatenate(images)),
        labels,
        name="creatures",
        split=request.split,
        label_names=LABELS,
        factors=factors,
        levels=request.levels,
    )
