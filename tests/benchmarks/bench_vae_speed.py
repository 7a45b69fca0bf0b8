"""One training step of the 784-400-20 VAE at batch 128, beside the loop of PyTorch's own VAE example.

`ExampleVAE` and `example_step` do what `vae/main.py` of github.com/pytorch/examples does: sigmoid outputs, binary
cross-entropy on them, Adam. The data loader is left out of both. Rounds alternate in one process.
"""

import time
from statistics import median

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_lib.latent.vae import mlp_vae

ROUNDS, STEPS = 30, 5


class ExampleVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21 = nn.Linear(400, 20)
        self.fc22 = nn.Linear(400, 20)
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, 784)

    def forward(self, x):
        h1 = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.fc21(h1), self.fc22(h1)
        std = torch.exp(0.5 * logvar)
        z = mu + torch.randn_like(std) * std
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def example_step(x):
    model = ExampleVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        recon, mu, logvar = model(x)
        bce = F.binary_cross_entropy(recon, x.view(-1, 784), reduction="sum")
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = bce + kld
        loss.backward()
        optimizer.step()
        return loss.item() / len(x)

    return step


def our_step(x, fused):
    model = mlp_vae((1, 28, 28), 20, (400,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def step():
        optimizer.zero_grad()
        loss = model.loss(x)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@pytest.mark.parametrize("fused", [False, True], ids=["same optimiser", "fused optimiser"])
def test_vae_step_against_the_pytorch_example(benchmark, fused):
    """Ratio of medians ours / example in `extra_info`, asserted to be at most 1.05 (0.05 is for noise)."""
    torch.manual_seed(0)
    x = torch.rand(128, 1, 28, 28) * (torch.rand(128, 1, 28, 28) < 0.2)  # mostly black, like handwriting
    contestants = {"ours": our_step(x, fused), "example": example_step(x)}
    seconds = {name: [] for name in contestants}
    losses = {}

    def one_round():
        for name, step in contestants.items():
            for _ in range(STEPS):
                start = time.perf_counter()
                losses[name] = step()
                seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=2)
    ratio = median(seconds["ours"]) / median(seconds["example"])
    benchmark.extra_info["ratio_ours_to_example"] = round(ratio, 3)
    print(f"\nVAE step against PyTorch's example: ratio {ratio:.3f}")
    assert losses["ours"] == pytest.approx(losses["example"], rel=0.1)  # both learned the same thing
    assert ratio <= 1.05
