"""Numbers that judge a generative model: likelihood, distance between sets of images, agreement of clusterings.

No function here knows a model. A likelihood is asked for through `log_weights` or `log_prob`; a set of images is judged
through *features*, the penultimate layer of a small classifier that this module trains in seconds on the course's own
data and keeps in `data/cache`.

- importance-sampled likelihood: Burda, Grosse, Salakhutdinov 2015, arXiv:1509.00519, section 3
- Fréchet distance: Heusel et al. 2017, arXiv:1706.08500 (there: of Inception features, hence "FID")
- improved precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991
- clustering accuracy: Xie, Girshick, Farhadi 2016, arXiv:1511.06335, equation 10; assignment by Kuhn 1955

NOTE Our Fréchet distances use the features of the small classifier, not those of Inception: they compare the models of
this course with each other, never with the FID values that papers print.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

CACHE = Path(__file__).resolve().parents[1] / "data" / "cache"


# ---- likelihood ------------------------------------------------------------------------------------------------------


def bits_per_dim(nats: float | Tensor, dims: int | Sequence[int]) -> float | Tensor:
    """Negative log-likelihood in nats per image → bits per dimension: nats / (D ln 2).

    Args:
        nats: −log p(x) of *discrete* x, in nats per image; a number or a tensor of any shape.
        dims: D, the number of dimensions, or the shape of one image, such as (1, 28, 28).

    Returns: the same kind as `nats`. A uniform model over 256 levels gives 8.
    Raises: ValueError if D < 1.
    """
    count = math.prod(dims) if isinstance(dims, Sequence) else int(dims)
    if count < 1:
        raise ValueError(f"dims must name at least one dimension, got {dims!r}")
    return nats / (count * math.log(2.0))


class Estimate(NamedTuple):
    """A mean over examples and the standard error of that mean."""

    mean: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.stderr:.2f}"


def importance_nll(
    model: object,
    images: Tensor | Iterable,
    k: int = 5000,
    *,
    batch_size: int = 64,
    chunk: int = 100,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Negative log-likelihood in nats per image, estimated by importance sampling: −log 1/k Σᵢ wᵢ.

    The estimate is an upper bound in expectation and falls towards −log p(x) as k grows (Burda et al. 2015, theorem 1).

    Args:
        model: has `log_prob(x, k)` → (B,), or `log_weights(x, k)` → (k, B), or is itself a callable
            log_weights(x, k); the weights are log p(x, zᵢ) − log q(zᵢ|x) of one and the same x: a model that draws
            anything in x's place (a binarisation) has to come with a log_prob that draws it once for all k.
            A module is put into eval mode for the call and run on its own device.
        images: (N, …), or an iterable of batches (a tensor, or a tuple whose first entry is the images).
        k: number of samples of z per image.
        batch_size: images at a time, when `images` is one tensor.
        chunk: samples at a time: memory is that of chunk × batch_size images. Only for `log_weights`.
        seed, generator: the random numbers; a generator, where given, replaces the seed. The global state is untouched.

    Returns: Estimate(mean, stderr), nats per image; stderr is over the images (nan for a single one).
    Raises: ValueError for k, chunk or batch_size < 1, no images, an object of another kind, or weights of a
    wrong shape.
    """
    for name, value in (("k", k), ("chunk", chunk), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    log_prob = _log_prob_function(model, chunk)
    module = model if isinstance(model, nn.Module) else None
    device = next((p.device for p in module.parameters()), None) if module else None
    if generator is not None:
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    was_training = module.training if module else False
    if module:
        module.eval()
    try:
        cuda = [device] if device is not None and device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            values = [log_prob(x.to(device), k).double().cpu() for x in _batches(images, batch_size)]
    finally:
        if module:
            module.train(was_training)
    if not values:
        raise ValueError("importance_nll got no images")
    nll = -torch.cat(values)
    stderr = float(nll.std() / len(nll) ** 0.5) if len(nll) > 1 else math.nan
    return Estimate(float(nll.mean()), stderr)


def _log_prob_function(model: object, chunk: int) -> Callable[[Tensor, int], Tensor]:
    """The one thing asked of a model, as a function (x, k) → (B,) in nats."""
    if hasattr(model, "log_prob"):
        return model.log_prob
    log_weights = getattr(model, "log_weights", None)
    if log_weights is None and callable(model) and not isinstance(model, nn.Module):
        log_weights = model
    if log_weights is None:
        raise ValueError(
            f"expected log_weights(x, k), log_prob(x, k) or a callable, got {type(model).__name__}"
        )

    def log_prob(x: Tensor, k: int) -> Tensor:
        parts = []
        for start in range(0, k, chunk):
            n = min(chunk, k - start)
            weights = log_weights(x, n)  # (n, B)
            if weights.shape != (n, len(x)):
                raise ValueError(
                    f"log_weights must return (k, B) = {(n, len(x))}, got {tuple(weights.shape)}"
                )
            parts.append(torch.logsumexp(weights.double(), dim=0))
        return torch.logsumexp(torch.stack(parts), dim=0) - math.log(k)  # log of the *mean* weight

    return log_prob


def _batches(images: Tensor | Iterable, batch_size: int) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        yield from images.split(batch_size)
        return
    for batch in images:
        yield batch if isinstance(batch, Tensor) else batch[0]


# ---- distances between sets of features ------------------------------------------------------------------------------


def _features(name: str, x: Tensor | np.ndarray) -> Tensor:
    x = torch.as_tensor(x)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"{name} must be features (N, F) with N ≥ 2, got shape {tuple(x.shape)}")
    x = x.detach().double()
    if not x.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite features")
    return x


def _same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both sets need the same features, got {a.shape[1]} and {b.shape[1]} columns")


def frechet_distance(features_a: Tensor | np.ndarray, features_b: Tensor | np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to two sets of features.

    ‖μa − μb‖² + tr Σa + tr Σb − 2 tr (Σa Σb)^½   (Heusel et al. 2017, equation 6), covariances with n − 1.

    The last trace is computed without a matrix square root. With Σ = AᵀA, where A holds the centred features over
    √(n−1), the eigenvalues of Σa Σb are the squared singular values of A Bᵀ, so the trace is the sum of the singular
    values: exact for singular covariances too (fewer images than features), and symmetric.

    Args: features_a (N, F), features_b (M, F); any floating type, computed in float64.
    Returns: the distance, ≥ 0, in squared feature units. It is biased upwards for small N: compare equal N only.
    Raises: ValueError for other shapes, fewer than two rows, different F, or NaN.
    """
    a, b = _features("features_a", features_a), _features("features_b", features_b)
    _same_width(a, b)
    mean_a, root_a = _mean_and_root(a)
    mean_b, root_b = _mean_and_root(b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(0.0, float(distance))  # rounding may leave −1e-13 for equal sets


def _mean_and_root(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and R (min(N, F), F) with RᵀR = covariance of the rows of x."""
    mean = x.mean(dim=0)
    root = (x - mean) / math.sqrt(len(x) - 1)
    if len(x) > x.shape[1]:
        root = torch.linalg.qr(root, mode="r").R  # same RᵀR, fewer rows
    return mean, root


class PrecisionRecall(NamedTuple):
    """Share of fakes that look real (precision) and of reals that the fakes cover (recall), both in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 3, *, chunk: int = 1024
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1–3).

    The support of a set is the union of balls around its points, each reaching to its k-th nearest neighbour in
    the set. Precision: share of fake points inside the support of the real ones. Recall: the other way round.

    Args: real (N, F), fake (M, F); k: the neighbour, 1 ≤ k < min(N, M); chunk: rows of the distance matrix at a time.
    Returns: PrecisionRecall(precision, recall).
    Raises: ValueError for other shapes, different F, NaN, or k out of range.
    """
    real, fake = _features("real", real), _features("fake", fake)
    _same_width(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must lie in 1 … {min(len(real), len(fake)) - 1} for these sets, got {k}")
    return PrecisionRecall(
        precision=_share_inside(fake, real, _radii(real, k, chunk), chunk),
        recall=_share_inside(real, fake, _radii(fake, k, chunk), chunk),
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-product shortcut ‖a‖² + ‖b‖² − 2ab loses small distances, and with them the balls of duplicates.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int, chunk: int) -> Tensor:
    """Distance of each point to its k-th nearest neighbour (N,); the point itself, at 0, is the zeroth."""
    return torch.cat([_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(chunk)])


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, chunk: int) -> float:
    inside = [(_distances(rows, centres) <= radii).any(dim=1) for rows in points.split(chunk)]
    return float(torch.cat(inside).double().mean())


# ---- clusterings -----------------------------------------------------------------------------------------------------


def _label_pair(true: Tensor | np.ndarray, pred: Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, pred = np.asarray(true), np.asarray(pred)
    if true.ndim != 1 or true.shape != pred.shape or len(true) == 0:
        raise ValueError(
            f"expected two label vectors of one length, got shapes {true.shape} and {pred.shape}"
        )
    return true, pred


def clustering_accuracy(true: Tensor | np.ndarray, pred: Tensor | np.ndarray) -> float:
    """Share of examples that are right under the best one-to-one naming of clusters by labels.

    The naming is found by the Hungarian method. With more clusters than labels (or fewer) the surplus stays
    unnamed, and its examples count as wrong.

    Args: true (N,), pred (N,): labels and clusters, any integers.
    Returns: accuracy in (0, 1]. Raises: ValueError for vectors of unequal length or none.
    """
    true, pred = _label_pair(true, pred)
    labels, true_index = np.unique(true, return_inverse=True)
    clusters, pred_index = np.unique(pred, return_inverse=True)
    counts = np.zeros((len(clusters), len(labels)), dtype=np.int64)
    np.add.at(counts, (pred_index, true_index), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(true))


def nmi(true: Tensor | np.ndarray, pred: Tensor | np.ndarray) -> float:
    """Normalised mutual information of two labellings, in [0, 1] (arithmetic mean of the entropies, as scikit-learn).

    Raises: ValueError for vectors of unequal length or none.
    """
    from sklearn.metrics import normalized_mutual_info_score  # a slow import that most notebooks do without

    true, pred = _label_pair(true, pred)
    return float(normalized_mutual_info_score(true, pred))


# ---- features --------------------------------------------------------------------------------------------------------


class FeatureExtractor(nn.Module):
    """A small convolutional classifier; its penultimate layer is the space in which sets of images are compared.

    `forward(x)`: (N, C, H, W) in [0, 1] → features (N, F). `logits(x)` → (N, classes). `accuracy`: share of the test
    split that it names rightly. `label_names`: what the logits stand for.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], n_classes: int, width: int = 16, n_features: int = 64
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.accuracy = math.nan
        channels, height, side = self.image_shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=1 if side < 16 else 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=1 if side < 16 else 2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, side)).shape[1]
        self.penultimate = nn.Linear(flat, n_features)
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape or not x.is_floating_point():
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"expected images (N, {expected}) in [0, 1], got {x.dtype} {tuple(x.shape)}")
        # A smooth activation: features that are exactly zero for whole classes make covariances singular for no reason.
        return F.gelu(self.penultimate(self.convolutions(2 * x - 1)))

    def logits(self, x: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, C, H, W) in [0, 1]."""
        return self.head(self(x))


def _train_classifier(
    net: FeatureExtractor, images: Tensor, labels: Tensor, steps: int, batch_size: int
) -> None:
    """Cross-entropy with AdamW and one warm-up-and-decay cycle; random numbers from the global generator."""
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    net.train()
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch_size:  # the next epoch begins in the middle of a batch
            order = torch.cat([order, torch.randperm(len(images))])
        batch, order = order[:batch_size], order[batch_size:]
        loss = F.cross_entropy(net.logits(images[batch]), labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()


def feature_extractor(
    name: str = "glyphs",
    *,
    seed: int = 0,
    steps: int = 600,
    cache: Path | str | None = None,
    **load_options: object,
) -> FeatureExtractor:
    """The classifier of a data set, trained once (seconds on one core) and read from the cache ever after.

    Args:
        name: a data set with labels, as in `course_lib.data.load`.
        seed, steps: of the training. One thread is used, so that the result does not depend on their number.
        cache: folder of the trained weights; default `data/cache` of the repository.
        load_options: passed on to `load`, such as image_size=32 or root=….

    Returns: a FeatureExtractor in eval mode on the CPU, gradients off. The cache file's name holds a key over the
    data and the code; its contents are checked at each reading. A damaged file is reported by a warning and
    trained anew.
    Raises: ValueError for an unknown name or a data set without labels.
    """
    from course_lib import data

    if load_options.get("levels") is not None:
        raise ValueError("feature_extractor works on images in [0, 1]: leave levels out")
    train, test = (data.load(name, split=split, **load_options) for split in ("train", "test"))
    if not isinstance(train, data.ImageDataset):
        raise ValueError(f"feature_extractor needs images with labels; {name!r} is a {type(train).__name__}")
    images, labels = train.tensor().float(), train.labels.long()
    n_classes = int(max(labels.max(), test.labels.max())) + 1
    key = _digest(
        inspect.getsource(FeatureExtractor),
        inspect.getsource(_train_classifier),
        seed,
        steps,
        images,
        labels,
        test.labels,
    )
    path = Path(cache or CACHE) / f"{name.replace('/', '-')}-{key[:16]}.pt"
    net = FeatureExtractor(tuple(images.shape[1:]), n_classes)
    if not _read_cache(path, net):
        _train_reproducibly(net, images, labels, seed, steps)
        net.accuracy = _accuracy(net, test.tensor().float(), test.labels.long())
        _write_cache(path, net)
    net.label_names = getattr(train, "label_names", None)
    return net.eval().requires_grad_(False)


def _train_reproducibly(net: FeatureExtractor, images: Tensor, labels: Tensor, seed: int, steps: int) -> None:
    """Train from the seed alone: own random state, one thread (sums in another order give other weights)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            with torch.enable_grad():
                _train_classifier(net, images, labels, steps, batch_size=min(128, len(images)))
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _accuracy(net: FeatureExtractor, images: Tensor, labels: Tensor) -> float:
    predicted = torch.cat([net.logits(x).argmax(dim=1) for x in images.split(512)])
    return float((predicted == labels).double().mean())


def _digest(*parts: object) -> str:
    """SHA-256 over tensors (values and shapes) and anything printable."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(str((part.dtype, tuple(part.shape))).encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def _checksum(state: dict[str, Tensor], accuracy: float) -> str:
    return _digest(accuracy, *(item for name in sorted(state) for item in (name, state[name])))


def _read_cache(path: Path, net: FeatureExtractor) -> bool:
    """Load the weights if a sound file is there. Damaged: warn, and answer False."""
    if not path.exists():
        return False
    try:
        stored = torch.load(path, weights_only=True)
        if stored["checksum"] != _checksum(stored["state"], stored["accuracy"]):
            raise ValueError("the checksum does not fit the contents")
        net.load_state_dict(stored["state"])
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        warnings.warn(f"damaged cache {path} ({error}); training the classifier anew", stacklevel=3)
        return False
    net.accuracy = stored["accuracy"]
    return True


def _write_cache(path: Path, net: FeatureExtractor) -> None:
    """Write beside, then rename: a reader sees the whole file or none, also with several test workers."""
    state = net.state_dict()
    stored = {"state": state, "accuracy": net.accuracy, "checksum": _checksum(state, net.accuracy)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    except OSError as error:
        warnings.warn(
            f"cannot cache the classifier in {path.parent} ({error}); it will be trained again", stacklevel=3
        )
        return
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(stored, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
