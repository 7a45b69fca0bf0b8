"""The vector quantiser beside vector-quantize-pytorch: 32,768 vectors of 64 numbers, 512 codes, forward and backward.

Both train: straight-through gradients, commitment loss, moving averages. The two take turns in one process. The fastest
rounds are compared, because a busy neighbour stalls both at every parallel region, however little there is to do in it;
the ratio of the medians is printed beside. Memory is the largest sum of what PyTorch allocated and had not yet freed
during one step.
"""

import time
from statistics import median

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from course_lib.latent.vqvae import VectorQuantizer

N, D, K = 32_768, 64, 512
SHAPES = {"flat": (N, D), "image": (32, D, 32, 32)}
ROUNDS = 30


def step_of(quantize, z, weights):
    """One forward and backward pass, the loss of the decoder replaced by a weighted sum; returns the gradient at z."""

    def step():
        z_e = z.clone().requires_grad_()
        z_q, loss = quantize(z_e)
        ((z_q * weights).sum() + loss).backward()
        return z_e.grad

    return step


def both(shape):
    package = pytest.importorskip(
        "vector_quantize_pytorch", reason="the peer is a test dependency (requirements.txt)"
    )
    torch.manual_seed(0)
    image = len(shape) == 4
    peer = package.VectorQuantize(
        dim=D,
        codebook_size=K,
        decay=0.99,
        commitment_weight=0.25,
        rotation_trick=False,
        accept_image_fmap=image,
    )
    ours = VectorQuantizer(K, D, beta=0.25, decay=0.99)
    ours.codebook.copy_(peer.codebook)
    ours.sums.copy_(peer.codebook)
    z, weights = torch.randn(shape), torch.randn(shape)

    def quantize_ours(z_e):
        result = ours(z_e)
        return result.z_q, result.loss

    def quantize_theirs(z_e):
        z_q, _, loss = peer(z_e)
        return z_q, loss

    return {"ours": step_of(quantize_ours, z, weights), "peer": step_of(quantize_theirs, z, weights)}


def peak_bytes(step):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_quantiser_against_vector_quantize_pytorch(benchmark, shape):
    """Ratios peer / ours of minima and of medians in `extra_info`; that of the minima is at least 2.5."""
    steps = both(shape)
    seconds = {name: [] for name in steps}
    gradients = {}

    def one_round():
        for name, step in steps.items():
            start = time.perf_counter()
            gradients[name] = step()
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=2)
    # The warm-up rounds are timed too; they are dropped here.
    ratio, of_medians = (f(seconds["peer"][2:]) / f(seconds["ours"][2:]) for f in (min, median))
    benchmark.extra_info |= {"throughput_ratio": round(ratio, 2), "of_medians": round(of_medians, 2)}
    print(
        f"\nvector quantiser: {ratio:.2f} times vector-quantize-pytorch's throughput (medians: {of_medians:.2f})"
    )
    torch.testing.assert_close(gradients["ours"], gradients["peer"], rtol=1e-4, atol=1e-6)  # the same answer
    assert ratio >= 2.5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_quantiser_s_memory_against_the_distance_matrix(shape):
    """At most half of two full float32 distance matrices, all results and gradients of the step included."""
    full = 4 * N * K
    peaks = {name: peak_bytes(step) / full for name, step in both(shape).items()}
    print(f"\npeak memory in distance matrices: ours {peaks['ours']:.2f}, peer {peaks['peer']:.2f}")
    assert 4 * N * D / full < peaks["ours"] < 1.0  # it is at least the gradient
    assert peaks["peer"] > 1.0
