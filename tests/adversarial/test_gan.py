"""The adversarial step: who learns when, what is computed once, options, checkpoints, and modes of a ring covered."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_lib.adversarial.gan import (
    GAN,
    LOSSES,
    AdversarialLoss,
    SampleHistory,
    js_divergence,
    kl_divergence,
    mlp_discriminator,
    mlp_generator,
    mode_coverage,
    optimal_discriminator,
    r1_penalty,
    value_function,
)

# from course_lib.adversarial.ring_study import SETTINGS, run
from course_lib.data import load, loader
from course_lib.training import fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    return torch.randn(24, 2, generator=seeded())


def small_gan(seed=0, optimiser=torch.optim.Adam, ema=False, **options):
    torch.manual_seed(seed)
    generator, discriminator = mlp_generator(3, (2,), (16,)), mlp_discriminator((2,), (16,))
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.5)) if ema else None
    return GAN(
        generator,
        discriminator,
        optimiser(generator.parameters(), lr=1e-2),
        optimiser(discriminator.parameters(), lr=1e-2),
        latent_dim=3,
        ema=average,
        **options,
    )


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


class Calls(nn.Module):
    """Counts the calls of a network, and the rows it is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows, self.with_graph = network, [], []

    def forward(self, x):
        self.rows.append(len(x))
        self.with_graph.append(torch.is_grad_enabled())
        return self.network(x)


# --- One step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_moves_both_players_and_reports_named_scalars(loss, x):
    gan = small_gan(loss=loss)
    before = weights(gan.generator), weights(gan.discriminator)
    terms = gan.step((x, torch.zeros(24)))
    expected = {"d_loss", "g_loss", "d_accuracy_real", "d_accuracy_fake"}
    assert set(terms) == expected | ({"value"} if LOSSES[loss].is_value else set())
    assert all(v.shape == () and v.isfinite() and not v.requires_grad for v in terms.values())
    assert not torch.equal(weights(gan.generator), before[0])
    assert not torch.equal(weights(gan.discriminator), before[1])


def test_the_terms_are_what_they_say(x):
    gan = small_gan(d_steps=1)
    twin = small_gan()
    torch.manual_seed(5)
    terms = gan.step(x)
    torch.manual_seed(5)
    fake = twin.generator(torch.randn(24, 3))
    real_logits, fake_logits = twin.discriminator(x), twin.discriminator(fake)
    value = real_logits.sigmoid().log().mean() + (1 - fake_logits.sigmoid()).log().mean()
    assert terms["value"].item() == pytest.approx(value.item(), abs=1e-6)
    assert terms["d_loss"].item() == pytest.approx(-value.item(), abs=1e-6)
    assert terms["d_accuracy_real"].item() == pytest.approx((real_logits > 0).float().mean().item())
    assert terms["d_accuracy_fake"].item() == pytest.approx((fake_logits < 0).float().mean().item())
    after = gan.discriminator(fake)  # the generator's loss is that of the discriminator after its step
    assert terms["g_loss"].item() == pytest.approx(-after.sigmoid().log().mean().item(), abs=1e-6)
    assert not torch.allclose(after, fake_logits)


def test_least_squares_counts_from_one_half():
    gan = small_gan(loss="least_squares")
    gan.discriminator = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    nn.init.zeros_(gan.discriminator[0].weight)
    gan.discriminator[0].bias.data.fill_(0.4)
    gan.d_optimizer = torch.optim.SGD(gan.discriminator.parameters(), lr=0.0)
    terms = gan.step(torch.zeros(8, 2))
    assert (terms["d_accuracy_real"].item(), terms["d_accuracy_fake"].item()) == (0.0, 1.0)


def test_each_player_learns_only_in_its_own_turn(x):
    gan = small_gan()
    d_before = weights(gan.discriminator)
    gan.generator_step((x,), gan.fake((x,)))
    assert torch.equal(weights(gan.discriminator), d_before)
    assert all(p.grad is None for p in gan.discriminator.parameters())  # not even computed
    assert all(p.requires_grad for p in gan.discriminator.parameters())
    g_before = weights(gan.generator)
    gan.g_optimizer.zero_grad()
    gan.discriminator_step((x,), gan.fake((x,)).detach())
    assert torch.equal(weights(gan.generator), g_before)
    assert all(p.grad is None for p in gan.generator.parameters())


@pytest.mark.parametrize("k", [1, 3])
def test_k_discriminator_steps_on_k_mini_batches_and_fakes_computed_once(k, x):
    gan = small_gan(d_steps=k)
    gan.generator, gan.discriminator = Calls(gan.generator), Calls(gan.discriminator)
    gan.step(x)
    m = 24 // k
    assert gan.generator.rows == [m] * k
    assert gan.generator.with_graph == [False] * (k - 1) + [True]
    assert gan.discriminator.rows == [m] * (2 * k + 1)  # real and fake k times, then once for the generator
    assert gan.d_updates.value == k


def test_every_mini_batch_is_seen_once():
    seen = []

    class Watching(GAN):
        def discriminator_step(self, part, fake):
            seen.append(part)
            return super().discriminator_step(part, fake)

    gan = small_gan(d_steps=4)
    gan.__class__ = Watching
    points, label = torch.randn(8, 2), torch.arange(8)
    gan.step((points, label))
    assert torch.equal(torch.cat([p for p, _ in seen]), points)
    assert torch.equal(torch.cat([y for _, y in seen]), label)


def test_the_discriminator_learns_to_tell_and_the_generator_to_be_taken_for_real(x):
    gan = small_gan()
    far = x + 5
    first = gan.discriminator_step((far,), gan.fake((far,)).detach())
    for _ in range(60):
        last = gan.discriminator_step((far,), gan.fake((far,)).detach())
    assert last["value"] > first["value"] + 0.5
    assert last["d_accuracy_real"] == last["d_accuracy_fake"] == 1
    torch.manual_seed(1)
    before = gan.generator_step((far,), gan.fake((far,)))["g_loss"]
    for _ in range(60):
        after = gan.generator_step((far,), gan.fake((far,)))["g_loss"]
    assert after < before - 0.5


# --- Options ------------------------------------------------------------------------------------------------------


def test_r1_of_a_linear_discriminator_by_hand():
    real = torch.randn(7, 2).requires_grad_()
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    penalty = r1_penalty(real @ w + 1, real)
    assert penalty.item() == pytest.approx(12.5)  # ½ ‖w‖²
    penalty.backward()
    assert torch.allclose(w.grad, w.detach())
    pictures = torch.randn(
        3, 1, 2, 2
    ).requires_grad_()  # squared slopes add up over pixels, and average over examples
    assert r1_penalty(pictures.square().sum((1, 2, 3)), pictures).item() == pytest.approx(
        2 * pictures.square().sum().item() / 3, rel=1e-5
    )


def test_lazy_r1_is_taken_every_nth_update_with_n_times_the_weight(x):
    def r1_terms(r1, every):
        gan = small_gan(optimiser=torch.optim.SGD, r1=r1, r1_every=every)
        for group in gan.d_optimizer.param_groups:
            group["lr"] = 0.0
        return [gan.discriminator_step((x,), x + 1).get("r1") for _ in range(5)]

    always, lazy = r1_terms(0.7, 1), r1_terms(0.7, 2)
    assert [t is None for t in lazy] == [False, True, False, True, False]
    assert all(t is not None for t in always)
    assert lazy[0].item() == pytest.approx(2 * always[0].item())
    assert r1_terms(1.4, 1)[0].item() == pytest.approx(2 * always[0].item())
    assert r1_terms(0.0, 1) == [None] * 5


def test_r1_flattens_the_discriminator_at_real_points(x):
    slopes = {}
    for r1 in (0.0, 10.0):
        gan = small_gan(r1=r1)
        for _ in range(100):
            gan.discriminator_step((x,), x + 1)
        real = x.clone().requires_grad_()
        slopes[r1] = r1_penalty(gan.discriminator(real), real).item()
    assert slopes[10.0] < 0.1 * slopes[0.0]


def test_unrolling_by_sgd_is_one_explicit_step_ahead(x):
    """The generator's gradient through w − η ∇_w L_D(w, fake): against autograd on a copy, written out."""
    gan = small_gan(optimiser=torch.optim.SGD, unroll=1)
    fake = (x + 1).requires_grad_()
    names, params = zip(*gan.discriminator.named_parameters(), strict=True)
    copies = [p.detach().clone().requires_grad_() for p in params]
    call = lambda w, x: torch.func.functional_call(gan.discriminator, dict(zip(names, w, strict=True)), x)  # noqa: E731
    loss = LOSSES["non_saturating"].discriminator(call(copies, x), call(copies, fake))
    slopes = torch.autograd.grad(loss, copies, create_graph=True)
    ahead = [w - 1e-2 * g for w, g in zip(copies, slopes, strict=True)]
    expected = torch.autograd.grad(LOSSES["non_saturating"].generator(call(ahead, fake)), fake)[0]
    with gan.frozen("discriminator") as discriminator:
        terms = gan.generator_terms(gan._unrolled(discriminator, (x,), fake), (x,), fake)
    got = torch.autograd.grad(terms["g_loss"], fake)[0]
    assert torch.allclose(got, expected, rtol=0, atol=1e-8)
    direct = torch.autograd.grad(LOSSES["non_saturating"].generator(gan.discriminator(fake)), fake)[0]
    assert not torch.allclose(got, direct, rtol=0, atol=1e-6)


def test_unrolled_adam_is_where_adam_will_be(x):
    gan, twin = small_gan(unroll=3), small_gan()
    for g in (gan, twin):
        for _ in range(5):
            g.discriminator_step((x,), x + 1)
    ahead = gan._unrolled(gan.discriminator, (x,), x + 1)
    for _ in range(3):
        twin.discriminator_step((x,), x + 1)
    assert torch.allclose(ahead(x), twin.discriminator(x), rtol=0, atol=1e-4)
    assert not torch.allclose(ahead(x), gan.discriminator(x), rtol=0, atol=1e-2)
    gan.step(x)
    assert weights(gan.generator).isfinite().all()


def test_the_average_follows_the_generator_and_is_what_is_sampled(x):
    gan = small_gan(ema=True)
    for _ in range(3):
        gan.step(x)
    assert not torch.equal(weights(gan.ema.module), weights(gan.generator))
    z = torch.randn(5, 3, generator=seeded(3))
    assert torch.equal(gan.sample(5, seeded(3)), gan.ema.module(z).detach())


def test_the_prior_can_be_normal_or_uniform(x):
    uniform = small_gan(prior="uniform").latent(5_000, x, seeded())
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() <= 1
    normal = small_gan().latent(5_000, x, seeded())
    assert normal.std().item() == pytest.approx(1, abs=0.02)


def test_samples_are_reproducible_and_leave_the_modes_of_the_network_alone():
    gan = small_gan()
    gan.generator.insert(1, nn.BatchNorm1d(16))
    gan.generator(torch.randn(64, 3))
    running = gan.generator[1].running_mean.clone()
    first, second = gan.sample(6, seeded(1)), gan.sample(6, seeded(1))
    assert first.shape == (6, 2)
    assert not first.requires_grad
    assert torch.equal(first, second)
    assert torch.equal(gan.sample(1, seeded(1)), gan.sample(1, seeded(1)))  # one alone: no batch statistics
    assert gan.generator.training
    assert torch.equal(gan.generator[1].running_mean, running)


def test_a_conditional_model_overrides_three_methods(x):
    class Conditional(GAN):
        def fake(self, part):
            condition = part[1]
            return self.generator(torch.cat([condition, self.latent(len(condition), condition)], dim=1))

        def score(self, discriminator, x, part):
            return discriminator(torch.cat([x, part[1]], dim=1))

    generator, discriminator = mlp_generator(5, (2,), (8,)), mlp_discriminator((4,), (8,))
    optimisers = [torch.optim.Adam(n.parameters()) for n in (generator, discriminator)]
    gan = Conditional(generator, discriminator, *optimisers, latent_dim=3, d_steps=2, r1=1.0, unroll=1)
    assert gan.step((x, x))["g_loss"].isfinite()


# --- The history of generated samples -------------------------------------------------------------------------------


def test_the_history_first_fills_then_passes_on_old_samples_half_of_the_time():
    history = SampleHistory(50, (1,))
    first = torch.arange(50.0)[:, None]
    assert torch.equal(history(first[:30]), first[:30])
    assert torch.equal(history(first[30:]), first[30:])
    torch.manual_seed(0)
    old = 0
    for i in range(1, 401):
        passed_on = history(torch.full((10, 1), 1000.0 * i))
        old += int((passed_on != 1000.0 * i).sum())
    assert old == pytest.approx(2_000, abs=3 * math.sqrt(1_000))  # ½ of 4,000, to 3 standard deviations
    assert (history.pool >= 1000).all()


def test_nothing_is_lost_and_nothing_doubled():
    """What has come in has gone out or is in the pool, once."""
    history = SampleHistory(7, (2,))
    came = torch.randn(6, 5, 2, generator=seeded())
    out = [history(part, seeded(i)) for i, part in enumerate(came)]
    first_in, later_out = torch.cat(list(came)), torch.cat(out)[7:]  # the first seven went both ways
    there = torch.cat([later_out, history.pool]).tolist()
    assert sorted(there) == sorted(first_in.tolist())


def test_the_history_takes_batches_larger_than_itself_and_pictures_and_no_gradient():
    history = SampleHistory(4, (1, 3, 3))
    pictures = torch.randn(11, 1, 3, 3, requires_grad=True)
    out = history(pictures)
    assert out.shape == pictures.shape
    assert not out.requires_grad
    with pytest.raises(ValueError, match=r"expected samples \(B, 1, 3, 3\)"):
        history(torch.randn(2, 1, 3, 4))
    with pytest.raises(ValueError, match="capacity should be at least 1"):
        SampleHistory(0, (2,))


def test_the_discriminator_sees_the_history(x):
    gan = small_gan(history=SampleHistory(24, (2,)))
    gan.history(torch.full((24, 2), 100.0))
    seen = []
    gan.score = lambda network, x, part: seen.append(x) or network(x)
    gan.step(x)
    assert 0 < (seen[1] == 100).all(dim=1).sum() < 24  # of the discriminator's fakes
    assert not (seen[2] == 100).any()  # the generator answers for its own only


# --- In the loop --------------------------------------------------------------------------------------------------


def test_in_the_loop_a_run_in_two_halves_is_the_run_in_one(tmp_path):
    data = loader(load("toy2d/ring", size=256), 32)

    def gan():
        return small_gan(history=SampleHistory(40, (2,)), ema=True, r1=0.1, r1_every=3, d_steps=2)

    once, first, second = gan(), gan(), gan()
    fit(once, data, steps=14, device="cpu", progress=False)
    fit(first, data, steps=7, device="cpu", checkpoint=tmp_path / "c.pt", progress=False)
    history = fit(second, data, steps=14, device="cpu", checkpoint=tmp_path / "c.pt", progress=False)
    assert torch.equal(weights(once.generator), weights(second.generator))
    assert torch.equal(once.history.pool, second.history.pool)
    assert second.d_updates.value == 28
    assert {"d_loss", "g_loss", "value"} <= set(history.keys())


def test_bf16_training_takes_steps():
    gan = small_gan(r1=0.1, unroll=1)
    history = fit(
        gan,
        loader(load("toy2d/ring", size=64), 32),
        steps=3,
        device="cpu",
        precision="bf16-mixed",
        progress=False,
    )
    assert len(history) == 3


# --- Diagnostics --------------------------------------------------------------------------------------------------


def test_coverage_of_true_samples_of_collapsed_ones_and_of_noise():
    ring = load("toy2d/ring")
    truth = mode_coverage(ring.points, ring.means, ring.std)
    assert truth.modes == 8
    assert truth.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.004)
    assert torch.allclose(truth.shares, torch.full((8,), truth.high_quality / 8), rtol=0, atol=0.015)
    one = mode_coverage(ring.points[ring.labels == 3], ring.means, ring.std)
    assert (one.modes, int(one.shares.argmax())) == (1, 3)
    assert mode_coverage(torch.zeros(100, 2), ring.means, ring.std)[:2] == (0, 0.0)


def test_a_mode_needs_samples_within_three_standard_deviations():
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    samples = torch.tensor([[0.29, 0.0], [0.31, 0.0], [10.0, 0.29], [10.0, -0.2]])
    coverage = mode_coverage(samples, modes, std=0.1)
    assert coverage.modes == 2
    assert coverage.high_quality == 0.75
    assert coverage.shares.tolist() == [0.25, 0.5]
    assert mode_coverage(samples, modes, std=0.1, least=2).modes == 1


# --- What is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "softmax"}, "unknown loss 'softmax'.*minimax, non_saturating"),
        ({"prior": "cauchy"}, "prior should be 'normal' or 'uniform', got 'cauchy'"),
        ({"d_steps": 0}, "d_steps"),
        ({"r1": -1.0}, "r1=-1.0"),
        ({"r1_every": 0}, "r1_every"),
        ({"unroll": -1}, "unroll=-1"),
        ({"unroll": 1, "optimiser": torch.optim.RMSprop}, "got RMSprop"),
        ({"unroll": 1, "optimiser": torch.optim.AdamW}, "weight_decay"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_gan(**options)


def test_bad_batches_counts_and_densities_are_refused(x):
    with pytest.raises(ValueError, match="a batch of 2 cannot be cut into d_steps=3"):
        small_gan(d_steps=3).step(x[:2])
    with pytest.raises(ValueError, match="n should be at least 1, got 0"):
        small_gan().sample(0)
    p = torch.tensor([0.5, 0.5])
    for function in (optimal_discriminator, kl_divergence, js_divergence):
        with pytest.raises(ValueError, match="one shape"):
            function(p, p[:1])
        with pytest.raises(ValueError, match="not negative"):
            function(p, -p)
        with pytest.raises(ValueError, match="not negative"):
            function(p, p * math.nan)
    with pytest.raises(ValueError, match="cell should be the positive size"):
        kl_divergence(p, p, cell=0.0)
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        value_function(p, p, 2 * p + 0.5)
    with pytest.raises(ValueError, match=r"expected samples \(N, d\)"):
        mode_coverage(torch.zeros(3, 2), torch.zeros(8, 3), 0.1)
    with pytest.raises(ValueError, match="std > 0"):
        mode_coverage(torch.zeros(3, 2), torch.zeros(8, 2), 0.0)


def test_a_loss_of_ones_own(x):
    logistic = AdversarialLoss(LOSSES["minimax"].discriminator, LOSSES["hinge"].generator)
    assert "value" not in small_gan(loss=logistic).step(x)
