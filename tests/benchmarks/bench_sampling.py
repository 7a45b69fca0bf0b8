"""Sampling one pixel at a time beside the naive sampler that runs the network for every pixel: Gated PixelCNN.

The naive sampler would take minutes: it is timed on the last `NAIVE` pixels, the ones before being given, and scaled to
all of them; each of its pixels costs the same, one forward of the whole batch. Both draw from the same uniform numbers,
and the pixels that both have drawn are compared. The quickest of a few turns counts: a busy neighbour only adds time.
"""

import math
import time

import pytest
import torch

from course_lib.autoregressive.gated_pixelcnn import GatedPixelCNN

IMAGES, NAIVE = 16, 4


def build(side, channels, layers):
    torch.manual_seed(0)
    model = GatedPixelCNN((1, side, side), 2, channels=channels, layers=layers).eval()
    with torch.no_grad():  # away from the first steps' blank pictures
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def seeded():
    return torch.Generator().manual_seed(0)


def seconds(function, turns):
    """The least of a few turns, and what the last one gave."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        out = function()
        times.append(time.perf_counter() - start)
    return min(times), out


def naive_seconds(model, images, turns=3):
    """Of a whole batch, scaled from the last pixels; these are the same as in `images`, or nearly (ties of float32)."""
    _, height, width = model.shape
    given = torch.ones(height, width, dtype=torch.bool)
    given[-1, -NAIVE:] = False
    best, again = seconds(lambda: model.complete(images, given, seeded(), cached=False), turns)
    assert (again == images).double().mean() > 0.999
    return best * height * width / NAIVE


def cache_bytes(model, n):
    """What the steppers keep for n images beyond the weights: their own tensors, each storage once."""
    network = model.stepper(n)
    network.row()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, queue, seen = {}, [network], set()
    while queue:
        part = queue.pop()
        if id(part) in seen or isinstance(part, torch.nn.Module):
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, list | tuple):
            queue += part
        elif hasattr(part, "__dict__"):
            queue += vars(part).values()
    return sum(kept.values())


@pytest.mark.parametrize(("channels", "layers", "at_least"), [(128, 11, 60), (32, 6, 25)])
def test_cached_sampling_against_the_naive_sampler(benchmark, channels, layers, at_least):
    """28×28; the ratio is in `extra_info`."""
    model = build(28, channels, layers)
    images = benchmark.pedantic(lambda: model.sample(IMAGES, seeded()), rounds=3, warmup_rounds=1)
    cached = benchmark.stats.stats.min
    naive = naive_seconds(model, images)
    ratio, size = naive / cached, cache_bytes(model, IMAGES)
    benchmark.extra_info |= {"speed_up": round(ratio, 1), "cache_bytes": size}
    print(
        f"\nGated PixelCNN, {layers} layers of {channels} channels, {IMAGES} images of 28×28: naive {naive:.0f} s "
        f"(scaled from {NAIVE} pixels), cached {cached:.2f} s, {ratio:.0f} times as fast; caches {size / 1e6:.1f} MB"
    )
    assert ratio >= at_least


def test_time_grows_like_the_number_of_pixels(benchmark):
    """Exponent of the time over pixels from 8×8 to 32×32, 6 layers of 32 channels: at most 1.15; naive: 2."""
    models = {side: build(side, 32, 6) for side in (8, 16, 32)}
    cached, naive = dict.fromkeys(models, math.inf), {}

    def turn():  # the sizes alternate, so that a slow spell meets all of them
        for side, model in models.items():
            cached[side] = min(
                cached[side], seconds(lambda model=model: model.sample(IMAGES, seeded()), 1)[0]
            )

    benchmark.pedantic(turn, rounds=6, warmup_rounds=1)
    for side, model in models.items():
        naive[side] = naive_seconds(model, model.sample(IMAGES, seeded()), turns=5)

    def exponent(times, a, b):
        return math.log(times[b] / times[a]) / math.log(b * b / (a * a))

    overall = {name: exponent(times, 8, 32) for name, times in (("cached", cached), ("naive", naive))}
    steps = [exponent(cached, a, b) for a, b in ((8, 16), (16, 32))]
    benchmark.extra_info |= {name: round(value, 3) for name, value in overall.items()}
    table = "; ".join(f"{s}×{s}: {1e3 * cached[s]:.0f} ms, naive {naive[s]:.1f} s" for s in models)
    print(
        f"\nTime against pixels: cached exponent {overall['cached']:.2f} (steps {steps[0]:.2f}, {steps[1]:.2f}), naive "
        f"{overall['naive']:.2f}. {table}"
    )
    assert max(overall["cached"], *steps) <= 1.15
