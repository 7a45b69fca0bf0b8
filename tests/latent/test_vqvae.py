"""The VQ-VAE: shapes, exact decoding, restarts, a peer's numbers, two processes, errors, and digits learned."""

import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from course_lib.latent.vae import Bernoulli, CategoricalPixels, Gaussian
from course_lib.latent.vqvae import ResidualBlock, VectorQuantizer, conv_vqvae, perplexity, vq_encoder

K, D = 16, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def build(**options):
    torch.manual_seed(0)
    return VectorQuantizer(K, D, **options)


def model(shape=(1, 8, 8), **options):
    torch.manual_seed(0)
    return conv_vqvae(shape, K, D, width=8, residual_width=4, residual_layers=1, **options)


# --- The quantiser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize(("shape", "grid"), [((30, D), (30,)), ((2, D, 3, 5), (2, 3, 5))])
def test_decoding_the_indices_gives_the_quantised_tensor_exactly(ema, shape, grid):
    quantizer, z_e = build(ema=ema).eval(), vectors(*shape)
    result = quantizer(z_e)
    assert result.z_q.shape == shape
    assert result.indices.shape == grid
    assert result.indices.dtype == torch.int64
    assert torch.equal(quantizer.decode(result.indices), result.z_q)
    assert torch.equal(quantizer.encode(z_e), result.indices)
    assert torch.equal(quantizer.encode(result.z_q), result.indices)
    assert len(result.indices.unique()) > 5
    assert torch.equal(quantizer.decode(result.indices.to(torch.uint8)), result.z_q)


def test_an_image_is_quantised_pixel_by_pixel():
    quantizer, z_e = build(), vectors(2, D, 3, 5)
    image, rows = build()(z_e), quantizer(z_e.permute(0, 2, 3, 1).reshape(-1, D))
    assert torch.equal(image.z_q.permute(0, 2, 3, 1).reshape(-1, D), rows.z_q)
    assert torch.equal(image.indices.flatten(), rows.indices)
    assert torch.equal(image.loss, rows.loss)


def test_only_training_moves_the_codebook_and_only_after_its_use():
    quantizer, z_e = build(), vectors(30, D)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(z_e)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    result = quantizer.train()(z_e)
    assert torch.equal(result.z_q, before["codebook"][result.indices])
    assert not torch.equal(quantizer.codebook, before["codebook"])


def test_half_precision_is_quantised_in_full():
    quantizer, z_e = build().eval(), vectors(30, D).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(z_e)
    assert result.z_q.dtype == result.loss.dtype == torch.float32
    assert torch.equal(result.indices, quantizer.encode(z_e.detach().float()))
    result.z_q.sum().backward()
    assert z_e.grad.dtype == torch.bfloat16


# --- Dead codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [True, False])
def test_dead_codes_become_different_vectors_of_the_batch(ema):
    quantizer, z = build(ema=ema, restart_below=1.0), vectors(40, D) + 50
    with torch.no_grad():
        quantizer.codebook[0] = 50.0  # so near that it is chosen by all; the others are dead
    result = quantizer(z, generator=seeded())
    assert not result.indices.any()
    places = [(z == code).all(dim=1).nonzero() for code in quantizer.codebook[1:].detach()]
    assert all(len(place) == 1 for place in places)
    assert len(torch.cat(places).unique()) == K - 1
    assert quantizer.sizes[1:].tolist() == [1.0] * (K - 1)
    if ema:  # N_k = 1 and m_k = e_k, so that the next update goes on from there
        assert torch.equal(quantizer.sums[1:], quantizer.codebook[1:])
    assert quantizer(z, generator=seeded(1)).perplexity > 5
    again = build(ema=ema, restart_below=1.0)
    with torch.no_grad():
        again.codebook[0] = 50.0
    again(z, generator=seeded())
    again(z, generator=seeded(1))
    assert torch.equal(again.codebook, quantizer.codebook)


def test_without_restarts_dead_codes_stay_dead():
    quantizer, z = build(), vectors(40, D) + 50
    quantizer.codebook[0] = 50.0
    quantizer.sums[0] = 50.0
    assert [quantizer(z).perplexity.item() for _ in range(20)] == pytest.approx([1.0] * 20)


def test_codes_in_use_are_not_restarted():
    torch.manual_seed(0)
    plain, restarting = build(decay=0.5), build(decay=0.5, restart_below=1.0)
    for seed in range(5):
        z = vectors(400, D, seed=seed)
        plain(z), restarting(z, generator=seeded())
    assert plain.sizes.min() >= 1
    assert torch.equal(plain.codebook, restarting.codebook)


def test_a_batch_with_fewer_vectors_than_codes_can_restart_them():
    quantizer, z = build(restart_below=1.0), vectors(3, D) + 50
    quantizer.codebook[0] = 50.0
    quantizer(z)
    assert {(z == code).all(dim=1).any().item() for code in quantizer.codebook[1:]} == {True}


# --- A peer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [False, True], ids=["flat", "image"])
def test_the_same_numbers_as_vector_quantize_pytorch(image):
    """Ten training steps with straight-through gradients and moving averages; then evaluation."""
    package = pytest.importorskip(
        "vector_quantize_pytorch", reason="the peer is a test dependency (requirements.txt)"
    )
    peer = package.VectorQuantize(
        dim=D,
        codebook_size=K,
        decay=0.9,
        commitment_weight=0.25,
        rotation_trick=False,
        accept_image_fmap=image,
    )
    ours = build(decay=0.9)
    ours.codebook.copy_(peer.codebook)
    ours.sums.copy_(peer.codebook)
    for seed in range(11):
        if seed == 10:
            ours.eval(), peer.eval()
        z = vectors(4, D, 5, 5, seed=seed) if image else vectors(100, D, seed=seed)
        mine, theirs = (z.clone().requires_grad_() for _ in range(2))
        weights = vectors(*z.shape, seed=100 + seed)
        result = ours(mine)
        z_q, indices, loss = peer(theirs)
        assert torch.equal(result.indices, indices)
        torch.testing.assert_close(result.z_q, z_q, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.codebook, peer.codebook, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.sizes, peer._codebook.cluster_size[0], rtol=1e-6, atol=1e-6)
        if seed < 10:
            torch.testing.assert_close(result.loss, loss, rtol=1e-5, atol=0)
            ((result.z_q * weights).sum() + result.loss).backward()
            ((z_q * weights).sum() + loss).backward()
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)


# --- Several processes --------------------------------------------------------------------------------------------

TWO = """
    import sys
    import torch
    import torch.distributed as distributed
    from course_lib.latent.vqvae import VectorQuantizer

    rank, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for restart_below in (0.0, 3.0):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(16, 6, decay=0.5, restart_below=restart_below)
        for seed in range(4):
            z = torch.randn(40, 6, generator=torch.Generator().manual_seed(seed))
            torch.manual_seed(100 + rank)  # each process would restart codes differently
            result = quantizer(z.chunk(2)[rank])
        torch.save((quantizer.state_dict(), result.perplexity), f"{folder}/{rank}-{restart_below}.pt")
    distributed.destroy_process_group()
"""


def test_two_processes_have_one_codebook_that_of_the_whole_batch(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    for restart_below in ("0.0", "3.0"):
        (a, use_a), (b, use_b) = (torch.load(tmp_path / f"{rank}-{restart_below}.pt") for rank in range(2))
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert use_a == use_b
        torch.manual_seed(0)
        alone = VectorQuantizer(16, 6, decay=0.5)
        for seed in range(4):
            use = alone(vectors(40, 6, seed=seed)).perplexity
        same = all(torch.allclose(a[name], value, atol=1e-6) for name, value in alone.state_dict().items())
        assert same == (restart_below == "0.0")
        if same:
            assert use_a == pytest.approx(use.item(), rel=1e-5)


# --- The model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize(
    "likelihood",
    [None, Bernoulli(), Bernoulli("dynamic"), Gaussian("per_pixel"), CategoricalPixels(17)],
    ids=["default", "bernoulli", "dynamic", "sigma of z", "levels"],
)
def test_every_model_does_everything(likelihood, ema):
    vqvae, x = model((3, 8, 12), likelihood=likelihood, ema=ema), torch.rand(5, 3, 8, 12, generator=seeded(7))
    terms = vqvae.loss(x, generator=seeded())
    names = {"loss", "recon", "commitment", "kl", "perplexity"} | (set() if ema else {"codebook"})
    assert terms.keys() == names
    expected = terms["recon"] + 0.25 * terms["commitment"] + terms.get("codebook", 0)
    torch.testing.assert_close(terms["loss"], expected)
    assert 1 <= terms["perplexity"] <= K
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in vqvae.parameters())
    assert all(layer.weight.grad.any() for layer in (vqvae.encoder[0], vqvae.decoder[-1]))
    vqvae.eval()
    indices = vqvae.encode_indices(x, seeded())
    assert indices.shape == (5, 2, 3)
    image = vqvae.decode_indices(indices)
    assert image.shape == x.shape
    assert 0 <= image.min() <= image.max() <= 1
    assert torch.equal(image, vqvae.reconstruct(x, seeded()))
    bound = vqvae.elbo(x, seeded())
    assert {value.shape for value in bound.values()} == {(5,)}
    assert torch.equal(bound["elbo"], bound["log_likelihood"] - bound["kl"])
    torch.testing.assert_close(-bound["log_likelihood"].mean(), vqvae.loss(x, generator=seeded())["recon"])
    assert vqvae.code_counts(x).sum() == 5 * 2 * 3


def test_the_networks_are_those_of_the_paper():
    """Section 4.1: two 4×4 convolutions of stride 2, two residual blocks (3×3, then 1×1), 256 units throughout."""
    vqvae = conv_vqvae((3, 32, 32), 512, 64, width=256, residual_width=256)
    assert vqvae.latent_shape == (8, 8)
    assert vqvae.prior_bits == 64 * 9
    layers = [m for m in vqvae.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in layers] == [4, 4, 3, 3, 1, 3, 1, 1]
    assert [m.stride[0] for m in layers] == [2, 2, 1, 1, 1, 1, 1, 1]
    assert {m.out_channels for m in layers[:-1]} == {256}
    up = [m for m in vqvae.decoder if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.kernel_size[0], m.stride[0], m.out_channels) for m in up] == [(4, 2, 256), (4, 2, 3)]
    assert sum(isinstance(m, ResidualBlock) for m in vqvae.decoder) == 2


def test_a_residual_block_adds_to_its_input():
    block, h = ResidualBlock(4, 2), vectors(2, 4, 5, 5)
    nn.init.zeros_(block.layers[-1].weight)
    nn.init.constant_(block.layers[-1].bias, 0.5)
    assert torch.equal(block(h), h + 0.5)


def test_downsamplings_choose_the_grid():
    assert vq_encoder(1, 3, 4, 2, 0, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 3, 4, 4)
    assert conv_vqvae((1, 8, 8), 4, 2, width=4, downsamplings=3).latent_shape == (1, 1)


def test_it_learns_digits_and_uses_its_codebook():
    """Held-out squared error below 0.2 of the variance, with most of 32 codes in use. The mean image has 0.53 there."""
    images = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
    x, held_out = images[:1500], images[1500:]
    torch.manual_seed(0)
    vqvae = conv_vqvae(
        (1, 8, 8), 32, 8, width=16, downsamplings=1, restart_below=1.0, likelihood=Gaussian(0.2)
    )
    optimizer = torch.optim.Adam(vqvae.parameters(), lr=2e-3)
    for _ in range(200):
        terms = vqvae.loss(x[torch.randint(len(x), (64,))])
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    vqvae.eval()
    error = (vqvae.reconstruct(held_out) - held_out).square().mean() / held_out.var()
    assert error < 0.2
    assert perplexity(vqvae.code_counts(held_out)) > 16


# --- Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes ≥ 1 and dim ≥ 1, got 0 and 6"),
        ({"dim": 0}, "got 16 and 0"),
        ({"beta": -1.0}, "beta should be at least 0, got -1.0"),
        ({"beta": math.nan}, "beta should be at least 0, got nan"),
        ({"decay": 1.0}, r"decay should lie in \[0, 1\), got 1.0"),
        ({"eps": 0.0}, "eps should be positive, got 0.0"),
        ({"restart_below": -1.0}, "restart_below should be at least 0 and finite, got -1.0"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**{"num_codes": K, "dim": D} | options)


@pytest.mark.parametrize("shape", [(3, D + 1), (D,), (2, 3, D), (2, D + 1, 4, 4), (0, D), (2, D, 0, 3)])
def test_wrong_vectors_are_refused_before_anything_moves(shape):
    quantizer = build()
    before = quantizer.codebook.clone()
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"expected vectors \(N, 6\) or \(B, 6, H, W\), got"):
            call(torch.zeros(shape))
    assert torch.equal(quantizer.codebook, before)


def test_wrong_codes_and_images_are_refused():
    quantizer = build()
    with pytest.raises(ValueError, match=r"the vectors are torch\.float64"):
        quantizer(torch.zeros(3, D, dtype=torch.float64))
    for wrong in (torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="expected integer codes"):
            quantizer.decode(wrong)
    for wrong in ([0, K], [-1, 0]):
        with pytest.raises(
            ValueError, match=f"codes should lie in 0 … {K - 1}, got {wrong[0]} to {wrong[1]}"
        ):
            quantizer.decode(torch.tensor(wrong))
    vqvae = model()
    with pytest.raises(ValueError, match=r"expected codes \(B, 2, 2\), got \(1, 3, 3\)"):
        vqvae.decode_indices(torch.zeros(1, 3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected a batch \(B, 1, 8, 8\)"):
        vqvae.loss(torch.zeros(2, 1, 8, 12))
    vqvae.encoder = nn.Identity()
    with pytest.raises(ValueError, match=r"the encoder should return \(B, 6, 2, 2\), got \(2, 1, 8, 8\)"):
        vqvae.loss(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("shape", [(1, 10, 8), (8, 8), 64])
def test_shapes_that_do_not_halve_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(C, H, W\) with H and W divisible by 4"):
        conv_vqvae(shape)


@pytest.mark.parametrize("options", [{"width": 0}, {"downsamplings": 0}, {"residual_layers": -1}])
def test_sizes_are_positive(options):
    with pytest.raises(ValueError, match="sizes should be positive"):
        conv_vqvae((1, 8, 8), **options)
