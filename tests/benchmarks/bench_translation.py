"""A full step of CycleGAN (64 × 64, 6 blocks, batch 4) and of Pix2Pix (128 × 128, batch 4), beside the plain way.

The plain steps go in the order of PyTorch-GAN (github.com/eriklindernoren/PyTorch-GAN, `cyclegan.py` and `pix2pix.py`):
six generator passes of one batch each, `nn.InstanceNorm2d`, the default order of memory, a generators' backward pass
that also makes gradients of the discriminators and throws them away, a pool of pictures kept as a list, plain Adam with
zeroed gradients. Their networks are ours, weight by weight. Rounds alternate in one process, and the
quickest of each counts: a busy neighbour only ever adds time.
"""

import copy
import random
from itertools import chain

import pytest
import torch
from side_by_side import race
from torch import nn
from torch.nn import functional as F

from course_lib.adversarial.cyclegan import cyclegan
from course_lib.adversarial.pix2pix import InstanceNorm2d, pix2pix
from course_lib.training import make_fabric
from course_lib.training.device import fastest_precision

ROUNDS, BATCH = 8, 4


def plainly(network):
    """A copy with PyTorch's instance norm and memory in the default order."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm2d):
                setattr(module, name, nn.InstanceNorm2d(child.num_features))
    return network


def adam(*networks):
    return torch.optim.Adam(chain(*(n.parameters() for n in networks)), lr=2e-4, betas=(0.5, 0.999))


class ListPool:
    """PyTorch-GAN's ReplayBuffer."""

    def __init__(self, size=50):
        self.size, self.data = size, []

    def push_and_pop(self, pictures):
        chosen = []
        for picture in pictures.detach():
            picture = picture.unsqueeze(0)
            if len(self.data) < self.size:
                self.data.append(picture)
                chosen.append(picture)
            elif random.random() > 0.5:
                i = random.randrange(self.size)
                chosen.append(self.data[i].clone())
                self.data[i] = picture
            else:
                chosen.append(picture)
        return torch.cat(chosen)


class PlainCycleGAN:
    def __init__(self, ours, batch):
        self.a, self.b = batch
        self.g_ab, self.g_ba, self.d_a, self.d_b = (
            plainly(n) for n in (ours.g_ab, ours.g_ba, ours.d_a, ours.d_b)
        )
        self.g_optimizer = adam(self.g_ab, self.g_ba)
        self.d_a_optimizer, self.d_b_optimizer = adam(self.d_a), adam(self.d_b)
        self.pool_a, self.pool_b = ListPool(), ListPool()

    def step(self):
        a, b = self.a, self.b
        self.g_optimizer.zero_grad(set_to_none=False)
        identity = 2 * (F.l1_loss(self.g_ba(a), a) + F.l1_loss(self.g_ab(b), b))
        fake_b = self.g_ab(a)
        scores = self.d_b(fake_b)
        gan_ab = F.mse_loss(scores, torch.ones_like(scores))
        fake_a = self.g_ba(b)
        scores = self.d_a(fake_a)
        gan_ba = F.mse_loss(scores, torch.ones_like(scores))
        cycle = 2 * (F.l1_loss(self.g_ba(fake_b), a) + F.l1_loss(self.g_ab(fake_a), b))
        loss = gan_ab + gan_ba + 10 * cycle + 5 * identity
        loss.backward()
        self.g_optimizer.step()
        for network, optimizer, pool, real, fake in (
            (self.d_a, self.d_a_optimizer, self.pool_a, a, fake_a),
            (self.d_b, self.d_b_optimizer, self.pool_b, b, fake_b),
        ):
            optimizer.zero_grad(set_to_none=False)
            right = network(real)
            wrong = network(pool.push_and_pop(fake))
            d_loss = 0.5 * (
                F.mse_loss(right, torch.ones_like(right)) + F.mse_loss(wrong, torch.zeros_like(wrong))
            )
            d_loss.backward()
            optimizer.step()
        return loss.item()


class PlainPix2Pix:
    def __init__(self, ours, batch):
        self.x, self.y = batch
        self.generator, self.discriminator = plainly(ours.generator), plainly(ours.discriminator)
        self.g_optimizer, self.d_optimizer = adam(self.generator), adam(self.discriminator)

    def step(self):
        x, y = self.x, self.y
        self.g_optimizer.zero_grad(set_to_none=False)
        fake = self.generator(x)
        scores = self.discriminator(torch.cat([fake, x], 1))
        loss = F.binary_cross_entropy_with_logits(scores, torch.ones_like(scores)) + 200 * F.l1_loss(fake, y)
        loss.backward()
        self.g_optimizer.step()
        self.d_optimizer.zero_grad(set_to_none=False)
        right = self.discriminator(torch.cat([y, x], 1))
        wrong = self.discriminator(torch.cat([fake.detach(), x], 1))
        d_loss = F.binary_cross_entropy_with_logits(
            right, torch.ones_like(right)
        ) + F.binary_cross_entropy_with_logits(wrong, torch.zeros_like(wrong))
        d_loss.backward()
        self.d_optimizer.step()
        return loss.item()


class OurStep:
    def __init__(self, ours, batch, precision):
        self.model, self.batch = ours, batch
        self.model.setup(make_fabric("cpu", precision))

    def step(self):
        return self.model.step(self.batch)["g_loss"].item()


def cyclegan_64():
    torch.manual_seed(0)
    return cyclegan((3, 64, 64), "paper128")


def pix2pix_128():
    torch.manual_seed(0)
    return pix2pix((3, 128, 128), "paper", depth=7)


@pytest.mark.parametrize(
    ("make", "plain", "side", "name"),
    [(cyclegan_64, PlainCycleGAN, 64, "CycleGAN"), (pix2pix_128, PlainPix2Pix, 128, "Pix2Pix")],
)
def test_translation_step_against_the_plain_way(benchmark, make, plain, side, name):
    """Ratios of the quickest steps, plain / ours, in `extra_info`: at least 1 in float32, and at least 1.8 in the
    automatic precision where that is bfloat16."""
    generator = torch.Generator().manual_seed(1)
    # Smooth pictures: noise pixel by pixel could not be learned in a few steps.
    batch = tuple(
        F.interpolate(torch.rand(BATCH, 3, 4, 4, generator=generator), side, mode="bilinear")
        for _ in range(2)
    )
    bf16 = fastest_precision(torch.device("cpu")) == "bf16-mixed"
    contestants = {
        "plain": plain(make(), batch),
        "float32": OurStep(make(), batch, "32-true"),
        "auto": OurStep(make(), batch, "auto"),
    }
    times, first, last = result = race(
        benchmark, {name: c.step for name, c in contestants.items()}, ROUNDS, warmup_rounds=1
    )
    ratios = result.ratios("plain", "float32", "auto")
    benchmark.extra_info.update({f"plain_to_{who}": round(ratio, 3) for who, ratio in ratios.items()})
    precision = "bf16-mixed" if bf16 else "32-true"
    print(
        f"\n{name} step, the plain way {1e3 * times['plain']:.0f} ms: {ratios['float32']:.2f} times as fast in "
        f"float32, {ratios['auto']:.2f} in the automatic precision ({precision})"
    )
    # The steps are the same one: they begin at one loss, and learn this batch.
    for who in contestants:
        assert first[who] == pytest.approx(first["plain"], rel=0.02)
        assert last[who] < 0.9 * first[who]
    assert ratios["float32"] >= 1
    assert not bf16 or ratios["auto"] >= 1.8
