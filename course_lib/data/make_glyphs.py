"""Draws ``data/glyphs.npz``: digits and capital letters from open fonts, in the shape and manner of MNIST.

Not needed to use the course (the file is committed). To draw it again, on Debian or Ubuntu::

    apt-get install $(python -m course_lib.data.make_glyphs --packages)
    python -m course_lib.data.make_glyphs

Every image is one character of one font, with slant, rotation, weight (how far the outline is moved outwards), width,
size and a smooth wobble drawn at random; then, as in MNIST (LeCun et al. 1998), the character is fitted into a box of
about 20×20 pixels and its centre of mass put into the centre of 28×28.

A test set of the same fonts in nearly the same pose would be nearly the training set. So a font family belongs to
one split, and so does each cell of a grid over (slant, rotation, weight): a test image has a font *and* a pose that
training never saw, while both splits cover the same range of poses. I and O are left out: in many fonts nobody can
tell them from 1 and 0.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, map_coordinates

from course_lib.data.glyphs import CHARACTERS, PATH

FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/share/texmf/fonts"))


@dataclass(frozen=True)
class Font:
    """A font file by name, where it comes from and on what terms."""

    family: str
    file: str
    package: str
    licence: str
    split: str = "train"


OFL, APACHE = "OFL 1.1", "Apache 2.0"
FONTS = (
    # upright sans serif
    Font("DejaVu Sans", "DejaVuSans.ttf", "fonts-dejavu-core", "Bitstream Vera"),
    Font("Liberation Sans", "LiberationSans-Regular.ttf", "fonts-liberation", OFL),
    Font("Open Sans", "OpenSans-Regular.ttf", "fonts-open-sans", APACHE),
    Font("Noto Sans", "NotoSans-Regular.ttf", "fonts-noto-core", OFL),
    Font("Lato", "Lato-Regular.ttf", "fonts-lato", OFL),
    Font("Carlito", "Carlito-Regular.ttf", "fonts-crosextra-carlito", OFL),
    Font("Cabin", "Cabin-Regular.otf", "fonts-cabin", OFL),
    Font("Inter", "Inter-Regular.otf", "fonts-inter", OFL),
    Font("Karla", "Karla-Regular.otf", "fonts-karla", OFL),
    Font("Clear Sans", "ClearSans-Regular.ttf", "fonts-clear-sans", APACHE),
    Font("Andika", "Andika-Regular.ttf", "fonts-sil-andika", OFL),
    Font("Averia Sans", "AveriaSansGWF-Regular.ttf", "fonts-averia-sans-gwf", OFL),
    Font("Manrope", "Manrope-Regular.ttf", "fonts-manrope", OFL),
    Font("Quicksand", "Quicksand-Medium.ttf", "fonts-quicksand", OFL),
    Font("Tuffy", "tuffy_regular.ttf", "fonts-tuffy", "public domain"),
    Font("TeX Gyre Adventor", "texgyreadventor-regular.otf", "fonts-texgyre", "GUST (LPPL)"),
    # serif
    Font("DejaVu Serif", "DejaVuSerif.ttf", "fonts-dejavu-core", "Bitstream Vera"),
    Font("Liberation Serif", "LiberationSerif-Regular.ttf", "fonts-liberation", OFL),
    Font("Noto Serif", "NotoSerif-Regular.ttf", "fonts-noto-core", OFL),
    Font("EB Garamond", "EBGaramond12-Regular.otf", "fonts-ebgaramond", OFL),
    Font("Caladea", "Caladea-Regular.ttf", "fonts-crosextra-caladea", APACHE),
    Font("Charis SIL", "CharisSIL-Regular.ttf", "fonts-sil-charis", OFL),
    Font("Old Standard", "OldStandard-Regular.ttf", "fonts-oldstandard", OFL),
    Font("Latin Modern Roman", "lmroman10-regular.otf", "fonts-lmodern", "GUST (LPPL)"),
    Font("Vollkorn", "Vollkorn-Regular.ttf", "fonts-vollkorn", OFL),
    Font("Arapey", "Arapey-Regular.otf", "fonts-arapey", OFL),
    Font("Averia Serif", "AveriaSerifGWF-Regular.ttf", "fonts-averia-serif-gwf", OFL),
    Font("TeX Gyre Bonum", "texgyrebonum-regular.otf", "fonts-texgyre", "GUST (LPPL)"),
    Font("TeX Gyre Cursor", "texgyrecursor-regular.otf", "fonts-texgyre", "GUST (LPPL)"),
    Font("Roboto Slab", "RobotoSlab-Regular.otf", "fonts-roboto-slab", APACHE),
    # by hand
    Font("Because We Build", "BecauseWeBuild-Regular.otf", "fonts-bwht", OFL),
    Font("Because We Connect", "BecauseWeConnect-Regular.otf", "fonts-bwht", OFL),
    Font("Because We Create", "BecauseWeCreate-Regular.otf", "fonts-bwht", OFL),
    Font("Because We Learn", "BecauseWeLearn-Regular.otf", "fonts-bwht", OFL),
    Font("Breip", "Breip.ttf", "fonts-breip", "OFL 1.0"),
    Font("Humor Sans", "Humor-Sans.ttf", "fonts-humor-sans", OFL),
    Font("Comic Neue", "ComicNeue-Regular.otf", "fonts-comic-neue", OFL),
    Font("Klee One", "KleeOne-Regular.ttf", "fonts-klee", OFL),
    Font("Tomson Talks", "TomsonTalks.ttf", "fonts-tomsontalks", OFL),
    Font("Dancing Script", "DancingScript-Regular.otf", "fonts-dancingscript", OFL),
    # validation: two sans serif, three serif, three by hand
    Font("Junction", "Junction.otf", "fonts-junction", OFL, "val"),
    Font("National Park", "NationalPark-Regular.otf", "fonts-national-park", OFL, "val"),
    Font("Gentium", "Gentium-R.ttf", "fonts-sil-gentium", OFL, "val"),
    Font("Yrsa", "Yrsa-Regular.ttf", "fonts-yrsa-rasa", OFL, "val"),
    Font("Linux Libertine", "LinLibertine_R.otf", "fonts-linuxlibertine", OFL, "val"),
    Font("Because We Mentor", "BecauseWeMentor-Regular.otf", "fonts-bwht", OFL, "val"),
    Font("Yusei Magic", "YuseiMagic-Regular.ttf", "fonts-yusei-magic", OFL, "val"),
    Font("monofur", "monof55.ttf", "fonts-monofur", OFL, "val"),
    # test: four sans serif, two serif, two by hand
    Font("Cantarell", "Cantarell-Regular.otf", "fonts-cantarell", OFL, "test"),
    Font("League Spartan", "LeagueSpartan-Regular.otf", "fonts-league-spartan", OFL, "test"),
    Font("Latin Modern Sans", "lmsans10-regular.otf", "fonts-lmodern", "GUST (LPPL)", "test"),
    Font("Quattrocento", "Quattrocento-Regular.otf", "fonts-quattrocento", OFL, "test"),
    Font("TeX Gyre Schola", "texgyreschola-regular.otf", "fonts-texgyre", "GUST (LPPL)", "test"),
    Font("M PLUS 1", "Mplus1-Regular.otf", "fonts-mplus", OFL, "test"),
    Font("Because We Organize", "BecauseWeOrganize-Regular.otf", "fonts-bwht", OFL, "test"),
    Font("Kaushan Script", "KaushanScript-Regular.otf", "fonts-kaushanscript", OFL, "test"),
)

SPLITS = ("train", "val", "test")
DIGITS_EACH = {"train": 480, "val": 60, "test": 60}  # images per digit
LETTERS_EACH = {"train": 200, "val": 25, "test": 25}  # images per letter
RANGES = {  # factor → (low, high); degrees, pixels of the final image, or ratios
    "slant": (-10.0, 22.0),
    "rotation": (-9.0, 9.0),
    "weight": (0.0, 0.75),
    "width": (0.8, 1.15),
    "height": (18.5, 20.5),
    "wobble": (0.0, 0.7),
}
CELLS = 8  # per axis of the grid over slant × rotation × weight
CAP_HEIGHT = 120  # pixels of the outline before it is transformed
OVERSAMPLING = 4


def font_file(font: Font) -> Path:
    """Where the font is installed; FileNotFoundError says which package has it."""
    for folder in FONT_FOLDERS:
        for path in sorted(folder.rglob(font.file)):
            return path
    raise FileNotFoundError(f"{font.file} of {font.family}: apt-get install {font.package}")


def signed_distance(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """Distance to the outline in source pixels, positive inside, with a wide margin; float32 (H, W)."""
    left, top, right, bottom = font.getbbox(character)
    margin = CAP_HEIGHT // 2
    canvas = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    ImageDraw.Draw(canvas).text((margin - left, margin - top), character, fill=255, font=font)
    inside = np.asarray(canvas) >= 128
    return (distance_transform_edt(inside) - distance_transform_edt(~inside)).astype(np.float32)


def outlines(font: Font) -> list[np.ndarray]:
    """Signed distances of all characters of a font, capitals ``CAP_HEIGHT`` pixels high."""
    path = str(font_file(font))
    trial = ImageFont.truetype(path, 200, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = trial.getbbox("H")
    size = round(200 * CAP_HEIGHT / (bottom - top))
    sized = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    return [signed_distance(sized, character) for character in CHARACTERS]


def pose(values: dict[str, float]) -> np.ndarray:
    """2×2 map of outline offsets (x, y) by width, slant (to the right, y points down), rotation; not yet scaled."""
    slant, turn = np.deg2rad(values["slant"]), np.deg2rad(values["rotation"])
    shear = np.array([[1.0, -np.tan(slant)], [0.0, 1.0]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return rotation @ shear @ np.diag([values["width"], 1.0])


def wobble(points: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth displacement (…, 2) in final pixels at final-pixel offsets: a sine in each direction and axis."""
    total = np.zeros_like(points)
    for axis in range(2):
        wave = rng.uniform(-1, 1, size=2) * 2 * np.pi / 22  # up to about one period across the character
        total[..., axis] = np.sin(points @ wave + rng.uniform(0, 2 * np.pi))
    return amplitude * total


def draw(distance: np.ndarray, values: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """One image, 28×28 uint8, white on black."""
    rows, columns = np.nonzero(distance > 0)
    middle = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])
    linear = pose(values)
    posed = (np.stack([columns, rows], axis=1) - middle) @ linear.T
    extent = (posed.max(0) - posed.min(0)).max()
    scale = (values["height"] - 2 * values["weight"]) / extent  # final pixels per source pixel
    inverse = np.linalg.inv(scale * linear)
    tick = (np.arange(28 * OVERSAMPLING) + 0.5) / OVERSAMPLING - 14
    grid = np.stack(np.meshgrid(tick, tick), axis=-1)  # offsets (x, y) from the centre of the image
    grid_wobble = wobble(grid, values["wobble"], rng)

    def ink(shift: np.ndarray) -> np.ndarray:
        source = (grid + shift + grid_wobble) @ inverse.T + middle
        sampled = map_coordinates(distance, [source[..., 1], source[..., 0]], order=1, mode="nearest")
        # A source pixel's distance is worth the mean stretch of the map; ½ makes the outline the 50 % line.
        stretch = scale * np.sqrt(abs(np.linalg.det(linear)))
        fine = np.clip((sampled * stretch + values["weight"]) * OVERSAMPLING + 0.5, 0, 1)
        return fine.reshape(28, OVERSAMPLING, 28, OVERSAMPLING).mean(axis=(1, 3))

    first = ink(np.zeros(2))
    pixel = np.arange(28) + 0.5 - 14
    mass_centre = np.array([(first.sum(0) * pixel).sum(), (first.sum(1) * pixel).sum()]) / first.sum()
    return np.floor(ink(mass_centre) * 255 + 0.5).astype(np.uint8)


def cell_splits() -> np.ndarray:
    """Number of the split (0 train, 1 val, 2 test) of every cell of slant × rotation × weight, (CELLS³,)."""
    cells = np.random.default_rng(0).permutation(CELLS**3)
    splits = np.zeros(CELLS**3, dtype=np.int64)
    splits[cells[: CELLS**3 // 10]] = 2
    splits[cells[CELLS**3 // 10 : CELLS**3 // 5]] = 1
    return splits


def draw_pose(rng: np.random.Generator, cells: np.ndarray) -> dict[str, float]:
    """Random factors whose (slant, rotation, weight) lie in one of the given cells, in hundredths."""
    cell = np.unravel_index(rng.choice(cells), (CELLS,) * 3)
    values = {}
    for name, (low, high) in RANGES.items():
        share = rng.uniform()
        if name in ("slant", "rotation", "weight"):
            index = ("slant", "rotation", "weight").index(name)
            share = (cell[index] + share) / CELLS
        values[name] = round(low + share * (high - low), 2)
    return values


def make(progress: bool = True) -> dict[str, np.ndarray]:
    """All arrays of the file: images, labels, splits, font numbers and the factors in hundredths."""
    splits_of_cells = cell_splits()
    rows: dict[str, list] = {name: [] for name in ("images", "labels", "split", "font", *RANGES)}
    for number, font in enumerate(FONTS):
        rng = np.random.default_rng([2024, number])
        split = SPLITS.index(font.split)
        cells = np.flatnonzero(splits_of_cells == split)
        same_split = [i for i, other in enumerate(FONTS) if other.split == font.split]
        distances = outlines(font)
        for label, distance in enumerate(distances):
            each = (DIGITS_EACH if label < 10 else LETTERS_EACH)[font.split]
            # `each` images are dealt out to the fonts of the split; the remainder starts at another font each time
            turn = (same_split.index(number) - label) % len(same_split)
            count = each // len(same_split) + (turn < each % len(same_split))
            for _ in range(count):
                values = draw_pose(rng, cells)
                rows["images"].append(draw(distance, values, rng))
                rows["labels"].append(label)
                rows["split"].append(split)
                rows["font"].append(number)
                for name in RANGES:
                    rows[name].append(round(values[name] * 100))
        if progress:
            print(f"{number + 1}/{len(FONTS)} {font.family}", flush=True)
    order = np.random.default_rng(1).permutation(len(rows["labels"]))
    types = {"images": np.uint8, "labels": np.uint8, "split": np.uint8, "font": np.uint8}
    arrays = {name: np.array(values, dtype=types.get(name, np.int16))[order] for name, values in rows.items()}
    arrays["families"] = np.array([font.family for font in FONTS])
    return arrays


def table() -> str:
    """The fonts as a Markdown table, for ``data/README.md``."""
    lines = ["| family | split | Debian package | licence |", "|---|---|---|---|"]
    lines += [f"| {font.family} | {font.split} | {font.package} | {font.licence} |" for font in FONTS]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PATH, help="file to write (default: %(default)s)")
    parser.add_argument(
        "--packages", action="store_true", help="print the Debian packages of the fonts, and stop"
    )
    parser.add_argument("--table", action="store_true", help="print the fonts as a Markdown table, and stop")
    arguments = parser.parse_args()
    if arguments.packages:
        print(" ".join(sorted({font.package for font in FONTS})))
    elif arguments.table:
        print(table())
    else:
        np.savez_compressed(arguments.out, **make())
        print(arguments.out, f"{arguments.out.stat().st_size:,} bytes")
        print("SHA-256", hashlib.sha256(arguments.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
