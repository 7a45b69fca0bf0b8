"""No parameter of a pixel's distribution depends on that pixel or a later one: by gradient, for every value."""

import pytest
import torch
from pixel_models import MODELS, SOFTMAX

from course_lib.autoregressive.model import receptive_field

SHAPES = ((1, 5, 6), (3, 4, 5))


def dependencies(model, position, colour):
    """Which values (C, H, W) reach the parameters of `colour` at `position`."""
    colours, height, width = model.shape
    block = model.parameters_per_pixel // colours
    field = receptive_field(
        model.network,
        (model.in_channels, height, width),
        position,
        slice(colour * block, (colour + 1) * block),
        trials=24,
    )
    return field.unflatten(0, (colours, -1)).amax(dim=1) > 0  # the inputs of a colour are one block


def order(shape):
    """The place of every value in the chain rule, (C, H, W): rows, then columns, then colours."""
    colours, height, width = shape
    pixel = torch.arange(height * width).reshape(1, height, width)
    return pixel * colours + torch.arange(colours)[:, None, None]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SOFTMAX)
def test_no_value_sees_itself_or_a_later_one(name, shape):
    model, place = SOFTMAX[name](shape, 3), order(shape)
    for i in range(shape[1]):
        for j in range(shape[2]):
            for colour in range(shape[0]):
                seen = dependencies(model, (i, j), colour)
                later = seen & (place >= place[colour, i, j])
                assert not later.any(), f"colour {colour} at ({i}, {j}) sees {later.nonzero().tolist()}"


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_colour_sees_the_colours_before_it_in_its_own_pixel(name):
    """R sees none, G sees R, B sees R and G: the whole of what it may, and the left neighbour's three."""
    model = SOFTMAX[name]((3, 4, 5), 3)
    for colour in range(3):
        seen = dependencies(model, (2, 3), colour)
        assert seen[:, 2, 3].tolist() == [earlier < colour for earlier in range(3)]
        assert seen[:, 2, 2].all()
        assert seen[:, 1, 3].all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS.keys() - SOFTMAX.keys())
def test_no_pixel_sees_itself_or_a_later_one(name, shape):
    """Where a pixel has one distribution, its parameters depend on earlier pixels only, whatever the colour."""
    model, place = MODELS[name](shape, 3), order((1, *shape[1:]))[0]
    for i in range(shape[1]):
        for j in range(shape[2]):
            field = receptive_field(model.network, (model.in_channels, *shape[1:]), (i, j), trials=24)
            later = (field.amax(dim=0) > 0) & (place >= place[i, j])
            assert not later.any(), f"({i}, {j}) sees {later.nonzero().tolist()}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_changing_later_values_leaves_earlier_probabilities_alone(name, shape):
    """The same of the likelihood itself, sub-pixel conditioning included; equal to the last bit or 1e-12."""
    model, place = MODELS[name](shape, 4), order(shape)
    x, other = (
        torch.randint(4, (2, *shape), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    with torch.no_grad():
        before = model.log_prob_of(x, model(x))
        for first in range(0, place.numel(), shape[0]):  # from this pixel on, everything is another image's
            changed = torch.where(place >= first, other, x)
            after = model.log_prob_of(changed, model(changed))
            assert torch.allclose(
                before.sum(1).flatten(1)[:, : first // shape[0]],
                after.sum(1).flatten(1)[:, : first // shape[0]],
                rtol=0,
                atol=1e-12,
            )
    assert not torch.allclose(before, after)
