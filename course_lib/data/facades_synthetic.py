"""Drawn houses with their label maps: a picture-from-labels task that needs no download.

The real thing is the CMP facade base (Tyleček & Šára 2013), on which pix2pix (Isola et al. 2017, arXiv:1611.07004) was
shown; the label colours are its colours where it has the label. As there, the map says *where* things are and not what
colour they have: wall, roof, sky, light and glass are drawn at random, so that the best single guess is a blur.

A picture is computed like a shader: every pixel works out in which bay and storey it lies and how far from the middle
of the window there. Drawn at twice the size and averaged; the label map is a point sample of the same drawing.
"""

from __future__ import annotations

import numpy as np
import torch

from course_lib.data.catalogue import Description, Request
from course_lib.data.datasets import PairDataset
from course_lib.data.random_bits import Bits
from course_lib.data.raster import column, to_bytes

Array = np.ndarray

LABELS = (
    "sky", "street", "roof", "facade", "cornice", "window", "blind", "sill", "balcony", "door", "shop", "pillar"
)  # fmt: skip
SKY, STREET, ROOF, FACADE, CORNICE, WINDOW, BLIND, SILL, BALCONY, DOOR, SHOP, PILLAR = range(12)
PALETTE = np.array(
    [
        [0, 0, 222], [0, 0, 112], [255, 80, 0], [0, 48, 255], [32, 255, 224], [0, 128, 255],
        [255, 240, 0], [112, 255, 144], [192, 255, 64], [0, 208, 255], [176, 0, 0], [255, 0, 0],
    ],
    dtype=np.uint8,
)  # fmt: skip

ROOFS = ("flat", "gable", "mansard")
WALLS = ("cream", "ochre", "salmon", "brick", "sky blue", "sage", "stone", "white", "terracotta", "lilac")
MATERIALS = ("plaster", "brick", "blocks")
SKIES = ("noon", "morning", "overcast", "dusk")


def _rgb(*colours: tuple[int, int, int]) -> Array:
    return np.array(colours, dtype=np.float32) / 255


_WALL = _rgb(
    (232, 214, 174), (214, 172, 96), (224, 154, 128), (168, 84, 66), (158, 184, 204),
    (164, 178, 140), (176, 170, 160), (230, 228, 220), (200, 118, 76), (186, 166, 194),
)  # fmt: skip
_ROOF = _rgb((166, 82, 58), (84, 90, 104), (104, 74, 58), (92, 128, 112))
_WOOD = _rgb((96, 58, 38), (44, 82, 66), (52, 72, 116), (124, 42, 44), (66, 66, 70), (150, 110, 60))
_AWNING = _rgb((196, 60, 54), (52, 116, 96), (58, 88, 160), (218, 160, 58))
_SKY_TOP = _rgb((84, 144, 214), (136, 178, 222), (158, 168, 178), (74, 80, 134))
_SKY_LOW = _rgb((196, 222, 240), (248, 224, 196), (206, 210, 212), (244, 168, 124))

CHUNK = 50

DESCRIPTIONS = {
    "facades_synthetic": Description(
        name="facades_synthetic",
        summary="label map ↔ picture of a house: pairs of two RGB images",
        shape=(3, 64, 64),
        sizes={"train": 800, "val": 100, "test": 100},
        label_names=LABELS,
        factors={
            "storeys": "2…4",
            "bays": "2…5",
            "roof": ", ".join(ROOFS),
            "wall": ", ".join(WALLS) + " (not in the map)",
            "material": ", ".join(MATERIALS) + " (not in the map)",
            "sky": ", ".join(SKIES) + " (not in the map)",
            "light": "−1 from the left, 1 from the right (not in the map)",
            "shops": "0 or 1: shop windows on the ground floor",
            "balconies": "0 none, 1 on one storey, 2 on all upper storeys",
            "blinds": "0 or 1",
            "pillars": "0 or 1",
            "arches": "0 or 1: round-headed windows",
        },
        generated=True,
        source="generated, seeded",
        licence="CC0 1.0",
        notes="dataset[i] is (label_map, picture); label_index gives the map as numbers.",
    )
}


class Canvas:
    """Pictures (n, 3, S, S) in [0, 1] and label maps (n, S, S) that are painted together."""

    def __init__(self, n: int, side: int) -> None:
        self.rgb = np.zeros((n, 3, side, side), dtype=np.float32)
        self.label = np.zeros((n, side, side), dtype=np.uint8)

    def fill(self, where: Array, colour: Array, label: int | None = None) -> None:
        """Paints (n, 3), (3,) or (n, 3, S, S) colours where the mask (n, S, S) is true."""
        if colour.ndim < 4:
            colour = colour.reshape(-1, 3, 1, 1)
        np.copyto(self.rgb, colour, where=where[:, None])
        if label is not None:
            np.copyto(self.label, np.uint8(label), where=where)

    def shade(self, where: Array, factor: Array | float) -> None:
        """Multiplies the brightness where the mask is true."""
        np.multiply(self.rgb, np.float32(factor), out=self.rgb, where=where[:, None])


class House:
    """The measures of n houses, and for every pixel its bay, storey and offset from the middle of the cell.

    Lengths are shares of the side of the image; y points down; arrays are (n, 1, 1) or (n, S, S) float32.
    """

    def __init__(self, f: dict[str, Array], side: int) -> None:
        tick = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
        self.x, self.y = tick[None, None, :], tick[None, :, None]
        self.left, self.right = column(f["left"]), column(1 - f["right"])
        roof_height = np.where(f["roof"] == 0, np.float32(0.03), f["roof_height"])
        self.top, self.ground = column(f["gap"] + roof_height), np.float32(0.93)
        self.roof_height = column(roof_height)
        self.storeys, self.bays = column(f["storeys"]), column(f["bays"])
        self.bay_width = (self.right - self.left) / self.bays
        self.storey_height = (self.ground - self.top) / (self.storeys + np.float32(0.2))
        self.shopfloor = self.ground - np.float32(1.2) * self.storey_height  # top of the ground floor

        across, down = (self.x - self.left) / self.bay_width, (self.y - self.top) / self.storey_height
        self.bay = np.clip(np.floor(across), 0, self.bays - 1)
        self.storey = np.clip(np.floor(down), 0, self.storeys - 1)  # 0 is the uppermost
        self.dx = (across - self.bay - np.float32(0.5)) * self.bay_width
        self.dy = (down - self.storey - np.float32(0.5)) * self.storey_height
        self.wall = (
            (self.x > self.left) & (self.x < self.right) & (self.y > self.top) & (self.y < self.ground)
        )
        self.lower = self.wall & (self.y > self.shopfloor)
        self.upper = self.wall & ~self.lower
        # Half width and half height of the windows.
        self.a = np.minimum(column(f["window_width"]) * self.bay_width, np.float32(0.075))
        self.b = column(f["window_height"]) * self.storey_height


def _lookup(table: Array, house: House) -> Array:
    """Per-image random table (n, 4, 5) → its entry for the storey and bay of every pixel, (n, S, S)."""
    image = np.arange(len(table))[:, None, None]
    return table[image, house.storey.astype(np.int64), house.bay.astype(np.int64)]


def _fraction(x: Array) -> Array:
    return x - np.floor(x)


def _mix(a: Array, b: Array, share: Array) -> Array:
    """(n, 3) colours a and b, share (n or 1, S, S) → (n, 3, S, S)."""
    return a[:, :, None, None] + (b - a)[:, :, None, None] * share[:, None]


def draw_surroundings(canvas: Canvas, house: House, f: dict[str, Array]) -> None:
    x, y = house.x, house.y
    everywhere = np.ones(canvas.label.shape, dtype=bool)
    share = np.broadcast_to(y / np.float32(0.9), (1, *canvas.label.shape[1:])).clip(0, 1)
    canvas.fill(everywhere, _mix(_SKY_TOP[f["sky"]], _SKY_LOW[f["sky"]], share), SKY)
    for k in range(2):  # clouds: each three ellipses side by side
        cx, cy = column(f["cloud_x"][:, k]), column(f["cloud_y"][:, k])
        cloud = everywhere & False
        for offset, size in ((-0.07, 0.7), (0.0, 1.0), (0.08, 0.8)):
            u, v = (
                (x - cx - np.float32(offset)) / np.float32(0.09 * size),
                (y - cy) / np.float32(0.032 * size),
            )
            cloud |= u * u + v * v < 1
        canvas.fill(
            cloud, _mix(_SKY_LOW[f["sky"]], np.ones_like(_SKY_LOW[f["sky"]]), np.full_like(share, 0.55))
        )
    street = everywhere & (y > house.ground)
    canvas.fill(street, np.float32([0.46, 0.45, 0.44]), STREET)
    canvas.fill(street & (y > np.float32(0.965)), np.float32([0.30, 0.30, 0.32]))
    canvas.fill(street & (np.abs(y - np.float32(0.965)) < np.float32(0.006)), np.float32([0.62, 0.61, 0.58]))


def draw_roof(canvas: Canvas, house: House, f: dict[str, Array]) -> None:
    x, y, top = house.x, house.y, house.top
    rise = (top - y) / house.roof_height  # 0 at the eaves, 1 at the ridge
    middle, half = (house.left + house.right) / 2, (house.right - house.left) / 2 + np.float32(0.02)
    kind = column(f["roof"])
    narrowing = np.where(kind == 1, rise, np.where(kind == 2, np.float32(0.22) * rise, np.float32(0)))
    roof = (rise > 0) & (rise < 1) & (np.abs(x - middle) < half * (1 - narrowing)) & (kind > 0)
    colour = _ROOF[f["roof_colour"]]
    chimney_x = middle + (column(f["chimney"]) - np.float32(0.5)) * half
    chimney = (
        (np.abs(x - chimney_x) < np.float32(0.022)) & (rise > 0) & (rise < np.float32(1.12)) & (kind > 0)
    )
    canvas.fill(chimney, _rgb((138, 82, 66)), ROOF)
    canvas.shade(chimney & (rise > np.float32(1.0)), 0.75)
    canvas.fill(roof, colour, ROOF)
    # Rows of tiles, every second one shifted by half a tile.
    row = rise * house.roof_height * np.float32(36)
    shift = np.float32(0.5) * np.mod(np.floor(row), 2)
    canvas.shade(roof & (_fraction(row) < np.float32(0.28)), 0.80)
    canvas.shade(roof & (_fraction(x * np.float32(26) + shift) < np.float32(0.2)), 0.90)
    sunny = np.where(column(f["light"]) * (x - middle) > 0, np.float32(1.08), np.float32(0.86))
    canvas.shade(roof, np.broadcast_to(sunny, roof.shape)[:, None])
    # A mansard has a dormer window over every bay.
    u, v = (x - house.left) / house.bay_width, rise
    u = (_fraction(u) - np.float32(0.5)) * house.bay_width
    dormer = (
        roof & (kind == 2) & (np.abs(u) < np.float32(0.036)) & (v > np.float32(0.16)) & (v < np.float32(0.80))
    )
    canvas.fill(dormer, _rgb((224, 220, 208)))
    glass = dormer & (np.abs(u) < np.float32(0.022)) & (v > np.float32(0.26)) & (v < np.float32(0.68))
    canvas.fill(glass, _rgb((58, 72, 92)), WINDOW)


def draw_wall(canvas: Canvas, house: House, f: dict[str, Array]) -> None:
    x, y, wall = house.x, house.y, house.wall
    canvas.fill(wall, _WALL[f["wall"]], FACADE)
    material = column(f["material"])
    for kind, rows, columns, depth in ((1, 42, 20, 0.86), (2, 17, 9, 0.88)):  # bricks, blocks of stone
        row = y * np.float32(rows)
        joint = _fraction(row) < np.float32(0.22 if kind == 1 else 0.14)
        upright = x * np.float32(columns) + np.float32(0.5) * np.mod(np.floor(row), 2)
        joint = joint | (_fraction(upright) < np.float32(0.12))
        canvas.shade(wall & (material == kind) & joint, depth)
    # The ground floor of a plastered house stands on a plinth of blocks.
    row = y * np.float32(24)
    course = house.lower & (material == 0) & (_fraction(row) < np.float32(0.16))
    canvas.shade(course, 0.88)
    canvas.shade(wall & (y > house.ground - np.float32(0.03)), 0.78)
    # Light falls from one side: the wall darkens towards the other.
    canvas.shade(
        wall, (np.float32(1) + np.float32(0.16) * column(f["light"]) * (x - np.float32(0.5)))[:, None]
    )


def draw_pillars(canvas: Canvas, house: House, f: dict[str, Array], trim: Array) -> None:
    edge = house.bay_width / 2 - np.abs(house.dx)  # distance to the boundary of the bay
    pillar = house.upper & column(f["pillars"]).astype(bool) & (edge < np.float32(0.013))
    canvas.fill(pillar, trim, PILLAR)
    canvas.shade(pillar & (house.dx * column(f["light"]) > 0), 0.82)


def draw_glass(canvas: Canvas, house: House, f: dict[str, Array], glass: Array, dx: Array, dy: Array) -> None:
    """Dark panes with the sky in them, some with a lamp behind."""
    lit = _lookup(f["lamps"], house) < np.where(column(f["sky"]) == 3, np.float32(0.45), np.float32(0.06))
    depth = np.clip((dy / house.b + 1) / 2, 0, 1)
    dark = np.broadcast_to(_rgb((44, 58, 80)), (len(lit), 3))
    canvas.fill(
        glass, _mix(_SKY_TOP[f["sky"]] * np.float32(0.72), dark, np.clip(depth * np.float32(1.5), 0, 1))
    )
    canvas.fill(glass & lit, _rgb((250, 214, 130)))
    reflection = glass & ~lit & (np.abs(dx + dy * np.float32(0.6) - np.float32(0.012)) < np.float32(0.009))
    canvas.shade(reflection, 1.35)


def draw_windows(canvas: Canvas, house: House, f: dict[str, Array], trim: Array) -> None:
    dx, dy, a, b = house.dx, house.dy, house.a, house.b
    plain = house.lower & ~column(f["shops"]).astype(bool) & (house.bay != column(f["door_bay"]))
    lower_dy = house.y - (house.shopfloor + np.float32(0.55) * house.storey_height)
    dy = np.where(house.lower, lower_dy, dy)
    cell = house.upper | plain
    light = column(f["light"])

    def opening(grow: float) -> Array:
        wide, high = a + np.float32(grow), b + np.float32(grow)
        head = dy + high - wide  # negative in the half disc at the top of an arch
        round_headed = column(f["arches"]).astype(bool) & (head < 0) & (dx * dx + head * head > wide * wide)
        return cell & (np.abs(dx) < wide) & (np.abs(dy) < high) & ~round_headed

    blinds = (
        house.upper & column(f["blinds"]).astype(bool) & (np.abs(dy) < b) & (np.abs(dx) < np.float32(1.6) * a)
    )
    canvas.fill(blinds, _WOOD[f["blind_colour"]], BLIND)
    canvas.shade(blinds & (_fraction(house.y * np.float32(52)) < np.float32(0.4)), 0.76)
    canvas.fill(opening(0.011), trim)
    window = opening(0.0)
    np.copyto(canvas.label, np.uint8(WINDOW), where=window)
    draw_glass(canvas, house, f, window, dx, dy)
    canvas.shade(
        window & ((dx * light > a - np.float32(0.012)) | (dy < -b + np.float32(0.014))), 0.55
    )  # reveal
    frame = _WOOD[f["frame_colour"]]
    frame = np.where((f["frame_colour"] < 2)[:, None], frame, np.float32(0.93))
    bars = (np.abs(dx) < np.float32(0.006)) | (np.abs(dy + np.float32(0.3) * b) < np.float32(0.006))
    canvas.fill(window & bars, frame)

    sill = cell & (np.abs(dx) < a + np.float32(0.018)) & (dy > b) & (dy < b + np.float32(0.02))
    canvas.fill(sill, trim, SILL)
    under = (
        cell
        & (np.abs(dx) < a + np.float32(0.018))
        & (dy > b + np.float32(0.02))
        & (dy < b + np.float32(0.034))
    )
    canvas.shade(under, 0.72)


def draw_balconies(canvas: Canvas, house: House, f: dict[str, Array]) -> None:
    dx, dy, a, b = house.dx, house.dy, house.a, house.b
    wanted = column(f["balconies"])
    chosen = house.upper & ((wanted == 2) | ((wanted == 1) & (house.storey == house.storeys - 2)))
    chosen &= np.abs(dx) < np.minimum(a + np.float32(0.035), house.bay_width / 2 - np.float32(0.008))
    low = np.minimum(b + np.float32(0.022), house.storey_height / 2)
    balcony = chosen & (dy < low) & (dy > low - np.float32(0.085))
    np.copyto(canvas.label, np.uint8(BALCONY), where=balcony)
    canvas.shade(balcony, 0.80)
    iron = _rgb((38, 40, 46))
    bars = _fraction(dx * np.float32(44) + np.float32(0.25)) < np.float32(0.42)
    canvas.fill(balcony & bars, iron)
    canvas.fill(balcony & (dy < low - np.float32(0.07)), iron)
    canvas.fill(balcony & (dy > low - np.float32(0.02)), _rgb((188, 182, 170)))


def draw_ground_floor(canvas: Canvas, house: House, f: dict[str, Array], trim: Array) -> None:
    x, y, dx = house.x, house.y, house.dx
    height = house.ground - house.shopfloor
    share = (y - house.shopfloor) / height  # 0 at the top of the ground floor, 1 on the pavement
    is_door = house.bay == column(f["door_bay"])
    bay = house.lower & ~is_door & column(f["shops"]).astype(bool)
    pane = (
        bay & (np.abs(dx) < np.float32(0.43) * house.bay_width) & (share > np.float32(0.22)) & (share < 0.88)
    )
    canvas.fill(pane, trim, SHOP)
    inner = (
        pane & (np.abs(dx) < np.float32(0.38) * house.bay_width) & (share > 0.3) & (share < np.float32(0.84))
    )
    draw_glass(canvas, house, f, inner, dx, (share - np.float32(0.5)) * height)
    goods = inner & (share > np.float32(0.66)) & (_fraction(x * np.float32(23)) < np.float32(0.6))
    canvas.fill(goods, _AWNING[(f["awning"] + 1) % 4] * np.float32(0.8))
    awning = (
        bay & (np.abs(dx) < np.float32(0.47) * house.bay_width) & (share > 0.12) & (share < np.float32(0.40))
    )
    canvas.fill(awning, _AWNING[f["awning"]], SHOP)
    canvas.fill(awning & (_fraction(x * np.float32(16)) < np.float32(0.5)), _rgb((240, 234, 220)))
    canvas.shade(awning & (share > np.float32(0.34)), 0.8)
    canvas.shade(pane & (share > np.float32(0.40)) & (share < np.float32(0.47)), 0.6)

    half = np.minimum(np.float32(0.30) * house.bay_width, np.float32(0.06))
    tall = np.float32(0.17) + np.float32(0.02)
    rise = house.ground - y
    surround = (
        house.lower & is_door & (np.abs(dx) < half + np.float32(0.018)) & (rise < tall + np.float32(0.018))
    )
    canvas.fill(surround, trim)
    door = house.lower & is_door & (np.abs(dx) < half) & (rise < np.minimum(tall, np.float32(0.86) * height))
    canvas.fill(door, _WOOD[f["door_colour"]], DOOR)
    panels = door & (np.abs(np.abs(dx) - half / 2) < half * np.float32(0.28))
    panels &= (np.abs(rise - np.float32(0.045)) < np.float32(0.026)) | (
        np.abs(rise - np.float32(0.105)) < 0.022
    )
    canvas.shade(panels, 0.72)
    canvas.fill(door & (rise > np.float32(0.145)), _rgb((74, 92, 116)))  # fanlight
    canvas.shade(door & (np.abs(dx) < np.float32(0.004)), 0.5)
    canvas.shade(door & (dx * column(f["light"]) > half - np.float32(0.012)), 0.65)


def draw_cornices(canvas: Canvas, house: House, trim: Array) -> None:
    x, y = house.x, house.y
    for level, above, below, wider in (
        (house.top, 0.018, 0.016, 0.022),
        (house.shopfloor, 0.008, 0.012, 0.0),
    ):
        across = (x > house.left - np.float32(wider)) & (x < house.right + np.float32(wider))
        cornice = across & (y > level - np.float32(above)) & (y < level + np.float32(below))
        canvas.fill(cornice, trim, CORNICE)
        canvas.shade(cornice & (y > level), 0.84)
        canvas.shade(
            house.wall & (y > level + np.float32(below)) & (y < level + np.float32(below + 0.02)), 0.68
        )


def _factors(split: str, chunk: int) -> dict[str, Array]:
    """The factors of one chunk, each from its own stream."""

    def bits(what: str) -> Bits:
        return Bits("facades_synthetic", split, chunk, what)

    def below(what: str, n: int) -> Array:
        return bits(what).below(n, CHUNK)

    def uniform(what: str, low: float, high: float, *shape: int) -> Array:
        count = int(np.prod(shape, dtype=np.int64)) * CHUNK
        return bits(what).uniform(low, high, count).reshape(CHUNK, *shape)

    f = {
        "storeys": 2 + below("storeys", 3), "bays": 2 + below("bays", 4), "roof": below("roof", 3),
        "wall": below("wall", len(WALLS)), "material": below("material", 3), "sky": below("sky", 4),
        "light": 2 * below("light", 2) - 1, "shops": below("shops", 2), "balconies": below("balconies", 3),
        "blinds": below("blinds", 2), "pillars": below("pillars", 2), "arches": below("arches", 2),
        # The rest is nuisance that no factor reports.
        "roof_colour": below("roof_colour", 4), "blind_colour": below("blind_colour", 6),
        "frame_colour": below("frame_colour", 6), "door_colour": below("door_colour", 6), "awning": below("awning", 4),
        "left": uniform("left", 0.04, 0.13), "right": uniform("right", 0.04, 0.13), "gap": uniform("gap", 0.05, 0.12),
        "roof_height": uniform("roof_height", 0.13, 0.21), "chimney": uniform("chimney", 0.2, 0.8),
        "window_width": uniform("window_width", 0.22, 0.31), "window_height": uniform("window_height", 0.27, 0.35),
        "lamps": uniform("lamps", 0, 1, 4, 5), "cloud_x": uniform("cloud_x", 0, 1, 2),
        "cloud_y": uniform("cloud_y", 0.03, 0.25, 2),
    }  # fmt: skip
    f["door_bay"] = below("door_bay", 60) % f["bays"]
    return f


def render(f: dict[str, Array], side: int) -> tuple[Array, Array]:
    """Factors (n,) each → label numbers (n, side, side) and pictures (n, 3, side, side), uint8."""
    house, canvas = House(f, 2 * side), Canvas(len(f["roof"]), 2 * side)
    # Stonework is a paler version of the wall.
    trim = _WALL[f["wall"]] * np.float32(0.35) + _rgb((236, 230, 216)) * np.float32(0.65)
    draw_surroundings(canvas, house, f)
    draw_roof(canvas, house, f)
    draw_wall(canvas, house, f)
    draw_pillars(canvas, house, f, trim)
    draw_cornices(canvas, house, trim)
    draw_windows(canvas, house, f, trim)
    draw_ground_floor(canvas, house, f, trim)
    draw_balconies(canvas, house, f)
    evening = np.where(f["sky"] == 3, np.float32(0.80), np.float32(1.0))[:, None, None, None]
    fine = np.clip(canvas.rgb * evening, 0, 1)
    quarters = fine[..., ::2, ::2], fine[..., 1::2, ::2], fine[..., ::2, 1::2], fine[..., 1::2, 1::2]
    picture = (quarters[0] + quarters[1] + quarters[2] + quarters[3]) * np.float32(0.25)
    return canvas.label[:, 1::2, 1::2], picture


#: what a label map does not tell
HIDDEN = (
    "wall", "material", "sky", "light", "roof_colour", "blind_colour", "frame_colour", "door_colour", "awning",
    "lamps", "cloud_x", "cloud_y",
)  # fmt: skip


def redrawn(index: int, n: int, split: str = "test", side: int = 64) -> torch.Tensor:
    """House ``index`` of a split n times, what its map does not tell drawn anew: (n, 3, side, side) uint8.

    Independent samples of p(picture | label map), the distribution that a translator is to learn.
    """
    if index < 0 or n < 1:
        raise ValueError(f"expected index ≥ 0 and n ≥ 1, got {index} and {n}")
    house = _factors(split, index // CHUNK)
    pictures = []
    for start in range(0, n, CHUNK):
        key = f"{split} {index} redrawn", start // CHUNK
        f = {name: np.repeat(house[name][[index % CHUNK]], CHUNK, axis=0) for name in house}
        f |= {name: values for name, values in _factors(*key).items() if name in HIDDEN}
        pictures.append(_grained(render(f, side)[1], *key))
    return torch.from_numpy(np.concatenate(pictures)[:n])


def _grained(pictures: Array, split: str, chunk: int) -> Array:
    """Pictures (at most CHUNK, 3, S, S) as bytes, with the grain of a photograph."""
    side = pictures.shape[-1]
    noise = Bits("facades_synthetic", split, chunk, "grain").bytes((CHUNK, 1, side, side))[: len(pictures)]
    grain = (noise.astype(np.float32) - np.float32(127.5)) * np.float32(0.024 / 127.5)
    return to_bytes(pictures + grain)


def make(request: Request) -> PairDataset:
    """The requested pairs (the first n of a longer request are the same)."""
    n, side = request.count(DESCRIPTIONS["facades_synthetic"]), request.image_size or 64
    index = np.empty((n, side, side), dtype=np.uint8)
    pictures = np.empty((n, 3, side, side), dtype=np.uint8)
    rows = []
    for start in range(0, n, CHUNK):
        chunk = start // CHUNK
        part = {name: values[: n - start] for name, values in _factors(request.split, chunk).items()}
        labels, picture = render(part, side)
        index[start : start + CHUNK] = labels
        pictures[start : start + CHUNK] = _grained(picture, request.split, chunk)
        rows.append(part)
    told = DESCRIPTIONS["facades_synthetic"].factors
    factors = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in told}
    return PairDataset(
        torch.from_numpy(np.ascontiguousarray(PALETTE[index].transpose(0, 3, 1, 2))),
        torch.from_numpy(pictures),
        torch.from_numpy(index),
        name="facades_synthetic",
        split=request.split,
        label_names=LABELS,
        palette=torch.from_numpy(PALETTE.copy()),
        factors=factors,
        factor_values={"roof": ROOFS, "wall": WALLS, "material": MATERIALS, "sky": SKIES},
    )
