"""Row LSTM and Diagonal BiLSTM beside a loop over the pixels; time per layer against the side of the image.

The loop has the same weights and gives the same numbers. It is a generous one: the input's part in the gates is
computed for the whole map at once there, too; only the states go pixel by pixel, as the definition says it. Rounds
alternate in one process, and the quickest of each counts: a busy neighbour only ever adds time.
"""

import time

import pytest
import torch

from course_lib.autoregressive import pixelrnn
from course_lib.autoregressive.masked import MaskedConv2d
from course_lib.autoregressive.pixelrnn import (
    DiagonalBiLSTM,
    DiagonalBiLSTMLayer,
    RowLSTM,
    RowLSTMLayer,
    lstm_cell,
)

ROUNDS, SIDE = 5, 28


class RowByPixel(RowLSTMLayer):
    """h(i, j) from h(i−1, j−1 … j+1) and c(i−1, j), one pixel after the other."""

    def forward(self, x):
        gates, taps = self.input_to_state(x), self.state_to_state.weight.unbind(-1)
        width = x.shape[-1]
        zero = x.new_zeros(len(x), taps[0].shape[1])
        h, c, rows = [zero] * width, [zero] * width, []
        for i in range(x.shape[-2]):
            new_h, new_c = [], []
            for j in range(width):
                now = gates[:, :, i, j]
                for k, tap in enumerate(taps, start=j - len(taps) // 2):
                    if 0 <= k < width:
                        now = torch.addmm(now, h[k], tap.T)
                for states, state in zip((new_h, new_c), lstm_cell(now, c[j]), strict=True):
                    states.append(state)
            h, c = new_h, new_c
            rows.append(torch.stack(h, -1))
        return torch.stack(rows, -2)


class DiagonalByPixel(DiagonalBiLSTMLayer):
    """h(i, j) from h(i, j∓1) and h(i−1, j), one pixel after the other, in both directions."""

    def forward(self, x):
        right, left = self.input_to_state(x).chunk(2, dim=1)
        weight_right, weight_left = self.state_to_state.weight.chunk(2)
        left = self.run(left.flip(-1), weight_left).flip(-1)
        return self.run(right, weight_right) + pixelrnn.shift_down(left)

    @staticmethod
    def run(gates, weight):
        above, beside = weight.unbind(-1)
        zero, rows = gates.new_zeros(len(gates), weight.shape[1]), []
        upper = [zero] * gates.shape[-1]
        for i in range(gates.shape[-2]):
            h, c, row = zero, zero, []
            for j in range(gates.shape[-1]):
                now = torch.addmm(gates[:, :, i, j], upper[j], above.T)
                h, c = lstm_cell(torch.addmm(now, h, beside.T), c)
                row.append(h)
            upper = row
            rows.append(torch.stack(row, -1))
        return torch.stack(rows, -2)


class RowLSTMByPixel(RowLSTM):
    layer_type = RowByPixel


class DiagonalBiLSTMByPixel(DiagonalBiLSTM):
    layer_type = DiagonalByPixel


def training_step(model, x):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss = model.loss(x)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def quickest(functions, rounds=ROUNDS):
    """Seconds of the quickest round of each, after one round to warm up; they take turns."""
    seconds = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(times[1:]) for name, times in seconds.items()}


@pytest.mark.parametrize(
    ("ours", "loop"), [(RowLSTM, RowLSTMByPixel), (DiagonalBiLSTM, DiagonalBiLSTMByPixel)]
)
def test_training_step_against_a_loop_over_pixels(benchmark, ours, loop):
    """Network of the paper's size for MNIST with one layer, 28 × 28, its batch of 16: at least 5 times as fast."""
    torch.manual_seed(0)
    shape, size = (1, SIDE, SIDE), pixelrnn.PAPER["mnist-1-layer"]
    model, slow = ours(shape, **size), loop(shape, **size)
    slow.load_state_dict(model.state_dict())
    ratios = {}
    for batch in (16, 64):
        x = torch.randint(2, (batch, *shape))
        torch.testing.assert_close(model(x), slow(x), rtol=1e-4, atol=1e-5)
        seconds = quickest({"ours": training_step(model, x), "loop": training_step(slow, x)})
        ratios[batch] = seconds["loop"] / seconds["ours"]
        print(
            f"\n{ours.__name__}, one layer, h = {size['hidden']}, {SIDE}×{SIDE}, batch {batch}: "
            f"{1e3 * seconds['ours']:.0f} ms a step, the loop over pixels {1e3 * seconds['loop']:.0f} ms: "
            f"{ratios[batch]:.1f} times"
        )
        slow.load_state_dict(model.state_dict())
    benchmark.extra_info |= {f"batch_{batch}": round(ratio, 2) for batch, ratio in ratios.items()}
    x = torch.randint(2, (16, *shape))
    benchmark.pedantic(training_step(model, x), rounds=3)
    assert ratios[16] >= 5


def test_time_of_a_layer_against_the_side_of_the_image(benchmark):
    """Forward and backward pass of one layer, 32 channels in, 16 out, batch 16, in milliseconds."""
    torch.manual_seed(0)
    layers = {
        "3×3 masked convolution": MaskedConv2d(32, 16, 3, "B"),
        "Row LSTM": RowLSTMLayer(32, 16),
        "Diagonal BiLSTM": DiagonalBiLSTMLayer(32, 16),
        "Row LSTM by pixel": RowByPixel(32, 16),
        "Diagonal BiLSTM by pixel": DiagonalByPixel(32, 16),
    }
    sides = (8, 16, 32)

    def passes(layer, x):
        return lambda: layer(x).sum().backward()

    inputs = {side: torch.randn(16, 32, side, side, requires_grad=True) for side in sides}
    table = {}
    for side, x in inputs.items():
        table[side] = quickest({name: passes(layer, x) for name, layer in layers.items()})
    print(f"\n{'milliseconds a layer':26}" + "".join(f"{f'{side}×{side}':>10}" for side in sides))
    for name in layers:
        print(f"{name:26}" + "".join(f"{1e3 * table[side][name]:10.1f}" for side in sides))
    benchmark.extra_info |= {f"{name}, {side}": table[side][name] for name in layers for side in sides}
    benchmark.pedantic(passes(layers["Row LSTM"], inputs[16]), rounds=3)
    # Four times the pixels, twice the steps: less than four times the time as long as a step is mostly overhead.
    assert table[32]["Row LSTM"] < table[32]["Diagonal BiLSTM"] < table[32]["Diagonal BiLSTM by pixel"]
    assert table[32]["3×3 masked convolution"] < table[32]["Row LSTM"] < table[32]["Row LSTM by pixel"]
