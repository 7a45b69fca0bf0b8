"""Row LSTM and Diagonal BiLSTM: the recurrences pixel by pixel, what each sees, and a gap in the shift that leaks."""

import math

import pytest
import torch
from pixel_models import randomised
from torch import nn

from course_lib.autoregressive import pixelrnn
from course_lib.autoregressive.model import receptive_field
from course_lib.autoregressive.pixelrnn import (
    PAPER,
    DiagonalBiLSTM,
    DiagonalBiLSTMLayer,
    ResidualBlock,
    RowLSTM,
    RowLSTMLayer,
    lstm_cell,
    shift_down,
    skew,
    unskew,
)

MODELS = (RowLSTM, DiagonalBiLSTM)
LAYERS = (RowLSTMLayer, DiagonalBiLSTMLayer)


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(function, shape, position, channels=slice(None)):
    """Pixels (i, j) that the output at `position` depends on."""
    return {tuple(p) for p in receptive_field(function, shape, position, channels).amax(0).nonzero().tolist()}


def pixels(height, width):
    return [(i, j) for i in range(height) for j in range(width)]


# ------------------------------------------------------------------------------------------------------- the skewed map


def test_skewed_map_by_hand():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert skew(x).tolist() == [[1, 2, 3, 0], [0, 4, 5, 6]]


@pytest.mark.parametrize(("height", "width"), [(1, 5), (5, 1), (3, 3), (4, 7), (7, 4)])
def test_column_d_of_the_skewed_map_is_diagonal_d(height, width):
    x = random(2, 3, height, width)
    skewed = skew(x)
    assert skewed.shape == (2, 3, height, width + height - 1)
    for i, j in pixels(height, width):
        assert torch.equal(skewed[..., i, i + j], x[..., i, j])
    assert skewed.count_nonzero() == x.count_nonzero()
    assert torch.equal(unskew(skewed), x)


def test_unskew_ignores_what_is_outside_the_image():
    x, skewed = random(1, 3, 4), torch.full((1, 3, 6), 7.0, dtype=torch.float64)
    inside = skew(torch.ones_like(x)).bool()
    assert torch.equal(unskew(torch.where(inside, skew(x), skewed)), x)


def test_shift_down_by_hand():
    x = torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert shift_down(x).tolist() == [[0, 0], [1, 2], [3, 4]]


# ------------------------------------------------------------------------------------------------- against torch's LSTM


def as_ours(gates):
    """Rows of weights from torch's order of the gates, i f g o, to the paper's, o f i g."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([o, f, i, g])


@pytest.fixture
def lstm():
    return randomised(nn.LSTMCell(5, 3))


def states(cell, sequence):
    """(B, in, T) → (B, hidden, T) by torch's cell."""
    h = c = torch.zeros(len(sequence), cell.hidden_size, dtype=torch.float64)
    out = []
    for x in sequence.unbind(-1):
        h, c = cell(x, (h, c))
        out.append(h)
    return torch.stack(out, dim=-1)


def test_cell_is_torchs_lstm_cell(lstm):
    x, h, c = random(4, 5), random(4, 3, seed=2), random(4, 3, seed=3)
    gates = x @ lstm.weight_ih.T + lstm.bias_ih + h @ lstm.weight_hh.T + lstm.bias_hh
    i, f, g, o = gates.chunk(4, dim=1)
    ours = lstm_cell(torch.cat([o, f, i, g], dim=1), c)
    for mine, theirs in zip(ours, lstm(x, (h, c)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-14)


def test_row_lstm_of_a_single_column_is_torchs_lstm_from_top_to_bottom(lstm):
    layer = RowLSTMLayer(5, 3, kernel_size=1).double()
    with torch.no_grad():
        layer.input_to_state.weight.copy_(as_ours(lstm.weight_ih)[..., None, None])
        layer.input_to_state.bias.copy_(as_ours(lstm.bias_ih + lstm.bias_hh))
        layer.state_to_state.weight.copy_(as_ours(lstm.weight_hh)[..., None])
    x = random(2, 5, 6, 1)
    torch.testing.assert_close(layer(x)[..., 0], states(lstm, x[..., 0]), rtol=0, atol=1e-14)


def test_diagonal_lstm_of_a_single_row_is_torchs_lstm_from_left_to_right(lstm):
    """There is nothing above, and what the other direction gives falls off the image when it is shifted."""
    layer = randomised(DiagonalBiLSTMLayer(5, 3))
    with torch.no_grad():
        layer.input_to_state.weight[:12] = as_ours(lstm.weight_ih)[..., None, None]
        layer.input_to_state.bias[:12] = as_ours(lstm.bias_ih + lstm.bias_hh)
        layer.state_to_state.weight[:12, :, 1] = as_ours(lstm.weight_hh)
    x = random(2, 5, 1, 6)
    torch.testing.assert_close(layer(x)[:, :, 0], states(lstm, x[:, :, 0]), rtol=0, atol=1e-14)


# --------------------------------------------------------------------------------------- against a loop over the pixels


def gates_of(convolution, x):
    """What the input contributes at every pixel, from the masked convolution that other tests look at."""
    return {(i, j): convolution(x)[:, :, i, j] for i, j in pixels(*x.shape[2:])}


def row_lstm_pixel_by_pixel(layer, x):
    batch, _, height, width = x.shape
    weight = layer.state_to_state.weight  # (4h, h, k)
    zero, side = x.new_zeros(batch, weight.shape[1]), weight.shape[2] // 2
    gates, h, c = gates_of(layer.input_to_state, x), {}, {}
    for i, j in pixels(height, width):
        total = gates[i, j]
        for offset in range(-side, side + 1):
            total = total + h.get((i - 1, j + offset), zero) @ weight[:, :, side + offset].T
        h[i, j], c[i, j] = lstm_cell(total, c.get((i - 1, j), zero))
    return torch.stack([h[p] for p in pixels(height, width)], dim=-1).view(batch, -1, height, width)


def diagonal_bilstm_pixel_by_pixel(layer, x):
    batch, _, height, width = x.shape
    hidden = layer.state_to_state.in_channels // 2
    gates = gates_of(layer.input_to_state, x)
    zero, maps = x.new_zeros(batch, hidden), []
    for direction, back in ((0, -1), (1, 1)):  # the state comes from column j + back, and from above
        above, beside = layer.state_to_state.weight.chunk(2)[direction].unbind(-1)
        h, c = {}, {}
        for i, j in sorted(pixels(height, width), key=lambda p: (p[0], p[1] * -back)):
            total = gates[i, j].chunk(2, dim=1)[direction]
            total = total + h.get((i - 1, j), zero) @ above.T + h.get((i, j + back), zero) @ beside.T
            h[i, j], c[i, j] = lstm_cell(total, c.get((i, j + back), zero))
        maps.append(h)
    right, left = maps
    out = [right[i, j] + left.get((i - 1, j), zero) for i, j in pixels(height, width)]
    return torch.stack(out, dim=-1).view(batch, hidden, height, width)


@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (1, 6, 5, 3), (1, 6, 1, 1)])
@pytest.mark.parametrize("colours", [1, 3])
def test_layers_are_their_recurrences_pixel_by_pixel(shape, colours):
    x = random(*shape)
    for layer, loop in (
        (RowLSTMLayer(6, 3, colours=colours), row_lstm_pixel_by_pixel),
        (RowLSTMLayer(6, 3, kernel_size=5, colours=colours), row_lstm_pixel_by_pixel),
        (DiagonalBiLSTMLayer(6, 3, colours=colours), diagonal_bilstm_pixel_by_pixel),
    ):
        layer = randomised(layer)
        torch.testing.assert_close(layer(x), loop(layer, x), rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------ the receptive fields


def triangle(position, shape, side):
    """What the paper's Row LSTM sees: see the docstring of `RowLSTMLayer`."""
    i, j = position
    return {(a, b) for a, b in pixels(*shape) if a <= i and j - side * (i - a + 1) <= b <= j + side * (i - a)}


def earlier(position, shape):
    return {p for p in pixels(*shape) if p < position}


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("colours", [1, 3])
def test_row_lstm_layer_sees_its_triangle_and_nothing_else(side, colours):
    layer = randomised(RowLSTMLayer(6, 3, kernel_size=2 * side + 1, colours=colours))
    for position in pixels(4, 7):
        assert seen(layer, (6, 4, 7), position) == triangle(position, (4, 7), side)


@pytest.mark.parametrize("colours", [1, 3])
def test_diagonal_bilstm_layer_sees_every_earlier_pixel_and_itself(colours):
    layer = randomised(DiagonalBiLSTMLayer(6, 3, colours=colours))
    for position in pixels(4, 5):
        assert seen(layer, (6, 4, 5), position) == earlier(position, (4, 5)) | {position}


@pytest.mark.parametrize("kind", LAYERS)
def test_at_the_pixel_itself_a_colour_sees_the_colours_up_to_it(kind):
    """Two channels a colour; the mask has to hold for every one of the gates."""
    layer = randomised(kind(6, 6, colours=3))
    for colour in range(3):
        field = receptive_field(layer, (6, 4, 5), (2, 2), slice(2 * colour, 2 * colour + 2))
        expected = torch.arange(6) < 2 * (colour + 1)
        assert torch.equal(field[:, 2, 2] > 0, expected)
        assert (field[:, 1, 2] > 0).all()  # of earlier pixels, all colours


def first_layer(position, shape):
    """7×7, mask A, of one channel."""
    i, j = position
    return {(a, b) for a, b in pixels(*shape) if (a, b) < (i, j) and i - 3 <= a and abs(b - j) <= 3}


@pytest.mark.parametrize("layers", [1, 2])
def test_row_lstm_sees_the_first_convolution_of_its_triangle(layers):
    """And so not all earlier pixels: in its own row no more than three places and one for every layer."""
    shape = (9, 14)
    model = randomised(RowLSTM((1, *shape), hidden=6, layers=layers, head_channels=16))
    for position in [(0, 0), (2, 13), (5, 6), (8, 0), (8, 9)]:
        expected = {position}
        for _ in range(layers):
            expected = set().union(*(triangle(p, shape, side=1) for p in expected))
        expected = set().union(*(first_layer(p, shape) for p in expected))
        assert seen(model.network, (1, *shape), position) == expected
        own_row = [p for p in expected if p[0] == position[0]]
        assert len(own_row) == min(position[1], 3 + layers)


@pytest.mark.parametrize("layers", [1, 2])
def test_diagonal_bilstm_sees_every_earlier_pixel(layers):
    shape = (5, 9)
    model = randomised(DiagonalBiLSTM((1, *shape), hidden=6, layers=layers, head_channels=16))
    for position in pixels(*shape):
        assert seen(model.network, (1, *shape), position) == earlier(position, shape)


@pytest.mark.parametrize("layers", [1, 2])
def test_without_the_margin_the_last_pixel_of_the_row_above_is_missing(layers):
    """Unless the first convolution reaches three places to the right of the pixel, and so to the last column."""
    shape = (5, 9)
    model = DiagonalBiLSTM((1, *shape), hidden=6, layers=layers, head_channels=16, margin=False)
    model = randomised(model)
    for i, j in pixels(*shape):
        missing = {(i - 1, 8)} if j + 3 < 8 else set()
        assert seen(model.network, (1, *shape), (i, j)) == earlier((i, j), shape) - missing


def test_without_the_margin_only_the_last_colour_is_missing():
    model = DiagonalBiLSTM((3, 3, 7), hidden=6, layers=1, head_channels=12, margin=False)
    field = receptive_field(randomised(model).network, (3, 3, 7), (2, 0))
    assert (field[:, 1, 6] > 0).tolist() == [True, True, False]


def test_without_the_shift_the_second_direction_sees_later_pixels(monkeypatch):
    layer = randomised(DiagonalBiLSTMLayer(6, 3))
    monkeypatch.setattr(pixelrnn, "shift_down", lambda x: x)
    later = {(2, 3), (2, 4)}
    assert seen(layer, (6, 4, 5), (2, 2)) == earlier((2, 2), (4, 5)) | {(2, 2)} | later


# ---------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", LAYERS)
def test_residual_block_adds_its_branch_once(kind):
    block = randomised(ResidualBlock(kind(6, 3), 3, 6))
    x = random(2, 6, 4, 5)
    up = block.branch[1]
    assert up.in_channels == 3
    assert up.mask_type == "B"
    torch.testing.assert_close(block(x) - x, up(block.branch[0](x)), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "options"), [(RowLSTM, {}), (DiagonalBiLSTM, {}), (DiagonalBiLSTM, {"margin": False})]
)
@pytest.mark.parametrize(
    ("shape", "levels", "embed_dim"), [((1, 5, 6), 2, None), ((3, 4, 5), 4, None), ((3, 4, 5), 3, 2)]
)
def test_one_pixel_at_a_time_gives_the_logits_of_the_full_pass(kind, options, shape, levels, embed_dim):
    model = kind(shape, levels, hidden=6, layers=2, head_channels=9, embed_dim=embed_dim, **options)
    x = torch.randint(levels, (3, *shape), generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        model = randomised(model).to(dtype)
        with torch.no_grad():
            whole, inputs, stepper = model(x), model.to_input(x), model.stepper(3)
            for i in range(shape[1]):
                stepper.row()
                for j in range(shape[2]):
                    stepper.pixel(j, torch.full_like(inputs[:, :, i, j], 0.3))  # replaced by the next call
                    one = stepper.pixel(j, inputs[:, :, i, j])
                    stepper.write(j, inputs[:, :, i, j])
                    torch.testing.assert_close(one, whole[:, :, i, j], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", MODELS)
def test_only_the_last_colour_is_unknown_to_the_later_layers(kind):
    """`write` tells the first convolution alone; with three colours, nothing behind it may miss the last one."""
    model = randomised(kind((3, 4, 5), 4, hidden=6, layers=2, head_channels=9))
    same = [model.sample(20, torch.Generator().manual_seed(3), cached=cached) for cached in (True, False)]
    assert torch.equal(*same)
    assert same[0].float().std() > 0.5


@pytest.mark.parametrize("kind", MODELS)
def test_papers_sizes(kind):
    small = kind((1, 28, 28), 2, **PAPER["mnist"])
    assert len(small.blocks) == 7
    assert small.first.out_channels == 2 * 16
    assert small.first.kernel_size == (7, 7)
    assert len(kind((1, 28, 28), 2, **PAPER["mnist-1-layer"]).blocks) == 1
    with torch.device("meta"):  # the shapes, without the memory
        large = kind((3, 32, 32), 256, **PAPER["cifar10"])
    assert len(large.blocks) == 12
    assert large.head[-1].out_channels == 3 * 256


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers should be at least 1, got 6 and 0"),
        ({"hidden": 0}, "hidden and layers should be at least 1"),
        ({"hidden": 4}, "each of 3 colours"),
        ({"head_channels": 32}, "each of 3 colours"),
        ({"first_kernel_size": 4}, "odd"),
        ({"levels": 1}, "levels should be at least 2"),
    ],
)
def test_bad_sizes(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind((3, 4, 4), **{"levels": 2, "hidden": 6, "layers": 1, "head_channels": 6} | options)


def test_bad_kernel_and_condition():
    with pytest.raises(ValueError, match="odd"):
        RowLSTM((1, 4, 4), kernel_size=2)
    model = RowLSTM((1, 4, 4), hidden=2, layers=1, kernel_size=5)
    assert model.blocks[0].branch[0].state_to_state.padding == (2,)
    x = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="takes no condition"):
        model.log_prob(x, torch.tensor([1]))
    with pytest.raises(ValueError, match="takes no condition"):
        model.sample(1, condition=torch.tensor([1]))


# ----------------------------------------------------------------------------------------------------- learns something


def sums(n, side, seed):
    """Binary images whose first row and column are tosses of a coin, and every other pixel is left XOR above."""
    x = torch.randint(2, (n, 1, side, side), generator=torch.Generator().manual_seed(seed))
    for i in range(1, side):
        for j in range(1, side):
            x[:, 0, i, j] = x[:, 0, i, j - 1] ^ x[:, 0, i - 1, j]
    return x


@pytest.mark.parametrize("kind", MODELS)
def test_learns_a_distribution_whose_entropy_is_known(kind):
    """(2·side − 1) log 2 nats; independent pixels would need side² log 2. Within 5 % of the way on new images."""
    torch.manual_seed(0)
    side, model = 5, kind((1, 5, 5), hidden=12, layers=1, first_kernel_size=3, head_channels=16)
    train, test = sums(2_000, side, seed=0), sums(500, side, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for step in range(150):
        optimizer.zero_grad()
        model.loss(train[(step * 100) % 2_000 :][:100])["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        nats = -model.log_prob(test).mean().item()
    entropy, independent = (2 * side - 1) * math.log(2), side**2 * math.log(2)
    assert -0.02 * independent < nats - entropy < 0.05 * (independent - entropy)
