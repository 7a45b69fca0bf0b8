"""Masks against their definition, entry by entry, and masked convolutions against sums over what a mask allows."""

import itertools

import pytest
import torch
from pixel_models import randomised, seeded
from torch.nn import functional as F

from course_lib.autoregressive.masked import ConvStepper, MaskedConv2d, RowConv, Window, causal_mask
from course_lib.autoregressive.model import receptive_field


def may_look(mask_type, colours, out, out_channels, channel, in_channels, row, column):
    """The definition: row, column are counted from the centre of the filter."""
    if row < 0 or (row == 0 and column < 0):
        return True  # an earlier pixel, any colour
    if row > 0 or column > 0:
        return False
    colour_out, colour_in = out // (out_channels // colours), channel // (in_channels // colours)
    return colour_in < colour_out if mask_type == "A" else colour_in <= colour_out


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (1, 5), (5, 1), (3, 7)], ids=str)
@pytest.mark.parametrize(
    ("colours", "channels"), [(1, (1, 4)), (1, (3, 2)), (3, (3, 6)), (3, (9, 3))], ids=str
)
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_mask_is_its_definition(mask_type, colours, channels, kernel_size):
    in_channels, out_channels = channels
    mask = causal_mask(in_channels, out_channels, kernel_size, mask_type, colours)
    assert mask.shape == (out_channels, in_channels, *kernel_size)
    for o, c, r, k in itertools.product(*map(range, mask.shape)):
        at = (r - kernel_size[0] // 2, k - kernel_size[1] // 2)
        expected = may_look(mask_type, colours, o, out_channels, c, in_channels, *at)
        assert mask[o, c, r, k].item() == expected


def test_masks_of_the_paper_by_hand():
    """Figure 2 of the paper: one colour, 3×3; and the centre of three colours, outputs (rows) R, G, B."""
    above, right = [1, 1, 1], [0, 0, 0]
    assert causal_mask(1, 1, (3, 3), "A")[0, 0].tolist() == [above, [1, 0, 0], right]
    assert causal_mask(1, 1, (3, 3), "B")[0, 0].tolist() == [above, [1, 1, 0], right]
    centre = {kind: causal_mask(3, 3, (3, 3), kind, colours=3)[:, :, 1, 1].tolist() for kind in "AB"}
    assert centre["A"] == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert centre["B"] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("kernel_size", [1, 3, (1, 5), (5, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_masked_convolution_is_the_convolution_with_a_masked_filter(mask_type, kernel_size):
    layer = randomised(MaskedConv2d(3, 6, kernel_size, mask_type, colours=3))
    x = torch.randn(2, 3, 6, 7, generator=seeded(1), dtype=torch.float64)
    expected = F.conv2d(x, layer.weight * layer.mask, layer.bias, padding=layer.padding)
    assert torch.allclose(layer(x), expected, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, (1, 5), (5, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_a_layer_sees_what_its_mask_shows(mask_type, kernel_size):
    """By gradient, all of it and nothing else, for every colour of the output."""
    layer = randomised(MaskedConv2d(6, 6, kernel_size, mask_type, colours=3))
    (kh, kw), (i, j) = layer.kernel_size, (3, 4)
    for colour in range(3):
        field = receptive_field(layer, (6, 7, 9), (i, j), slice(2 * colour, 2 * colour + 2)) > 0
        window = field[:, i - kh // 2 : i + kh // 2 + 1, j - kw // 2 : j + kw // 2 + 1]
        assert torch.equal(window, layer.mask[2 * colour] > 0)
        assert field.sum() == window.sum()


def test_parts_have_the_same_mask_each():
    one, two = MaskedConv2d(6, 6, 3, "B", colours=3), MaskedConv2d(6, 12, 3, "B", colours=3, parts=2)
    assert torch.equal(two.mask, torch.cat([one.mask, one.mask]))


def test_masked_weights_get_no_gradient_and_no_place_in_the_checkpoint():
    layer = MaskedConv2d(1, 2, 3, "A")
    layer(torch.randn(2, 1, 5, 5, generator=seeded(1))).square().sum().backward()
    assert torch.equal(layer.weight.grad != 0, layer.mask > 0)
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert "mask_type='A', colours=1" in repr(layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3, (1, 5), (5, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_one_pixel_at_a_time_is_the_convolution(mask_type, kernel_size, bias):
    layer = randomised(MaskedConv2d(3, 6, kernel_size, mask_type, colours=3, bias=bias))
    x = torch.randn(2, 3, 5, 6, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        network, expected = layer.stepper(2, 6), layer(x)
        for i in range(5):
            network.row()
            for j in range(6):
                network.pixel(
                    j, torch.randn(2, 3, generator=seeded(j), dtype=torch.float64)
                )  # not the last word
                out = network.pixel(j, x[:, :, i, j])
                assert torch.allclose(out, expected[:, :, i, j], atol=1e-12)


def test_a_written_pixel_counts_like_a_computed_one():
    layer = randomised(MaskedConv2d(1, 2, 3, "A"))
    x = torch.randn(1, 1, 4, 4, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        network = layer.stepper(1, 4)
        assert isinstance(network, ConvStepper)
        for i in range(4):
            network.row()
            for j in range(4):
                if (i, j) != (3, 3):
                    network.write(j, x[:, :, i, j])
        assert torch.allclose(network.pixel(3, x[:, :, 3, 3]), layer(x)[:, :, 3, 3], atol=1e-12)


def test_rows_one_after_the_other_are_the_convolution():
    weight = torch.randn(4, 3, 2, 5, generator=seeded(1), dtype=torch.float64)
    x = torch.randn(2, 3, 6, 7, generator=seeded(2), dtype=torch.float64)
    rows = RowConv(weight, None, 2, 7)
    out = torch.cat([rows(x[:, :, i : i + 1]) for i in range(6)], dim=2)
    assert torch.allclose(out, F.conv2d(F.pad(x, (0, 0, 1, 0)), weight, padding=(0, 2)), atol=1e-12)


def test_window_by_hand():
    window = Window(torch.zeros(()), channels=2, side=1, n=1, width=3)
    for j in range(3):
        window.slots[j].copy_(torch.tensor([[j + 1.0, 10 * (j + 1.0)]]))
    assert window.windows[0].tolist() == [[0, 0, 1, 10]]
    assert window.windows[2].tolist() == [[2, 20, 3, 30]]
    assert window.complete_row().tolist() == [[[[1, 2, 3]], [[10, 20, 30]]]]
    assert Window.weight(torch.arange(4.0).reshape(1, 2, 2)).flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_type": "C"}, 'mask_type should be "A" or "B", got \'C\''),
        ({"kernel_size": 4}, r"odd sizes, got kernel_size=\(4, 4\)"),
        ({"kernel_size": (3, 2)}, r"odd sizes, got kernel_size=\(3, 2\)"),
        ({"out_channels": 4}, "each of 3 colours needs its share of the channels; got 6 in and 4 out"),
        ({"in_channels": 2}, "got 2 in and 6 out"),
        ({"colours": 0}, "each of 0 colours"),
        ({"parts": 4}, "6 outputs do not come in 4 equal parts"),
    ],
)
def test_wrong_masks_are_refused(options, message):
    sizes = {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "mask_type": "B", "colours": 3} | options
    with pytest.raises(ValueError, match=message):
        MaskedConv2d(**sizes)
