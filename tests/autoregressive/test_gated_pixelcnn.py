"""Gated PixelCNN: a layer against the paper's equations, no blind spot and no leak, conditions that condition."""

import pytest
import torch
from pixel_models import images, maker, randomised, seeded
from torch import nn
from torch.nn import functional as F

from course_lib.autoregressive.gated_pixelcnn import PAPER, GatedLayer, GatedPixelCNN, gate
from course_lib.autoregressive.model import receptive_field

build = maker(GatedPixelCNN, channels=6, head_channels=6)


def random(*shape, seed=1):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def reference(layer, v, h, condition):
    """A layer as the paper masks it: full k×k and 1×k filters, most of them zero, and no shifts; one colour."""
    k, p, side = layer.horizontal.kernel_size[1], layer.down.in_channels, layer.horizontal.kernel_size[1] // 2
    full = torch.zeros(p, v.shape[1], k, k, dtype=v.dtype)
    full[:, :, : layer.vertical.weight.shape[2]] = (
        layer.vertical.weight
    )  # rows above; the centre's row if not first
    assert layer.vertical.weight.shape[2] == (side if layer.first else side + 1)
    row = layer.horizontal.weight.clone()
    row[..., side + 1 :] = 0
    if layer.first:
        row[..., side] = 0
    for_a, for_b = layer.condition(condition).chunk(2, dim=1)
    a = F.conv2d(v, full, layer.vertical.bias, padding=side) + for_a
    b = F.conv2d(h, row, padding=(0, side)) + layer.down(a) + for_b
    tanh, sigmoid = b.chunk(2, dim=1)
    out = F.conv2d(torch.tanh(tanh) * torch.sigmoid(sigmoid), layer.out.weight, layer.out.bias)
    first, second = a.chunk(2, dim=1)
    return torch.tanh(first) * torch.sigmoid(second), out if layer.first else h + out


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_is_the_papers(first, kernel_size):
    layer = randomised(GatedLayer(4, 4, kernel_size, first=first, condition_dim=3))
    v, h, condition = random(2, 4, 6, 7), random(2, 4, 6, 7, seed=2), random(2, 3, 6, 7, seed=3)
    for ours, theirs in zip(layer(v, h, condition), reference(layer, v, h, condition), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_gate_by_hand():
    x = torch.tensor([0.5, -1.0, 2.0, 0.0]).reshape(1, 4, 1, 1)
    expected = [0.4621 * 0.8808, -0.7616 * 0.5]  # tanh 0.5 · σ(2), tanh(−1) · σ(0)
    assert gate(x).flatten().tolist() == pytest.approx(expected, abs=1e-4)


# ------------------------------------------------------------------------------------------------------ what it sees


def layer_field(layer, stack, of, position, shape=(7, 9)):
    """Where stack 0 (v) or 1 (h) of a layer's output depends on its input v (0) or h (1): a set of (i, j)."""

    def function(x):
        inputs = [torch.zeros_like(x), torch.zeros_like(x)]
        inputs[of] = x
        return layer(*inputs)[stack] + 0 * x.sum()  # an input that is not used has a gradient of 0

    field = receptive_field(function, (4, *shape), position).amax(0)
    return {tuple(p) for p in field.nonzero().tolist()}


def box(rows, columns):
    return {(i, j) for i in rows for j in columns}


@pytest.mark.parametrize("first", [True, False])
def test_what_each_stack_of_a_layer_sees(first):
    layer, (i, j) = randomised(GatedLayer(4, 4, 5, first=first)), (4, 4)
    above = box(range(i - 2, i if first else i + 1), range(j - 2, j + 3))
    left = box([i], range(j - 2, j if first else j + 1))
    assert layer_field(layer, 0, 0, (i, j)) == above
    assert layer_field(layer, 0, 1, (i, j)) == set()  # nothing of the row comes back into the vertical stack
    assert layer_field(layer, 1, 0, (i, j)) == above
    assert layer_field(layer, 1, 1, (i, j)) == left


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("position", [(6, 5), (3, 9), (7, 0), (0, 4)], ids=str)
def test_no_blind_spot(layers, position):
    """The whole rectangle of reach r = 2 + (layers − 1): the r rows above, r columns to either side, and the left."""
    model, (i, j), (height, width) = (
        build((1, 8, 11), 2, layers=layers, first_kernel_size=5),
        position,
        (8, 11),
    )
    field = receptive_field(model.network, (1, height, width), position, trials=12)[0]
    reach = layers + 1
    columns = range(max(0, j - reach), min(width, j + reach + 1))
    expected = box(range(max(0, i - reach), i), columns) | box([i], range(max(0, j - reach), j))
    assert {tuple(p) for p in field.nonzero().tolist()} == expected


def test_with_enough_layers_every_earlier_pixel_is_seen():
    model = build((1, 6, 7), 2, layers=6, first_kernel_size=3)
    for i, j in box(range(6), range(7)):
        field = receptive_field(model.network, (1, 6, 7), (i, j), trials=12)[0].flatten() > 0
        assert field.tolist() == [k < i * 7 + j for k in range(42)]


def test_without_the_shift_the_next_row_leaks(monkeypatch):
    """The first layer with a vertical filter that is not moved up sees its own row, both sides of the pixel."""
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda x, sizes: pad(x, (0, 0, 1, 0) if sizes == (0, 0, 2, -1) else sizes))
    model = build((1, 6, 7), 2, layers=2, first_kernel_size=5)
    field = receptive_field(model.network, (1, 6, 7), (3, 3), trials=12)[0].flatten() > 0
    assert field[3 * 7 + 3 :].any()


# ------------------------------------------------------------------------------------------------------- conditions


def log_prob(model, x, condition=None):
    with torch.no_grad():
        return model.log_prob(x, condition)


def test_a_class_is_a_one_hot_vector_and_a_vector_is_a_constant_map():
    by_class, by_vector = build((1, 4, 5), 3, num_classes=4), build((1, 4, 5), 3, condition_dim=4)
    by_vector.load_state_dict(by_class.state_dict())
    x, label = images(4, (1, 4, 5), 3), torch.tensor([0, 3, 1, 3])
    one_hot = F.one_hot(label, 4).double()
    expected = log_prob(by_class, x, label)
    assert torch.allclose(log_prob(by_vector, x, one_hot), expected, atol=1e-12)
    assert torch.allclose(
        log_prob(by_vector, x, one_hot[:, :, None, None].expand(4, 4, 4, 5)), expected, atol=1e-12
    )
    assert by_class.loss(x, label)["loss"].item() == pytest.approx(-expected.mean().item())


def test_every_class_has_its_own_distribution():
    model = build((1, 4, 5), 3, num_classes=4)
    x = images(1, (1, 4, 5), 3).expand(4, 1, 4, 5)
    values = log_prob(model, x, torch.arange(4))
    assert (values[:, None] - values).abs()[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


def test_every_layer_and_both_stacks_hear_the_condition():
    model = build((1, 5, 5), 2, layers=3, num_classes=2)
    model.log_prob(images(2, (1, 5, 5), 2), torch.tensor([0, 1])).sum().backward()
    for layer in model.layers:
        grad = layer.condition.weight.grad.abs()  # (4p, d, 1, 1): the vertical stack's half, then the other's
        assert (grad > 0).all()


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 5)], ids=str)
def test_a_map_acts_where_it_is(shape):
    """A change of the map at one position changes the parameters there and below, within reach; none further up."""
    model = build(shape, 3, layers=2, first_kernel_size=5, condition_dim=2)
    x, condition = images(1, shape, 3), random(1, 2, *shape[1:])
    changed = condition.clone()
    changed[:, :, 2, 3] += 1
    with torch.no_grad():
        moved = (model(x, condition) - model(x, changed)).abs().amax((0, 1)) > 1e-9
    assert moved[2, 3]
    assert moved[3, 3]
    assert not moved[:2].any()
    assert not moved.all(0).any()


@pytest.mark.parametrize("kind", ["class", "vector", "map"])
def test_conditioned_samples_are_the_same_by_both_samplers(kind):
    shape = (3, 4, 5)
    options = {"num_classes": 3} if kind == "class" else {"condition_dim": 3}
    model = build(shape, 3, layers=3, first_kernel_size=3, embed_dim=2, **options)
    condition = {"class": torch.tensor([0, 1, 2, 0]), "vector": random(4, 3), "map": random(4, 3, 4, 5)}[kind]
    cached, naive = (model.sample(4, seeded(3), cached, condition) for cached in (True, False))
    assert torch.equal(cached, naive)
    assert not torch.equal(cached, model.sample(4, seeded(3), condition=condition.roll(1, 0)))


def test_it_learns_what_the_condition_says():
    """Two classes, each with one image: given the class, nothing is left to be uncertain about."""
    torch.manual_seed(0)
    pair = images(2, (1, 4, 4), 2)
    model = GatedPixelCNN((1, 4, 4), 2, channels=8, layers=2, first_kernel_size=3, num_classes=2)
    optimiser, label = torch.optim.Adam(model.parameters(), lr=2e-2), torch.tensor([0, 1])
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(pair, label)["loss"].backward()
        optimiser.step()
    assert log_prob(model, pair, label).min() > -0.2
    assert log_prob(model, pair, label.flip(0)).max() < -5
    assert torch.equal(model.sample(2, seeded(1), condition=label), pair)


# ------------------------------------------------------------------------------------------------------------ sizes


def test_papers_sizes():
    model = GatedPixelCNN((3, 32, 32), 256, **PAPER | {"layers": 2})  # 20 would take half a gigabyte
    assert (PAPER["layers"], PAPER["channels"]) == (20, 3 * 128)
    assert model.layers[0].vertical.kernel_size == (3, 7)
    assert model.layers[1].vertical.kernel_size == (3, 5)
    assert model.parameters_per_pixel == 3 * 256


def test_bfloat16_gives_nearly_the_same_likelihood():
    """Under autocast, as in training: the loss within 2 %."""
    torch.manual_seed(0)
    model, x = GatedPixelCNN((1, 8, 8), 2, channels=16, layers=3), images(8, (1, 8, 8), 2)
    expected = model.loss(x)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers should be at least 1, got 0"),
        ({"kernel_size": 4}, "kernel_size should be odd and at least 3, got 4"),
        ({"first_kernel_size": 1}, "kernel_size should be odd and at least 3, got 1"),
        ({"num_classes": 2, "condition_dim": 2}, "give num_classes or condition_dim, not both"),
        ({"channels": 8}, "each of 3 colours needs its share"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN((3, 8, 8), 4, **{"channels": 6, "head_channels": 6} | options)


@pytest.mark.parametrize(
    ("options", "condition", "message"),
    [
        ({}, torch.zeros(2, dtype=torch.long), "this model takes no condition"),
        ({"num_classes": 3}, None, r"this model needs a condition: integer labels \(2,\)"),
        ({"num_classes": 3}, torch.zeros(2), r"expected integer labels \(2,\); got torch.float32 \(2,\)"),
        ({"num_classes": 3}, torch.zeros(3, dtype=torch.long), r"got torch.int64 \(3,\)"),
        ({"num_classes": 3}, torch.tensor([0, 3]), "expected labels 0 to 2, got 0 to 3"),
        ({"condition_dim": 3}, None, r"vectors \(2, 3\) or maps \(2, 3, 4, 5\)"),
        ({"condition_dim": 3}, torch.zeros(2, 4), r"vectors \(2, 3\) or maps \(2, 3, 4, 5\); got"),
        ({"condition_dim": 3}, torch.zeros(2, 3, 5, 4), "expected vectors"),
    ],
)
def test_wrong_conditions_are_refused(options, condition, message):
    model, x = build((1, 4, 5), 2, layers=1, **options), images(2, (1, 4, 5), 2)
    with pytest.raises(ValueError, match=message):
        model.log_prob(x, condition)
    with pytest.raises(ValueError, match=message):
        model.sample(2, condition=condition)


def test_weights_lie_channels_last():
    """As `network` lays out its inputs: another order would cost a copy in every layer."""
    model = GatedPixelCNN((1, 8, 8), 2, channels=6, layers=2)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)
