"""The VQ-VAE-2: shapes, exact decoding, what each level's terms train, errors, and digits learned."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from course_lib.latent.vae import Bernoulli, CategoricalPixels
from course_lib.latent.vqvae2 import VQVAE2, conv_vqvae2

K, D = 16, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(shape=(1, 8, 8), **options):
    torch.manual_seed(0)
    options = {"width": 8, "residual_width": 4, "residual_layers": 1, "downsamplings": 1} | options
    return conv_vqvae2(shape, K, D, **options)


def pictures(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


def spread(network, x):
    """Codebooks like the vectors they quantise, so that many codes are in use, and pictures away from both ends."""
    with torch.no_grad():
        network.decode[-1].bias.fill_(0.5)
        h = network.encode_bottom(x)
        for quantizer, z in ((network.top, network.encode_top(h)), (network.bottom, None)):
            z = (
                network._bottom(h, network.top.decode(network.top.encode(network.encode_top(h))))
                if z is None
                else z
            )
            flat = z.movedim(1, -1).reshape(-1, D)
            quantizer.codebook.copy_(flat[torch.randperm(len(flat), generator=seeded())[:K]])
    return network


@pytest.mark.parametrize(
    ("shape", "downsamplings", "top", "bottom"),
    [((1, 8, 8), 1, (2, 2), (4, 4)), ((3, 16, 24), 2, (2, 3), (4, 6))],
)
def test_the_shapes_are_those_of_the_paper(shape, downsamplings, top, bottom):
    """The bottom a quarter of the side (with two halvings), the top half of that."""
    network, x = model(shape, downsamplings=downsamplings), pictures(5, *shape)
    assert network.latent_shapes == (top, bottom)
    codes = network.encode_indices(x)
    assert [tuple(c.shape) for c in codes] == [(5, *top), (5, *bottom)]
    assert all(c.dtype == torch.int64 for c in codes)
    assert network.reconstruct(x).shape == x.shape
    nats = (math.prod(top) + math.prod(bottom)) * math.log(K)
    assert network.prior_nats == pytest.approx(nats)


def test_codes_decode_to_exactly_what_was_quantised():
    x = pictures(6, 1, 8, 8)
    network = spread(model(), x).eval()
    top, bottom = network.quantize(x)
    indices = network.encode_indices(x)
    for quantized, quantizer, index in zip((top, bottom), network.quantizers, indices, strict=True):
        assert torch.equal(quantized.indices, index)
        assert torch.equal(quantizer.decode(index), quantized.z_q)
        assert len(index.unique()) > 5
    with torch.no_grad():
        image = network.likelihood.mean(network.decode_quantized(top.z_q, bottom.z_q)).clamp(0, 1)
    assert torch.equal(network.decode_indices(*indices), image)
    assert torch.equal(network.reconstruct(x), image)
    assert image.std() > 0


def test_the_bottom_codes_depend_on_the_top_codes():
    """Other top codebooks, other bottom codes, though the picture is the same."""
    x = pictures(6, 1, 8, 8)
    network = spread(model(), x).eval()
    before = network.encode_indices(x)[1]
    network.top.codebook.add_(3.0)
    assert not torch.equal(before, network.encode_indices(x)[1])


def test_the_decoder_sees_both_levels():
    x = pictures(6, 1, 8, 8)
    network = spread(model(), x).eval()
    top, bottom = network.encode_indices(x)
    image = network.decode_indices(top, bottom)
    assert not torch.equal(image, network.decode_indices(top.roll(1, 0), bottom))
    assert not torch.equal(image, network.decode_indices(top, bottom.roll(1, 0)))


def gradients_of(term, network):
    network.zero_grad()
    term.backward(retain_graph=True)
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_term_trains_what_it_should():
    """Codebook terms: that codebook alone. Commitments: what comes before that quantiser. recon: all but codebooks."""
    x = pictures(6, 1, 8, 8)
    network = spread(model(ema=False), x)
    terms = network.loss(x)
    names = [f"{term}_{level}" for term in ("codebook", "commitment") for level in ("top", "bottom")]
    parts = {name: {n.split(".")[0] for n in gradients_of(terms[name], network)} for name in names}
    assert parts["codebook_top"] == {"top"}
    assert parts["codebook_bottom"] == {"bottom"}
    assert parts["commitment_top"] == {"encode_bottom", "encode_top"}
    # Straight through: the bottom encoder reads e_top, so its commitment reaches the top encoder as well.
    assert parts["commitment_bottom"] == {"encode_bottom", "encode_top", "decode_top", "combine"}
    recon = {n.split(".")[0] for n in gradients_of(terms["recon"], network)}
    assert recon == {
        "encode_bottom", "encode_top", "decode_top", "combine", "enlarge_top", "decode", "likelihood",
    }  # fmt: skip


@pytest.mark.parametrize("ema", [True, False])
def test_the_loss_is_the_sum_of_its_terms(ema):
    network, x = model(ema=ema, beta=0.3), pictures(6, 1, 8, 8)
    terms = network.loss(x)
    total = terms["recon"]
    for level in ("top", "bottom"):
        total = total + 0.3 * terms[f"commitment_{level}"] + (0 if ema else terms[f"codebook_{level}"])
        assert 1 <= terms[f"perplexity_{level}"] <= K
    torch.testing.assert_close(terms["loss"], total, rtol=1e-5, atol=0)


def test_the_commitment_is_a_sum_over_the_grid_and_a_mean_over_the_batch():
    network, x = model().eval(), pictures(6, 1, 8, 8)
    terms = network.loss(x)
    with torch.no_grad():
        h = network.encode_bottom(x)
        z_top = network.encode_top(h)
        e_top = network.top.decode(network.top.encode(z_top))
        z_bottom = network._bottom(h, e_top)
        e_bottom = network.bottom.decode(network.bottom.encode(z_bottom))
    for name, z, e in (("top", z_top, e_top), ("bottom", z_bottom, e_bottom)):
        torch.testing.assert_close(
            terms[f"commitment_{name}"], (z - e).square().sum() / 6, rtol=1e-5, atol=1e-7
        )


def test_the_elbo_charges_log_k_for_every_code_of_both_levels():
    network, x = model().eval(), pictures(6, 1, 8, 8)
    bound = network.elbo(x)
    assert bound["kl"].tolist() == pytest.approx([20 * math.log(K)] * 6)
    torch.testing.assert_close(bound["elbo"], bound["log_likelihood"] - 20 * math.log(K))
    terms = network.loss(x)
    assert terms["kl"].item() == pytest.approx(20 * math.log(K))
    torch.testing.assert_close(bound["log_likelihood"].mean(), -terms["recon"])


def test_the_levels_may_have_codebooks_of_different_sizes():
    torch.manual_seed(0)
    network = conv_vqvae2((1, 8, 8), (K, 3), D, width=8, residual_width=4, downsamplings=1)
    top, bottom = network.code_counts(pictures(6, 1, 8, 8))
    assert (len(top), len(bottom)) == (K, 3)
    assert network.prior_nats == pytest.approx(4 * math.log(K) + 16 * math.log(3))
    with pytest.raises(ValueError, match="positive"):
        conv_vqvae2((1, 8, 8), (K, 0), D, downsamplings=1)


def test_counts_are_those_of_all_codes():
    x = pictures(6, 1, 8, 8)
    network = spread(model(), x)
    top, bottom = network.code_counts(x)
    assert top.shape == bottom.shape == (K,)
    assert (top.sum().item(), bottom.sum().item()) == (6 * 4, 6 * 16)
    assert torch.equal(top, torch.bincount(network.encode_indices(x)[0].flatten(), minlength=K))


@pytest.mark.parametrize("likelihood", [Bernoulli("dynamic"), CategoricalPixels(17)], ids=str)
def test_other_likelihoods(likelihood):
    network, x = model(likelihood=likelihood), pictures(4, 1, 8, 8)
    assert torch.isfinite(network.loss(x, generator=seeded())["loss"])
    assert network.reconstruct(x, seeded()).shape == x.shape


def test_it_runs_in_half_precision():
    network, x = model(), pictures(4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = network.loss(x)
    terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32
    assert network.reconstruct(x).dtype == torch.float32


def test_it_learns_digits():
    """60 steps: the mean squared error is at most 0.8 of the pixels' variance, and both codebooks are in use."""
    x = torch.from_numpy(load_digits().images[:256]).float()[:, None] / 16
    network = model(width=16, residual_width=8, restart_below=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(60):
        loss = network.loss(x[64 * (step % 4) : 64 * (step % 4 + 1)], generator=seeded(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    error = (network.reconstruct(x) - x).square().mean() / (x - x.mean(0)).square().mean()
    assert error < 0.8
    assert all((counts > 0).sum() > 4 for counts in network.code_counts(x))


def test_wrong_input_is_refused():
    network = model()
    with pytest.raises(ValueError, match="expected codes"):
        network.decode_indices(torch.zeros(1, 4, 4).long(), torch.zeros(1, 2, 2).long())
    with pytest.raises(ValueError, match="expected codes"):
        network.decode_indices(torch.zeros(1, 2, 2).long(), torch.zeros(2, 4, 4).long())
    with pytest.raises(ValueError, match="divisible by 8"):
        conv_vqvae2((1, 28, 28))
    with pytest.raises(ValueError, match="positive"):
        model(width=0)
    with pytest.raises(ValueError, match="latent_shapes"):
        VQVAE2(None, network.top, network.bottom, network.likelihood, [(2, 2)])
    with pytest.raises(ValueError, match="1, 8, 8"):
        network.loss(torch.rand(2, 1, 16, 16))
