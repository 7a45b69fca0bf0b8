"""What the parts of Pix2Pix's and of CycleGAN's loss are for, measured against known truth, over seeds.

    python -m course_lib.adversarial.translation_study pix2pix              what is stored
    python -m course_lib.adversarial.translation_study pix2pix --run        measure again and store
    python -m course_lib.adversarial.translation_study cyclegan --run --only full "no cycle" --seeds 5

**Pix2Pix** on ``facades_synthetic``: L1 alone, the conditional GAN alone, both, and both without the U-Net's skips.
Measured on test pairs: the mean |difference| from the true picture (pixels in [0, 1]), the gradient energy of the drawn
pictures divided by that of the true ones (below 1 they are blurred), and the mean |difference| of two drawings of the
same map. Beside the table lie the first seed's pictures of the first test maps.

**CycleGAN** on ``sprites``: plain shapes ↔ striped shapes. The style is the texture; a classifier that was trained on
real pictures of all four textures names it. The content is everything else; as the set is drawn, it can be asked
by drawing: the translated picture is compared with drawings of every shape in every colour, and so on, at the place
where its source has one, and the nearest drawing says what it shows. On real pictures that is never wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.adversarial.cyclegan import CycleGAN, cyclegan
from course_lib.adversarial.pix2pix import Pix2Pix, pix2pix
from course_lib.data import UnpairedDataset, load, load_unpaired, loader, sprites
from course_lib.study_table import (
    load_weights,
    read_table,
    spread,
    store_weights,
    study_parser,
    write_arrays,
    write_table,
)
from course_lib.training import fit

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Training:
    """One way of training; ``changes`` of the preset "small"."""

    steps: int
    batch: int
    precision: str = "bf16-mixed"
    changes: Mapping[str, Any] = field(default_factory=dict)


#: The default of either study, and a short one for trials.
PIX2PIX, PIX2PIX_QUICK = (Training(steps, 4, changes={"width": 16}) for steps in (1_000, 300))
_SMALLER = {"width": 16, "d_width": 24, "d_depth": 2, "lr": 1e-3}
CYCLEGAN, CYCLEGAN_QUICK = (Training(steps, 4, changes=_SMALLER) for steps in (8_000, 300))


def _changed(training: Training, **changes: Any) -> Training:
    return replace(training, changes={**training.changes, **changes})


PIX2PIX_SETTINGS: dict[str, dict[str, Any]] = {
    "L1": {"gan_weight": 0.0},
    "cGAN": {"l1_weight": 0.0},
    "L1 + cGAN": {},
    "L1 + cGAN, no skips": {"skips": False},
}
CYCLEGAN_SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "no cycle": {"cycle": 0.0},
    "no identity": {"identity": 0.0},
    "neither": {"cycle": 0.0, "identity": 0.0},
    "no history": {"pool": 0},
}
#: Settings whose generators lie beside the table.
STORED = ("full", "no cycle")


# --- Pix2Pix --------------------------------------------------------------------------------------------------------


def gradient_energy(pictures: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, of both directions: pictures (N, C, H, W) → (N,).

    Blur takes it away: edges and fine texture hold nearly all of it.
    """
    if pictures.ndim != 4 or min(pictures.shape[2:]) < 2:
        raise ValueError(f"expected pictures (N, C, H, W) of at least 2 × 2, got {tuple(pictures.shape)}")
    down, across = pictures.diff(dim=2).square(), pictures.diff(dim=3).square()
    return down.mean((1, 2, 3)) + across.mean((1, 2, 3))


def train_pix2pix(training: Training = PIX2PIX, seed: int = 0, image_size: int = 64) -> Pix2Pix:
    """A Pix2Pix from label maps to pictures of ``facades_synthetic``, drawn and trained from ``seed``."""
    pairs = load("facades_synthetic", image_size=image_size)
    torch.manual_seed(seed)
    model = pix2pix(pairs.image_shape, **training.changes)
    _fit(model, loader(pairs, training.batch, seed=seed), training, seed)
    return model


def measure_pix2pix(model: Pix2Pix, size: int = 100, image_size: int = 64) -> dict[str, float]:
    """On ``size`` test pairs: {"l1": mean |difference| from the truth in [0, 1], "energy": of gradients, truth = 1,
    "noise": mean |difference| of two drawings of one map}."""
    maps, truth = load("facades_synthetic", "test", size=size, image_size=image_size).tensor()
    generator = torch.Generator().manual_seed(0)
    drawn, again = (
        torch.cat([model.translate(part, generator) for part in maps.split(20)]) for _ in range(2)
    )
    energy = gradient_energy(drawn).mean() / gradient_energy(truth).mean()
    return {
        "l1": round(F.l1_loss(drawn, truth).item(), 4),
        "energy": round(energy.item(), 3),
        "noise": round(F.l1_loss(again, drawn).item(), 4),
    }


PICTURES, SHOWN = FOLDER / "pix2pix_pictures.npz", 6


def store_pictures(setting: str, model: Pix2Pix, path: Path = PICTURES, image_size: int = 64) -> None:
    """Keep what the model draws for the first test maps, beside what is stored of the other settings."""
    maps, _ = load("facades_synthetic", "test", size=SHOWN, image_size=image_size).tensor()
    drawn = model.translate(maps, torch.Generator().manual_seed(0))
    kept = stored_pictures(path) if path.exists() else {}
    arrays = {
        name: (255 * pictures).round().byte().cpu().numpy()
        for name, pictures in {**kept, setting: drawn}.items()
    }
    write_arrays(arrays, path)


def stored_pictures(path: Path = PICTURES) -> dict[str, Tensor]:
    """Setting → what its first seed drew for the first ``SHOWN`` test maps, (SHOWN, 3, 64, 64) in [0, 1]."""
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]).float() / 255 for name in arrays}


# --- CycleGAN -------------------------------------------------------------------------------------------------------

PLAIN, STRIPES = (sprites.TEXTURES.index(name) for name in ("plain", "stripes"))
#: factors of the content → number of values
CONTENT = {
    "shape": len(sprites.SHAPES),
    "colour": len(sprites.COLOURS),
    "background": len(sprites.BACKGROUNDS),
    "backdrop": len(sprites.BACKDROPS),
}
SIDE = 32


def _weights(setting: str) -> Path:
    return FOLDER / f"cyclegan_sprites{'' if setting == 'full' else '_' + setting.replace(' ', '_')}.npz"


def store_translators(setting: str, model: CycleGAN) -> None:
    """Keep both generators of the settings ``STORED``."""
    if setting in STORED:
        store_weights({"g_ab": model.g_ab, "g_ba": model.g_ba}, _weights(setting))


def stored_translators(setting: str = "full") -> CycleGAN:
    """The first seed's CycleGAN of a setting in ``STORED``, its generators as the study trained them."""
    if setting not in STORED:
        raise ValueError(f"unknown setting {setting!r}; the stored ones are: {', '.join(STORED)}")
    model = cyclegan((3, SIDE, SIDE), **{**CYCLEGAN.changes, **CYCLEGAN_SETTINGS[setting]})
    load_weights({"g_ab": model.g_ab, "g_ba": model.g_ba}, _weights(setting))
    return model


def train_cyclegan(training: Training = CYCLEGAN, seed: int = 0) -> CycleGAN:
    """A CycleGAN between plain (A) and striped (B) sprites, drawn and trained from ``seed``."""
    pictures = load_unpaired("sprites", image_size=SIDE)
    torch.manual_seed(seed)
    model = cyclegan(pictures.image_shape, steps=training.steps or None, **training.changes)
    _fit(model, loader(pictures, training.batch, seed=seed), training, seed)
    return model


def draw(factors: Mapping[str, Tensor], **changes: int) -> Tensor:
    """Sprites with these factors (N,), some of them replaced for all: (N, 3, 32, 32) in [0, 1]."""
    n = len(factors["shape"])
    changed = {**factors, **{name: torch.full((n,), value) for name, value in changes.items()}}
    return (
        torch.from_numpy(sprites.render({name: v.numpy() for name, v in changed.items()}, SIDE)).float() / 255
    )


def read_content(pictures: Tensor, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which values of the content factors do the pictures (N, 3, 32, 32) show? Name → (N,) int64.

    By drawing: first every background with every backdrop, behind what ``factors`` (N,) say; then, on the backgrounds
    that were found, every shape in every colour at the place, size and turn that ``factors`` say. Each time both
    plain and striped; the drawing with the least squared error wins.
    """
    behind = _nearest(pictures, factors, ("background", "backdrop"))
    return behind | _nearest(pictures, {**factors, **behind}, ("shape", "colour"))


def _nearest(pictures: Tensor, factors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    choices = list(product(*(range(CONTENT[name]) for name in names), (PLAIN, STRIPES)))
    errors = [
        (draw(factors, **dict(zip((*names, "texture"), choice, strict=True))) - pictures)
        .square()
        .sum((1, 2, 3))
        for choice in choices
    ]
    best = torch.tensor(choices)[torch.stack(errors).argmin(0)]
    return {name: best[:, i] for i, name in enumerate(names)}


@cache
def texture_probe(seed: int = 0, steps: int = 300) -> nn.Module:
    """A classifier of sprites' textures, (N, 3, 32, 32) in [0, 1] → logits (N, 4), trained in seconds on real ones."""
    real = load("sprites", image_size=SIDE, size=6_000)
    x, texture = real.tensor(), real.factors["texture"].long()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        widths, layers = (3, 16, 32, 64), []
        for c, out in pairwise(widths):
            layers += [nn.Conv2d(c, out, 4, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        probe = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 4))
        optimizer = torch.optim.AdamW(probe.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(probe(x[chosen]), texture[chosen]).backward()
            optimizer.step()
            schedule.step()
    return probe.eval().requires_grad_(False)


def judge(pictures: Tensor, factors: Mapping[str, Tensor], texture: int) -> dict[str, float]:
    """What translated pictures show, shares in [0, 1]: of every content factor that is still the source's, their mean
    "content", and "style": of pictures whose texture is now the wanted one.

    pictures: (N, 3, 32, 32); factors: of the pictures that they were made from.
    """
    shown = read_content(pictures, factors)
    kept = {name: (shown[name] == factors[name]).float().mean().item() for name in CONTENT}
    named = texture_probe()(pictures).argmax(1)
    style = (named == texture).float().mean().item()
    return {"content": sum(kept.values()) / len(kept), "style": style} | kept


def measure_cyclegan(model: CycleGAN, test: UnpairedDataset | None = None) -> dict[str, float]:
    """`judge` of both directions, by name: "content_ab", …; and "cycle": mean |F(G(a)) − a|, both ways, in [0, 1]."""
    test = load_unpaired("sprites", "test", size=800, image_size=SIDE) if test is None else test
    found, cycle = {}, []
    for source, there, back, texture in ((test.first, "b", "a", STRIPES), (test.second, "a", "b", PLAIN)):
        pictures = source.tensor()
        translated = model.translate(pictures, there)
        cycle.append(F.l1_loss(model.translate(translated, back), pictures).item())
        terms = judge(translated, source.factors, texture)
        found |= {f"{name}_{back}{there}": round(value, 3) for name, value in terms.items()}
    return found | {"cycle": round(sum(cycle) / 2, 4)}


# --- The stored tables ----------------------------------------------------------------------------------------------


def _fit(model: Any, batches: Any, training: Training, seed: int) -> None:
    if training.steps:
        options = {"device": "cpu", "precision": training.precision, "progress": False}
        fit(model, batches, steps=training.steps, seed=seed, **options)


@dataclass(frozen=True)
class Study:
    """What a study trains, how it is judged, and where its table lies."""

    path: Path
    fields: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    training: Training
    quick: Training
    train: Callable[[Training, int], Any]
    measure: Callable[[Any], dict[str, float]]
    shown: tuple[str, ...]
    #: called with the setting and its first seed's model
    keep: Callable[[str, Any], None] | None = None


_JUDGED = tuple(f"{name}_{way}" for way in ("ab", "ba") for name in ("content", "style", *CONTENT))
STUDIES: dict[str, Study] = {
    "pix2pix": Study(
        FOLDER / "pix2pix_ablation.csv",
        ("setting", "seed", "l1", "energy", "noise", "cpu_seconds"),
        PIX2PIX_SETTINGS,
        PIX2PIX,
        PIX2PIX_QUICK,
        train_pix2pix,
        measure_pix2pix,
        ("l1", "energy", "noise"),
        store_pictures,
    ),
    "cyclegan": Study(
        FOLDER / "cyclegan_ablation.csv",
        ("setting", "seed", *_JUDGED, "cycle", "cpu_seconds"),
        CYCLEGAN_SETTINGS,
        CYCLEGAN,
        CYCLEGAN_QUICK,
        train_cyclegan,
        measure_cyclegan,
        ("content_ab", "style_ab", "content_ba", "style_ba", "cycle"),
        store_translators,
    ),
}


def read_results(study: str, path: Path | None = None) -> list[dict[str, str | float]]:
    """The stored rows of "pix2pix" or "cyclegan", one for each setting and seed."""
    return read_table(path or STUDIES[study].path)


def measured(study: str, setting: str, seed: int, quick: bool = False) -> dict[str, str | float]:
    """Train one setting from one seed and judge it: a row of the table. What is to be kept of the first seed, is."""
    its = STUDIES[study]
    start = time.process_time()
    model = its.train(_changed(its.quick if quick else its.training, **its.settings[setting]), seed)
    seconds = round(time.process_time() - start, 1)  # of the training
    if its.keep is not None and seed == 0 and not quick:
        its.keep(setting, model)
    return {"setting": setting, "seed": seed, **its.measure(model), "cpu_seconds": seconds}


def summary(study: str, rows: Sequence[Mapping[str, str | float]]) -> str:
    """One line a setting: over the seeds, mean (least to most), shares and differences in %."""
    shown = STUDIES[study].shown
    lines = [f"{'setting':<22}{'seeds':>6}" + "".join(f"{name + ', %':>24}" for name in shown)]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == setting]
        cells = (spread([100 * float(row[name]) for row in its]) for name in shown)
        lines.append(f"{setting:<22}{len(its):>6}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument(
        "--quick", action="store_true", help="with the lecture's few steps; printed, not stored"
    )
    options = parser.parse_args(arguments)
    study = STUDIES[options.study]
    names = list(study.settings)
    chosen = options.only or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown setting {unknown[0]!r}; the known ones are: {', '.join(names)}")
    if not (options.run or options.quick):
        if not study.path.exists():
            parser.error("nothing is stored yet: measure with --run, or try --quick")
        print(summary(options.study, read_results(options.study)))
        return 0
    # Rows of settings that are not measured now stay.
    keep = study.path.exists() and not options.quick
    rows = [r for r in (read_results(options.study) if keep else ()) if r["setting"] not in chosen]
    for name in chosen:
        for seed in range(options.seeds):
            rows.append(measured(options.study, name, seed, options.quick))
            print(*rows[-1].values(), flush=True)
            if not options.quick:
                ordered = sorted(rows, key=lambda r: (names.index(r["setting"]), r["seed"]))
                command = f"python -m course_lib.adversarial.translation_study {options.study} --run"
                write_table(ordered, study.path, study.fields, command)
    print(summary(options.study, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
