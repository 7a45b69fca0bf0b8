"""What the command line measures and shows of a model, by the family it belongs to.

Likelihoods and bounds where there are any, clusters, rate and distortion of codes, distances between sets of samples,
errors of translations; and a picture with data, reconstructions, completions or samples.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.models import is_adversarial, is_autoregressive, is_translator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from course_lib.adversarial.gan import GAN
    from course_lib.autoregressive.model import PixelModel
    from course_lib.latent.code_prior import CodePrior
    from course_lib.training import Algorithm


def evaluated(algorithm: Algorithm) -> nn.Module | GAN:
    """The network that counts: the average of weights where there is one. A `GAN` samples from its own average."""
    if is_adversarial(algorithm):
        return algorithm
    return algorithm.model if algorithm.ema is None else algorithm.ema.module


def mean_terms(model: nn.Module, dataset: Any, batch_size: int = 500) -> dict[str, float]:
    """The terms of ``model.loss`` over a data set, and the ELBO where they make one; nats per example."""
    import torch

    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    model.eval()
    with torch.no_grad():
        for start in range(0, len(dataset), batch_size):
            x, label = dataset.batch(range(start, min(start + batch_size, len(dataset))))
            for name, value in model.loss(x.to(device), label.to(device)).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(x)
    means = {name: value / len(dataset) for name, value in sums.items()}
    if {"recon", "kl"} <= means.keys():
        means["elbo"] = -(means["recon"] + means["kl"])
    return means


def clustering_terms(model: nn.Module, dataset: Any) -> dict[str, float]:
    """`mean_terms`, and how well the clusters agree with labels that no training has seen: accuracy and NMI."""
    import torch

    from course_lib import metrics

    terms = mean_terms(model, dataset)
    x, labels = dataset.batch(range(len(dataset)))
    device, random = next(model.parameters()).device, torch.Generator().manual_seed(0)
    clusters = torch.cat([model.cluster(part.to(device), random).cpu() for part in x.split(500)])
    accuracy = metrics.clustering_accuracy(labels, clusters)
    return terms | {"cluster_accuracy": accuracy, "cluster_nmi": metrics.nmi(labels, clusters)}


def pixel_terms(model: PixelModel, dataset: Any) -> dict[str, float]:
    """Exact −log p(x) in nats an image, its standard error over the images, and bits per dimension.

    Grey pictures are binarised once, always in the same way, so that two models are measured by the same pictures.
    """
    import torch

    device, random = next(model.parameters()).device, torch.Generator().manual_seed(0)
    x, labels = dataset.batch(range(len(dataset)))
    x, parts = model.prepare(x, random), []
    conditions = labels if getattr(model, "num_classes", None) else None
    model.eval()
    with torch.no_grad():
        for start in range(0, len(x), 100):
            chosen = slice(start, start + 100)
            condition = None if conditions is None else conditions[chosen].to(device)
            parts.append(-model.log_prob(x[chosen].to(device), condition).cpu())
    nll = torch.cat(parts).double()
    return {
        "nll": nll.mean().item(),
        "nll_stderr": nll.std().item() / math.sqrt(len(nll)),
        "bits_per_dim": nll.mean().item() / (math.prod(model.shape) * math.log(2)),
    }


def code_terms(prior: CodePrior, dataset: Any) -> dict[str, float]:
    """Rate of the codes under their prior, beside that of a uniform one, and distortion; nats an image and bits per
    dimension; of each level the perplexity of its codes and how many of them are in use."""
    import torch

    from course_lib.latent.code_prior import code_sizes
    from course_lib.latent.vqvae import perplexity

    device, random = next(prior.parameters()).device, torch.Generator().manual_seed(0)
    x = prior.autoencoder.likelihood.prepare(dataset.batch(range(len(dataset)))[0], random)
    prior.eval()
    means: dict[str, float] = {}
    codes = []
    for part in x.split(500):
        part, share = part.to(device), len(part) / len(x)
        codes.append(prior.encode(part))
        bits = prior.bits_per_dim(part, grey_levels=dataset.stored_max + 1)
        terms = prior.rate_distortion(part) | {"bits_per_dim": bits}
        for name, value in terms.items():
            means[name] = means.get(name, 0.0) + share * value.mean().item()
    grids, sizes = prior.levels(torch.cat(codes)), code_sizes(prior.autoencoder)
    for level, grid, size in zip(("_top", "_bottom") if len(grids) > 1 else ("",), grids, sizes, strict=True):
        counts = torch.bincount(grid.flatten(), minlength=size)
        means |= {
            f"perplexity{level}": perplexity(counts).item(),
            f"codes_used{level}": int((counts > 0).sum()),
        }
    return means


class SampleJudge:
    """What can be said of a generator that has no likelihood, from as many samples as there are examples.

    Pictures: Fréchet distance, precision and recall in the features of a small classifier of the data set (see
    `metrics.feature_extractor`). Points with known modes: modes covered and the share of high-quality samples. Of both:
    the mean of D's outputs for real minus for generated examples, which for a critic estimates W.
    """

    def __init__(self, name: str, image_size: int | None, root: str | None) -> None:
        self.name, self.options = name, {"image_size": image_size, "root": root}
        self._extractor: nn.Module | None = None

    def __call__(self, gan: GAN, dataset: Any) -> dict[str, float]:
        import torch

        from course_lib.adversarial.gan import mode_coverage

        real, _ = dataset.batch(range(len(dataset)))
        device = next(gan.plain("generator").parameters()).device
        random = torch.Generator(device).manual_seed(0)
        counts = [min(500, len(real) - start) for start in range(0, len(real), 500)]
        fake = torch.cat([gan.sample(n, random).cpu() for n in counts])
        network = gan.plain("discriminator")
        mode = network.training
        network.eval()
        with torch.no_grad():
            gap = torch.cat([network(a.to(device)) - network(b.to(device)) for a, b in _pairs(real, fake)])
        network.train(mode)
        terms = {"d_gap": gap.mean().item()}
        if real.ndim == 4:
            return terms | self._distances(real, fake)
        if dataset.means is not None:
            coverage = mode_coverage(fake, dataset.means, dataset.std)
            terms |= {"modes": coverage.modes, "high_quality": coverage.high_quality}
        return terms

    def _distances(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        import torch

        from course_lib import metrics

        if self._extractor is None:
            self._extractor = metrics.feature_extractor(self.name, **self.options)
        a, b = (torch.cat([self._extractor(part) for part in x.split(500)]) for x in (real, fake))
        precision, recall = metrics.precision_recall(a, b)
        return {"frechet": metrics.frechet_distance(a, b), "precision": precision, "recall": recall}


def translation_terms(model: Any, dataset: Any) -> dict[str, float]:
    """What a data set without labels can say of a translator; pixels in [0, 1].

    Pix2Pix: "l1", mean |difference| from the true picture, and "energy", the gradient energy of the drawn pictures
    divided by the true ones' (below 1: blurred). CycleGAN: "cycle_a", "cycle_b": mean |difference| from what it began
    with, after translating there and back; this can be small although nothing was translated.
    """
    from course_lib.adversarial.translation_study import gradient_energy

    parts = [dataset.batch(range(i, min(i + 20, len(dataset)))) for i in range(0, len(dataset), 20)]
    sums: dict[str, list[float]] = {}
    for a, b in parts:
        shown = [block.cpu() for block in _translations(model, a, b)[0]]
        if len(shown) == 3:
            terms = {
                "l1": (shown[1] - b).abs(),
                "drawn": gradient_energy(shown[1]),
                "true": gradient_energy(b),
            }
        else:
            terms = {"cycle_a": (shown[2] - a).abs(), "cycle_b": (shown[5] - b).abs()}
        for name, value in terms.items():
            sums.setdefault(name, []).append(float(value.mean()) * len(a))
    means = {name: sum(values) / len(dataset) for name, values in sums.items()}
    if "drawn" in means:
        means["energy"] = means.pop("drawn") / means.pop("true")
    return means


def _translations(model: Any, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[str]]:
    """Rows of pictures: x, G(x), y of Pix2Pix; a, G(a), F(G(a)), b, F(b), G(F(b)) of CycleGAN."""
    import torch

    network = model.plain("g_ab" if hasattr(model, "g_ab") else "generator")
    device = next(network.parameters()).device
    if hasattr(model, "generator"):
        drawn = model.translate(a.to(device), torch.Generator(device).manual_seed(0))
        return [a, drawn, b], ["condition", "drawn", "true"]
    shown = []
    for x, there, back in ((a, "b", "a"), (b, "a", "b")):
        translated = model.translate(x.to(device), there)
        shown += [x, translated, model.translate(translated, back)]
    return shown, ["A", "A → B", "→ A", "B", "B → A", "→ B"]


def _pairs(real: Tensor, fake: Tensor) -> zip:
    return zip(real.split(500), fake.split(500), strict=True)


def _columns(model: nn.Module | GAN, x: Tensor) -> tuple[list[Tensor], list[str]]:
    """What is shown below the examples x: reconstructions if the model makes them, samples if it draws them."""
    import torch

    if is_autoregressive(model):
        return _completed(model, x)
    if is_adversarial(model):
        device = next(model.plain("generator").parameters()).device
        shown, labels = [x], ["data"]
    else:
        model.eval()
        device = next(model.parameters()).device
        shown = [x, getattr(model, "reconstruct", model)(x.to(device))]
        labels = ["data", "reconstruction"]
    if hasattr(model, "sample"):
        shown.append(model.sample(3 * len(x), generator=torch.Generator(device).manual_seed(0)))
        labels += ["samples", "", ""]
    return shown, labels


def _completed(model: PixelModel, x: Tensor) -> tuple[list[Tensor], list[str]]:
    """Below the examples: their upper halves, completed; two rows of samples. Classes, where asked for, in turn."""
    import torch

    device = next(model.parameters()).device
    random, n, height = torch.Generator(device).manual_seed(0), len(x), model.shape[1]
    x = model.prepare(x, torch.Generator().manual_seed(0)).to(device)
    classes = getattr(model, "num_classes", None)
    condition = None if classes is None else torch.arange(3 * n, device=device) % classes
    known = torch.zeros(model.shape[1:], dtype=torch.bool, device=device)
    known[: height // 2] = True
    drawn = model.complete(
        torch.cat([x, torch.zeros_like(x), torch.zeros_like(x)]),
        torch.cat([known.expand(n, -1, -1), torch.zeros_like(known).expand(2 * n, -1, -1)]),
        random,
        condition=condition,
    )
    shown = [block.float() / (model.levels - 1) for block in (x, drawn)]
    return shown, ["data", "lower half drawn", "samples", ""]


def save_samples(model: nn.Module | GAN, dataset: Any, path: Path) -> None:
    """Test examples, below them their reconstructions, below those three rows of samples, as far as there are any."""
    import torch

    from course_lib import plotting

    images = dataset[0][0].ndim == 3
    x, y = dataset.batch(range(min(10 if images else 500, len(dataset))))
    shown, labels = _translations(model, x, y) if is_translator(model) else _columns(model, x)
    shown = [block.detach().cpu() for block in shown]
    if images:
        figure = plotting.image_grid(torch.cat(shown).clamp(0, 1), ncols=len(x), row_labels=labels)
    else:
        figure = plotting.latent_scatter(shown[-1], title=labels[len(shown) - 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plotting.close(figure)
