"""Clusters of handwritten digits: VaDE beside k-means and mixtures on PCA's codes, over seeds.

    python -m course_lib.latent.vade_study                        what is stored
    python -m course_lib.latent.vade_study --run                  measure again and store
    python -m course_lib.latent.vade_study --run --only VaDE --seeds 10

Everything learns from the 1,257 pictures of the training split of `digits`, without labels; accuracy under the best
naming of the clusters (Hungarian method) and NMI are then measured on those pictures and on the test split.

The VaDE has three advantages, and each has its rows. Its encoder sees turned and shifted pictures (`RandomAffine`):
so k-means and a mixture also learn from five changed copies of each picture, and a VaDE learns without changes. Its
mixture is fitted with two more assumptions, equal weights and variances that are not too small: a mixture on PCA's
codes has them, too ("balanced", with full covariances). And it is a network with convolutions, which is the point.
"autoencoder, then GMM" is its second stage: the mixture of tilted components on its codes, before the third stage.

How the settings were chosen: by the labels of the training and validation splits, with seeds of 100 and more. PCA has
as many components as the VaDE has latents; of 12, 16, 24 and 32 that was the best for the balanced mixture, like its
regularisation (0, 0.01, 0.1 or 0.3). For the VaDE about thirty settings of networks, changes, likelihood, mixture were
tried. No test label has chosen anything, and the stored seeds, 2 to 6, had not been looked at. Every seed is a row.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from course_lib.data import load, loader
from course_lib.data.datasets import ImageDataset
from course_lib.latent.augmentation import RandomAffine
from course_lib.latent.pca import PCA
from course_lib.latent.vade import Pretraining, VaDE, conv_vade, fit_mixture
from course_lib.latent.vae import Gaussian
from course_lib.metrics import clustering_accuracy, nmi
from course_lib.study_table import read_table, study_parser, write_table
from course_lib.training import SingleLoss, fit

RESULTS = Path(__file__).parent / "results" / "vade_digits.csv"
SCORES = ("train_accuracy", "train_nmi", "test_accuracy", "test_nmi")
FIELDS = ("setting", "seed", *SCORES, "cpu_seconds")
CLUSTERS, COMPONENTS, COPIES, STARTS = 10, 16, 5, 20
SEEDS = range(2, 7)

Clustering = Callable[[Tensor], Tensor]  # images (N, 1, 8, 8) → clusters (N,)
Row = dict[str, str | float]


@dataclass(frozen=True)
class DigitsSettings:
    """How the VaDE of the study is built and trained."""

    width: int = 32  # channels after the first convolution
    latent_dim: int = 16
    sigma: float = 0.3  # of the Gaussian likelihood: the smaller, the more the pixels count
    augment: RandomAffine | None = field(default_factory=RandomAffine)
    regularise: float = 0.01  # of the mixture
    pretrain_steps: int = 2_000
    pretrain_lr: float = 2e-3
    steps: int = 600
    lr: float = 1e-3  # falls to a tenth along a cosine, as that of the pretraining
    batch: int = 128


DEFAULT = DigitsSettings()


def train_vade(
    train: ImageDataset, settings: DigitsSettings = DEFAULT, seed: int = 0
) -> tuple[VaDE, Clustering]:
    """The three stages: autoencoder, mixture of its codes, ELBO. Returns the VaDE, and the clusters after stage two."""
    torch.manual_seed(seed)
    likelihood = Gaussian(settings.sigma)
    options = {"likelihood": likelihood, "augment": settings.augment}
    model = conv_vade(train.image_shape, settings.latent_dim, settings.width, CLUSTERS, **options)
    _optimise(Pretraining(model), train, settings.pretrain_steps, settings.pretrain_lr, settings.batch, seed)
    options = {"balanced": True, "regularise": settings.regularise, "seed": seed, "n_init": STARTS}
    mixture = model.eval().initialise_from_gmm(train.tensor(), covariance="aligned", **options)
    start = copy.deepcopy(model)
    _optimise(model, train, settings.steps, settings.lr, settings.batch, seed)
    return model.eval(), lambda x: torch.from_numpy(mixture.predict(_matrix(start.encode(x)[0])))


def _optimise(
    model: torch.nn.Module, train: ImageDataset, steps: int, lr: float, batch: int, seed: int
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    scheduler = CosineAnnealingLR(optimizer, steps, eta_min=lr / 10)
    batches = loader(train, batch, seed=seed)
    fit(
        SingleLoss(model.train(), optimizer, scheduler),
        batches,
        steps=steps,
        seed=seed,
        device="cpu",
        progress=False,
    )


def k_means(x: Tensor, seed: int = 0) -> Clustering:
    """On the pixels; the best of `STARTS` starts by its own criterion."""
    from sklearn.cluster import KMeans

    fitted = KMeans(CLUSTERS, n_init=STARTS, random_state=seed).fit(_matrix(x))
    return lambda images: torch.from_numpy(fitted.predict(_matrix(images)))


def mixture_on_pca(x: Tensor, covariance: str, seed: int = 0, **options: bool | float) -> Clustering:
    """A Gaussian mixture on PCA's codes; the most likely of `STARTS` starts. options: of `fit_mixture`."""
    pca = PCA(COMPONENTS).fit(x.flatten(1))
    codes = _matrix(pca.transform(x.flatten(1)))
    mixture = fit_mixture(codes, CLUSTERS, covariance, seed=seed, n_init=STARTS, **options)
    return lambda images: torch.from_numpy(mixture.predict(_matrix(pca.transform(images.flatten(1)))))


def changed_copies(x: Tensor, seed: int = 0) -> Tensor:
    """`COPIES` versions of every picture as the VaDE's encoder sees them: (N, …) → (COPIES · N, …)."""
    return RandomAffine()(x.repeat(COPIES, 1, 1, 1), torch.Generator().manual_seed(seed))


def _matrix(x: Tensor):
    return x.detach().flatten(1).double().numpy()


BALANCED = {"balanced": True, "regularise": 0.1}

#: The rows of the table that need no network: setting → (pictures, seed) → clusters.
BASELINES: dict[str, Callable[[Tensor, int], Clustering]] = {
    "k-means": k_means,
    "GMM on PCA, diagonal": lambda x, seed: mixture_on_pca(x, "diag", seed),
    "GMM on PCA, full": lambda x, seed: mixture_on_pca(x, "full", seed),
    "GMM on PCA, balanced": lambda x, seed: mixture_on_pca(x, "full", seed, **BALANCED),
    "k-means, changed copies": lambda x, seed: k_means(changed_copies(x, seed), seed),
    "GMM on PCA, balanced, changed copies": lambda x, seed: mixture_on_pca(
        changed_copies(x, seed), "full", seed, **BALANCED
    ),
}
#: Those that do, each with a second row for the clusters before its joint training.
NETWORKS = {"VaDE, no changes": replace(DEFAULT, augment=None), "VaDE": DEFAULT}
BEFORE = {"VaDE, no changes": "autoencoder, then GMM, no changes", "VaDE": "autoencoder, then GMM"}
ORDER = (*BASELINES, *(name for key in NETWORKS for name in (BEFORE[key], key)))


def run(
    name: str, seed: int = 0, settings: DigitsSettings | None = None, train_size: int | None = None
) -> list[Row]:
    """The row of a baseline, or the two rows of a VaDE. train_size: fewer pictures to learn from.

    Raises: ValueError for an unknown name.
    """
    if name not in BASELINES and name not in NETWORKS:
        raise ValueError(f"unknown method {name!r}; there are: {', '.join((*BASELINES, *NETWORKS))}")
    train, test = load("digits", "train", size=train_size), load("digits", "test")
    start = time.process_time()
    if name in BASELINES:
        found: dict[str, Clustering] = {name: BASELINES[name](train.tensor(), seed)}
    else:
        model, before = train_vade(train, settings or NETWORKS[name], seed)
        found = {BEFORE[name]: before, name: model.cluster}
    seconds = round(time.process_time() - start, 1)
    return [
        {"setting": method, "seed": seed, **dict(_scores(clustering, train, test)), "cpu_seconds": seconds}
        for method, clustering in found.items()
    ]


def _scores(clustering: Clustering, train: ImageDataset, test: ImageDataset) -> Iterator[tuple[str, float]]:
    for split, dataset in (("train", train), ("test", test)):
        clusters = clustering(dataset.tensor())
        yield f"{split}_accuracy", round(clustering_accuracy(dataset.labels, clusters), 4)
        yield f"{split}_nmi", round(nmi(dataset.labels, clusters), 4)


# --- The stored table -----------------------------------------------------------------------------------------------


def read_results(path: Path = RESULTS) -> list[Row]:
    """The stored rows, one for each method and seed."""
    return read_table(path)


def write_results(rows: Sequence[Mapping[str, str | float]], path: Path = RESULTS) -> None:
    """Write the table, in its order, below the command that makes it."""
    ordered = sorted(rows, key=lambda row: (ORDER.index(row["setting"]), row["seed"]))
    write_table(ordered, path, FIELDS, "python -m course_lib.latent.vade_study --run")


def summary(rows: Sequence[Mapping[str, str | float]]) -> str:
    """One line a method: mean ± standard deviation over the seeds, in per cent; CPU seconds with the stages before."""
    heads = ("acc., train", "NMI, train", "acc., test", "NMI, test")
    lines = [f"{'method':<36}{'seeds':>6}" + "".join(f"{head:>13}" for head in heads) + f"{'CPU s':>7}"]
    for method in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == method]
        cells = [mean_and_spread([100 * row[score] for row in its]) for score in SCORES]
        seconds = statistics.mean(row["cpu_seconds"] for row in its)
        lines.append(
            f"{method:<36}{len(its):>6}" + "".join(f"{cell:>13}" for cell in cells) + f"{seconds:>7.1f}"
        )
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, one decimal place."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    methods = [*BASELINES, *NETWORKS]
    parser = study_parser(__doc__, methods, f"how many, from {SEEDS[0]} on (default 5)", seeds=len(SEEDS))
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: expected at least 1")
    for name in (options.only or methods) if options.run else ():
        for seed in range(SEEDS[0], SEEDS[0] + options.seeds):
            new = run(name, seed)
            for row in new:
                print(row["setting"], seed, row["train_accuracy"], row["test_accuracy"], flush=True)
            measured = {(row["setting"], row["seed"]) for row in new}
            old = read_results() if RESULTS.exists() else []
            write_results([row for row in old if (row["setting"], row["seed"]) not in measured] + new)
    print(summary(read_results()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
