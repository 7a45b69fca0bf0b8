"""Steppers made of steppers: chains, activations, residual connections."""

import pytest
import torch
from pixel_models import randomised, seeded
from torch import nn

from course_lib.autoregressive.incremental import Chain, Pointwise, Residual, Stepper, stepper
from course_lib.autoregressive.masked import MaskedConv2d


def run(network, x):
    """Every pixel of x (n, C, H, W) in order."""
    rows = []
    for i in range(x.shape[2]):
        network.row()
        rows.append(torch.stack([network.pixel(j, x[:, :, i, j]) for j in range(x.shape[3])], dim=-1))
    return torch.stack(rows, dim=2)


def test_a_sequence_of_layers_and_activations():
    layers = nn.Sequential(
        MaskedConv2d(2, 4, 3, "A"),
        nn.ELU(),
        MaskedConv2d(4, 3, (1, 3), "B"),
        nn.Tanh(),
        MaskedConv2d(3, 2, 1, "B"),
    )
    x = torch.randn(3, 2, 4, 5, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(run(stepper(randomised(layers), 3, 5), x), layers(x), atol=1e-12)


def test_residual_adds_its_input_once():
    layer = randomised(MaskedConv2d(2, 2, 3, "B"))
    x = torch.randn(3, 2, 4, 5, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(run(Residual(stepper(layer, 3, 5)), x), x + layer(x), atol=1e-12)


def test_a_chain_writes_into_its_first_link_only():
    class Recorder(Stepper):
        def __init__(self):
            self.written, self.rows = [], 0

        def row(self):
            self.rows += 1

        def write(self, j, x):
            self.written.append((j, x.item()))

    first, second = Recorder(), Recorder()
    chain = Chain([first, second])
    chain.row()
    chain.write(2, torch.tensor(5.0))
    assert (first.written, second.written) == ([(2, 5.0)], [])
    assert (first.rows, second.rows) == (1, 1)


def test_an_activation_needs_no_memory():
    network = Pointwise(torch.relu)
    network.row()
    network.write(0, torch.ones(1, 1))
    assert network.pixel(0, torch.tensor([[-1.0, 2.0]])).tolist() == [[0, 2]]


def test_layers_that_mix_positions_are_refused():
    with pytest.raises(
        ValueError, match=r"Conv2d cannot run one pixel at a time: it has no stepper\(n, width\)"
    ):
        stepper(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3)), 1, 4)
    with pytest.raises(NotImplementedError, match="Stepper has to define pixel"):
        Stepper().pixel(0, torch.zeros(1, 1))
