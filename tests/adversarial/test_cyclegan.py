"""CycleGAN: the published size, the loss by hand, who learns from what, the history, the decay, and some learning."""

import copy
from math import comb

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.adversarial.cyclegan import (
    PRESETS,
    CycleGAN,
    CycleGANSettings,
    ResNetGenerator,
    cyclegan,
    linear_decay,
)
from course_lib.adversarial.gan import SampleHistory
from course_lib.training import fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return cyclegan((3, 12, 12), **{"width": 4, "d_width": 4, "d_depth": 1, **changes})


def batch(n=3, seed=0):
    return tuple(torch.rand(n, 3, 12, 12, generator=seeded(seed + i)) for i in range(2))


def networks(model):
    return {name: getattr(model, name) for name in ("g_ab", "g_ba", "d_a", "d_b")}


# --- Networks -------------------------------------------------------------------------------------------------------


def test_parameter_counts_of_the_reference_implementation():
    """11.38 M a generator and 2.76 M a discriminator are published."""
    with torch.device("meta"):
        model = cyclegan((3, 256, 256), "paper")
        smaller = cyclegan((3, 128, 128), "paper128")
    block = 2 * (9 * 256 * 256 + 256)
    outside = 49 * 3 * 64 + 64 + 9 * 64 * 128 + 128 + 9 * 128 * 256 + 256
    outside += 9 * 256 * 128 + 128 + 9 * 128 * 64 + 64 + 49 * 64 * 3 + 3
    for n, blocks in ((model.g_ab, 9), (model.g_ba, 9), (smaller.g_ab, 6)):
        assert sum(p.numel() for p in n.parameters()) == outside + blocks * block
    assert outside + 9 * block == 11_378_179
    for n in (model.d_a, model.d_b, smaller.d_a):
        assert sum(p.numel() for p in n.parameters()) == 2_764_737
        assert n.receptive_field() == 70


def test_the_paper_s_setting_is_the_paper_s():
    with torch.device("meta"):
        model = cyclegan((3, 256, 256), "paper", steps=100)
    assert (model.cycle, model.identity) == (10.0, 5.0)
    assert len(model.history_a.pool) == len(model.history_b.pool) == 50
    assert model.history_a is not model.history_b
    for optimizer, pair in ((model.g_optimizer, ("g_ab", "g_ba")), (model.d_optimizer, ("d_a", "d_b"))):
        assert optimizer.defaults["lr"] == 2e-4
        assert optimizer.defaults["betas"] == (0.5, 0.999)
        learned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert learned == {id(p) for name in pair for p in getattr(model, name).parameters()}
    assert PRESETS["paper128"].blocks == 6


@pytest.mark.parametrize("downsamplings", [0, 1, 2])
@pytest.mark.parametrize("normalise", ["instance", "none", "batch"])
def test_a_generator_keeps_the_size(downsamplings, normalise):
    network = ResNetGenerator(2, 4, 3, 1, downsamplings, kernel=3, normalise=normalise)
    for shape in ((8, 8), (12, 16)):
        y = network(torch.rand(2, 2, *shape))
        assert y.shape == (2, 4, *shape)
        assert y.dtype == torch.float32
        assert 0 <= y.min() < y.max() <= 1


def test_a_generator_is_the_chain_of_the_paper():
    """One downsampling, one block, by hand: reflected borders, instance norm, a block without a last activation."""
    torch.manual_seed(0)
    net = ResNetGenerator(3, 3, 4, 1, 1, init_std=0.3)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    first, down, one, two, up, last = convolutions
    x = torch.rand(2, 3, 8, 8)

    def conv(h, layer, border, stride=1):
        h = F.pad(h, [border] * 4, mode="reflect") if border else h
        return F.conv2d(h, layer.weight, layer.bias, stride, padding=int(stride == 2))

    h = F.relu(F.instance_norm(conv(2 * x - 1, first, 3)))
    h = F.relu(F.instance_norm(conv(h, down, 0, stride=2)))
    inner = F.relu(F.instance_norm(conv(h, one, 1)))
    h = h + F.instance_norm(conv(inner, two, 1))
    h = F.relu(F.instance_norm(F.conv_transpose2d(h, up.weight, up.bias, 2, 1, 1)))
    expected = 0.5 * torch.tanh(conv(h, last, 3)) + 0.5
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))  # no example depends on another


# --- The loss -------------------------------------------------------------------------------------------------------


class Shift(nn.Module):
    """x + a number."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x):
        return x + self.by


class Scale(nn.Module):
    """A number times the picture's mean, for each picture."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x):
        return self.by * x.mean((1, 2, 3))


def by_hand(**options):
    parts = [Shift(0.1), Shift(-0.3), Scale(0.5), Scale(2.0)]
    sgd = [
        torch.optim.SGD([p for n in pair for p in n.parameters()], lr=0.0) for pair in (parts[:2], parts[2:])
    ]
    return CycleGAN(*parts, *sgd, **options)


def test_terms_against_hand_calculation():
    """a = 0.2, b = 0.8, G(a) = a + 0.1, F(b) = b − 0.3, D_A = ½ mean, D_B = 2 mean; pixels span 2 in the losses."""
    model = by_hand(cycle=7.0, identity=3.0)
    a, b = torch.full((2, 1, 4, 4), 0.2), torch.full((3, 1, 4, 4), 0.8)
    terms = {name: value.item() for name, value in model.step((a, b)).items()}
    gan_ab, gan_ba = (2 * 0.3 - 1) ** 2, (0.5 * 0.5 - 1) ** 2
    expected = {
        "gan_ab": gan_ab,
        "gan_ba": gan_ba,
        "cycle_a": 2 * 0.2,  # F(G(a)) = a − 0.2
        "cycle_b": 2 * 0.2,
        "identity_a": 2 * 0.3,  # F(a) = a − 0.3
        "identity_b": 2 * 0.1,
        "g_loss": gan_ab + gan_ba + 7 * 0.8 + 3 * 0.8,
        "d_a_loss": 0.5 * ((0.5 * 0.2 - 1) ** 2 + (0.5 * 0.5) ** 2),
        "d_b_loss": 0.5 * ((2 * 0.8 - 1) ** 2 + (2 * 0.3) ** 2),
        "d_accuracy_real": 0.5,  # D_A says 0.1, D_B says 1.6; the threshold is ½
        "d_accuracy_fake": 0.5,  # 0.25 and 0.6
    }
    assert terms == pytest.approx(expected, rel=1e-5)
    # G's slope: GAN 2(0.6 − 1)·2; both cycles −2·7 (a larger shift brings F(G(a)) nearer); identity +2·3
    assert model.g_ab.by.grad.item() == pytest.approx(-1.6 - 28 + 6, rel=1e-5)
    assert model.g_ba.by.grad.item() == pytest.approx(2 * (0.25 - 1) * 0.5 - 28 - 6, rel=1e-5)
    # D_B's: (1.6 − 1)·0.8 + 0.6·0.3, and nothing from the generators' step
    assert model.d_b.by.grad.item() == pytest.approx(0.6 * 0.8 + 0.6 * 0.3, rel=1e-5)
    assert model.d_a.by.grad.item() == pytest.approx(-0.9 * 0.2 + 0.25 * 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "missing"),
    [
        ({"cycle": 0.0}, {"cycle_a", "cycle_b"}),
        ({"identity": 0.0}, {"identity_a", "identity_b"}),
        ({"cycle": 0.0, "identity": 0.0}, {"cycle_a", "cycle_b", "identity_a", "identity_b"}),
    ],
)
def test_a_term_of_weight_0_is_left_out(weights, missing):
    full, less = by_hand(cycle=7.0, identity=3.0), by_hand(**{"cycle": 7.0, "identity": 3.0} | weights)
    a, b = torch.full((2, 1, 4, 4), 0.2), torch.full((2, 1, 4, 4), 0.8)
    terms, fewer = full.step((a, b)), less.step((a, b))
    assert set(terms) - set(fewer) == missing
    left = sum((7.0 if name.startswith("cycle") else 3.0) * terms[name] for name in missing)
    torch.testing.assert_close(fewer["g_loss"], terms["g_loss"] - left)


def test_which_network_each_term_reaches():
    """By autograd: the adversarial term reaches one generator, the cycles both, and no term of G's a discriminator."""
    model, reached = tiny(), {}
    a, b = batch()
    model.backward = lambda loss: None  # the graph stays, for the terms one by one
    terms, _, _ = model.generator_step(a, b)
    for name, term in terms.items():
        reached[name] = {
            part
            for part, network in networks(model).items()
            if any(
                g is not None and g.any()
                for g in torch.autograd.grad(
                    term, list(network.parameters()), retain_graph=True, allow_unused=True
                )
            )
        }
    both = {"g_ab", "g_ba"}
    assert reached == {
        "g_loss": both,
        "gan_ab": {"g_ab"},
        "gan_ba": {"g_ba"},
        "cycle_a": both,
        "cycle_b": both,
        "identity_a": {"g_ba"},
        "identity_b": {"g_ab"},
    }


def test_each_step_moves_its_own_players():
    for player, moving in (("generator", {"g_ab", "g_ba"}), ("discriminator", {"d_a", "d_b"})):
        model = tiny()
        before = copy.deepcopy({name: list(n.parameters()) for name, n in networks(model).items()})
        a, b = batch()
        if player == "generator":
            model.generator_step(a, b)
            assert all(p.grad is None for n in (model.d_a, model.d_b) for p in n.parameters())
        else:
            model.discriminator_step(a, b, a.flip(0), b.flip(0))
        for name, network in networks(model).items():
            same = [torch.equal(p, q) for p, q in zip(network.parameters(), before[name], strict=True)]
            assert not any(same) if name in moving else all(same), name


def test_no_generator_runs_more_often_than_it_must():
    """One call for the translation and the identity, one for the cycle; each discriminator once for either player."""
    model, calls = tiny(), dict.fromkeys(("g_ab", "g_ba", "d_a", "d_b"), 0)
    for name, network in networks(model).items():

        def count(module, inputs, name=name):
            calls[name] += 1

        network.register_forward_pre_hook(count)
    model.step(batch())
    assert calls == {"g_ab": 2, "g_ba": 2, "d_a": 2, "d_b": 2}


# --- The history of generated pictures ------------------------------------------------------------------------------


def test_discriminators_see_their_own_history():
    model, seen = tiny(pool=5), {"d_a": [], "d_b": []}
    fakes = []
    for step in range(40):
        a, b = batch(1, seed=2 * step)
        _, fake_a, fake_b = model.generator_step(a, b)
        fakes.append({"d_a": fake_a, "d_b": fake_b})
        hooks = [
            getattr(model, name).register_forward_pre_hook(
                lambda m, inputs, name=name: seen[name].append(inputs[0][1:])
            )
            for name in seen
        ]
        model.discriminator_step(a, b, fake_a, fake_b)
        for hook in hooks:
            hook.remove()
    for name, given in seen.items():
        made = torch.cat([fake[name] for fake in fakes])
        ages = [
            step - (made == picture).flatten(1).all(1).nonzero().item() for step, picture in enumerate(given)
        ]
        assert ages[:5] == [0] * 5  # until it is full every picture is passed on
        assert min(ages) == 0
        assert max(ages) > 1  # some are older
    assert not torch.equal(model.history_a.pool, model.history_b.pool)


def test_distribution_of_the_pool():
    """As in the authors' code: half of the pictures pass; of the others each place of 50 is as likely as any other.

    So a picture in the pool stays with probability 1 − 1/100 a step: ages are geometric with mean 100.
    """
    capacity, steps = 50, 20_000
    history, generator = SampleHistory(capacity, (1,)), seeded()
    given = torch.cat([history(torch.tensor([[float(i)]]), generator) for i in range(steps)])[capacity:, 0]
    new = torch.arange(capacity, steps).float()
    passed = (given == new).float().mean().item()
    assert passed == pytest.approx(0.5, abs=5 * 0.5 / (steps - capacity) ** 0.5)
    old = (new - given)[given != new][1_000:]
    assert old.mean().item() == pytest.approx(2 * capacity, rel=0.08)
    # P(age > k) = (1 − 1/100)^k
    for k in (20, 100, 300):
        share = (1 - 1 / (2 * capacity)) ** k
        assert (old > k).float().mean().item() == pytest.approx(share, abs=0.035)
    # Binomial: places taken by exchanges, the first 50 numbers each sit in a place of their own
    first = [(given == i).sum().item() for i in range(capacity)]
    assert sum(first) <= capacity  # each comes out at most once
    assert comb(capacity, sum(first)) >= 1


def test_without_a_pool_the_newest_fakes_are_judged():
    model = tiny(pool=0)
    assert model.history_a is None
    assert model.history_b is None
    assert all(v.isfinite() for v in model.step(batch()).values())


# --- The schedule ---------------------------------------------------------------------------------------------------


def test_linear_decay():
    assert [linear_decay(step, 200) for step in (0, 50, 100, 150, 199, 200, 250)] == pytest.approx(
        [1, 1, 1, 0.5, 0.01, 0, 0]
    )
    model = tiny(steps=10, lr=0.5)
    rates = []
    for _ in range(10):
        rates.append([o.param_groups[0]["lr"] for o in (model.g_optimizer, model.d_optimizer)])
        model.step(batch())
    assert [r[0] for r in rates] == pytest.approx([0.5] * 6 + [0.4, 0.3, 0.2, 0.1])
    assert all(r[0] == r[1] for r in rates)
    constant = tiny()
    constant.step(batch())
    assert constant.g_scheduler is None


# --- Learning -------------------------------------------------------------------------------------------------------


def test_every_field_of_the_settings_is_used():
    other = {"width": 6, "blocks": 1, "downsamplings": 2, "kernel": 5, "normalise": "instance", "d_width": 6}
    other |= {
        "d_depth": 2,
        "cycle": 1.0,
        "identity": 1.0,
        "pool": 3,
        "lr": 0.5,
        "beta1": 0.1,
        "init_std": 1.0,
    }
    assert set(other) == set(CycleGANSettings.__dataclass_fields__)

    def described(model):
        scale = next(model.g_ab.parameters()).std().item() > 0.5
        settings = [
            model.cycle,
            model.identity,
            scale,
            model.g_optimizer.defaults,
            model.d_optimizer.defaults,
        ]
        pool = 0 if model.history_a is None else len(model.history_a.pool)
        return str([*settings, pool, model.g_ab, model.g_ba, model.d_a, model.d_b])

    plain = described(tiny())
    for name, value in other.items():
        assert described(tiny(**{name: value})) != plain, name


def clouds(n, red, seed):
    """A smooth pattern, tinted red in A, blue in B."""
    noise = torch.rand(n, 1, 4, 4, generator=seeded(seed))
    pattern = F.interpolate(noise, size=12, mode="bilinear", align_corners=True)
    tint = torch.tensor([0.9, 0.5, 0.3]).view(3, 1, 1)
    return (0.2 + 0.8 * pattern) * (tint if red else tint.flip(0))


def test_it_learns_to_change_the_tint_and_keep_the_pattern():
    a, b = clouds(64, True, 0), clouds(64, False, 1)
    model = tiny(width=8, d_width=8, lr=2e-3, pool=10, blocks=1, steps=200)

    class Batches:
        def __iter__(self):
            generator = seeded(2)
            for _ in range(16):
                yield tuple(x[torch.randint(64, (8,), generator=generator)] for x in (a, b))

    fit(model, Batches(), steps=200, device="cpu", progress=False)
    test = clouds(32, True, 3)
    moved = model.translate(test, "b")
    wanted = test.flip(1)  # the same patterns in blue
    asked = (test - wanted).abs().mean()
    assert (moved - wanted).abs().mean() < 0.4 * asked
    assert (model.translate(moved, "a") - test).abs().mean() < 0.4 * asked


def test_a_run_goes_on_exactly_from_its_state():
    def state(model):
        return {name: n.state_dict() for name, n in networks(model).items()} | {"pool": model.history_a.pool}

    torch.manual_seed(1)
    whole = tiny(steps=4)
    for i in range(4):
        torch.manual_seed(i)
        whole.step(batch(seed=i))
    part, rest = tiny(steps=4), tiny(seed=9, steps=4)
    for i in range(2):
        torch.manual_seed(i)
        part.step(batch(seed=i))
    rest.load_state_dict(copy.deepcopy(part.state_dict()))
    for i in range(2, 4):
        torch.manual_seed(i)
        rest.step(batch(seed=i))
    torch.testing.assert_close(state(rest), state(whole), rtol=0, atol=0)


def test_bfloat16_leaves_pictures_and_losses_in_float32():
    model = tiny()
    history = fit(
        model,
        [batch(seed=i) for i in range(2)],
        steps=2,
        device="cpu",
        precision="bf16-mixed",
        progress=False,
    )
    assert all(abs(v) < 1000 for v in history["g_loss"])
    assert model.translate(batch()[0], "b").dtype == torch.float32
    assert all(p.dtype == torch.float32 for n in networks(model).values() for p in n.parameters())


# --- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 13, 12), {}, r"multiples of 2, at least 6, got \(3, 13, 12\)"),
        ((3, 4, 4), {}, "at least 6"),
        ((12, 12), {}, "got"),
        ((3, 12, 12), {"width": 0}, "width should be at least 1, got 0"),
        ((3, 12, 12), {"blocks": 0}, "blocks should be at least 1, got 0"),
        ((3, 12, 12), {"kernel": 4}, "odd kernel"),
        ((3, 12, 12), {"normalise": "layer"}, "unknown normalise 'layer'"),
        (
            (3, 12, 12),
            {"preset": "huge"},
            "unknown preset 'huge'; the known ones are: small, paper, paper128",
        ),
        ((3, 12, 12), {"cycle": -1.0}, "expected weights ≥ 0"),
        ((3, 12, 12), {"identity": float("nan")}, "expected weights ≥ 0"),
        ((3, 12, 12), {"pool": -1}, "pool ≥ 0"),
        ((3, 12, 12), {"steps": 0}, "steps ≥ 1"),
        ((3, 12, 12), {"loss": "l1"}, "unknown loss 'l1'"),
    ],
)
def test_what_does_not_fit_is_named(shape, changes, message):
    options = {"d_depth": 1} | changes
    with pytest.raises(ValueError, match=message):
        cyclegan(shape, **options)


def test_wrong_inputs_are_named():
    model = tiny()
    for x in (
        torch.rand(2, 3, 13, 12),
        torch.rand(2, 1, 12, 12),
        torch.zeros(2, 3, 12, 12, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"expected pictures \(B, 3, H, W\) in \[0, 1\]"):
            model.translate(x, "b")
    with pytest.raises(ValueError, match="to should be 'a' or 'b', got 'zebra'"):
        model.translate(batch()[0], "zebra")
    with pytest.raises(ValueError, match=r"pair \(a, b\)"):
        model.step(batch()[0])
