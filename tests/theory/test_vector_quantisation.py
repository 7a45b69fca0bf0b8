"""The equations of vector quantisation: the nearest code, which loss moves what, averages as online k-means, rates."""

import math

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional as F

from course_lib.latent.vae import Gaussian
from course_lib.latent.vqvae import (
    VQVAE,
    VectorQuantizer,
    conv_vqvae,
    nearest,
    perplexity,
)

K, D = 7, 5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def build(num_codes=K, dim=D, **options):
    torch.manual_seed(0)
    return VectorQuantizer(num_codes, dim, **options).double()


# --- The nearest code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, K, 3 * K + 1, 10**9])
def test_the_nearest_code_is_that_of_the_full_distance_matrix(chunk):
    z, codebook = vectors(50, D), vectors(K, D, seed=1)
    assert torch.equal(nearest(z, codebook, chunk), torch.cdist(z, codebook).argmin(dim=1))


def test_the_length_of_a_code_counts():
    """Without ‖e‖² the longest code in the right direction would win."""
    codebook = torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    assert nearest(torch.tensor([[2.0, 0.0], [6.0, 0.0]]), codebook).tolist() == [0, 1]


def test_of_equal_codes_the_first_is_taken():
    assert nearest(torch.zeros(3, D), torch.ones(K, D)).tolist() == [0, 0, 0]


# --- Who moves whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("shape", [(40, D), (2, D, 4, 3)])
def test_straight_through_copies_the_gradient_bit_for_bit(ema, shape):
    quantizer = build(ema=ema).float()
    z_e = vectors(*shape).float().requires_grad_()
    z_q = quantizer(z_e).z_q
    z_q.retain_grad()
    (z_q.sin() * vectors(*shape, seed=1).float()).sum().backward()
    assert z_q.grad.abs().min() > 0
    assert torch.equal(z_e.grad, z_q.grad)
    assert quantizer.codebook.grad is None  # the decoder's loss does not reach the codebook


def test_the_codebook_loss_moves_only_the_codebook_and_the_commitment_only_the_encoder():
    quantizer = build(ema=False)
    z_e = vectors(40, D).requires_grad_()
    result = quantizer(z_e)
    sides = (z_e, quantizer.codebook)
    codebook = torch.autograd.grad(
        result.losses["codebook"], sides, allow_unused=True, materialize_grads=True
    )
    commitment = torch.autograd.grad(
        result.losses["commitment"], sides, allow_unused=True, materialize_grads=True
    )
    assert not codebook[0].any()
    assert not commitment[1].any()
    # ∂/∂z_e of the mean of (z_e − e)² is 2 (z_e − e)/elements; ∂/∂e_k adds the opposite up over the vectors of code k.
    pull = 2 * (z_e - result.z_q).detach() / z_e.numel()
    torch.testing.assert_close(commitment[0], pull)
    torch.testing.assert_close(codebook[1], torch.zeros(K, D).double().index_add(0, result.indices, -pull))


def test_the_loss_is_codebook_plus_beta_times_commitment():
    for beta in (0.25, 2.0):
        result = build(ema=False, beta=beta)(vectors(40, D))
        torch.testing.assert_close(
            result.loss, result.losses["codebook"] + beta * result.losses["commitment"]
        )
        assert result.losses["codebook"] == result.losses["commitment"]  # equal values, opposite roles
        result = build(beta=beta)(vectors(40, D))
        assert result.losses.keys() == {"commitment"}
        torch.testing.assert_close(result.loss, beta * result.losses["commitment"])


def test_the_whole_loss_trains_each_part_through_the_right_terms():
    """Encoder: reconstruction straight through, and commitment. Codebook: codebook loss. Decoder: reconstruction."""
    torch.manual_seed(0)
    likelihood, beta = Gaussian(), 0.3
    model = VQVAE(nn.Conv2d(1, D, 2, 2), nn.Conv2d(D, 4, 1), build(ema=False, beta=beta), likelihood, (2, 2))
    model.decoder = nn.Sequential(model.decoder, nn.PixelShuffle(2))
    model = model.double()
    x = vectors(3, 1, 4, 4)
    model.loss(x)["loss"].backward()

    z_e = model.encoder(x)
    e = model.quantizer.decode(model.encode_indices(x))
    z_q = e.detach().requires_grad_()
    recon = -likelihood.log_prob(x, model.decoder(z_q)).mean()
    decoder = torch.autograd.grad(recon, [z_q, *model.decoder.parameters()])
    commitment = beta * (z_e - e.detach()).square().sum() / len(x)
    encoder = torch.autograd.grad((z_e * decoder[0]).sum() + commitment, list(model.encoder.parameters()))
    (codebook,) = torch.autograd.grad((z_e.detach() - e).square().sum() / len(x), model.quantizer.codebook)
    for part, gradients in (
        (model.decoder, decoder[1:]),
        (model.encoder, encoder),
        (model.quantizer, [codebook]),
    ):
        for parameter, gradient in zip(part.parameters(), gradients, strict=True):
            assert gradient.any()
            torch.testing.assert_close(parameter.grad, gradient)


# --- Moving averages are online k-means -------------------------------------------------------------------------


def batches_and_choices(quantizer, n=6):
    """Train on n batches; the batches, and the code of each vector at its time."""
    batches = [vectors(40, D, seed=seed) + 1 for seed in range(n)]
    return batches, [quantizer(z).indices for z in batches]


def test_a_code_is_the_weighted_mean_of_all_vectors_that_ever_chose_it():
    """Weights γ^(steps since); its starting value counts as one vector of weight γ^steps/(1−γ)."""
    gamma = 0.8
    quantizer = build(decay=gamma, eps=1e-12)
    start = quantizer.codebook.clone()
    batches, choices = batches_and_choices(quantizer)
    T = len(batches)
    for k in range(K):
        weight, total = gamma**T / (1 - gamma), start[k] * gamma**T / (1 - gamma)
        for t, (z, choice) in enumerate(zip(batches, choices, strict=True)):
            mine = z[choice == k]
            weight += gamma ** (T - 1 - t) * len(mine)
            total = total + gamma ** (T - 1 - t) * mine.sum(dim=0)
        torch.testing.assert_close(quantizer.codebook[k], total / weight, rtol=1e-9, atol=1e-9)


def test_a_step_is_online_k_means_with_a_learning_rate_for_each_code():
    """e_k ← e_k + η_k (mean of its vectors − e_k), η_k = (1−γ) n_k / N_k (Sculley 2010 with forgetting)."""
    gamma = 0.9
    quantizer = build(decay=gamma, eps=1e-12)
    batches_and_choices(quantizer)
    before, sizes, z = quantizer.codebook.clone(), quantizer.sizes.clone(), vectors(40, D, seed=9)
    choice = quantizer(z).indices
    assert len(choice.unique()) > 3
    for k in range(K):
        mine = z[choice == k]
        rate = (1 - gamma) * len(mine) / (gamma * sizes[k] + (1 - gamma) * len(mine))
        expected = before[k] + rate * (mine.mean(dim=0) - before[k]) if len(mine) else before[k]
        torch.testing.assert_close(quantizer.codebook[k], expected, rtol=1e-9, atol=1e-9)


def test_without_memory_it_is_lloyd_s_algorithm():
    """γ = 0: after n calls on the same vectors the codebook is that of n iterations of scikit-learn's k-means."""
    z = vectors(200, D)
    quantizer = build(decay=0.0, eps=1e-12)
    with torch.no_grad():
        quantizer.codebook.copy_(z[:K])
    for n in range(1, 6):
        quantizer(z)
        lloyd = KMeans(K, init=z[:K].numpy(), n_init=1, max_iter=n, tol=0, algorithm="lloyd").fit(z.numpy())
        torch.testing.assert_close(
            quantizer.codebook, torch.from_numpy(lloyd.cluster_centers_), rtol=1e-8, atol=1e-8
        )


def test_the_gradient_of_the_codebook_loss_vanishes_where_the_moving_average_rests():
    z = vectors(200, D)
    averaged = build(decay=0.5, eps=1e-12)
    for _ in range(120):
        averaged(z)
    learned = build(ema=False)
    with torch.no_grad():
        learned.codebook.copy_(averaged.codebook)
    learned(z).losses["codebook"].backward()
    assert learned.codebook.grad.abs().max() < 1e-9


def test_laplace_smoothing_keeps_the_total_and_no_code_at_zero():
    quantizer = build(eps=0.5)
    quantizer.sizes.copy_(torch.tensor([0.0, 1, 2, 3, 4, 5, 6]))
    smoothed = quantizer._smoothed_sizes()
    assert smoothed.sum() == pytest.approx(21)
    assert smoothed.tolist() == pytest.approx([21 * (n + 0.5) / (21 + 7 * 0.5) for n in range(7)])


def test_smoothing_draws_an_unused_code_to_the_origin():
    """N_k and m_k fall together; once N_k is below ε, e_k = m_k/(N_k + ε) falls as well. Restarts prevent it."""
    z = torch.full((10, 2), 3.0)
    quantizer = VectorQuantizer(2, 2, decay=0.5, eps=1e-3)
    far = torch.tensor([[3.0, 3.0], [-5.0, 5.0]])
    quantizer.codebook.copy_(far)
    quantizer.sums.copy_(far)
    lengths = [(quantizer(z), quantizer.codebook[1].norm().item())[1] for _ in range(30)]
    assert lengths[0] == pytest.approx(math.sqrt(50), rel=0.01)
    assert lengths[-1] < 0.01


# --- Rates ------------------------------------------------------------------------------------------------------


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([0, 9, 0])) == pytest.approx(1)
    assert perplexity(torch.tensor([5, 5, 5, 0])) == pytest.approx(3)
    p = torch.tensor([0.5, 0.25, 0.25])
    assert perplexity(100 * p).log2() == pytest.approx(1.5)


def test_the_prior_costs_log_k_at_every_place():
    """Errata 14: −log K is the cost of one code; a grid of them costs h·w·log K."""
    model = conv_vqvae((1, 8, 12), num_codes=8, dim=3, width=4)
    assert model.prior_bits == pytest.approx(2 * 3 * 3)
    assert model.prior_nats == pytest.approx(6 * math.log(8))


def test_the_bound_is_the_sum_over_all_grids_that_only_one_term_survives():
    """ELBO = Σ_c q(c|x) [log p(x|c) + log p(c) − log q(c|x)] over all K^(h·w) grids, and log p(x) is above it."""
    torch.manual_seed(0)
    encoder, decoder = nn.Conv2d(1, 2, 2, stride=2), nn.ConvTranspose2d(2, 1, 2, stride=2)
    model = VQVAE(encoder, decoder, VectorQuantizer(3, 2), Gaussian(), (1, 2)).double()
    x = vectors(1, 1, 2, 4)
    grids = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(-1, 1, 2)
    log_joint = model.likelihood.log_prob(
        x.expand(9, -1, -1, -1), model.decode(model.quantizer.decode(grids))
    )
    log_joint = log_joint - 2 * math.log(3)
    q = (grids == model.encode_indices(x)).all(dim=(1, 2)).double()
    assert q.sum() == 1
    expected = (q * log_joint).sum() + torch.special.entr(q).sum()
    terms = model.eval().elbo(x)
    assert terms["elbo"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert log_joint.logsumexp(0) > terms["elbo"]
    loss = model.loss(x)
    assert -(loss["recon"] + loss["kl"]).item() == pytest.approx(expected.item(), rel=1e-12)


def test_better_reconstructions_lower_the_loss():
    """Errata 13: the likelihood enters the loss with a minus sign."""
    model = VQVAE(nn.Identity(), nn.Identity(), VectorQuantizer(1, 1), Gaussian(), (2, 2))
    model.eval().quantizer.codebook.zero_()
    near, far = (model.loss(torch.full((1, 1, 2, 2), value)) for value in (0.1, 2.0))
    assert near["recon"] < far["recon"]
    # ½ Σ (x − 0)² + 2 log 2π, and β Σ ‖x − 0‖²
    assert far["recon"].item() == pytest.approx(0.5 * 16 + 2 * math.log(2 * math.pi), rel=1e-6)
    assert (far["loss"] - far["recon"]).item() == pytest.approx(0.25 * 16, rel=1e-6)
    assert F.mse_loss(torch.zeros(4), torch.full((4,), 2.0)) * 4 == far["commitment"]
