"""PixelCNN: its layers, its blind spot pixel by pixel, the paper's sizes."""

import itertools

import pytest
import torch
from pixel_models import SOFTMAX, images, maker, randomised, seeded
from torch import nn

from course_lib.autoregressive.masked import MaskedConv2d
from course_lib.autoregressive.model import receptive_field
from course_lib.autoregressive.pixelcnn import PAPER, PixelCNN, ResidualBlock


def taps(kernel_size, mask_type):
    """Where a masked filter looks, relative to its centre: the definition, one colour."""
    side = kernel_size // 2
    offsets = itertools.product(range(-side, side + 1), repeat=2)
    return {(r, c) for r, c in offsets if r < 0 or (r == 0 and (c < 0 or (c == 0 and mask_type == "B")))}


def reached(position, shape, *filters):
    """The pixels that a stack of filters (sets of taps, the last one first) reaches from a position."""
    pixels = {position}
    for offsets in filters:
        pixels = {(i + r, j + c) for i, j in pixels for r, c in offsets}
        pixels = {(i, j) for i, j in pixels if 0 <= i < shape[0] and 0 <= j < shape[1]}
    return pixels


def seen(model, position):
    shape = (model.in_channels, *model.shape[1:])
    field = receptive_field(model.network, shape, position, trials=12).amax(0)
    return {tuple(p) for p in field.nonzero().tolist()}


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("position", [(7, 4), (3, 8), (0, 0), (0, 5)], ids=str)
def test_it_sees_exactly_what_its_filters_reach(blocks, position):
    model = maker(PixelCNN, hidden=8, blocks=blocks, first_kernel_size=5, head_channels=8)((1, 9, 10), 2)
    filters = [taps(3, "B")] * blocks + [taps(5, "A")]
    assert seen(model, position) == reached(position, (9, 10), *filters)


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_blind_spot_is_there_however_many_blocks_there_are(blocks):
    """With 3×3 filters only, every step up goes at most one column to the right: (i − r, j + c) with c > r is earlier
    than (i, j), and never seen."""
    i, j, shape = 6, 3, (8, 12)
    model = maker(PixelCNN, hidden=8, blocks=blocks, first_kernel_size=3, head_channels=8)((1, *shape), 2)
    field = seen(model, (i, j))
    reach = blocks + 1
    earlier = {(r, c) for r in range(i) for c in range(shape[1])} | {(i, c) for c in range(j)}
    rectangle = {(r, c) for r, c in earlier if i - r <= reach and abs(c - j) <= reach}
    blind = {(r, c) for r, c in rectangle if c - j > i - r}
    assert blind
    assert field == rectangle - blind


def test_residual_block_by_hand():
    block = randomised(ResidualBlock(3, 3, 3))
    x = torch.randn(2, 6, 4, 5, generator=seeded(1), dtype=torch.float64)
    down, middle, up = (part for part in block.branch if isinstance(part, MaskedConv2d))
    assert [part.mask_type for part in (down, middle, up)] == ["B"] * 3
    relu = nn.functional.relu
    assert torch.allclose(block(x), x + up(relu(middle(relu(down(relu(x)))))), atol=1e-12)


def test_only_the_first_layer_has_mask_a():
    model = PixelCNN((3, 8, 8), 4, hidden=6, blocks=2, head_channels=6)
    masks = [part.mask_type for part in model.modules() if isinstance(part, MaskedConv2d)]
    assert masks == ["A"] + ["B"] * 8
    assert all(part.colours == 3 for part in model.modules() if isinstance(part, MaskedConv2d))


@pytest.mark.parametrize(
    ("data", "shape", "levels"), [("mnist", (1, 28, 28), 2), ("cifar10", (3, 32, 32), 256)]
)
def test_papers_sizes(data, shape, levels):
    model = PixelCNN(shape, levels, **PAPER[data])
    assert model.first.kernel_size == (7, 7)
    assert model.parameters_per_pixel == shape[0] * levels
    assert len(model.blocks) == PAPER[data]["blocks"]


def test_it_learns_a_distribution_whose_entropy_is_known():
    """A row is a run of one of two values that turns with probability 0.1 at each pixel: H = log 2 + 7 H(0.1) nats."""
    torch.manual_seed(0)
    turns = torch.rand(2_000, 1, 1, 8, generator=seeded(1)) < 0.1
    turns[..., 0] = torch.rand(2_000, 1, 1, generator=seeded(2)) < 0.5
    x = turns.long().cumsum(-1) % 2
    entropy = 0.6931 + 7 * 0.3251
    model = PixelCNN((1, 1, 8), 2, hidden=8, blocks=1, first_kernel_size=3)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        optimiser.zero_grad()
        model.loss(x[(step % 8) * 250 : (step % 8 + 1) * 250])["loss"].backward()
        optimiser.step()
    with torch.no_grad():
        assert model.loss(x)["loss"].item() == pytest.approx(
            entropy, abs=0.12
        )  # 2,000 rows: σ of their mean 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": -1}, "blocks should be at least 0, got -1"),
        ({"hidden": 4}, "each of 3 colours needs its share"),
        ({"first_kernel_size": 4}, "odd sizes"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN((3, 8, 8), 4, **{"hidden": 6, "head_channels": 6} | options)


def test_conditions_are_refused():
    model, x = SOFTMAX["PixelCNN"]((1, 3, 3), 2), images(2, (1, 3, 3), 2)
    with pytest.raises(ValueError, match="this PixelCNN takes no condition"):
        model.log_prob(x, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="this PixelCNN takes no condition"):
        model.sample(2, condition=torch.zeros(2, dtype=torch.long))
