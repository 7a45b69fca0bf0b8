"""Modulated convolutions, 64 → 64 channels at 32 × 32, batch 16: ours beside a loop over examples and a grouped call.

Forward and backward to inputs, weights and styles. "grouped" is the way of the authors' code and of most others: B sets
of weights side by side, one convolution with B groups. "loop" is B convolutions. Rounds alternate in one process, and
the quickest of each counts: a busy neighbour only ever adds time.
"""

import time

import pytest
import torch

from course_lib.adversarial.modulation import Blur, modulated_conv2d

ROUNDS, BATCH, WIDTH, SIDE = 15, 16, 64, 32


def loop(x, weight, style, resample, blur):
    parts = zip(x.split(1), style.split(1), strict=True)
    return torch.cat(
        [modulated_conv2d(one, weight, s, resample=resample, blur=blur, method="grouped") for one, s in parts]
    )


@pytest.mark.parametrize("resample", [None, "up"])
def test_modulated_convolution(benchmark, resample):
    """Ratios of the quickest times, other / ours, in `extra_info`: at least 1 for both."""
    torch.manual_seed(0)
    side = SIDE // 2 if resample else SIDE
    x = torch.randn(BATCH, WIDTH, side, side).contiguous(memory_format=torch.channels_last)
    inputs = [x, torch.randn(WIDTH, WIDTH, 3, 3) / 24, torch.randn(BATCH, WIDTH) + 1]
    inputs = [v.requires_grad_() for v in inputs]
    options = {"resample": resample, "blur": Blur()}
    contestants = {
        "loop": lambda: loop(*inputs, **options),
        "grouped": lambda: modulated_conv2d(*inputs, **options, method="grouped"),
        "scaled": lambda: modulated_conv2d(*inputs, **options),
    }
    seconds, results = {name: [] for name in contestants}, {}

    def one_round():
        for name, contestant in contestants.items():
            start = time.perf_counter()
            y = contestant()
            slopes = torch.autograd.grad(y.square().sum(), inputs)
            seconds[name].append(time.perf_counter() - start)
            results[name] = (y.detach(), *slopes)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=2)
    times = {name: min(values) for name, values in seconds.items()}
    ratios = {name: times[name] / times["scaled"] for name in ("loop", "grouped")}
    benchmark.extra_info.update({f"{name}_to_scaled": round(ratio, 3) for name, ratio in ratios.items()})
    print(
        f"\nmodulated convolution ({resample or 'same size'}): {1e3 * times['scaled']:.1f} ms, "
        f"{ratios['loop']:.2f} times as fast as the loop, {ratios['grouped']:.2f} as the grouped call"
    )
    for name in ("loop", "grouped"):
        for a, b in zip(results[name], results["scaled"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * a.abs().max().item())
    assert min(ratios.values()) >= 1
