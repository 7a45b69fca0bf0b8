"""What all autoregressive models share: cached sampling, completion, grey values, refusals."""

import math

import pytest
import torch
from pixel_models import MODELS, SOFTMAX, images, seeded
from torch import nn

from course_lib.autoregressive.model import PixelModel, draw_category

SHAPES = ((1, 6, 5), (3, 4, 5))


def one_at_a_time(model, x, condition=None):
    """The parameters at every position, computed by the stepper while all passes see what they may of x."""
    network, (n, _, height, width) = model.stepper(len(x), condition), x.shape
    out = x.new_zeros(n, model.parameters_per_pixel, height, width, dtype=next(model.parameters()).dtype)
    for i in range(height):
        network.row()
        for j in range(width):
            inputs, seen = model.to_input(x), torch.zeros_like(x[:, :, i, j])
            for step in range(model.passes):
                parameters = network.pixel(j, model.to_input(seen))
                block = model.parameters_per_pixel // model.passes
                here = slice(step * block, (step + 1) * block)
                out[:, here, i, j] = parameters[:, here]
                seen[:, step] = x[:, step, i, j]
            network.write(j, inputs[:, :, i, j])
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_cached_parameters_are_those_of_the_whole_network(name, shape, dtype, tolerance):
    model, x = MODELS[name](shape, 4).to(dtype), images(3, shape, 4)
    with torch.no_grad():
        assert (one_at_a_time(model, x) - model(x)).abs().max() <= tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_both_samplers_draw_the_same_images(name, shape):
    model = MODELS[name](shape, 4)
    cached, naive = (model.sample(4, seeded(7), cached) for cached in (True, False))
    assert cached.dtype == torch.int64
    assert torch.equal(cached, naive)
    assert len(cached.unique()) == 4
    assert not torch.equal(cached, model.sample(4, seeded(8)))


@pytest.mark.parametrize("name", MODELS)
def test_completion_keeps_what_is_known_and_both_ways_agree(name):
    """Known: other pixels in every image, in no particular order, and one image of which everything is known."""
    shape = (3, 4, 5)
    model, x = MODELS[name](shape, 4), images(3, shape, 4)
    known = torch.rand(3, 4, 5, generator=seeded(2)) < 0.5
    known[2] = True
    cached, naive = (model.complete(x, known, seeded(3), cached) for cached in (True, False))
    assert torch.equal(cached, naive)
    everywhere = known.unsqueeze(1).expand_as(x)
    assert torch.equal(cached[everywhere], x[everywhere])
    assert not torch.equal(cached[:2], x[:2])
    other = torch.where(everywhere, x, (x + 1) % 4)  # what stands in unknown places does not matter
    assert torch.equal(cached, model.complete(other, known, seeded(3)))


@pytest.mark.parametrize("name", MODELS)
def test_rows_known_everywhere_cost_no_draw_but_are_seen(name):
    model, x = MODELS[name]((1, 5, 4), 3), images(30, (1, 5, 4), 3)
    known = torch.zeros(5, 4, dtype=torch.bool)
    known[:3] = True
    drawn = model.complete(x, known, seeded(3))
    assert torch.equal(drawn[:, :, :3], x[:, :, :3])
    assert torch.equal(drawn, model.complete(x, known, seeded(3), cached=False))
    turned = model.complete(2 - x, known, seeded(3))
    assert not torch.equal(drawn[:, :, 3:], turned[:, :, 3:])


def test_sampling_leaves_the_mode_and_the_gradients_as_they_were():
    model = MODELS["Gated PixelCNN"]((1, 3, 3), 2).train()
    assert not model.sample(2).requires_grad
    assert model.training


@pytest.mark.parametrize("name", MODELS)
def test_a_softmax_or_a_mixture_over_many_levels_samples_within_them(name):
    drawn = MODELS[name]((1, 3, 3), 256).sample(8, seeded(1))
    assert drawn.min() >= 0
    assert drawn.max() <= 255
    assert len(drawn.unique()) > 20


def test_a_category_is_where_the_uniform_number_falls():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(7, 3)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.999, 1 - 2**-24])
    assert draw_category(logits, uniform).tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_a_category_without_probability_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, 3)
    assert draw_category(logits, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------- what goes in


def test_grey_values_are_the_probabilities_of_one():
    model = MODELS["PixelCNN"]((1, 2, 2), 2)
    grey = torch.tensor([0.0, 0.2, 0.9, 1.0]).reshape(1, 1, 2, 2).expand(20_000, 1, 2, 2)
    drawn = model.prepare(grey, seeded(0))
    assert drawn.dtype == torch.int64
    assert torch.allclose(drawn.double().mean(0).flatten(), grey[0].double().flatten(), atol=0.01)
    assert not torch.equal(drawn, model.prepare(grey, seeded(1)))
    assert torch.equal(
        model.log_prob(grey[:9], generator=seeded(2)), model.log_prob(model.prepare(grey[:9], seeded(2)))
    )


@pytest.mark.parametrize("name", SOFTMAX)
def test_levels_enter_as_numbers_between_minus_one_and_one_or_as_vectors(name):
    model = SOFTMAX[name]((3, 2, 2), 5)
    inputs = model.to_input(torch.tensor([0, 2, 4]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2))
    if model.embedding is None:
        assert inputs[0, :, 0, 0].tolist() == [-1, 0, 1]
    else:
        assert torch.equal(inputs[0, :, 1, 1], model.embedding.weight[[0, 2, 4]].flatten())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 1, 3, 3, dtype=torch.long), r"expected images \(B, 1, 3, 4\), got \(2, 1, 3, 3\)"),
        (torch.zeros(1, 3, 4, dtype=torch.long), "expected images"),
        (torch.zeros(2, 1, 3, 4), "expected integer levels 0 to 2, got torch.float32"),
        (torch.full((2, 1, 3, 4), 3), "expected levels 0 to 2, got 3 to 3"),
        (torch.full((2, 1, 3, 4), -1), "expected levels 0 to 2, got -1 to -1"),
    ],
)
def test_wrong_images_are_refused(x, message):
    model = MODELS["PixelCNN"]((1, 3, 4), 3)
    for method in (model, model.log_prob, model.loss):
        with pytest.raises(ValueError, match=message):
            method(x)


def test_wrong_requests_are_refused():
    model = MODELS["PixelCNN"]((1, 3, 4), 2)
    x = torch.zeros(2, 1, 3, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="n should be at least 1, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="known should be boolean"):
        model.complete(x, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\) or \(2, 3, 4\); got torch.bool \(4, 3\)"):
        model.complete(x, torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"grey values should lie in \[0, 1\]"):
        model.log_prob(x + 1.5)
    with pytest.raises(ValueError, match=r"shape should be \(channels, height, width\)"):
        PixelModel((3, 4), 2)
    with pytest.raises(ValueError, match="levels should be at least 2, got 1"):
        PixelModel((1, 3, 4), 1)


def test_a_model_without_stepper_says_so():
    class Table(PixelModel):
        def __init__(self):
            super().__init__((1, 2, 2), 2)
            self.logits = nn.Parameter(torch.zeros(2, 2, 2))

        def network(self, inputs, condition=None):
            return self.logits.expand(len(inputs), 2, 2, 2)

    assert Table().sample(3, cached=False).shape == (3, 1, 2, 2)
    with pytest.raises(NotImplementedError, match="Table has no cached sampler; use cached=False"):
        Table().sample(3)
