"""Variational deep embedding: a variational autoencoder whose prior is a mixture of Gaussians, so that it clusters.

The model draws a cluster c ~ Categorical(π), a latent z ~ N(μ_c, diag σ_c²) and then x ~ p_θ(x|z); π, μ_c and σ_c are
learned. The posterior is taken as q(z, c|x) = q(z|x) q(c|x) with q(z|x) = N(μ̃(x), diag σ̃²(x)), and the bound has five
terms,

    ELBO(x) = E_q[ log p(x|z) + log p(z|c) + log p(c) − log q(z|x) − log q(c|x) ].

For q(c|x) the paper takes γ_c = p(c|z) ∝ π_c N(z; μ_c, σ_c²) at the drawn z. At that z nothing is better:
Σ_c γ_c log(p(z, c)/γ_c) = log p(z) − KL(γ ‖ p(c|z)). As each γ gives a bound, so does their average over z. It is not
the best that this family reaches: among the q(c|x) that do not know z, `mean_field_log_responsibilities` is.

Training has three stages: an autoencoder (`Pretraining`), a mixture fitted to its codes (`VaDE.initialise_from_gmm`),
and then everything on the ELBO. Without the first two, the clusters are seldom those that a person sees.

Paper: Z. Jiang, Y. Zheng, H. Tan, B. Tang, H. Zhou (2017), Variational Deep Embedding, arXiv:1611.05148. Departures:
the autoencoder is trained end to end in place of layer by layer; nothing starts from stored weights; one learning rate
for networks and mixture; the encoder's variances start in proportion to those of the mixture; clusters are read at
z = μ̃(x), not at a draw. Two options go beyond it. `augment`: in training the encoder sees a changed picture, and the
decoder has to give the unchanged one. The average of q(z|x̃) over the changes x̃ is a posterior, too, and the ELBO is
concave in q: what is trained is a bound on the bound. `covariance="aligned"`: the latent axes are chosen to suit the
mixture. `balanced`: π_c = 1/K is taken for granted when the mixture is fitted.

Logs are natural and all terms are nats per example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.latent.autoencoder import (
    Activation,
    conv_decoder,
    conv_encoder,
    gaussian_noise,
    mlp_decoder,
    mlp_encoder,
)
from course_lib.latent.likelihoods import LOG_2PI, Bernoulli, Likelihood
from course_lib.latent.vae import VAE, check_k, gaussian_log_prob, reparameterize

if TYPE_CHECKING:  # a slow import, and only one function needs it
    from sklearn.mixture import GaussianMixture

#: (pictures (B, C, H, W), generator or None) → the pictures, each changed a little, such as `RandomAffine`.
Augmentation = Callable[[Tensor, torch.Generator | None], Tensor]

#: The terms of the bound as `VaDE.elbo` names them; their sum is the ELBO.
TERMS = ("log_likelihood", "log_p_z_given_c", "log_p_c", "entropy_z", "entropy_c")

#: What `VaDE.initialise_from_gmm` knows of a mixture's covariances.
COVARIANCES = ("diag", "full", "aligned", "tied")


class MixturePrior(nn.Module):
    """p(z, c) = π_c N(z; μ_c, diag σ_c²) with K = `clusters` components, all of it learned.

    Parameters: `logits` (K,) with π = softmax(logits); `mu` and `logvar` (K, d). They start at equal weights, unit
    variances, and means drawn from N(0, I).
    """

    def __init__(self, clusters: int, latent_dim: int):
        super().__init__()
        if clusters < 1 or latent_dim < 1:
            raise ValueError(f"expected clusters ≥ 1 and latent_dim ≥ 1, got {clusters} and {latent_dim}")
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.mu = nn.Parameter(torch.randn(clusters, latent_dim))
        self.logvar = nn.Parameter(torch.zeros(clusters, latent_dim))

    @property
    def log_weights(self) -> Tensor:
        """log π, (K,)."""
        return self.logits.log_softmax(dim=0)

    def log_joint(self, z: Tensor) -> Tensor:
        """log p(z, c) = log π_c + log N(z; μ_c, σ_c²) for every c: (…, d) → (…, K)."""
        return self.log_weights + gaussian_log_prob(z.unsqueeze(-2), self.mu, self.logvar)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) = log Σ_c p(z, c): (…, d) → (…)."""
        return self.log_joint(z).logsumexp(dim=-1)

    def log_responsibilities(self, z: Tensor) -> Tensor:
        """log p(c|z) = log p(z, c) − log p(z): (…, d) → (…, K), finite however far z lies (paper, eq. 16)."""
        return self.log_joint(z).log_softmax(dim=-1)

    def sample(
        self, n: int, generator: torch.Generator | None = None, cluster: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """n draws (z (n, d), c (n,)); with `cluster` all from that component."""
        K = len(self.logits)
        if cluster is not None and not (isinstance(cluster, int) and 0 <= cluster < K):
            raise ValueError(f"cluster should be None or one of 0 to {K - 1}, got {cluster!r}")
        if cluster is None:
            weights = self.log_weights.exp().to(self.logits.device if generator is None else generator.device)
            c = torch.multinomial(weights, n, replacement=True, generator=generator).to(self.logits.device)
        else:
            c = torch.full((n,), cluster, device=self.logits.device)
        noise = gaussian_noise((n, self.mu.shape[1]), self.mu, generator)
        return self.mu[c] + torch.exp(0.5 * self.logvar[c]) * noise, c


# --- The terms of the bound: closed forms for q(z|x) = N(μ, diag σ²) and q(c|x) = γ ---------------------------
# The first term, E_q[log p(x|z)], is the likelihood at the drawn z.


def expected_log_p_z_given_c(gamma: Tensor, mu: Tensor, logvar: Tensor, prior: MixturePrior) -> Tensor:
    """E_q[log p(z|c)] = −½ Σ_c γ_c Σ_j (log 2π + log σ_cj² + (σ_j² + (μ_j − μ_cj)²) / σ_cj²): (…, K), (…, d) → (…).

    For one c and j, E_q[(z_j − μ_cj)²] = Var z_j + (E z_j − μ_cj)² = σ_j² + (μ_j − μ_cj)²; the rest of the log-density
    is constant in z; c is drawn independently of z, so γ_c weighs it (paper, eq. 12, second line).
    """
    return (gamma * _log_p_z_given_each_c(mu, logvar, prior)).sum(dim=-1)


def expected_log_p_c(gamma: Tensor, prior: MixturePrior) -> Tensor:
    """E_q[log p(c)] = Σ_c γ_c log π_c, the definition of an expectation over c: (…, K) → (…), nats, at most 0."""
    return (gamma * prior.log_weights).sum(dim=-1)


def entropy_of_z(logvar: Tensor) -> Tensor:
    """−E_q[log q(z|x)] = ½ Σ_j (1 + log 2π + log σ_j²): (…, d) → (…), nats.

    −log q(z_j) = ½ (log 2π + log σ_j² + ((z_j − μ_j)/σ_j)²), and the last square has mean 1.
    """
    return 0.5 * (1 + LOG_2PI + logvar).sum(dim=-1)


def entropy_of_c(log_gamma: Tensor) -> Tensor:
    """−E_q[log q(c|x)] = −Σ_c γ_c log γ_c: log γ (…, K) → (…), nats, from 0 to log K.

    From log γ, so that a γ_c that underflows to 0 adds 0 and not 0 · log 0.
    """
    return -(log_gamma.exp() * log_gamma).sum(dim=-1)


def mean_field_log_responsibilities(mu: Tensor, logvar: Tensor, prior: MixturePrior) -> Tensor:
    """log of the best q(c|x) that does not depend on z: γ_c ∝ π_c exp E_q(z|x)[log p(z|c)]; (…, d) → (…, K).

    The terms with γ are Σ_c γ_c (log π_c + E_q[log p(z|c)] − log γ_c) = const − KL(γ ‖ their softmax).
    """
    return (prior.log_weights + _log_p_z_given_each_c(mu, logvar, prior)).log_softmax(dim=-1)


def _log_p_z_given_each_c(mu: Tensor, logvar: Tensor, prior: MixturePrior) -> Tensor:
    """E_q(z|x)[log p(z|c)] for every c: (…, d) → (…, K)."""
    mu, variance = mu.unsqueeze(-2), logvar.exp().unsqueeze(-2)
    squares = (variance + (mu - prior.mu).square()) * torch.exp(-prior.logvar)
    return -0.5 * (LOG_2PI + prior.logvar + squares).sum(dim=-1)


# --- The model ------------------------------------------------------------------------------------------------


class VaDE(VAE):
    """A variational autoencoder with a `MixturePrior` of `clusters` components. encoder, decoder: as for `VAE`.

    augment: what `loss` does in training mode to the pictures that the encoder sees; None: nothing.
    From `VAE` it has encode, decode, reconstruct, active_units, and log_weights and log_prob, which know this prior.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        latent_dim: int,
        clusters: int = 10,
        input_shape: Sequence[int] | None = None,
        augment: Augmentation | None = None,
    ):
        super().__init__(encoder, decoder, likelihood, latent_dim, input_shape=input_shape)
        self.augment = augment
        self.prior = MixturePrior(clusters, latent_dim)
        self.logvar_shift = nn.Parameter(torch.zeros(latent_dim))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ̃ and log σ̃² of q(z|x), each (B, latent_dim): the encoder's, and log σ̃² moved by `logvar_shift`."""
        mu, logvar = super().encode(x)
        return mu, logvar + self.logvar_shift

    def elbo(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        posterior: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """{"elbo"} and its five `TERMS`, each (B,), from one z per example: the paper's algorithm, eq. 12 with L = 1.

        "log_likelihood" log p(x|z); "log_p_z_given_c" E log p(z|c); "log_p_c" E log p(c); "entropy_z" −E log q(z|x);
        "entropy_c" −E log q(c|x). posterior: (μ, log σ²) in place of the encoder's.
        """
        x = self._prepare(x, generator)
        mu, logvar = self.encode(x) if posterior is None else posterior
        return self._terms(x, reparameterize(mu, logvar, generator), mu, logvar)

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalars, means over the batch: "loss" = "recon" + "kl" = −ELBO, and the terms other than "log_likelihood".

        recon = −log p(x|z); kl, minus the sum of the other four terms, is KL(q(z, c|x) ‖ p(z, c)). `label` is ignored.
        """
        posterior = self.encode(self.augment(x, generator)) if self.training and self.augment else None
        terms = {name: value.mean() for name, value in self.elbo(x, generator, posterior).items()}
        recon = -terms.pop("log_likelihood")
        return {"loss": -terms.pop("elbo"), "recon": recon, "kl": -sum(terms.values()), **terms}

    @torch.no_grad()
    def responsibilities(
        self, x: Tensor, k: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """q(c|x), (B, K), rows that sum to 1: p(c|z) at z = μ̃(x), or with k its mean over k draws of z (eq. 16)."""
        if k is not None:
            check_k(k)
        mu, logvar = self.encode(self._prepare(x, generator))
        z = mu if k is None else reparameterize(mu.expand(k, *mu.shape), logvar, generator)
        gamma = self.prior.log_responsibilities(z).exp()
        return gamma if k is None else gamma.mean(dim=0)

    def cluster(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The component of each example with the largest responsibility, int64 (B,)."""
        return self.responsibilities(x, generator=generator).argmax(dim=1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        cluster: int | None = None,
        draw_pixels: bool = False,
    ) -> Tensor:
        """n images (n, C, H, W) in [0, 1], or points, as `VAE.sample`, z from the mixture or from one component."""
        if n < 1:
            raise ValueError(f"n should be at least 1, got {n}")
        z, _ = self.prior.sample(n, generator, cluster)
        return self._image(self.decode(z), generator, draw_pixels)

    @torch.no_grad()
    def initialise_from_gmm(
        self,
        x: Tensor,
        *,
        covariance: str = "diag",
        balanced: bool = False,
        regularise: float = 0.0,
        seed: int = 0,
        n_init: int = 10,
        batch_size: int = 1000,
    ) -> GaussianMixture:
        """Put a mixture, fitted to the codes μ̃(x) by EM, in the prior's place; returns scikit-learn's object.

        covariance: "diag", as in the paper; or "full": components that may be tilted, of which the prior takes the
        diagonal, since the axes of an autoencoder's codes mean nothing and its clusters seldom lie along them; or
        "aligned": as "full", but first the axes are changed, see `_align`, so that the diagonals lose little; or
        "tied": one tilted covariance for all, which the same change of axes makes round, so that nothing is lost.
        Pretraining has given σ̃ no scale, and a posterior much wider than the components would cost a thousand nats
        and the clusters: `logvar_shift` brings σ̃², on average over x, to a tenth of the variance within components.
        balanced, regularise, n_init: of `fit_mixture`. x (N, …) may be on any device.
        """
        K = len(self.prior.logits)
        if covariance not in COVARIANCES:
            raise ValueError(f"covariance should be one of {', '.join(COVARIANCES)}, got {covariance!r}")
        if len(x) < 2 * K:
            raise ValueError(f"a mixture of {K} components needs at least {2 * K} examples, got {len(x)}")
        generator = torch.Generator().manual_seed(seed)
        device = next(self.encoder.parameters()).device  # `Pretraining` may have moved it, but not the prior
        parts = (self._prepare(part.to(device), generator) for part in x.split(batch_size))
        mu, logvar = (torch.cat(values) for values in zip(*map(super().encode, parts), strict=True))
        codes = mu.double().cpu().numpy()
        kind = "full" if covariance == "aligned" else covariance
        options = {"balanced": balanced, "regularise": regularise}
        mixture = fit_mixture(codes, K, kind, seed=seed, n_init=n_init, **options)
        if covariance == "tied":  # from here on as components that happen to be alike
            mixture.covariance_type, mixture.covariances_ = "full", np.stack([mixture.covariances_] * K)
        if covariance in ("aligned", "tied"):
            self._align(mixture)
        variances = mixture.covariances_
        if covariance != "diag":
            variances = variances.diagonal(axis1=1, axis2=2).copy()
        for parameter, value in (
            (self.prior.logits, mixture.weights_.clip(1e-10)),
            (self.prior.mu, mixture.means_),
            (self.prior.logvar, variances),
        ):
            value = torch.from_numpy(value)
            parameter.copy_(value if parameter is self.prior.mu else value.log())
        within = torch.from_numpy(mixture.weights_ @ variances)
        self.logvar_shift.copy_((0.1 * within).log() - logvar.mean(dim=0).to(within))
        return mixture

    def _align(self, mixture: GaussianMixture) -> None:
        """Change the basis of the latent space, so that a mixture of tilted components comes near to a diagonal one.

        With S the mean covariance within components and B that of their means, T has T S Tᵀ = I and T B Tᵀ diagonal
        (the axes of linear discriminant analysis): components of equal covariance become round. The encoder's last
        layer takes T, the decoder's first T⁻¹, so no reconstruction changes; `mixture` then describes the new codes.
        Raises: ValueError where those layers are not linear.
        """
        from scipy.linalg import eigh

        last, first, d = self.encoder[-1], self.decoder[0], self.latent_dim
        if not (isinstance(last, nn.Linear) and isinstance(first, nn.Linear)):
            raise ValueError(
                'covariance="aligned" needs an encoder that ends, a decoder that begins with nn.Linear'
            )
        weights, means, covariances = mixture.weights_, mixture.means_, mixture.covariances_
        within = np.einsum("c,cij->ij", weights, covariances)
        offsets = means - weights @ means
        T = eigh(np.einsum("c,ci,cj->ij", weights, offsets, offsets), within)[1].T[::-1].copy()
        mixture.means_, mixture.covariances_ = means @ T.T, T @ covariances @ T.T
        mixture.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(mixture.covariances_)).transpose(
            0, 2, 1
        )
        change = torch.from_numpy(T).to(last.weight)
        last.weight[:d], last.bias[:d] = change @ last.weight[:d], change @ last.bias[:d]
        first.weight.copy_(first.weight @ torch.from_numpy(np.linalg.inv(T)).to(first.weight))

    def _terms(self, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        """The bound at given z (…, B, d), every entry (…, B)."""
        log_gamma = self.prior.log_responsibilities(z)
        gamma = log_gamma.exp()
        terms = {
            "log_likelihood": self.likelihood.log_prob(x, self.decode(z)),
            "log_p_z_given_c": expected_log_p_z_given_c(gamma, mu, logvar, self.prior),
            "log_p_c": expected_log_p_c(gamma, self.prior),
            "entropy_z": entropy_of_z(logvar).expand(z.shape[:-1]),
            "entropy_c": entropy_of_c(log_gamma),
        }
        return {"elbo": sum(terms.values()), **terms}

    def _log_weights_at(self, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        """With c summed out of the prior: q(c|x, z) = p(c|z) is exact, and only the integral over z is left."""
        log_likelihood = self.likelihood.log_prob(x, self.decode(z))
        return log_likelihood + self.prior.log_prob(z) - gaussian_log_prob(z, mu, logvar)


def fit_mixture(
    codes: np.ndarray,
    clusters: int,
    covariance: str = "diag",
    *,
    balanced: bool = False,
    regularise: float = 0.0,
    seed: int = 0,
    n_init: int = 10,
) -> GaussianMixture:
    """A mixture of Gaussians on codes (N, d) by EM from `n_init` starts, of which the most likely is kept.

    covariance: "diag", "full" or "tied" (one for all). regularise: what every variance has added, as a share of the
    codes' mean variance.
    balanced: after EM the weights become 1/K, and the starts compete with those. Two components on one kind of picture
    and one on two kinds may well be as likely as one on each, but not if every cluster is known to be as large as any
    other: with weights w in place of 1/K the data gain about N · KL(w ‖ 1/K) nats, which is taken away.
    """
    from sklearn.mixture import GaussianMixture

    options = {"covariance_type": covariance, "reg_covar": 1e-6 + regularise * codes.var(axis=0).mean()}
    if not balanced:
        return GaussianMixture(clusters, n_init=n_init, random_state=seed, **options).fit(codes)
    best, highest = None, -np.inf
    random = np.random.RandomState(seed)
    for _ in range(n_init):
        mixture = GaussianMixture(clusters, random_state=random, **options).fit(codes)
        mixture.weights_ = np.full(clusters, 1 / clusters)
        if (likelihood := mixture.score(codes)) > highest:
            best, highest = mixture, likelihood
    return best


class Pretraining(VAE):
    """The first stage: the networks of a `VaDE` as an autoencoder, z = μ̃(x), trained on −log p(x|z).

    SingleLoss(Pretraining(vade), Adam(Pretraining(vade).parameters())) trains the VaDE's own encoder and decoder. The
    encoder's log σ² gets no gradient here; the prior is not part of it.
    """

    def __init__(self, vade: VaDE):
        if not isinstance(vade, VaDE):
            raise ValueError(f"expected a VaDE, got {type(vade).__name__}")
        super().__init__(
            vade.encoder, vade.decoder, vade.likelihood, vade.latent_dim, input_shape=vade.input_shape
        )
        self.augment = vade.augment

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "recon"}: −log p(x|z = μ̃(x)), mean over the batch. `label` is ignored.

        With the VaDE's `augment`, in training mode: −log p(x|z = μ̃(x̃)), x̃ the changed picture.
        """
        mu, _ = self.encode(self.augment(x, generator) if self.training and self.augment else x)
        x = self._prepare(x, generator)
        recon = -self.likelihood.log_prob(x, self.decode(mu)).mean()
        return {"loss": recon, "recon": recon}


def mlp_vade(
    input_shape: Sequence[int],
    latent_dim: int = 10,
    hidden: Sequence[int] = (500, 500, 2000),
    clusters: int = 10,
    *,
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
    augment: Augmentation | None = None,
) -> VaDE:
    """A fully connected VaDE; the defaults are the paper's, 500-500-2000-10, with a Bernoulli likelihood of greys."""
    likelihood = Bernoulli() if likelihood is None else likelihood
    encoder = mlp_encoder(input_shape, 2 * latent_dim, hidden, activation)
    decoder = mlp_decoder(latent_dim, likelihood.parameter_shape(input_shape), hidden, activation)
    return VaDE(encoder, decoder, likelihood, latent_dim, clusters, input_shape, augment)


def conv_vade(
    input_shape: Sequence[int],
    latent_dim: int = 10,
    width: int = 32,
    clusters: int = 10,
    *,
    likelihood: Likelihood | None = None,
    activation: Activation = nn.ReLU,
    augment: Augmentation | None = None,
) -> VaDE:
    """A convolutional VaDE with the networks of `conv_vae`; input_shape (C, H, W) with H and W divisible by 4."""
    likelihood = Bernoulli() if likelihood is None else likelihood
    encoder = conv_encoder(input_shape, 2 * latent_dim, width, activation)
    decoder = conv_decoder(latent_dim, likelihood.parameter_shape(input_shape), width, activation)
    return VaDE(encoder, decoder, likelihood, latent_dim, clusters, input_shape, augment)
