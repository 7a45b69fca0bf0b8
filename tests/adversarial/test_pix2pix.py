"""Pix2Pix: the published sizes, what each output of D sees, skips, noise, the loss by hand, who learns from what."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from course_lib.adversarial.pix2pix import (
    PRESETS,
    InstanceNorm2d,
    NoisyDropout,
    PatchDiscriminator,
    Pix2Pix,
    Pix2PixSettings,
    UNet,
    l1_loss,
    patch_side,
    pix2pix,
)
from course_lib.training import fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(side=16, seed=0, **changes):
    torch.manual_seed(seed)
    return pix2pix((3, side, side), **{"width": 4, "d_depth": 1, **changes})


def pairs(n=4, side=16, seed=0):
    return torch.rand(n, 3, side, side, generator=seeded(seed)), torch.rand(
        n, 3, side, side, generator=seeded(seed + 1)
    )


def modules(network, kind):
    return [m for m in network.modules() if isinstance(m, kind)]


# --- Networks -------------------------------------------------------------------------------------------------------


def test_parameter_counts_of_the_reference_implementation():
    """54.41 M and 2.77 M are published; on the meta device a network has shapes and no numbers."""
    with torch.device("meta"):
        generator, discriminator = UNet(), PatchDiscriminator(6)
    widths = [64, 128, 256, 512, 512, 512, 512, 512]
    down = [16 * a * b for a, b in zip([3, *widths], widths, strict=False)]
    up = [16 * a * b for a, b in zip([512, *[2 * w for w in widths[-2:0:-1]]], widths[-2::-1], strict=True)]
    norms = 2 * sum(widths[1:-1]) + 2 * sum(widths[:-1])  # none in the first layer, none in the innermost
    expected = sum(down) + sum(up) + norms + 16 * 128 * 3 + 3
    assert sum(p.numel() for p in generator.parameters()) == expected == 54_413_955
    assert sum(p.numel() for p in discriminator.parameters()) == 2_768_705


def test_the_paper_s_setting_is_the_paper_s():
    with torch.device("meta"):
        model = pix2pix((3, 256, 256), "paper")
    assert sum(p.numel() for p in model.generator.parameters()) == 54_413_955
    assert sum(p.numel() for p in model.discriminator.parameters()) == 2_768_705
    assert model.discriminator.receptive_field() == 70
    assert (model.l1_weight, model.gan_weight) == (100.0, 1.0)
    assert PRESETS["paper"].dropouts == 3
    noisy = [isinstance(layer, NoisyDropout) for layer in model.generator.noise]
    assert noisy == [True, True, True, False, False, False, False]
    assert [layer.p for layer in model.generator.noise[:3]] == [0.5] * 3
    for optimizer in (model.g_optimizer, model.d_optimizer):
        assert optimizer.defaults["lr"] == 2e-4
        assert optimizer.defaults["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("normalise", ["batch", "instance", "none"])
def test_a_u_net_of_any_depth_keeps_the_size(depth, normalise):
    network = UNet(2, 4, depth, 3, dropouts=min(3, depth - 1), normalise=normalise)
    for shape in ((2**depth * 2, 2**depth * 2), (2**depth * 2, 2**depth * 4)):
        y = network(torch.rand(2, 2, *shape))
        assert y.shape == (2, 4, *shape)
        assert y.dtype == torch.float32
        assert 0 <= y.min() < y.max() <= 1


def test_a_u_net_is_the_chain_of_the_paper():
    """Depth 3 by hand: encoder, decoder, skips, one norm a layer but the first and the innermost."""
    torch.manual_seed(0)
    net = UNet(3, 3, 3, 4, dropouts=0, normalise="batch", init_std=0.3)
    x = torch.rand(2, 3, 16, 16)

    def norm(h, layer):
        mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
        w, b = (p.view(1, -1, 1, 1) for p in (layer.weight, layer.bias))
        return (h - mean) / (var + 1e-5).sqrt() * w + b

    def down(h, i):
        return F.conv2d(h, net.encoder[i][0].weight, None, 2, 1)

    def up(h, i):
        return norm(F.conv_transpose2d(h, net.decoder[i][0].weight, None, 2, 1), net.decoder[i][1])

    e1 = down(2 * x - 1, 0)
    e2 = norm(down(F.leaky_relu(e1, 0.2), 1), net.encoder[1][1])
    e3 = down(F.leaky_relu(e2, 0.2), 2)
    d1 = torch.cat([up(F.relu(e3), 0), e2], dim=1)
    d2 = torch.cat([up(F.relu(d1), 1), e1], dim=1)
    expected = 0.5 * torch.tanh(F.conv_transpose2d(F.relu(d2), net.last.weight, net.last.bias, 2, 1)) + 0.5
    assert len(modules(net, nn.BatchNorm2d)) == 3
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.eval()(x), expected)  # by the statistics of this batch, in either mode


def test_skips_are_really_used():
    """With the innermost layers cut off, the output still follows the input through the skips, and only then."""
    for skips in (True, False):
        torch.manual_seed(0)
        net = UNet(1, 1, 3, 4, dropouts=0, normalise="none", skips=skips, init_std=0.3)
        with torch.no_grad():
            net.encoder[-1][0].weight.zero_()
        x = torch.rand(1, 1, 8, 8, generator=seeded()).requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x)
        assert bool((slope != 0).any()) == skips


@pytest.mark.parametrize(("depth", "field"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_receptive_field_by_formula_and_by_gradient(depth, field):
    """16, 70 and 286, and 1 for the PixelGAN, are the paper's (section 4.4)."""
    discriminator = PatchDiscriminator(3, depth, 1)
    assert discriminator.receptive_field() == field
    side = -(-(field + 64) // 2**depth) * 2**depth
    assert patch_side(discriminator, side) == (field, field)
    assert (
        patch_side(discriminator, 3 * 2**depth)[0] <= 3 * 2**depth
    )  # a small picture ends before the field does


def test_one_logit_changes_with_its_own_square_only():
    """The network itself, not the measurement of it: without norms nothing outside the square has a gradient."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, 2, 4, normalise="none", init_std=0.3)
    x = torch.rand(1, 3, 64, 64).requires_grad_()
    logits = discriminator(x)
    assert logits.shape == (1, 14, 14)
    (slope,) = torch.autograd.grad(logits[0, 7, 6], x)
    seen = slope[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert len(rows) == len(columns) == discriminator.receptive_field()
    assert rows[-1] - rows[0] == columns[-1] - columns[0] == 33
    assert rows[0] - columns[0] == 4  # one logit further is 2² pixels further


@pytest.mark.parametrize(("depth", "side", "shape"), [(0, 8, 8), (1, 16, 6), (3, 64, 6), (3, 256, 30)])
def test_shape_of_the_map_of_logits(depth, side, shape):
    x = torch.rand(2, 6, side, side)
    assert PatchDiscriminator(6, depth, 1)(x).shape == (2, shape, shape)


def test_first_weights_have_the_paper_s_deviation():
    torch.manual_seed(0)
    for network in (UNet(depth=4, width=32), PatchDiscriminator(6)):
        for m in modules(network, nn.Conv2d | nn.ConvTranspose2d):
            n = m.weight.numel()
            assert m.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
            assert m.bias is None or (m.bias == 0).all()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_is_pytorch_s_in_either_order_of_memory(last, dtype):
    x = (3 * torch.randn(3, 5, 6, 7, generator=seeded()) + 1).to(dtype)
    g = torch.randn(3, 5, 6, 7, generator=seeded(1)).to(dtype)
    order = torch.channels_last if last else torch.contiguous_format
    a = x.clone(memory_format=order).requires_grad_()
    b = x.clone().requires_grad_()
    ours, theirs = InstanceNorm2d(5)(a), F.instance_norm(b)
    ours.backward(g)
    theirs.backward(g)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(a.grad, b.grad, **tolerance)
    torch.testing.assert_close(
        ours.float().mean((2, 3)), torch.zeros(3, 5), atol=1e-5 if dtype == torch.float32 else 1e-2, rtol=0
    )


# --- Noise ----------------------------------------------------------------------------------------------------------


def test_dropout_at_test_time():
    model = tiny(init_std=0.3)
    x, _ = pairs()
    model.generator.eval()
    assert not torch.equal(model.translate(x), model.translate(x))
    assert torch.equal(model.translate(x, seeded(3)), model.translate(x, seeded(3)))
    assert not torch.equal(model.translate(x, seeded(3)), model.translate(x, seeded(4)))
    torch.manual_seed(5)
    one = model.translate(x)
    torch.manual_seed(5)
    assert torch.equal(one, model.translate(x))
    still = tiny(noise=0.0)
    assert torch.equal(still.translate(x), still.translate(x))


@pytest.mark.parametrize("generator", [None, seeded()])
def test_noise_drops_its_share_and_keeps_the_mean(generator):
    torch.manual_seed(0)
    y = NoisyDropout(0.25).eval()(torch.ones(40_000), generator)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 40_000) ** 0.5)


# --- The loss -------------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Draws one grey value everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value.expand_as(x)


class Affine(nn.Module):
    """logit = w · mean(condition) + v · mean(picture): one output for each picture."""

    def __init__(self, w=0.5, v=2.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([w, v]))

    def forward(self, x):
        condition, picture = x.chunk(2, dim=1)
        means = torch.stack([condition.mean((1, 2, 3)), picture.mean((1, 2, 3))], dim=1)
        return means @ self.weights


def by_hand(**options):
    generator, discriminator = Constant(0.25), Affine()
    sgd = [torch.optim.SGD(n.parameters(), lr=0.0) for n in (generator, discriminator)]
    return Pix2Pix(generator, discriminator, *sgd, **options)


def test_terms_against_hand_calculation():
    """x = 0.4, y = 0.75, G(x) = 0.25: logits 0.2 + 1.5 for the pair, 0.2 + 0.5 for the drawn one; |y − G| = ½."""
    model = by_hand(l1_weight=7.0, gan_weight=3.0)
    x, y = torch.full((2, 1, 4, 4), 0.4), torch.full((2, 1, 4, 4), 0.75)
    terms = model.step((x, y))
    softplus = lambda t: math.log1p(math.exp(t))  # noqa: E731
    d_loss, gan = softplus(-1.7) + softplus(0.7), softplus(-0.7)
    l1 = 2 * 0.5  # pixels span [−1, 1] in the papers
    assert terms["d_loss"].item() == pytest.approx(d_loss, rel=1e-6)
    assert terms["gan"].item() == pytest.approx(gan, rel=1e-6)
    assert terms["l1"].item() == pytest.approx(l1, rel=1e-6)
    assert terms["g_loss"].item() == pytest.approx(3 * gan + 7 * l1, rel=1e-6)
    # d g_loss / d value: 3 σ(−0.7)·(−v) + 7·2·sign(G − y)
    slope = -3 * 2.0 / (1 + math.exp(0.7)) - 14
    assert model.generator.value.grad.item() == pytest.approx(slope, rel=1e-5)


def test_l1_is_in_the_papers_unit():
    a, b = pairs()
    torch.testing.assert_close(l1_loss(a, b), ((2 * a - 1) - (2 * b - 1)).abs().mean())


def test_d_sees_the_condition_beside_the_picture():
    model, seen = tiny(), []
    model.discriminator.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    model.generator.register_forward_hook(lambda m, inputs, output: seen.append(output))
    x, y = pairs()
    model.step((x, y))
    fake, real_pair, fake_pair, last = seen  # one pass of the generator serves both players
    torch.testing.assert_close(real_pair, torch.cat([x, y], dim=1))
    torch.testing.assert_close(fake_pair, torch.cat([x, fake], dim=1))
    torch.testing.assert_close(last, fake_pair)


def test_who_learns_from_what():
    def moved(**changes):
        model = tiny(**changes)
        before = copy.deepcopy([dict(n.named_parameters()) for n in (model.generator, model.discriminator)])
        model.step(pairs())
        networks = (model.generator, model.discriminator)
        return model, [
            {name for name, p in n.named_parameters() if not torch.equal(p, old[name])}
            for n, old in zip(networks, before, strict=True)
        ]

    model, (g, d) = moved(normalise="none")
    assert g == {name for name, _ in model.generator.named_parameters()}
    assert d == {name for name, _ in model.discriminator.named_parameters()}
    model, (g, d) = moved(normalise="none", gan_weight=0.0)
    assert g == {name for name, _ in model.generator.named_parameters()}
    assert not d  # L1 alone: D is no part of it
    assert all(p.grad is None for p in model.discriminator.parameters())
    model, (g, d) = moved(normalise="none", l1_weight=0.0)
    assert g
    assert d


def test_the_generator_s_step_leaves_no_gradient_in_d():
    model = tiny()
    x, y = pairs()
    model.generator_step((x, y), model.generator(x))
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.requires_grad for p in model.discriminator.parameters())
    model = tiny()
    model.discriminator_step((x, y), model.generator(x).detach())
    assert all(p.grad is None for p in model.generator.parameters())


def test_l1_alone_reports_no_game():
    assert set(tiny(gan_weight=0.0).step(pairs())) == {"g_loss", "l1"}
    assert {"g_loss", "gan", "l1", "d_loss"} <= set(tiny().step(pairs()))


def test_every_field_of_the_settings_is_used():
    other = {"width": 6, "depth": 3, "dropouts": 1, "noise": 0.1, "normalise": "batch", "skips": False}
    other |= {"d_depth": 2, "l1_weight": 3.0, "gan_weight": 2.0, "lr": 0.5, "beta1": 0.1, "init_std": 0.5}
    assert set(other) == set(Pix2PixSettings.__dataclass_fields__)

    def described(model):
        scale = model.generator.last.weight.std().item() > 0.1
        settings = [
            model.l1_weight,
            model.gan_weight,
            scale,
            model.g_optimizer.defaults,
            model.d_optimizer.defaults,
        ]
        return str([*settings, model.generator, model.discriminator])

    plain = described(tiny())
    for name, value in other.items():
        assert described(tiny(**{name: value})) != plain, name


def test_it_learns_where_things_are_and_what_colour():
    """Left half, right half: a map of two labels becomes two colours; held-out L1 falls below a quarter."""
    torch.manual_seed(0)
    place = torch.rand(48, 1, 16, 16, generator=seeded())
    maps = (F.avg_pool2d(place, 5, 1, 2) > 0.5).float()
    colours = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]]).view(2, 3, 1, 1)
    truth = maps * colours[:1] + (1 - maps) * colours[1:]
    model = tiny(width=8, lr=2e-3)
    data = TensorDataset(maps[:40].expand(-1, 3, -1, -1), truth[:40])

    def error():
        return (model.translate(maps[40:].expand(-1, 3, -1, -1), seeded()) - truth[40:]).abs().mean().item()

    before = error()
    fit(model, DataLoader(data, batch_size=8, shuffle=True), steps=150, device="cpu", progress=False)
    assert before > 0.2
    assert error() < 0.25 * before


def test_bfloat16_leaves_pictures_and_losses_in_float32():
    model = tiny()
    history = fit(
        model,
        DataLoader(TensorDataset(*pairs(8)), batch_size=4),
        steps=2,
        device="cpu",
        precision="bf16-mixed",
        progress=False,
    )
    assert all(abs(v) < 1000 for v in history["g_loss"])
    assert model.translate(pairs()[0]).dtype == torch.float32


# --- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 48, 48), {"depth": 5}, r"S a multiple of 2\^depth = 32, got \(3, 48, 48\)"),
        ((3, 24, 24), {}, "multiple of"),
        ((3, 32, 16), {}, "got"),
        ((32, 32), {}, "got"),
        ((3, 32, 32), {"width": 0}, "width should be at least 1, got 0"),
        (
            (3, 32, 32),
            {"normalise": "layer"},
            "unknown normalise 'layer'; the known ones are: batch, instance, none",
        ),
        ((3, 32, 32), {"noise": 1.0}, "0 ≤ noise < 1"),
        ((3, 32, 32), {"d_depth": -1}, "depth should be at least 0, got -1"),
        ((3, 32, 32), {"preset": "huge"}, "unknown preset 'huge'; the known ones are: small, paper"),
        ((3, 32, 32), {"l1_weight": 0.0, "gan_weight": 0.0}, "one of them positive"),
        ((3, 32, 32), {"l1_weight": -1.0}, "weights ≥ 0"),
        ((3, 32, 32), {"gan_weight": float("nan")}, "weights ≥ 0"),
        ((3, 32, 32), {"options": {"loss": "l1"}}, "unknown loss 'l1'"),
    ],
)
def test_what_does_not_fit_is_named(shape, changes, message):
    with pytest.raises(ValueError, match=message):
        pix2pix(shape, **changes)


def test_wrong_inputs_are_named():
    model = tiny()
    for x in (
        torch.rand(2, 3, 12, 16),
        torch.rand(2, 1, 16, 16),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
    ):
        with pytest.raises(
            ValueError, match=r"expected pictures \(B, 3, H, W\) in \[0, 1\] with sides that are mult"
        ):
            model.translate(x)
    for x in (torch.rand(2, 6, 4, 4), torch.rand(2, 3, 16, 16)):
        with pytest.raises(
            ValueError, match=r"expected pictures \(B, 6, H, W\) in \[0, 1\] with sides of at least 6"
        ):
            model.discriminator(x)
    for batch in (torch.rand(2, 3, 16, 16), (torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16))):
        with pytest.raises(ValueError, match="pair"):
            model.step(batch)
    with pytest.raises(ValueError, match="translate"):
        model.sample(3)
