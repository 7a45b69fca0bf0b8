"""The guidelines of DCGAN, each broken in turn, on ``glyphs``: Fréchet distance, precision and recall over seeds.

    python -m course_lib.adversarial.dcgan_study                       what is stored
    python -m course_lib.adversarial.dcgan_study --run                 measure again and store
    python -m course_lib.adversarial.dcgan_study --run --only default "no batch norm" --seeds 5

Every setting changes one thing of the default one. Beside them stand the untrained generator, a VAE like that of
lecture 03, and real pictures (of the training set) in place of generated ones. 1,200 pictures are compared with the
test set's 1,200, in the features of `metrics.feature_extractor`. The stored table has one row for each setting and
seed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_lib.adversarial.dcgan import dcgan
from course_lib.adversarial.gan import GAN
from course_lib.data import load, loader
from course_lib.latent.vae import Bernoulli, mlp_vae
from course_lib.metrics import feature_extractor, frechet_distance, precision_recall
from course_lib.study_table import read_table, spread, study_parser, write_table
from course_lib.training import SingleLoss, fit

RESULTS = Path(__file__).parent / "results" / "dcgan_ablation.csv"
FIELDS = ("setting", "seed", "frechet", "precision", "recall", "cpu_seconds")
SIDE, COMPARED = 32, 1_200


@dataclass(frozen=True)
class StudySettings:
    """One way of training on ``glyphs``."""

    steps: int = 500
    batch: int = 32
    precision: str = "bf16-mixed"
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the preset "small" of `dcgan`


DEFAULT = StudySettings()


def _broken(**changes: Any) -> StudySettings:
    return replace(DEFAULT, changes=changes)


SETTINGS: dict[str, StudySettings] = {
    "default": DEFAULT,
    "default, float32": replace(DEFAULT, precision="32-true"),
    "pooling and enlargement": _broken(strided=False),
    "resize-convolution in G": _broken(resize=True),
    "no batch norm": _broken(normalise="none"),
    "leaky ReLU in G": _broken(g_slope=0.2),
    "ReLU in D": _broken(d_slope=0.0),
    "sigmoid, pixels in [0, 1]": _broken(output="sigmoid"),
    "linear output": _broken(output="linear"),
    "PyTorch's first weights": _broken(init_std=None),
    "β₁ = 0.9": _broken(beta1=0.9),
}
REFERENCES = ("untrained", "VAE", "real")


class Judge:
    """Compares pictures with the test set of ``glyphs``."""

    def __init__(self) -> None:
        self.extractor = feature_extractor("glyphs", image_size=SIDE)
        self.real = self._features(load("glyphs", "test", image_size=SIDE).tensor())

    def _features(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.extractor(part) for part in pictures[:COMPARED].split(200)])

    def __call__(self, pictures: Tensor) -> dict[str, float]:
        """{"frechet", "precision", "recall"} of `COMPARED` pictures (N, 1, 32, 32) in [0, 1]."""
        features = self._features(pictures)
        precision, recall = precision_recall(self.real, features)
        return {
            "frechet": round(frechet_distance(self.real, features), 2),
            "precision": round(precision, 3),
            "recall": round(recall, 3),
        }


def train(settings: StudySettings, seed: int = 0) -> GAN:
    """A DCGAN trained with these settings, networks and batches drawn from ``seed``."""
    train_set = load("glyphs", image_size=SIDE)
    torch.manual_seed(seed)
    gan = dcgan(train_set.image_shape, **settings.changes)
    if settings.steps:
        batches = loader(train_set, settings.batch, seed=seed)
        options = {"device": "cpu", "precision": settings.precision, "progress": False}
        fit(gan, batches, steps=settings.steps, seed=seed, **options)
    return gan


def train_vae(seed: int = 0, steps: int = 600) -> SingleLoss:
    """The VAE with 16 latent dimensions of lecture 03, at this size."""
    train_set = load("glyphs", image_size=SIDE)
    torch.manual_seed(seed)
    model = mlp_vae(train_set.image_shape, 16, (256,), likelihood=Bernoulli("dynamic"))
    algorithm = SingleLoss(model, torch.optim.Adam(model.parameters(), 3e-3))
    fit(algorithm, loader(train_set, 64, seed=seed), steps=steps, seed=seed, device="cpu", progress=False)
    return algorithm


def pictures(setting: str, seed: int = 0) -> Tensor:
    """`COMPARED` pictures of a setting or a reference, as they are judged."""
    generator = torch.Generator().manual_seed(seed)
    if setting == "real":
        images = load("glyphs", image_size=SIDE).tensor()
        return images[torch.randperm(len(images), generator=generator)[:COMPARED]]
    if setting == "VAE":
        return train_vae(seed).model.sample(COMPARED, generator)
    settings = replace(DEFAULT, steps=0) if setting == "untrained" else SETTINGS[setting]
    return train(settings, seed).sample(COMPARED, generator)


# --- The stored table -----------------------------------------------------------------------------------------------


def read_results(path: Path = RESULTS) -> list[dict[str, str | float]]:
    """The stored rows, one for each setting and seed: ``FIELDS``."""
    return read_table(path)


def write_results(rows: Sequence[Mapping[str, str | float]], path: Path = RESULTS) -> None:
    """Write the table, complete or not at all, below the command that makes it."""
    write_table(rows, path, FIELDS, "python -m course_lib.adversarial.dcgan_study --run")


def summary(rows: Sequence[Mapping[str, str | float]]) -> str:
    """One line a setting: over the seeds, mean (least to most) of the distance, of precision and recall in %."""
    lines = [
        f"{'setting':<28}{'seeds':>6}{'Fréchet distance':>26}{'precision, %':>22}{'recall, %':>22}{'CPU s':>7}"
    ]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == setting]
        distance = spread([row["frechet"] for row in its])
        precision, recall = (spread([100 * row[name] for row in its]) for name in ("precision", "recall"))
        seconds = statistics.mean(row["cpu_seconds"] for row in its)
        lines.append(f"{setting:<28}{len(its):>6}{distance:>26}{precision:>22}{recall:>22}{seconds:>7.0f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    names = [*SETTINGS, *REFERENCES]
    parser = study_parser(__doc__, names)
    options = parser.parse_args(arguments)
    if not options.run:
        print(summary(read_results()))
        return 0
    chosen = options.only or names
    # Rows of settings that are not measured now stay.
    rows = [r for r in (read_results() if RESULTS.exists() else ()) if r["setting"] not in chosen]
    judge = Judge()
    for name in chosen:
        for seed in range(options.seeds):
            start = time.process_time()
            found = judge(pictures(name, seed))
            seconds = round(time.process_time() - start, 1)
            rows.append({"setting": name, "seed": seed, **found, "cpu_seconds": seconds})
            print(*rows[-1].values(), flush=True)
            write_results(sorted(rows, key=lambda r: (names.index(r["setting"]), r["seed"])))
    print(summary(read_results()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
