"""The ring of 8 Gaussians: which setting of the game covers it, which collapses, and what helps, over seeds.

    python -m course_lib.adversarial.ring_study                       what is stored
    python -m course_lib.adversarial.ring_study --run                 measure again and store
    python -m course_lib.adversarial.ring_study --run --only collapse default --seeds 2

Each setting changes one thing of the default one, or of the one that collapses. Counted as in Metz et al. (2017,
arXiv:1611.02163) and Srivastava et al. (2017, arXiv:1705.07761): 2,500 samples, of high quality within 3 standard
deviations of a mode. The stored table has one row for each setting and seed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from course_lib.adversarial.gan import GAN, SampleHistory, mlp_discriminator, mlp_generator, mode_coverage
from course_lib.data import load
from course_lib.study_table import read_table, spread, study_parser, write_table

RESULTS = Path(__file__).parent / "results" / "ring_study.csv"
FIELDS = ("setting", "seed", "modes", "high_quality", "rarest_mode", "cpu_seconds")


@dataclass(frozen=True)
class RingSettings:
    """One way of training on ``toy2d/ring``."""

    steps: int = 4_000  # of the generator
    batch: int = 128  # examples for each step of the discriminator
    latent_dim: int = 2
    hidden: tuple[int, ...] = (64, 64, 64)  # of both networks
    g_lr: float = 2e-3
    d_lr: float = 4e-3
    beta1: float = 0.5  # of Adam
    decay: bool = True  # cosine, to a twentieth of the learning rates
    loss: str = "non_saturating"
    d_steps: int = 1
    r1: float = 0.0
    history: int = 0  # generated points kept
    unroll: int = 0


DEFAULT = RingSettings()
COLLAPSE = replace(DEFAULT, d_lr=5e-4, steps=2_000)

SETTINGS: dict[str, RingSettings] = {
    "default": DEFAULT,
    "default, D as slow as G": replace(DEFAULT, d_lr=DEFAULT.g_lr),
    "default, no decay": replace(DEFAULT, decay=False),
    "default, minimax": replace(DEFAULT, loss="minimax"),
    "default, R1": replace(DEFAULT, r1=0.1),
    "default, history": replace(DEFAULT, history=5_000),
    "collapse": COLLAPSE,
    "collapse, minimax": replace(COLLAPSE, loss="minimax"),
    "collapse, history": replace(COLLAPSE, history=5_000),
    "collapse, R1": replace(COLLAPSE, r1=0.1),
    "collapse, 5 D steps": replace(COLLAPSE, d_steps=5),
    "collapse, 5 unrolled steps": replace(COLLAPSE, unroll=5),
    "collapse, D 8 times faster": replace(COLLAPSE, d_lr=8 * COLLAPSE.d_lr),
}


def ring_gan(settings: RingSettings, seed: int = 0) -> GAN:
    """The game with these settings, networks drawn from ``seed``; for batches of ``batch`` · ``d_steps`` points."""
    torch.manual_seed(seed)
    generator = mlp_generator(settings.latent_dim, (2,), settings.hidden)
    discriminator = mlp_discriminator((2,), settings.hidden)
    betas = (settings.beta1, 0.999)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=settings.g_lr, betas=betas, fused=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=settings.d_lr, betas=betas, fused=True)
    schedulers = {}
    if settings.decay:
        schedulers = {
            f"{player}_scheduler": CosineAnnealingLR(optimizer, settings.steps, eta_min=lr / 20)
            for player, optimizer, lr in (
                ("g", g_optimizer, settings.g_lr),
                ("d", d_optimizer, settings.d_lr),
            )
        }
    return GAN(
        generator,
        discriminator,
        g_optimizer,
        d_optimizer,
        latent_dim=settings.latent_dim,
        loss=settings.loss,
        d_steps=settings.d_steps,
        r1=settings.r1,
        history=SampleHistory(settings.history, (2,)) if settings.history else None,
        unroll=settings.unroll,
        **schedulers,
    )


def run(settings: RingSettings, seed: int = 0) -> tuple[GAN, dict[str, float]]:
    """Train, and count the modes: {"modes", "high_quality", "rarest_mode" (its share; 1/8 is even), "cpu_seconds"}."""
    ring = load("toy2d/ring")
    gan = ring_gan(settings, seed)
    start = time.process_time()
    for _ in range(settings.steps):
        gan.step((ring.points[torch.randint(len(ring), (settings.batch * settings.d_steps,))],))
    seconds = time.process_time() - start
    coverage = mode_coverage(gan.sample(2_500), ring.means, ring.std)
    return gan, {
        "modes": coverage.modes,
        "high_quality": round(coverage.high_quality, 4),
        "rarest_mode": round(coverage.shares.min().item(), 4),
        "cpu_seconds": round(seconds, 1),
    }


# --- The stored table -----------------------------------------------------------------------------------------------


def read_results(path: Path = RESULTS) -> list[dict[str, str | float]]:
    """The stored rows: {"setting", "seed", "modes", "high_quality", "rarest_mode", "cpu_seconds"} of every run."""
    return read_table(path, modes=int)


def write_results(rows: Sequence[Mapping[str, str | float]], path: Path = RESULTS) -> None:
    """Write the table, complete or not at all, below the command that makes it."""
    write_table(rows, path, FIELDS, "python -m course_lib.adversarial.ring_study --run")


def summary(rows: Sequence[Mapping[str, str | float]]) -> str:
    """One line a setting: over the seeds, mean (least to most) of modes and of the high-quality share, and successes.

    A success covers all 8 modes with at least 90 % high-quality samples.
    """
    lines = [f"{'setting':<30}{'seeds':>6}{'modes':>16}{'high quality, %':>22}{'successes':>11}{'CPU s':>8}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == setting]
        good = sum(row["modes"] == 8 and row["high_quality"] >= 0.9 for row in its)
        modes, quality = [row["modes"] for row in its], [100 * row["high_quality"] for row in its]
        seconds = statistics.mean(row["cpu_seconds"] for row in its)
        lines.append(
            f"{setting:<30}{len(its):>6}{spread(modes, 0):>16}{spread(quality, 0):>22}{good:>11}{seconds:>8.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = study_parser(__doc__, SETTINGS, "of each setting (default 3; the default setting: 10)")
    options = parser.parse_args(arguments)
    if not options.run:
        print(summary(read_results()))
        return 0
    chosen = options.only or list(SETTINGS)
    # Rows of settings that are not measured now stay.
    rows = [r for r in (read_results() if RESULTS.exists() else ()) if r["setting"] not in chosen]
    for name in chosen:
        for seed in range(max(10, options.seeds) if name == "default" else options.seeds):
            rows.append({"setting": name, "seed": seed, **run(SETTINGS[name], seed)[1]})
            print(*rows[-1].values(), flush=True)
            write_results(sorted(rows, key=lambda r: (list(SETTINGS).index(r["setting"]), r["seed"])))
    print(summary(read_results()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
