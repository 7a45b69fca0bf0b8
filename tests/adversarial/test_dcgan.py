"""DCGAN: shapes, the well-known parameter counts, each guideline really switched, who learns, and a little learning."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib.adversarial.dcgan import PRESETS, DCGANSettings, Discriminator, Generator, dcgan, wgan_gp
from course_lib.training import fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(shape=(1, 16, 16), seed=0, **changes):
    torch.manual_seed(seed)
    return dcgan(shape, **{"width": 4, "latent_dim": 5, **changes})


def modules(network, kind):
    return [m for m in network.modules() if isinstance(m, kind)]


# --- Networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("broken", [{}, {"resize": True}, {"normalise": "none"}, {"normalise": "layer"}])
def test_shapes_at_every_size(side, channels, broken):
    generator = Generator((channels, side, side), 5, 2, **broken)
    discriminator = Discriminator(
        (channels, side, side), 2, strided="resize" not in broken, normalise=broken.get("normalise", "batch")
    )
    x = generator(torch.randn(3, 5))
    assert x.shape == (3, channels, side, side)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    assert discriminator(x).shape == (3,)
    depth = side.bit_length() - 3  # halvings down to 4 × 4
    assert discriminator.features(x).shape == (3, 16 * 2 * (2**depth - 1))


def test_parameter_counts_of_the_example_and_of_the_paper():
    def counts(preset):
        gan = dcgan((3, 64, 64), preset)
        return [sum(p.numel() for p in n.parameters()) for n in (gan.generator, gan.discriminator)]

    assert counts("example") == [3_576_704, 2_765_568]  # what PyTorch's DCGAN example has
    # 1024, 512, 256, 128 channels; kernels of 4 × 4; two numbers of batch norm a channel.
    weights = 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert counts("paper") == [
        weights + 16 * 100 * 1024 + 2 * (1024 + 512 + 256 + 128),
        weights + 16 * 1024 + 2 * (1024 + 512 + 256),
    ]


def test_the_paper_s_setting_is_the_paper_s():
    gan = dcgan((3, 64, 64), "paper", width=2)
    assert (gan.latent_dim, gan.prior, gan.ema) == (100, "uniform", None)
    assert PRESETS["paper"].width == 128
    for optimizer in (gan.g_optimizer, gan.d_optimizer):
        assert optimizer.defaults["lr"] == 2e-4
        assert optimizer.defaults["betas"] == (0.5, 0.999)
    assert [a.negative_slope for a in modules(gan.discriminator, nn.LeakyReLU)] == [0.2] * 4
    assert len(modules(gan.generator, nn.ReLU)) == 4
    assert [m.num_features for m in modules(gan.generator, nn.BatchNorm2d)] == [16, 8, 4, 2]
    assert [m.num_features for m in modules(gan.discriminator, nn.BatchNorm2d)] == [
        4,
        8,
        16,
    ]  # not at the input


def test_first_weights_are_normal_with_the_paper_s_deviation():
    torch.manual_seed(0)
    gan = dcgan((3, 32, 32), width=32)
    for network in (gan.generator, gan.discriminator):
        for m in modules(network, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            n = m.weight.numel()
            assert m.weight.mean().abs() < 5 * 0.02 / n**0.5
            assert m.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * n) ** 0.5)
        for m in modules(network, nn.BatchNorm2d):
            assert (m.weight - 1).abs().max() < 0.1
            assert m.weight.std() > 0.01
            assert (m.bias == 0).all()
    assert (gan.ema.module.project.weight == gan.generator.project.weight).all()


def test_pixels_are_in_0_1_outside_and_in_minus_1_1_inside():
    seen = []
    discriminator = Discriminator((1, 16, 16), 2)
    discriminator.layers[0].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    x = torch.rand(4, 1, 16, 16, generator=seeded())
    discriminator(x)
    discriminator.features(x)
    torch.testing.assert_close(seen[0], 2 * x - 1)
    torch.testing.assert_close(seen[1], 2 * x - 1)
    generator = Generator((1, 16, 16), 3, 2)
    generator.layers.register_forward_hook(lambda m, inputs, output: seen.append(output))
    pictures = generator(torch.randn(4, 3, generator=seeded()))
    torch.testing.assert_close(2 * pictures - 1, torch.tanh(seen[2]))


def test_the_convolutions_agree_with_those_of_the_plain_chain():
    """The 4 × 4 map is a reshaped matrix product: the same as a transposed convolution of a 1 × 1 picture."""
    torch.manual_seed(0)
    generator = Generator((1, 16, 16), 3, 2)
    z = torch.randn(5, 3)
    weight = generator.project.weight.view(4, 4, 4, 3).permute(3, 2, 0, 1)  # (latent, channel, row, column)
    maps = nn.functional.conv_transpose2d(z[:, :, None, None], weight)
    expected = 0.5 * torch.tanh(generator.layers(maps)) + 0.5
    torch.testing.assert_close(generator(z), expected)
    discriminator = Discriminator((1, 16, 16), 2, normalise="none")
    x = torch.rand(5, 1, 16, 16)
    weight = discriminator.decide.weight.view(1, 4, 4, 4).permute(0, 3, 1, 2)
    logits = nn.functional.conv2d(discriminator.layers(2 * x - 1), weight).flatten()
    torch.testing.assert_close(discriminator(x), logits)


def test_features_are_the_maxima_of_all_hidden_layers_on_a_4_by_4_grid():
    torch.manual_seed(0)
    discriminator = Discriminator((1, 32, 32), 2)
    discriminator(torch.rand(8, 1, 32, 32))  # moves the running statistics
    x = torch.rand(3, 1, 32, 32)
    features = discriminator.features(x)
    assert discriminator.training
    discriminator.eval()
    hidden, found = 2 * x - 1, []
    for layer in discriminator.layers:
        hidden = layer(hidden)
        cell = hidden.shape[-1] // 4
        cells = hidden.unfold(2, cell, cell).unfold(3, cell, cell)  # (B, C, 4, 4, cell, cell)
        found.append(cells.amax((-1, -2)).flatten(1))
    assert [h.shape[1] // 16 for h in found] == [2, 4, 8]
    torch.testing.assert_close(features, torch.cat(found, dim=1))
    torch.testing.assert_close(discriminator.features(x[:1]), features[:1])  # no example depends on another


# --- The guidelines, one at a time ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "network", "kind", "kept", "broken"),
    [
        ({"strided": False}, "discriminator", nn.MaxPool2d, 0, 2),
        ({"strided": False}, "generator", nn.ConvTranspose2d, 2, 0),
        ({"resize": True}, "generator", nn.Upsample, 0, 2),
        ({"resize": True}, "discriminator", nn.MaxPool2d, 0, 0),
        ({"normalise": "none"}, "generator", nn.BatchNorm2d, 2, 0),
        ({"normalise": "none"}, "discriminator", nn.BatchNorm2d, 1, 0),
        ({"normalise": "layer"}, "discriminator", nn.GroupNorm, 0, 1),
        ({"g_slope": 0.2}, "generator", nn.ReLU, 2, 0),
        ({"d_slope": 0.0}, "discriminator", nn.LeakyReLU, 2, 0),
    ],
)
def test_a_broken_guideline_changes_the_layers_it_names(change, network, kind, kept, broken):
    assert len(modules(getattr(tiny(), network), kind)) == kept
    assert len(modules(getattr(tiny(**change), network), kind)) == broken


@pytest.mark.parametrize(("network", "shifts"), [("generator", 2), ("discriminator", 1)])
def test_without_a_norm_the_layers_have_shifts(network, shifts):
    def count(gan):
        layers = modules(getattr(gan, network), nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        return sum(layer.bias is not None for layer in layers)

    assert count(tiny()) == 0
    assert count(tiny(normalise="none")) == shifts


def test_outputs_without_tanh():
    sigmoid, linear = tiny(output="sigmoid"), tiny(output="linear", init_std=2.0)
    assert not sigmoid.discriminator.signed
    assert tiny().discriminator.signed
    assert linear.discriminator.signed
    z = torch.randn(50, 5, generator=seeded())
    assert 0 < sigmoid.generator(z).min() < sigmoid.generator(z).max() < 1
    unbounded = linear.generator(z)
    assert unbounded.min() < 0
    assert unbounded.max() > 1
    pictures = linear.sample(20, seeded())
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_other_first_weights_learning_rates_and_betas():
    gan = tiny(init_std=None, lr=0.1, beta1=0.9)
    deepest = gan.generator.project.weight
    assert deepest.abs().max() <= 1 / 5**0.5  # PyTorch's: uniform in ±1/√(fan in)
    assert deepest.std() > 0.1
    for optimizer in (gan.g_optimizer, gan.d_optimizer):
        assert optimizer.defaults["lr"] == 0.1
        assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_every_field_of_the_settings_is_used():
    """A field that nothing reads would make a row of the ablation table a copy of the default's."""
    other = {
        "width": 6,
        "latent_dim": 7,
        "prior": "uniform",
        "lr": 0.5,
        "beta1": 0.1,
        "ema": None,
        "strided": False,
    }
    other |= {"resize": True, "normalise": "none", "g_slope": 0.3, "d_slope": 0.3, "output": "linear"}
    other |= {"init_std": 0.5}
    assert set(other) == set(DCGANSettings.__dataclass_fields__)

    def described(gan):
        settings = [gan.prior, gan.g_optimizer.defaults, gan.d_optimizer.defaults, gan.ema is None]
        scale = gan.generator.project.weight.std().item() > 0.1
        return str([*settings, scale, gan.generator.output, gan.generator, gan.discriminator])

    plain = described(tiny())
    for name, value in other.items():
        assert getattr(PRESETS["small"], name) != value
        assert described(tiny(**{name: value})) != plain, name


# --- Learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"strided": False}, {"normalise": "none"}, {"output": "sigmoid"}])
def test_every_weight_of_both_networks_learns(change):
    gan = tiny(shape=(2, 16, 16), **change)
    before = copy.deepcopy([dict(n.named_parameters()) for n in (gan.generator, gan.discriminator)])
    terms = gan.step((torch.rand(8, 2, 16, 16, generator=seeded()), torch.zeros(8)))
    assert all(v.isfinite() for v in terms.values())
    for network, old in zip((gan.generator, gan.discriminator), before, strict=True):
        for name, value in network.named_parameters():
            assert not torch.equal(value, old[name]), name


def test_a_step_is_determined_by_the_seed():
    def samples():
        gan = tiny()
        for _ in range(2):
            gan.step((torch.rand(8, 1, 16, 16, generator=seeded()),))
        return gan.sample(3, seeded())

    assert torch.equal(samples(), samples())


def test_the_fused_optimiser_on_channels_last_weights_is_adam():
    gan, plain = tiny((3, 16, 16)), tiny((3, 16, 16))
    plain.d_optimizer = torch.optim.Adam(plain.discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    plain.g_optimizer = torch.optim.Adam(plain.generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    convolution = modules(gan.discriminator, nn.Conv2d)[0]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    for trained in (gan, plain):
        torch.manual_seed(1)
        trained.step((torch.rand(8, 3, 16, 16, generator=seeded()),))
    for a, b in zip(gan.discriminator.parameters(), plain.discriminator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_it_learns_a_tiny_set():
    """Bars, upright or lying: after 250 steps half of the samples are near one of the two."""
    bars = torch.zeros(2, 1, 16, 16)
    bars[0, 0, 6:10], bars[1, 0, :, 6:10] = 1, 1

    def distance(gan):
        pictures = gan.sample(64, seeded())
        return torch.cdist(pictures.flatten(1), bars.flatten(1)).min(dim=1).values.median().item()

    gan = tiny(width=8, seed=1)
    data = TensorDataset(bars.repeat(32, 1, 1, 1))
    untrained = distance(gan)
    fit(gan, DataLoader(data, batch_size=32, shuffle=True), steps=250, device="cpu", progress=False)
    assert untrained > 7
    assert distance(gan) < 0.6 * untrained


def test_bfloat16_leaves_pictures_and_losses_in_float32():
    gan = tiny()
    data = TensorDataset(torch.rand(16, 1, 16, 16, generator=seeded()))
    history = fit(
        gan, DataLoader(data, batch_size=8), steps=2, device="cpu", precision="bf16-mixed", progress=False
    )
    assert all(abs(v) < 100 for v in history["d_loss"])
    assert gan.sample(2).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in gan.generator.parameters())


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32)])
def test_wgan_gp_has_a_critic_that_mixes_no_examples(shape):
    torch.manual_seed(0)
    wgan = wgan_gp(shape, width=2, latent_dim=3, critic_steps=2)
    x = torch.rand(8, *shape, generator=seeded())
    terms = wgan.step((x,))
    assert set(terms) == {"d_loss", "g_loss", "wasserstein", "penalty"}
    assert wgan.d_updates.value == 2
    assert not modules(wgan.discriminator, nn.BatchNorm2d)
    torch.testing.assert_close(wgan.discriminator(x)[:2], wgan.discriminator(x[:2]))
    assert wgan.g_optimizer.defaults["betas"] == (0.0, 0.9)


# --- Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 28, 28), {}, r"power of two, at least 16 .*image_size=32.*got \(1, 28, 28\)"),
        ((1, 8, 8), {}, "at least 16"),
        ((1, 32, 16), {}, "got"),
        ((0, 32, 32), {}, "got"),
        ((32, 32), {}, "got"),
        ((1, 32, 32), {"width": 0}, "width should be at least 1, got 0"),
        ((1, 32, 32), {"latent_dim": 0}, "latent_dim should be at least 1, got 0"),
        (
            (1, 32, 32),
            {"normalise": "group"},
            "unknown normalise 'group'; the known ones are: batch, layer, none",
        ),
        ((1, 32, 32), {"output": "relu"}, "unknown output 'relu'"),
        ((1, 32, 32), {"preset": "huge"}, "unknown preset 'huge'; the known ones are: small, paper, example"),
        ((1, 32, 32), {"options": {"loss": "l1"}}, "unknown loss 'l1'"),
    ],
)
def test_what_does_not_fit_is_named(shape, changes, message):
    with pytest.raises(ValueError, match=message):
        dcgan(shape, **changes)


def test_wrong_inputs_are_named():
    gan = tiny()
    with pytest.raises(ValueError, match=r"expected latents \(B, 5\), got \(2, 4\)"):
        gan.generator(torch.zeros(2, 4))
    for pictures in (torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 16, 16, dtype=torch.uint8)):
        for call in (gan.discriminator, gan.discriminator.features):
            with pytest.raises(ValueError, match=r"expected pictures \(B, 1, 16, 16\) in \[0, 1\], got"):
                call(pictures)
    with pytest.raises(TypeError, match="depth"):
        tiny(depth=3)
