"""Layers of StyleGAN against their definitions: loops, impulses, dense filters, statistics."""

import math

import pytest
import torch
from torch.nn import functional as F

from course_lib.adversarial.modulation import (
    Blur,
    EqualisedConv2d,
    EqualisedLinear,
    ModulatedConv2d,
    Noise,
    adain,
    leaky_relu,
    minibatch_deviation,
    modulated_conv2d,
    pixel_norm,
    resampled_conv2d,
)

FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def dense_filter(x, padding, gain=1.0):
    """The 4 × 4 filter, one channel at a time."""
    kernel = gain * (FILTER[:, None] * FILTER)[None, None]
    return torch.cat([F.conv2d(x[:, i : i + 1], kernel, padding=padding) for i in range(x.shape[1])], dim=1)


def with_zeros(x):
    """Zeros between the pixels: side 2 H − 1."""
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
    wide[:, :, ::2, ::2] = x
    return wide


# --- Modulated convolution ------------------------------------------------------------------------------------------


def loop(x, weight, style, demodulate, resample, blur):
    """Equations 1 and 3, one example at a time."""
    results = []
    for one, s in zip(x, style, strict=True):
        own = weight * s[None, :, None, None]
        if demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        results.append(resampled_conv2d(one[None], own, resample, blur))
    return torch.cat(results)


@pytest.mark.parametrize("method", ["scaled", "grouped"])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_one_call_equals_the_loop_over_examples(method, demodulate, resample):
    x, weight, style = normal(4, 5, 8, 8), normal(3, 5, 3, 3, seed=1), normal(4, 5, seed=2)
    blur = Blur()
    options = {"demodulate": demodulate, "resample": resample, "blur": blur}
    inputs = [v.requires_grad_() for v in (x, weight, style)]
    expected = loop(*inputs, **options)
    found = modulated_conv2d(*inputs, **options, method=method)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    direction = normal(*expected.shape, seed=3)
    for a, b in zip(
        torch.autograd.grad((found * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["scaled", "grouped"])
def test_demodulated_kernels_have_energy_one(method):
    """White noise of variance 1 in, variance 1 out: the answers to single pixels have squares that sum to 1."""
    inputs, side = 6, 7
    weight, style = normal(4, inputs, 3, 3), 5 * normal(3, inputs, seed=1)
    energy = 0
    for i in range(inputs):
        impulse = torch.zeros(3, inputs, side, side)
        impulse[:, i, 3, 3] = 1
        energy = energy + modulated_conv2d(impulse, weight, style, method=method).square().sum((2, 3))
    torch.testing.assert_close(energy, torch.ones(3, 4), rtol=1e-4, atol=0)


def test_demodulated_outputs_of_white_noise_have_variance_one():
    y = modulated_conv2d(normal(4, 16, 64, 64), normal(8, 16, 3, 3, seed=1), 3 * normal(4, 16, seed=2))
    inner = y[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner.var((2, 3)), torch.ones(4, 8), rtol=0.2, atol=0)
    assert inner.var().item() == pytest.approx(1, abs=0.03)


def test_without_demodulation_the_style_s_size_matters():
    x, weight, style = normal(2, 3, 4, 4), normal(2, 3, 3, 3), normal(2, 3)
    plain = modulated_conv2d(x, weight, style, demodulate=False)
    torch.testing.assert_close(modulated_conv2d(x, weight, 2 * style, demodulate=False), 2 * plain)
    one = modulated_conv2d(x, weight, style)
    torch.testing.assert_close(modulated_conv2d(x, weight, 2 * style), one, rtol=1e-4, atol=1e-5)


def test_the_layer_begins_with_styles_around_one():
    torch.manual_seed(0)
    layer = ModulatedConv2d(4, 4, 3, 8)
    torch.testing.assert_close(layer.affine(torch.zeros(2, 8)), torch.ones(2, 4))
    x = normal(2, 4, 6, 6)
    expected = modulated_conv2d(x, layer.weight / 6, torch.ones(2, 4))  # fan in 4 · 9 = 6²
    torch.testing.assert_close(layer(x, torch.zeros(2, 8)), expected)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="unknown method 'loop'; the known ones are: scaled, grouped"):
        modulated_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3), torch.ones(1, 1), method="loop")


# --- Resampling -----------------------------------------------------------------------------------------------------


def test_up_is_zeros_then_convolution_then_filter():
    x, weight = normal(2, 3, 5, 5), normal(4, 3, 3, 3, seed=1)
    # A transposed convolution turns the kernel round.
    spread = F.conv2d(with_zeros(x), weight.flip(2, 3), padding=2)
    torch.testing.assert_close(
        resampled_conv2d(x, weight, "up", Blur()), dense_filter(spread, 1, gain=4), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("kernel", "padding"), [(3, 2), (1, 1)])
def test_down_is_filter_then_every_other_pixel(kernel, padding):
    x, weight = normal(2, 3, 8, 8), normal(4, 3, kernel, kernel, seed=1)
    expected = F.conv2d(dense_filter(x, padding), weight, stride=2)
    found = resampled_conv2d(x, weight, "down", Blur())
    assert found.shape == (2, 4, 4, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_enlarging_is_bilinear_inside():
    x = normal(2, 3, 6, 6)
    found = Blur().enlarge(x)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    assert found.shape == (2, 3, 12, 12)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


def test_halving_keeps_a_constant_inside():
    found = Blur().halve(torch.full((1, 2, 8, 8), 3.0))
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], torch.full((1, 2, 2, 2), 3.0))


# --- Equalised learning rate, AdaIN, noise --------------------------------------------------------------------------


@pytest.mark.parametrize("lr_factor", [1.0, 0.01])
def test_the_equalised_layer_begins_with_variance_one_and_moves_at_its_factor_s_speed(lr_factor):
    torch.manual_seed(0)
    layer = EqualisedLinear(400, 300, lr_factor=lr_factor, bias=0.5)
    assert (layer.weight * lr_factor).std().item() == pytest.approx(1, abs=0.01)
    y = layer(normal(50, 400, seed=1))
    assert y.var().item() == pytest.approx(1, abs=0.05)
    assert y.mean().item() == pytest.approx(0.5, abs=0.05)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.weight.detach() * layer.scale
    y.square().sum().backward()
    optimizer.step()  # Adam's first step moves each stored number by lr
    moved = (layer.weight.detach() * layer.scale - before).abs()
    torch.testing.assert_close(moved.median().item(), 0.1 * lr_factor / math.sqrt(400), rtol=1e-2, atol=0)


def test_the_equalised_convolution_begins_with_variance_one():
    torch.manual_seed(0)
    y = EqualisedConv2d(32, 32, 3)(normal(2, 32, 40, 40, seed=1))[:, :, 1:-1, 1:-1]
    assert y.var().item() == pytest.approx(1, abs=0.05)


def test_adain_gives_each_map_the_style_s_statistics():
    x = 3 * normal(3, 4, 9, 9) + 7
    scale, shift = normal(3, 4, seed=1), normal(3, 4, seed=2)
    y = adain(x, scale, shift)
    torch.testing.assert_close(y.mean((2, 3)), shift, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(y.std((2, 3), correction=0), scale.abs(), rtol=1e-4, atol=1e-4)


def test_pixel_norm_and_activation():
    x = pixel_norm(5 * normal(3, 16))
    torch.testing.assert_close(x.square().sum(dim=1), torch.full((3,), 16.0))
    torch.testing.assert_close(leaky_relu(torch.tensor([-1.0, 1.0])), 2**0.5 * torch.tensor([-0.2, 1.0]))
    energy = leaky_relu(normal(100_000)).square().mean().item()
    assert energy == pytest.approx(1.04, abs=0.03)  # (1 + 0.04)/2 · 2


def test_noise_is_one_number_a_pixel_and_begins_at_zero():
    torch.manual_seed(0)
    layer, x = Noise(6), normal(2, 3, 6, 6)
    for kind in Noise.KINDS:
        assert torch.equal(layer(x, kind), x)
    layer.strength.data.fill_(0.5)
    assert torch.equal(layer(x, "none"), x)
    added = layer(x, "random", seeded()) - x
    torch.testing.assert_close(added, (0.5 * normal(2, 1, 6, 6)).expand(2, 3, 6, 6), rtol=0, atol=1e-6)
    assert not torch.equal(layer(x, "random"), layer(x, "random"))
    fixed = layer(x, "fixed") - x
    torch.testing.assert_close(fixed, (0.5 * layer.fixed).expand(2, 3, 6, 6), rtol=0, atol=1e-6)
    layer(x).sum().backward()
    assert layer.strength.grad is not None


# --- Minibatch deviation --------------------------------------------------------------------------------------------


def test_the_minibatch_deviation_is_that_of_its_group():
    x = normal(6, 3, 4, 4)
    y = minibatch_deviation(x, group=3)
    assert y.shape == (6, 4, 4, 4)
    assert torch.equal(y[:, :3], x)
    for i in range(6):
        members = x[i % 2 :: 2]  # groups of three: 0, 2, 4 and 1, 3, 5
        expected = members.std(dim=0, correction=0).mean()
        torch.testing.assert_close(y[i, 3], expected.expand(4, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "size"), [(8, 4), (6, 3), (5, 1), (2, 2), (1, 1)])
def test_groups_are_the_largest_that_fit(batch, size):
    x = torch.zeros(batch, 1, 1, 1)
    x[: batch // size] = 1.0  # the first member of each group differs from the others
    share = 1 / size
    expected = (share * (1 - share) + 1e-8) ** 0.5
    torch.testing.assert_close(minibatch_deviation(x)[:, 1].flatten(), torch.full((batch,), expected))
