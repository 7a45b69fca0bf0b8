"""One DCGAN step at 64 × 64, 64 channels in both networks, batch 64, beside the way of PyTorch's DCGAN example.

`ExampleLoop` goes the example's way (`dcgan/main.py` of github.com/pytorch/examples): D ends in a sigmoid with binary
cross-entropy, its gradient is added up over a real and a fake batch in two backward passes, the generator's backward
pass goes through a D whose weight gradients are computed, too, and then thrown away; plain Adam; weights in the
default order. Rounds alternate in one process, and the quickest of each counts: a busy neighbour only ever adds time.
"""

from itertools import pairwise

import pytest
import torch
from side_by_side import race
from torch import nn

from course_lib.adversarial.dcgan import dcgan
from course_lib.training import make_fabric
from course_lib.training.device import fastest_precision

ROUNDS, BATCH, SHAPE, LATENT, WIDTHS = 20, 64, (3, 64, 64), 100, (64, 128, 256, 512)


def example_networks():
    generator = [
        nn.ConvTranspose2d(LATENT, WIDTHS[-1], 4, bias=False),
        nn.BatchNorm2d(WIDTHS[-1]),
        nn.ReLU(True),
    ]
    discriminator = [nn.Conv2d(3, WIDTHS[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for narrow, wide in reversed(list(pairwise(WIDTHS))):
        generator += [
            nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(True),
        ]
    for narrow, wide in pairwise(WIDTHS):
        discriminator += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide)]
        discriminator += [nn.LeakyReLU(0.2, inplace=True)]
    generator += [nn.ConvTranspose2d(WIDTHS[0], 3, 4, 2, 1, bias=False), nn.Tanh()]
    discriminator += [nn.Conv2d(WIDTHS[-1], 1, 4, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    return nn.Sequential(*generator), nn.Sequential(*discriminator)


class ExampleLoop:
    def __init__(self, pictures):
        self.pictures, self.criterion = pictures, nn.BCELoss()
        self.generator, self.discriminator = example_networks()
        for network in (self.generator, self.discriminator):
            network.apply(self.initialise)
        self.g_optimizer, self.d_optimizer = (
            torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999))
            for n in (self.generator, self.discriminator)
        )

    @staticmethod
    def initialise(module):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

    def step(self):
        real, fake_labels = torch.ones(BATCH), torch.zeros(BATCH)
        self.discriminator.zero_grad()
        real_loss = self.criterion(self.discriminator(self.pictures), real)
        real_loss.backward()
        fake = self.generator(torch.randn(BATCH, LATENT, 1, 1))
        fake_loss = self.criterion(self.discriminator(fake.detach()), fake_labels)
        fake_loss.backward()
        self.d_optimizer.step()
        self.generator.zero_grad()
        g_loss = self.criterion(self.discriminator(fake), real)
        g_loss.backward()
        self.g_optimizer.step()
        return (real_loss + fake_loss).item()


class OurStep:
    def __init__(self, pictures, precision):
        self.batch = (0.5 * pictures + 0.5,)  # the example's pictures are in [−1, 1]
        self.gan = dcgan(SHAPE, "example")
        self.gan.setup(make_fabric("cpu", precision))

    def step(self):
        terms = self.gan.step(self.batch)
        return terms["d_loss"].item()


def test_dcgan_step_against_the_pytorch_example(benchmark):
    """Ratios of the quickest steps, example / ours, in `extra_info`: at least 1 in float32, and at least 2 in the
    automatic precision where that is bfloat16."""
    torch.manual_seed(0)
    pictures = torch.rand(BATCH, *SHAPE) * 2 - 1
    bf16 = fastest_precision(torch.device("cpu")) == "bf16-mixed"
    contestants = {
        "example": ExampleLoop(pictures),
        "float32": OurStep(pictures, "32-true"),
        "auto": OurStep(pictures, "auto"),
    }
    times, first, last = result = race(
        benchmark, {name: c.step for name, c in contestants.items()}, ROUNDS, warmup_rounds=2
    )
    ratios = result.ratios("example", "float32", "auto")
    benchmark.extra_info.update({f"example_to_{name}": round(ratio, 3) for name, ratio in ratios.items()})
    precision = "bf16-mixed" if bf16 else "32-true"
    print(
        f"\nDCGAN step, PyTorch's example {1e3 * times['example']:.0f} ms: {ratios['float32']:.2f} times as fast in "
        f"float32, {ratios['auto']:.2f} in the automatic precision ({precision})"
    )
    # The step is a real one: D begins alike in all, and learns to tell this batch from fakes.
    for name in contestants:
        assert first[name] == pytest.approx(first["example"], rel=0.5)
        assert last[name] < 0.5 * first[name]
    assert ratios["float32"] >= 1
    assert not bf16 or ratios["auto"] >= 2
