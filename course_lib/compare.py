"""Every family of the course on one data set with one training budget: the table of lecture 17.

    python -m course_lib.compare                        what is stored
    python -m course_lib.compare --run                  measure again and store
    python -m course_lib.compare --run --only VAE DCGAN --seeds 3

**Data.** ``glyphs`` at 32×32, every pixel black or white (grey below ½ is black). All models see the same pictures, so
likelihoods are in nats of the same 1,024 binary values: exact values, bounds of different kinds, or nothing. The test
pictures are set in fonts that no training picture has.

**Budget.** `BUDGET` seconds of processor time with one thread, everything included that a model needs (the autoencoder
and the mixture of a VaDE, the prior over the codes of a VQ-VAE). The time of a step is measured first; as many steps as
fit are then taken with the schedule of the model's recipe. So short a budget favours what learns fast, not what is best
in the end: the numbers of the papers, each with its own budget, stand in the lectures.

**Judgement**, on the test set. nats: −log p(x) where it is known, else the tightest bound that the model has
(`density` says which). Fréchet distance, precision and recall of as many samples as there are test pictures, in the
features of the course's classifier of ``glyphs``. All pictures are judged in black and white: "printed" ones are what
papers print, here rounded (the mean of p(x|z), the output of G); "drawn" ones are draws from the model, pixels
included. Where the model itself draws black and white pixels the two are one; the output of G *is* its draw, and is
only rounded.

Three `BASELINES` need no network: pixels drawn independently, copies of training pictures with a few pixels flipped (a
memory that has a likelihood, compare the kernel densities of Theis et al. 2016, arXiv:1511.01844), and real pictures
in other fonts, which nobody has to beat. Pix2Pix and CycleGAN are not here: they translate a picture that is given, and
have no distribution of pictures of their own to compare.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import evaluation, metrics, train
from course_lib.data import ImageDataset, load, loader
from course_lib.latent.code_prior import CodePrior, gated_prior
from course_lib.latent.discrete_vae import DiscreteVAE
from course_lib.latent.vade import Pretraining, VaDE
from course_lib.models import MODELS, is_adversarial, is_autoregressive
from course_lib.study_table import read_table, spread, study_parser, write_arrays, write_table
from course_lib.training import Algorithm, fit

RESULTS = Path(__file__).parent / "results" / "comparison.csv"
SAMPLES = Path(__file__).parent / "results" / "comparison_samples.npz"
FIELDS = (
    "setting",
    "seed",
    "parameters",
    "steps",
    "cpu_seconds",  # of training, all stages
    "nats",  # −log p(x) or the tightest bound, of `JUDGED` test pictures
    "elbo_nats",  # −ELBO of the same pictures
    "frechet",  # of printed samples; precision, recall: theirs
    "precision",
    "recall",
    "frechet_drawn",
    "grey",  # share of pixels that the model's output leaves between 0.1 and 0.9
    "nearest",  # median distance to the nearest training picture, that of test pictures being 1
    "wrong_pixels",  # share, after test pictures were put into the latent space and back
    "infer_ms",  # of that, a picture
    "midpoints",  # share of pictures half-way between two that look real
    "sample_ms",  # a picture, in batches of `BATCH`
    "naive_ms",  # the same, the network run for every pixel
)
DATA, SIDE = "glyphs", 32
BUDGET = 20.0  # seconds of processor time
SEEDS = 3  # of each setting; about 7 minutes of one core each
JUDGED, K = 300, 100  # test pictures for likelihoods; samples of z each
BATCH, PAIRS, SOUGHT, SEARCH_STEPS, SHOWN = 16, 300, 48, 200, 16

Row = dict[str, str | float]


@dataclass(frozen=True)
class Contestant:
    """A model of the command line, and what can be said of it without measuring."""

    model: str  # of `MODELS`
    family: str  # "latent", "adversarial", "autoregressive"
    density: str  # what it says of p(x): "exact", "bound", "none"
    latent: str  # where z comes from, given x: "encoder", "search", "none"
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the model's recipe for `DATA`, size "quick"


def _latent(model: str, **changes: Any) -> Contestant:
    return Contestant(model, "latent", "bound", "encoder", {"likelihood": "bernoulli", **changes})


def _adversarial(model: str, **changes: Any) -> Contestant:
    return Contestant(model, "adversarial", "none", "search", changes)


def _autoregressive(model: str, **changes: Any) -> Contestant:
    return Contestant(model, "autoregressive", "exact", "none", {"levels": 2, "batch_size": 16, **changes})


#: Sizes: those of the recipes for a laptop, some smaller, so that a budget of seconds is hundreds of steps.
CONTESTANTS: dict[str, Contestant] = {
    "VAE": _latent("vae"),
    "convolutional VAE": _latent("conv-vae"),
    "IWAE": _latent("iwae"),
    "VaDE": _latent("vade", clusters=34),
    "discrete VAE": _latent("discrete-vae"),
    "VQ-VAE + PixelCNN": _latent("vqvae", width=32, residual_width=16),
    "GAN": _adversarial("gan"),
    "DCGAN": _adversarial("dcgan"),
    "WGAN-GP": _adversarial("wgan-gp", batch_size=80),
    "StyleGAN": _adversarial("stylegan", base=256),
    "Row LSTM": _autoregressive("row-lstm", hidden=16, layers=2, head_channels=32),
    "PixelCNN": _autoregressive("pixelcnn", blocks=6),
    "Gated PixelCNN": _autoregressive("gated-pixelcnn", layers=5),
    "PixelCNN++": _autoregressive("pixelcnn-pp", resolutions=3),
}
#: Rows that need no network, with what they say of p(x).
BASELINES = {"independent pixels": "exact", "copies": "exact", "real pictures": "none"}
ORDER = (*BASELINES, *CONTESTANTS)


def density(setting: str) -> str:
    """What a row's nats are: "exact", "bound" or "none". Raises: KeyError for an unknown row."""
    return BASELINES[setting] if setting in BASELINES else CONTESTANTS[setting].density


@functools.cache
def binary(split: str, levels: int | None = None, data: str = DATA) -> ImageDataset:
    """A data set in black and white: floats 0 and 1, or with levels = 2 the integers."""
    grey = load(data, split, image_size=SIDE, levels=2)
    bits, names = grey.tensor().to(torch.uint8), grey.label_names
    return ImageDataset(
        bits, grey.labels, name=data, split=split, label_names=names, levels=levels, stored_max=1
    )


# --- Training to a budget ---------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What came out: a network, a GAN, or a VQ-VAE with its prior; the optimiser steps and seconds of all stages."""

    model: Any
    steps: int
    seconds: float


def train_contestant(name: str, budget: float = BUDGET, seed: int = 0, data: str = DATA) -> Trained:
    """Train for ``budget`` seconds of this process's time. Raises: ValueError for an unknown name or no budget."""
    if name not in CONTESTANTS or not budget > 0:
        raise ValueError(f"expected one of {', '.join(CONTESTANTS)} and a budget > 0, got {name!r}, {budget}")
    chosen = CONTESTANTS[name]
    settings, keywords = train.resolve(chosen.model, data, "quick", chosen.changes)
    settings = replace(settings, precision="32-true", epochs=None, seed=seed)
    images = binary("train", settings.levels, data)
    torch.manual_seed(seed)
    model = MODELS[chosen.model](images.image_shape, **keywords)
    if isinstance(model, VaDE):
        return _train_vade(model, settings, keywords, images, budget)
    if chosen.model == "vqvae":
        return _train_vqvae(model, settings, keywords, images, budget)
    algorithm, steps, seconds = _stage(model, settings, images, budget)
    return Trained(evaluation.evaluated(algorithm), steps, seconds)


def _train_vade(
    vade: VaDE, settings: train.Settings, keywords: Mapping[str, Any], images: ImageDataset, budget: float
) -> Trained:
    """A quarter of the budget for the autoencoder; what the mixture leaves, for the ELBO."""
    _, first, seconds = _stage(Pretraining(vade), settings, images, budget / 4)
    start = time.process_time()
    kind = keywords.get("covariance", "diag")
    vade.eval().initialise_from_gmm(images.tensor(), covariance=kind, seed=settings.seed, n_init=1)
    seconds += time.process_time() - start
    algorithm, second, more = _stage(vade, settings, images, max(budget - seconds, budget / 4))
    return Trained(evaluation.evaluated(algorithm), first + second, seconds + more)


def _train_vqvae(
    vqvae: nn.Module,
    settings: train.Settings,
    keywords: Mapping[str, Any],
    images: ImageDataset,
    budget: float,
) -> Trained:
    """Half of the budget for the autoencoder, the other half for its codes and their prior."""
    keys = {**train.model_keys("vqvae"), **keywords}
    algorithm, first, seconds = _stage(vqvae, settings, images, budget / 2)
    start = time.process_time()
    autoencoder = evaluation.evaluated(algorithm)
    prior = gated_prior(autoencoder, channels=keys["prior_channels"], layers=keys["prior_layers"])
    codes = train.Codes(prior, images, "cpu")
    seconds += time.process_time() - start
    lr = keys["prior_lr"]
    stage = replace(settings, lr=lr, lr_end=lr / 10, schedule="cosine", batch_size=64)
    algorithm, second, more = _stage(prior, stage, codes, budget - seconds)
    return Trained(evaluation.evaluated(algorithm), first + second, seconds + more)


def _stage(model: Any, settings: train.Settings, dataset: Any, budget: float) -> tuple[Algorithm, int, float]:
    """As many steps as the budget allows: (the algorithm, the steps, the seconds that they took)."""
    batches = loader(dataset, settings.batch_size, seed=settings.seed)
    steps = max(1, int(budget / _seconds_per_step(copy.deepcopy(model), settings, batches)))
    start = time.process_time()
    algorithm = _fit(model, settings, batches, steps)
    return algorithm, steps, time.process_time() - start


def _seconds_per_step(model: Any, settings: train.Settings, batches: Any, trial: int = 20) -> float:
    """Processor time of a step. The first four allocate memory; sixteen in a row hold what is done every sixteenth."""
    marks: list[float] = []
    _fit(model, settings, batches, trial, [(1, lambda *_: marks.append(time.process_time()))])
    return (marks[-1] - marks[3]) / (trial - 4)


def _fit(
    model: Any, settings: train.Settings, batches: Any, steps: int, callbacks: Sequence = ()
) -> Algorithm:
    algorithm = train.make_algorithm(model, replace(settings, steps=steps), max(1, len(batches)))
    options = {"seed": settings.seed, "device": "cpu", "progress": False}
    fit(algorithm, batches, steps=steps, callbacks=callbacks, **options)
    return algorithm


def count_parameters(model: Any) -> int:
    """Numbers that serve to draw or to measure: of a GAN those of G, of a VQ-VAE those of its prior too."""
    network = model.plain("generator") if is_adversarial(model) else model
    return sum(parameter.numel() for parameter in network.parameters())


# --- Samples ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def outputs(model: Any, n: int, random: torch.Generator, part: int = 400) -> Tensor:
    """n samples as the model prints them, (n, 1, SIDE, SIDE) in [0, 1]: means, pictures of G, or black and white."""
    if isinstance(model, nn.Module):
        model.eval()
    counts = [min(part, n - start) for start in range(0, n, part)]
    return torch.cat([model.sample(count, random).float() for count in counts])


def printed(x: Tensor) -> Tensor:
    """Rounded to black and white."""
    return (x >= 0.5).float()


def drawn(model: Any, x: Tensor, random: torch.Generator) -> Tensor:
    """Pixels drawn, x being their probabilities; the x of a GAN means no such thing, it is the sample, and rounded."""
    if is_adversarial(model):
        return printed(x)
    return (torch.rand(x.shape, generator=random) < x).float()


# --- Latent spaces ----------------------------------------------------------------------------------------------------


class LatentSpace(NamedTuple):
    """encode: pictures → z. decode: z → outputs in [0, 1]. between: half-way from one z to another."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    between: Callable[[Tensor, Tensor], Tensor]


def latent_space(model: Any) -> LatentSpace | None:
    """None for models that have no z. A GAN finds z by `search`, anything else by its encoder."""
    if is_autoregressive(model):
        return None
    if is_adversarial(model):
        network = model.evaluated.eval()
        return LatentSpace(lambda x: search(network, x, model.latent_dim), network, spherical_middle)
    if isinstance(model, CodePrior):
        autoencoder = model.autoencoder
        quantised = lambda z: autoencoder.decode_indices(autoencoder.quantizer.encode(z))  # noqa: E731
        return LatentSpace(autoencoder.encode, quantised, middle)
    if isinstance(model, DiscreteVAE):
        encode: Callable[[Tensor], Tensor] = lambda x: F.one_hot(model.codes(x), model.categories).float()  # noqa: E731
        return LatentSpace(encode, lambda z: model.likelihood.mean(model.decode(z)), middle)
    return LatentSpace(lambda x: model.encode(x)[0], lambda z: model.likelihood.mean(model.decode(z)), middle)


def middle(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2


def spherical_middle(a: Tensor, b: Tensor) -> Tensor:
    """Half-way on the sphere: the mean of two draws of N(0, I) would be shorter by √2 than any draw."""
    mean = middle(a, b)
    return mean * (middle(a.norm(dim=1), b.norm(dim=1)) / mean.norm(dim=1)).unsqueeze(1)


def search(
    generator: nn.Module,
    x: Tensor,
    latent_dim: int,
    steps: int = SEARCH_STEPS,
    lr: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """z (B, latent_dim) with G(z) near x, by Adam on the cross-entropy of the pixels from a draw of N(0, I).

    Creswell and Bharath (2018, arXiv:1611.05644) call it the inversion of the generator.
    """
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(len(x), latent_dim, generator=random).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        loss = F.binary_cross_entropy(generator(z).clamp(1e-3, 1 - 1e-3), x, reduction="sum")
        optimizer.zero_grad()
        (z.grad,) = torch.autograd.grad(loss, [z])
        optimizer.step()
    return z.detach()


# --- Judgement --------------------------------------------------------------------------------------------------------


class Judge:
    """All that is asked of samples: distance in features, and from the pictures that were learned from."""

    def __init__(self) -> None:
        self.extractor = metrics.feature_extractor(DATA, image_size=SIDE)
        self.train = binary("train").tensor()
        test = binary("test").tensor()
        self.real, self.unit = self.features(test), self._median_nearest(test)

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.extractor(part) for part in x.split(500)])

    def __call__(self, x: Tensor) -> dict[str, float]:
        fake = self.features(x)
        precision, recall = metrics.precision_recall(self.real, fake)
        distance = metrics.frechet_distance(self.real, fake)
        return {
            "frechet": distance,
            "precision": precision,
            "recall": recall,
            "nearest": self._median_nearest(x) / self.unit,
        }

    def precision(self, x: Tensor) -> float:
        return metrics.precision_recall(self.real, self.features(x)).precision

    def _median_nearest(self, x: Tensor) -> float:
        return hamming(x, self.train).min(dim=1).values.median().item()


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """In how many pixels pictures differ, (N, …) and (M, …) of 0 and 1 → (N, M): Σ a + b − 2ab."""
    a, b = a.flatten(1), b.flatten(1)
    return a.sum(1, keepdim=True) + b.sum(1) - 2 * a @ b.T


def judged_pictures(levels: int | None = None) -> ImageDataset:
    """The same test pictures for all likelihoods."""
    test = binary("test", levels)
    return test.subset(torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:JUDGED])


def likelihood(model: Any) -> dict[str, float]:
    """{"nats", "elbo_nats"}, nan where there is none: exact, or bounds by importance sampling and by the ELBO."""
    if is_adversarial(model):
        return {"nats": math.nan, "elbo_nats": math.nan}
    if is_autoregressive(model):
        return {"nats": evaluation.pixel_terms(model, judged_pictures(2))["nll"], "elbo_nats": math.nan}
    pictures = judged_pictures()
    if isinstance(model, CodePrior):  # one code has all the weight: there is nothing to sample
        terms = evaluation.code_terms(model, pictures)
        nats = terms["rate"] + terms["distortion"]
        return {"nats": nats, "elbo_nats": nats}
    x, random = pictures.tensor(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        elbo = torch.cat([model.eval().elbo(x, random)["elbo"] for _ in range(8)]).mean()
    return {"nats": metrics.importance_nll(model, x, k=K).mean, "elbo_nats": -elbo.item()}


def latent_terms(model: Any, judge: Judge) -> dict[str, float]:
    """{"wrong_pixels", "infer_ms", "midpoints"}, nan without a latent space."""
    space = latent_space(model)
    if space is None:
        return dict.fromkeys(("wrong_pixels", "infer_ms", "midpoints"), math.nan)
    x = judged_pictures().tensor()
    if isinstance(model, nn.Module):
        model.eval()
    start = time.process_time()
    with torch.no_grad() if not is_adversarial(model) else torch.enable_grad():
        z = space.encode(x[:SOUGHT])
        back = space.decode(z).detach()
    milliseconds = 1000 * (time.process_time() - start) / SOUGHT
    wrong = (printed(back) != x[:SOUGHT]).float().mean().item()
    return {
        "wrong_pixels": wrong,
        "infer_ms": milliseconds,
        "midpoints": judge.precision(printed(midpoints(model, PAIRS))),
    }


@torch.no_grad()
def midpoints(model: Any, n: int, seed: int = 0) -> Tensor:
    """Outputs half-way between n pairs: of test pictures where an encoder finds them, of samples for a GAN."""
    space, random = latent_space(model), torch.Generator().manual_seed(seed)
    if is_adversarial(model):
        ends = [model.latent(n, torch.zeros(1), random) for _ in range(2)]
    else:
        test = binary("test").tensor()
        ends = [space.encode(test[torch.randperm(len(test), generator=random)[:n]]) for _ in range(2)]
    return space.decode(space.between(*ends))


def timings(model: Any) -> dict[str, float]:
    """Milliseconds a picture, in batches of `BATCH`: {"sample_ms", "naive_ms"}, the latter for networks of pixels."""
    random = torch.Generator().manual_seed(0)
    outputs(model, BATCH, random)  # allocates memory
    start = time.process_time()
    runs = 1 if is_autoregressive(model) or isinstance(model, CodePrior) else 20
    for _ in range(runs):
        outputs(model, BATCH, random)
    terms = {"sample_ms": 1000 * (time.process_time() - start) / (runs * BATCH), "naive_ms": math.nan}
    if is_autoregressive(model):
        x = torch.zeros(BATCH, *model.shape, dtype=torch.long)
        with torch.no_grad():
            start = time.process_time()
            for _ in range(3):  # of the 1,024 passes that a naive sampler needs
                model(x)
        terms["naive_ms"] = 1000 * (time.process_time() - start) / 3 * SIDE**2 / BATCH
    return terms


class Result(NamedTuple):
    """A row of the table, and `SHOWN` printed and drawn samples of it, (2, SHOWN, SIDE, SIDE) booleans."""

    row: Row
    samples: np.ndarray


def run(name: str, seed: int = 0, budget: float = BUDGET, judge: Judge | None = None) -> Result:
    """Train a contestant, or take a baseline, and judge it. Raises: ValueError for an unknown name."""
    if name not in ORDER:
        raise ValueError(f"unknown setting {name!r}; there are: {', '.join(ORDER)}")
    judge = judge or Judge()
    if name in BASELINES:
        return _baseline(name, seed, judge)
    model, steps, seconds = train_contestant(name, budget, seed)
    random = torch.Generator().manual_seed(seed)
    means = outputs(model, len(judge.real), random)
    shown = printed(means), drawn(model, means, random)
    row = {
        "setting": name,
        "seed": seed,
        "parameters": count_parameters(model),
        "steps": steps,
        "cpu_seconds": seconds,
        **likelihood(model),
        **judge(shown[0]),
        "frechet_drawn": judge(shown[1])["frechet"],
        "grey": ((means > 0.1) & (means < 0.9)).float().mean().item(),
        **latent_terms(model, judge),
        **timings(model),
    }
    return Result(row, _first(shown))


def _first(shown: tuple[Tensor, Tensor]) -> np.ndarray:
    return torch.stack([x[:SHOWN, 0] for x in shown]).bool().numpy()


# --- Baselines --------------------------------------------------------------------------------------------------------


def _baseline(name: str, seed: int, judge: Judge) -> Result:
    random, n = torch.Generator().manual_seed(seed), len(judge.real)
    start = time.process_time()
    nats, clean, noisy, parameters = BASELINE_FUNCTIONS[name](n, random)
    seconds = time.process_time() - start
    row: Row = dict.fromkeys(FIELDS, math.nan) | {"setting": name, "seed": seed, "parameters": parameters}
    row |= {"steps": 0, "cpu_seconds": seconds, "nats": nats, **judge(clean)}
    row |= {"frechet_drawn": judge(noisy)["frechet"], "grey": 0.0}
    if name == "real pictures":  # what lies half-way between two of them without a latent space
        test = binary("test").tensor()
        row["midpoints"] = judge.precision(superposed(test, random))
    return Result(row, _first((clean, noisy)))


def superposed(x: Tensor, random: torch.Generator, n: int = PAIRS) -> Tensor:
    """The mean of two pictures, rounded: white where either is."""
    a, b = (x[torch.randperm(len(x), generator=random)[:n]] for _ in range(2))
    return printed((a + b) / 2)


def independent_pixels(n: int, random: torch.Generator) -> tuple[float, Tensor, Tensor, int]:
    """Each pixel white with its own frequency (one black and one white picture added to those that were seen)."""
    x = binary("train").tensor()
    p = (x.sum(0) + 1) / (len(x) + 2)
    test = judged_pictures().tensor()
    nats = F.binary_cross_entropy(p.expand_as(test), test, reduction="sum").item() / len(test)
    samples = (torch.rand(n, *p.shape, generator=random) < p).float()
    return nats, samples, samples, p.numel()


def copies(n: int, random: torch.Generator) -> tuple[float, Tensor, Tensor, int]:
    """A training picture, each pixel flipped with probability ε, which is chosen on the validation set."""
    x = binary("train").tensor()
    rates = torch.logspace(-3, -0.5, 26)
    validation = hamming(binary("val").tensor()[:JUDGED], x)
    best = rates[torch.stack([_kernel_nats(validation, rate) for rate in rates]).argmin()]
    nats = _kernel_nats(hamming(judged_pictures().tensor(), x), best).item()
    clean = x[torch.randint(len(x), (n,), generator=random)]
    flips = torch.rand(clean.shape, generator=random) < best
    return nats, clean, (clean.bool() ^ flips).float(), x.numel()


def _kernel_nats(distances: Tensor, rate: Tensor) -> Tensor:
    """−log 1/M Σ_m ε^d_m (1−ε)^(D−d_m), mean over the rows of distances (N, M); nats."""
    logs = distances * rate.log() + (SIDE**2 - distances) * (1 - rate).log()
    return math.log(distances.shape[1]) - logs.double().logsumexp(dim=1).mean()


def real_pictures(n: int, random: torch.Generator) -> tuple[float, Tensor, Tensor, int]:
    """The validation set: fonts that neither the training set nor the test set has."""
    x = binary("val").tensor()[:n]
    return math.nan, x, x, 0


BASELINE_FUNCTIONS: dict[str, Callable[[int, torch.Generator], tuple[float, Tensor, Tensor, int]]] = {
    "independent pixels": independent_pixels,
    "copies": copies,
    "real pictures": real_pictures,
}


# --- The stored table -------------------------------------------------------------------------------------------------


def read_results(path: Path = RESULTS) -> list[Row]:
    """The stored rows, one for each setting and seed; nan where a model has no such number."""
    return read_table(path, parameters=int, steps=int)


def write_results(rows: Sequence[Mapping[str, str | float]], path: Path = RESULTS) -> None:
    """Write the table, in its order, below the command that makes it."""
    ordered = sorted(rows, key=lambda row: (ORDER.index(row["setting"]), row["seed"]))
    write_table([_rounded(row) for row in ordered], path, FIELDS, "python -m course_lib.compare --run")


def _rounded(row: Mapping[str, str | float]) -> Row:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def read_samples(path: Path = SAMPLES) -> dict[str, Tensor]:
    """setting → printed and drawn samples of seed 0, (2, SHOWN, 1, SIDE, SIDE) of 0 and 1."""
    with np.load(path) as file:
        bits = {name: np.unpackbits(file[name]).reshape(2, -1, 1, SIDE, SIDE) for name in file.files}
    return {name: torch.from_numpy(bits[name]).float() for name in ORDER if name in bits}


def write_samples(samples: Mapping[str, np.ndarray], path: Path = SAMPLES) -> None:
    """Eight pixels a byte."""
    write_arrays({name: np.packbits(np.asarray(x, dtype=bool)) for name, x in samples.items()}, path)


def mean(rows: Sequence[Mapping[str, Any]], setting: str, key: str) -> float:
    """Of a column, over the seeds. Raises: ValueError for a setting that is not in the table."""
    values = [row[key] for row in rows if row["setting"] == setting]
    if not values:
        raise ValueError(f"no rows of {setting!r}")
    return sum(values) / len(values)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a setting: mean (least to most) over the seeds. Exact nats are marked "=", bounds "≤"."""
    heads = ("nats", "Fréchet", "precision, %", "recall, %", "ms a sample")
    lines = [f"{'setting':<20}{'seeds':>6}" + "".join(f"{head:>24}" for head in heads) + f"{'CPU s':>8}"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        its = [row for row in rows if row["setting"] == setting]
        mark = {"bound": "≤ ", "exact": "= ", "none": ""}[density(setting)]
        cells = [
            mark + _spread([row["nats"] for row in its]) if mark else "–",
            _spread([row["frechet"] for row in its]),
            _spread([100 * row["precision"] for row in its], 0),
            _spread([100 * row["recall"] for row in its], 0),
            f"{mean(rows, setting, 'sample_ms'):.3g}".replace("nan", "–"),
        ]
        seconds = mean(rows, setting, "cpu_seconds")
        lines.append(
            f"{setting:<20}{len(its):>6}" + "".join(f"{cell:>24}" for cell in cells) + f"{seconds:>8.1f}"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    return "–" if any(map(math.isnan, values)) else spread(values, digits)


def main(arguments: Sequence[str] | None = None) -> int:
    help_for_seeds = f"how many of each setting, from 0 on (default {SEEDS})"
    options = study_parser(__doc__, ORDER, help_for_seeds, seeds=SEEDS).parse_args(arguments)
    if options.run:
        torch.set_num_threads(1)
        judge = Judge()
        for seed in range(options.seeds):
            for name in options.only or ORDER:
                row, samples = run(name, seed, judge=judge)
                print(*(f"{key}={value}" for key, value in _rounded(row).items()), flush=True)
                old = read_results() if RESULTS.exists() else []
                write_results([r for r in old if (r["setting"], r["seed"]) != (name, seed)] + [row])
                if seed == 0:
                    stored = read_samples() if SAMPLES.exists() else {}
                    write_samples({**{k: v.numpy() for k, v in stored.items()}, name: samples})
    if not RESULTS.exists():
        print(f"nothing is stored in {RESULTS}: --run measures")
        return 1
    print(summary(read_results()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
