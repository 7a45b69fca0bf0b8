"""Which layers of a StyleGAN change the shape, which the colour? Styles of two pictures, mixed and named by a probe.

Asked of two generators that are alike but for their layers: "adain", StyleGAN's, and "demodulate", StyleGAN2's.

    python -m course_lib.adversarial.stylegan_study                    what is stored
    python -m course_lib.adversarial.stylegan_study --run              train and measure again, and store
    python -m course_lib.adversarial.stylegan_study --run --only demodulate --seeds 1

Data: ``sprites`` without textures and backdrops, and aligned as the paper's faces are: about upright, in the middle,
cropped. What remains is a shape (6), its colour (10), the background (6), the size, a little place and turn. A probe,
one small classifier for all three factors, learns them from real pictures. Then pictures A and B are drawn, and M with
the first layers' styles from A and the others' from B. Among the pairs whose A and B differ in a factor: how often does
M have A's, how often B's? The stored table has one row for each setting, seed, crossover and factor; beside it lie both
generators of the first seed and the probe, for the lecture.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.adversarial.stylegan import (
    Generator,
    StyleGAN,
    mix_styles,
    perceptual_path_length,
    stylegan,
)
from course_lib.data import ImageDataset, load, loader, sprites
from course_lib.metrics import frechet_distance
from course_lib.study_table import load_weights, read_table, store_weights, study_parser, write_table
from course_lib.training import fit

FOLDER = Path(__file__).parent / "results"
RESULTS, PROBE = FOLDER / "stylegan_mixing.csv", "stylegan_probe.npz"
FIELDS = (
    "setting", "seed", "crossover", "factor", "from_a", "from_b", "frechet", "frechet_real",
    "ppl_z", "ppl_w", "ppl_z_end", "ppl_w_end", "cpu_seconds",
)  # fmt: skip
FACTORS = {"shape": 6, "colour": 10, "background": 6}
IMAGES = 10_000
STEPS, BATCH, PRECISION = 5_000, 32, "bf16-mixed"
CHANGES: dict[str, object] = {"ema": 0.998}  # of the preset "small"
SETTINGS: dict[str, dict[str, object]] = {
    "adain": {"modulation": "adain"},
    "demodulate": {"modulation": "demodulate"},
}


# --- Data and probe -------------------------------------------------------------------------------------------------


def aligned_sprites(split: str = "train", n: int = IMAGES) -> ImageDataset:
    """n sprites (3, 32, 32) redrawn: plain, 1.4 times as large, in a quarter of the range of places and turns.

    StyleGAN's photographs of faces were turned, shifted and cropped until the eyes lie at the same place (Karras et al.
    2018, appendix C). With shapes anywhere and at any angle, a network of this size learns the place and hardly the
    outline.
    """
    found = load("sprites", split, size=n)
    factors = {name: values.numpy() for name, values in found.factors.items()}
    factors |= {name: np.zeros_like(factors[name]) for name in ("texture", "backdrop")}
    factors |= {name: factors[name] / np.float32(4) for name in ("x", "y")}
    factors["size"] = factors["size"] * np.float32(1.4)
    factors["turn"] = np.rint(factors["turn"] / 4).astype(np.int64)
    redrawn = copy(found)
    redrawn.images = torch.from_numpy(sprites.render(factors, found.image_shape[-1]))
    redrawn.factors = {name: torch.from_numpy(values) for name, values in factors.items()}
    return redrawn


def silhouette(x: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) → how far each pixel is from the background's colour (N, 1, S, S), at most 1.

    The background's colour: the median of the four corners, which no sprite reaches. Colours gone, the outline is left.
    """
    corners = torch.stack([x[:, :, i, j] for i in (0, -1) for j in (0, -1)]).median(dim=0).values
    distance = torch.linalg.vector_norm(x - corners[:, :, None, None], dim=1, keepdim=True)
    return distance / distance.amax((2, 3), keepdim=True).clamp_min(0.1)


class Probe(nn.Module):
    """Names the shape, colour and background of aligned sprites: one small classifier each.

    The shape is judged by the `silhouette` alone, so that no change of colour can pass for one of shape. forward:
    pictures (N, 3, 32, 32) → all hidden features (N, 96), for distances.
    """

    def __init__(self, width: int = 8, n_features: int = 32) -> None:
        super().__init__()
        self.trunks = nn.ModuleDict(
            {name: _trunk(1 if name == "shape" else 3, width, n_features) for name in FACTORS}
        )
        self.heads = nn.ModuleDict({name: nn.Linear(n_features, count) for name, count in FACTORS.items()})

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        shapes = silhouette(x)
        return {name: trunk(shapes if name == "shape" else x) for name, trunk in self.trunks.items()}

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(list(self._features(x).values()), dim=1)

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Scores (N, values) for each factor."""
        return {name: self.heads[name](h) for name, h in self._features(x).items()}

    @torch.no_grad()
    def factors(self, x: Tensor) -> dict[str, Tensor]:
        """{"shape", "colour", "background"}: the value of each (N,) that the pictures (N, 3, 32, 32) seem to have."""
        found = [self.logits(part) for part in x.split(500)]
        return {name: torch.cat([f[name].argmax(dim=1) for f in found]) for name in FACTORS}


def _trunk(channels: int, width: int, n_features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * width, n_features), nn.GELU())


def train_probe(seed: int = 0, steps: int = 600, batch: int = 64, n: int = IMAGES) -> Probe:
    """Cross-entropies of the three factors on real sprites; about 30 seconds of one core."""
    train_set = aligned_sprites("train", n)
    images = train_set.tensor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe()
        optimizer = torch.optim.AdamW(probe.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch,))
            logits = probe.logits(images[chosen])
            loss = sum(F.cross_entropy(logits[f], train_set.factors[f][chosen].long()) for f in FACTORS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probe.eval().requires_grad_(False)


def probe_accuracy(probe: Probe, n: int = 2_000) -> dict[str, float]:
    """Share of test sprites whose factor the probe names rightly."""
    test = aligned_sprites("test", n)
    named = probe.factors(test.tensor())
    return {name: (named[name] == test.factors[name]).double().mean().item() for name in FACTORS}


# --- Training and measuring -----------------------------------------------------------------------------------------


def train(seed: int = 0, steps: int = STEPS, **changes: object) -> StyleGAN:
    """A StyleGAN of aligned sprites, networks and batches drawn from ``seed``. changes: of the preset "small"."""
    train_set = aligned_sprites()
    torch.manual_seed(seed)
    gan = stylegan(train_set.image_shape, **{**CHANGES, **changes})
    if steps:
        batches = loader(train_set, BATCH, seed=seed)
        fit(gan, batches, steps=steps, seed=seed, device="cpu", precision=PRECISION, progress=False)
    return gan


@torch.no_grad()
def mixing_shares(
    generator: Generator,
    probe: Probe,
    n: int = 1_000,
    *,
    psi: float = 1.0,
    seed: int = 0,
    crossovers: Sequence[int] | None = None,
) -> list[dict[str, str | float]]:
    """Which source a factor follows: one row for each crossover (default: 0 … layers) and factor.

    M takes the layers below ``crossover`` from A, the others from B. "from_a", "from_b": among the pairs in which the
    probe names A's factor and B's differently, the share where M has A's, or B's; the rest has neither.
    """
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(2, n, generator.mapping.latent_dim, generator=random)
    ws = [generator.styles(part, psi) for part in z]
    of_a, of_b = (probe.factors(_pictures(generator, w)) for w in ws)
    rows = []
    for crossover in range(generator.n_layers + 1) if crossovers is None else crossovers:
        mixed = probe.factors(_pictures(generator, mix_styles(*ws, crossover)))
        for factor in FACTORS:
            differ = of_a[factor] != of_b[factor]
            shares = [(mixed[factor] == of[factor])[differ].double().mean().item() for of in (of_a, of_b)]
            rows.append({"crossover": crossover, "factor": factor, "from_a": shares[0], "from_b": shares[1]})
    return rows


def _pictures(generator: Generator, ws: Tensor) -> Tensor:
    return torch.cat([generator.synthesize(part) for part in ws.split(250)])


def measure(gan: StyleGAN, probe: Probe, n: int = 1_000) -> list[dict[str, str | float]]:
    """`mixing_shares`, with the Fréchet distance and the four path lengths in the probe's features on every row."""
    network, random = gan.evaluated, torch.Generator().manual_seed(0)
    real = aligned_sprites("test", 2 * n).tensor()
    features = [torch.cat([probe(part) for part in x.split(500)]) for x in (real, gan.sample(n, random))]
    halves = features[0][:n], features[0][n : 2 * n]
    whole: dict[str, str | float] = {
        "frechet": round(frechet_distance(halves[0], features[1]), 2),
        "frechet_real": round(frechet_distance(*halves), 2),
    }
    for where, suffix in (("full", ""), ("end", "_end")):
        for space in ("z", "w"):
            random = torch.Generator().manual_seed(0)
            length = perceptual_path_length(network, probe, space=space, where=where, n=n, generator=random)
            whole[f"ppl_{space}{suffix}"] = round(length, 1)
    shares = mixing_shares(network, probe, n)
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} | whole for row in shares]


# --- What is stored -------------------------------------------------------------------------------------------------


def stored(setting: str = "adain", folder: Path = FOLDER) -> tuple[Generator, Probe]:
    """The trained generator of a setting, seed 0, and the probe; gradients off, evaluation mode."""
    options = CHANGES | SETTINGS[setting] | {"ema": None}
    generator, probe = stylegan((3, 32, 32), **options).generator, Probe()
    load_weights({"generator": generator}, folder / _file(setting))
    load_weights({"probe": probe}, folder / PROBE)
    return generator, probe


def _file(setting: str) -> str:
    return f"stylegan_{setting}.npz"


def read_results(path: Path = RESULTS) -> list[dict[str, str | float]]:
    """The stored rows: ``FIELDS``."""
    return read_table(path, crossover=int, factor=str)


def write_results(rows: Sequence[Mapping[str, str | float]], path: Path = RESULTS) -> None:
    """Write the table, complete or not at all, below the command that makes it."""
    write_table(rows, path, FIELDS, "python -m course_lib.adversarial.stylegan_study --run")


def summary(rows: Sequence[Mapping[str, str | float]]) -> str:
    """For each setting: distances and path lengths, and for each factor how often M has A's at each crossover."""
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == setting]
        seeds = list(dict.fromkeys(row["seed"] for row in its))
        firsts = [next(row for row in its if row["seed"] == seed) for seed in seeds]
        mean = {key: statistics.mean(row[key] for row in firsts) for key in FIELDS[6:]}
        lines.append(
            f"{setting}, seeds: {len(seeds)}. Fréchet {mean['frechet']:.1f} (real {mean['frechet_real']:.1f}), "
            f"path length Z {mean['ppl_z']:.0f}, W {mean['ppl_w']:.0f} (at the ends {mean['ppl_z_end']:.0f}, "
            f"{mean['ppl_w_end']:.0f}), {mean['cpu_seconds']:.0f} CPU s"
        )
        crossovers = sorted({row["crossover"] for row in its})
        lines.append("  layers from A:     " + "".join(f"{c:>6}" for c in crossovers))
        for factor in FACTORS:
            shares = [
                statistics.mean(
                    row["from_a"] for row in its if row["factor"] == factor and row["crossover"] == c
                )
                for c in crossovers
            ]
            lines.append(f"  {factor + ' of A, %':<19}" + "".join(f"{100 * share:>6.0f}" for share in shares))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__, SETTINGS)
    options = parser.parse_args(arguments)
    if not options.run:
        if not RESULTS.exists():
            parser.error("nothing is stored yet: measure with --run")
        print(summary(read_results()))
        return 0
    chosen = options.only or list(SETTINGS)
    rows = read_results() if RESULTS.exists() else []  # those of settings and seeds not measured now stay
    probe = train_probe()
    store_weights({"probe": probe}, FOLDER / PROBE)
    print("accuracy of the probe:", probe_accuracy(probe), flush=True)
    names = list(SETTINGS)
    for name in chosen:
        for seed in range(options.seeds):
            start = time.process_time()
            gan = train(seed, **SETTINGS[name])
            seconds = round(time.process_time() - start, 1)
            if seed == 0:
                store_weights({"generator": gan.evaluated}, FOLDER / _file(name))
            found = measure(gan, probe)
            rows = [row for row in rows if (row["setting"], row["seed"]) != (name, seed)]
            rows += [{"setting": name, "seed": seed, **row, "cpu_seconds": seconds} for row in found]
            print(name, seed, seconds, flush=True)
            write_results(sorted(rows, key=lambda r: (names.index(r["setting"]), r["seed"], r["crossover"])))
    print(summary(read_results()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
