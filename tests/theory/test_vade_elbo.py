"""The five terms of VaDE's bound, against enumeration over c and quadrature over z (float64), and the bound itself."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from course_lib.latent.vade import (
    TERMS,
    MixturePrior,
    VaDE,
    entropy_of_c,
    entropy_of_z,
    expected_log_p_c,
    expected_log_p_z_given_c,
    mean_field_log_responsibilities,
)
from course_lib.latent.vae import Gaussian

K = 3


def mixture(d: int) -> MixturePrior:
    """Unequal weights, means and variances."""
    torch.manual_seed(0)
    prior = MixturePrior(K, d).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.3, -0.8, 1.1]))
        prior.mu.mul_(1.5)
        prior.logvar.copy_(torch.linspace(-1.2, 0.7, K * d).view(K, d))
    return prior


def grid(d: int, reach: float = 12.0, points: int = 601) -> tuple[Tensor, float]:
    """Nodes (G, d) and the weight of each: the trapezoidal rule, exact to rounding for what decays within `reach`."""
    points = points if d == 1 else 241
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    step = (axis[1] - axis[0]).item()
    return torch.cartesian_prod(*[axis] * d).view(-1, d), step**d


def posterior(d: int) -> tuple[Tensor, Tensor]:
    """μ and log σ² of two examples, (2, d)."""
    mu = torch.tensor([[0.4, -0.9], [-1.3, 0.6]], dtype=torch.float64)[:, :d]
    return mu, torch.tensor([[-0.7, 0.3], [0.2, -1.1]], dtype=torch.float64)[:, :d]


def q_of(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """q(z|x) by torch.distributions: z (G, d) → (G, B)."""
    return Normal(mu, (0.5 * logvar).exp()).log_prob(z.unsqueeze(1)).sum(-1).exp()


def log_p_z_given(prior: MixturePrior, c: int, z: Tensor) -> Tensor:
    return Normal(prior.mu[c], (0.5 * prior.logvar[c]).exp()).log_prob(z).sum(-1)


def weights_of(prior: MixturePrior) -> list[float]:
    total = sum(math.exp(v) for v in prior.logits.tolist())
    return [math.exp(v) / total for v in prior.logits.tolist()]


GAMMA = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.0999999, 1e-7]], dtype=torch.float64)


@pytest.fixture(params=[1, 2])
def d(request):
    return request.param


@pytest.fixture
def vade(d) -> VaDE:
    """A decoder that is not linear; its encoder is no good posterior, so the gap is wide."""
    torch.manual_seed(1)
    encoder = nn.Linear(4, 2 * d).double()
    decoder = nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    model = VaDE(encoder, decoder, Gaussian(0.8), d, K, (4,))
    model.prior = mixture(d)
    return model


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def exact_log_p(model: VaDE, x: Tensor) -> Tensor:
    """log ∫ Σ_c π_c N(z; c) p(x|z) dz, (B,)."""
    z, weight = grid(model.latent_dim)
    prior = sum(pi * log_p_z_given(model.prior, c, z).exp() for c, pi in enumerate(weights_of(model.prior)))
    likelihood = Normal(model.decoder(z), 0.8).log_prob(x.unsqueeze(1)).sum(-1).exp()  # (B, G)
    return (likelihood @ prior * weight).log()


def expected_terms(model: VaDE, x: Tensor) -> dict[str, Tensor]:
    """The mean of `VaDE._terms` over z ~ q(z|x), each (B,)."""
    z, weight = grid(model.latent_dim)
    mu, logvar = model.encode(x)
    q = q_of(z, mu, logvar) * weight  # (G, B)
    assert torch.allclose(q.sum(0), torch.ones_like(q[0]), rtol=0, atol=1e-9)
    terms = model._terms(x, z.unsqueeze(1).expand(-1, len(x), -1), mu, logvar)
    return {name: (q * value).sum(0) for name, value in terms.items()}


# --- The five terms ---------------------------------------------------------------------------------------------


def test_expected_log_p_z_given_c_by_enumeration_and_quadrature(d):
    prior, (mu, logvar), (z, weight) = mixture(d), posterior(d), grid(d)
    q = q_of(z, mu, logvar) * weight
    brute = sum(GAMMA[:, c] * (q * log_p_z_given(prior, c, z).unsqueeze(1)).sum(0) for c in range(K))
    ours = expected_log_p_z_given_c(GAMMA, mu, logvar, prior)
    assert torch.allclose(ours, brute, rtol=0, atol=1e-6)


def test_expected_log_p_c_by_enumeration():
    prior = mixture(1)
    brute = [
        sum(g * math.log(pi) for g, pi in zip(row, weights_of(prior), strict=True)) for row in GAMMA.tolist()
    ]
    ours = expected_log_p_c(GAMMA, prior)
    assert torch.allclose(ours, torch.tensor(brute, dtype=torch.float64), rtol=0, atol=1e-6)


def test_entropy_of_z_by_quadrature(d):
    (mu, logvar), (z, weight) = posterior(d), grid(d)
    q = q_of(z, mu, logvar)
    brute = -(weight * torch.xlogy(q, q)).sum(0)
    assert torch.allclose(entropy_of_z(logvar), brute, rtol=0, atol=1e-6)


def test_entropy_of_c_by_enumeration():
    brute = [-sum(g * math.log(g) for g in row) for row in GAMMA.tolist()]
    ours = entropy_of_c(GAMMA.log())
    assert torch.allclose(ours, torch.tensor(brute, dtype=torch.float64), rtol=0, atol=1e-6)
    assert entropy_of_c(torch.tensor([0.0, -2000.0, -3000.0])) == 0  # and not NaN where γ underflows


def test_the_reconstruction_is_the_likelihood_at_the_drawn_z(vade, x):
    mu, logvar = vade.encode(x)
    z = torch.randn(3, vade.latent_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    brute = Normal(vade.decoder(z), 0.8).log_prob(x).sum(-1)
    assert torch.allclose(vade._terms(x, z, mu, logvar)["log_likelihood"], brute, rtol=0, atol=1e-10)


def test_the_sampled_terms_have_these_means_and_add_up(vade, x):
    n = 20_000
    sampled = vade.elbo(x.repeat(n, 1), torch.Generator().manual_seed(0))
    assert tuple(sampled) == ("elbo", *TERMS)
    assert torch.equal(sampled["elbo"], sum(sampled[name] for name in TERMS))
    for name, exact in expected_terms(vade, x).items():
        values = sampled[name].view(n, len(x))
        standard_error = values.std(0) / math.sqrt(n)
        assert ((values.mean(0) - exact).abs() < 5 * standard_error + 1e-6).all(), name


# --- The bound ----------------------------------------------------------------------------------------------------


def bound_with(model: VaDE, x: Tensor, log_gamma: Tensor) -> Tensor:
    """The ELBO of q(z|x) and a fixed q(c|x) = γ: the library's closed forms, the likelihood by quadrature."""
    mu, logvar = model.encode(x)
    gamma = log_gamma.exp()
    return (
        expected_terms(model, x)["log_likelihood"]
        + expected_log_p_z_given_c(gamma, mu, logvar, model.prior)
        + expected_log_p_c(gamma, model.prior)
        + entropy_of_z(logvar)
        + entropy_of_c(log_gamma)
    )


def test_bound_plus_kl_to_the_exact_posterior_is_the_evidence(vade, x):
    """log p(x) = ELBO + KL(q(z|x) γ ‖ p(z, c|x)), all of the right side by enumeration and quadrature."""
    mu, logvar = vade.encode(x)
    z, weight = grid(vade.latent_dim)
    q, evidence = q_of(z, mu, logvar), exact_log_p(vade, x)
    log_gamma = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log().expand(len(x), K)
    log_likelihood = Normal(vade.decoder(z), 0.8).log_prob(x.unsqueeze(1)).sum(-1).T  # (G, B)
    kl = torch.zeros_like(evidence)
    for c, pi in enumerate(weights_of(vade.prior)):
        log_posterior = (
            log_likelihood + (math.log(pi) + log_p_z_given(vade.prior, c, z)).unsqueeze(1) - evidence
        )
        gamma = log_gamma[:, c].exp()
        kl += (weight * gamma * (torch.xlogy(q, q) + q * (log_gamma[:, c] - log_posterior))).sum(0)
    assert (kl > 1e-2).all()
    assert torch.allclose(bound_with(vade, x, log_gamma) + kl, evidence, rtol=0, atol=1e-6)


def test_the_order_of_the_bounds(vade, x):
    """γ at the drawn z ≤ the best γ that does not know z ≤ c summed out ≤ log p(x), and each gap is there."""
    mu, logvar = vade.encode(x)
    z, weight = grid(vade.latent_dim)
    paper = expected_terms(vade, x)["elbo"]
    best = bound_with(vade, x, mean_field_log_responsibilities(mu, logvar, vade.prior))
    log_w = vade._log_weights_at(x, z.unsqueeze(1).expand(-1, len(x), -1), mu, logvar)
    summed_out = (weight * q_of(z, mu, logvar) * log_w).sum(0)
    evidence = exact_log_p(vade, x)
    for lower, higher in ((paper, best), (best, summed_out), (summed_out, evidence)):
        assert (higher - lower > 1e-4).all()


def test_the_weights_average_to_the_evidence(vade, x):
    """E_q[w] = p(x): the importance weights know the mixture."""
    mu, logvar = vade.encode(x)
    z, weight = grid(vade.latent_dim)
    log_w = vade._log_weights_at(x, z.unsqueeze(1).expand(-1, len(x), -1), mu, logvar)
    mean = (weight * q_of(z, mu, logvar) * log_w.exp()).sum(0)
    assert torch.allclose(mean.log(), exact_log_p(vade, x), rtol=0, atol=1e-6)


# --- q(c|x) -------------------------------------------------------------------------------------------------------


def random_gammas(n: int = 2_000) -> Tensor:
    exponential = torch.empty(n, K, dtype=torch.float64).exponential_(
        generator=torch.Generator().manual_seed(4)
    )
    return exponential / exponential.sum(-1, keepdim=True)


def test_at_a_fixed_z_nothing_is_better_than_the_posterior_of_c(d):
    """Σ_c γ_c log(p(z, c)/γ_c) = log p(z) − KL(γ ‖ p(c|z)): log p(z) at γ = p(c|z), less everywhere else."""
    prior = mixture(d)
    joint = [
        lambda z, c=c, pi=pi: math.log(pi) + log_p_z_given(prior, c, z)
        for c, pi in enumerate(weights_of(prior))
    ]
    for z in posterior(d)[0]:
        log_joint = torch.stack([f(z) for f in joint])
        evidence = log_joint.exp().sum().log()
        gamma = prior.log_responsibilities(z).exp()
        value = (gamma * (log_joint - gamma.log())).sum()
        assert value.item() == pytest.approx(evidence.item(), abs=1e-6)
        assert prior.log_prob(z).item() == pytest.approx(evidence.item(), abs=1e-6)
        others = random_gammas()
        values = (others * (log_joint - others.log())).sum(-1)
        kl = (others * (others.log() - (log_joint - evidence))).sum(-1)
        assert torch.allclose(values, evidence - kl, rtol=0, atol=1e-6)
        assert (values < value).all()
        assert values.max() > value - 0.1  # some of them were close


def test_without_knowing_z_the_mean_field_responsibilities_are_the_best(vade, x):
    mu, logvar = vade.encode(x)
    log_gamma = mean_field_log_responsibilities(mu, logvar, vade.prior)
    best = bound_with(vade, x, log_gamma)
    at_the_mean = vade.prior.log_responsibilities(mu)
    assert not torch.allclose(log_gamma, at_the_mean, atol=1e-2)
    assert (bound_with(vade, x, at_the_mean) < best).all()
    fixed = best - sum(_terms_in_gamma(vade, mu, logvar, log_gamma))
    for other in random_gammas(200):
        assert (fixed + sum(_terms_in_gamma(vade, mu, logvar, other.log().expand(len(x), K))) < best).all()


def _terms_in_gamma(model: VaDE, mu: Tensor, logvar: Tensor, log_gamma: Tensor) -> tuple[Tensor, ...]:
    gamma = log_gamma.exp()
    return (
        expected_log_p_z_given_c(gamma, mu, logvar, model.prior),
        expected_log_p_c(gamma, model.prior),
        entropy_of_c(log_gamma),
    )


def test_one_cluster_is_a_vae_with_a_gaussian_prior(x):
    """K = 1, μ = 0, σ = 1: the four terms are minus the KL of the ordinary VAE."""
    torch.manual_seed(0)
    model = VaDE(nn.Linear(4, 4).double(), nn.Linear(2, 4).double(), Gaussian(1.0), 2, 1, (4,)).double()
    nn.init.zeros_(model.prior.mu)
    ours = model.elbo(x, torch.Generator().manual_seed(0))
    theirs = super(VaDE, model).elbo(x, torch.Generator().manual_seed(0))
    assert torch.allclose(ours["elbo"], theirs["elbo"], rtol=0, atol=1e-10)
