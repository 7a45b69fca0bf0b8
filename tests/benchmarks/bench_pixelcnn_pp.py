"""Sampling from PixelCNN++ one pixel at a time beside the whole network for every pixel: 16 images of 32×32×3.

40 filters, 2 resnets a level, 5 mixtures. The naive sampler would take minutes: it is timed on its last `NAIVE` pixels,
the ones before being given, and scaled to all 1,024; each of its pixels costs the same, one forward of the whole batch.
Both draw from the same uniform numbers, and the pixels that both have drawn are compared.
"""

import time

import torch

from course_lib.autoregressive.pixelcnn_pp import PixelCNNpp

SIDE, IMAGES, NAIVE = 32, 16, 12


def build(dtype=torch.float32):
    torch.manual_seed(0)
    network = PixelCNNpp((3, SIDE, SIDE), filters=40, resnets=2, mixtures=5).to(dtype).eval()
    with torch.no_grad():  # away from the first steps' blank pictures
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return network


def cache_bytes(part, seen=None):
    """Bytes of the tensors that a stepper keeps, weights of the network not counted."""
    seen = set() if seen is None else seen
    if id(part) in seen or isinstance(part, torch.nn.Module):
        return 0
    seen.add(id(part))
    if isinstance(part, torch.Tensor):
        storage = part.untyped_storage()
        known = storage.data_ptr() in seen
        seen.add(storage.data_ptr())
        return 0 if known else storage.nbytes()
    parts = (
        part if isinstance(part, (list, tuple)) else vars(part).values() if hasattr(part, "__dict__") else ()
    )
    return sum(cache_bytes(value, seen) for value in parts)


def test_cached_sampling_against_the_naive_sampler(benchmark):
    """The ratio in `extra_info`; at least 12."""
    network = build()
    start = time.perf_counter()
    images = benchmark.pedantic(network.sample, (IMAGES, torch.Generator().manual_seed(0)), rounds=1)
    cached = time.perf_counter() - start
    given = torch.ones(SIDE, SIDE, dtype=torch.bool)
    given[-1, -NAIVE:] = False
    start = time.perf_counter()
    again = network.complete(images, given, torch.Generator().manual_seed(0), cached=False)
    naive = (time.perf_counter() - start) * SIDE**2 / NAIVE
    ratio = naive / cached
    seen = {id(parameter): 0 for parameter in network.parameters()}
    stepper = network.stepper(IMAGES)
    stepper.row()
    size = cache_bytes(stepper, {*seen, *(p.untyped_storage().data_ptr() for p in network.parameters())})
    benchmark.extra_info |= {"speed_up": round(ratio, 1), "cache_bytes": size}
    print(
        f"\nPixelCNN++, {IMAGES} images of {SIDE}×{SIDE}×3: cached {cached:.1f} s, naive {naive:.0f} s "
        f"(scaled from {NAIVE} of {SIDE**2} pixels): {ratio:.0f} times faster; caches {size / 2**20:.1f} MiB"
    )
    assert (again == images).float().mean() > 0.999  # a rounding error can move a value across a level's edge
    assert ratio >= 12


def test_time_grows_with_the_number_of_pixels():
    """Seconds for sides 8, 16, 32: the exponent of time against pixels, at most 1.15."""
    seconds = []
    for side in (8, 16, 32):
        torch.manual_seed(0)
        network = PixelCNNpp((3, side, side), filters=40, resnets=2, mixtures=5)
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            network.sample(4)
            rounds.append(time.perf_counter() - start)
        seconds.append(min(rounds))
    logs = torch.tensor(seconds).log2()
    exponent = ((logs[2] - logs[0]) / 4).item()
    print(
        "\nPixelCNN++ cached, sides 8, 16, 32: "
        + ", ".join(f"{s:.2f} s" for s in seconds)
        + f", exponent {exponent:.2f}"
    )
    assert exponent <= 1.15
