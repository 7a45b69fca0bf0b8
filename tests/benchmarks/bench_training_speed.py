"""What the loop costs: steps of the VAE 784-400-20 at batch 128 through ``fit``, beside a bare loop of the same steps.

The two take turns in one process and medians are compared, because the speed of a machine drifts.
"""

import statistics
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

from course_lib.latent.vae import mlp_vae
from course_lib.training import SingleLoss, fit

BATCH = 128


def pictures(n=60 * BATCH):
    images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.zeros(n, dtype=torch.int64))


class Timer:
    """Wraps a data loader: notes when each batch is asked for, so that a step's time is the distance of two."""

    def __init__(self, loader):
        self.loader, self.times = loader, []

    def __iter__(self):
        for batch in self.loader:
            self.times.append(time.perf_counter())
            yield batch

    def step_times(self, skip=4):
        return [b - a for a, b in zip(self.times[skip:], self.times[skip + 1 :], strict=False)]


def bare_loop(model, optimizer, loader, steps):
    """The plain loop of the same step; like PyTorch's example it reads the loss of every step."""
    model.train()
    done, losses = 0, []
    while True:
        for x, label in loader:
            optimizer.zero_grad()
            loss = model.loss(x, label)["loss"]
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            done += 1
            if done == steps:
                return losses


def compare(ours, theirs, rounds=40):
    """Turn by turn, some steps of each: (their ratio, our time, their time), each the median over the rounds.

    The ratio is taken round by round, between neighbours in time, so that a drift of the machine cancels.
    """
    ours_times, theirs_times = [], []
    for i in range(rounds):
        for side, times in ((ours, ours_times), (theirs, theirs_times))[:: 1 if i % 2 else -1]:
            times.append(statistics.median(side()))
    ratio = statistics.median(a / b for a, b in zip(ours_times, theirs_times, strict=True))
    return ratio, statistics.median(ours_times), statistics.median(theirs_times)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def stored_batches():
    return [tuple(batch) for batch in DataLoader(pictures(), batch_size=BATCH)]


def test_overhead_of_fit_over_a_bare_loop():
    model = mlp_vae((1, 28, 28), 20, (400,))
    optimizer = adam(model)
    algorithm, batches, steps = SingleLoss(model, optimizer), stored_batches(), 60

    def ours():
        loader = Timer(batches)
        fit(algorithm, loader, steps=steps, device="cpu", progress=True)
        return loader.step_times()

    def theirs():
        loader = Timer(batches)
        bare_loop(model, optimizer, loader, steps)
        return loader.step_times()

    ratio, fit_time, bare_time = compare(ours, theirs)
    print(f"\nfit {1e3 * fit_time:.2f} ms, bare loop {1e3 * bare_time:.2f} ms a step: ratio {ratio:.3f}")
    assert ratio < 1.05
