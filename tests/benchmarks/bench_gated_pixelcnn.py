"""One training step of a Gated PixelCNN at 28 × 28, batch 64, beside the formulation of common PyTorch implementations.

`PeerLayer` goes their way: both stacks are convolutions that are padded on both sides and then cropped, the vertical
one by what is too much below, the horizontal one by what is too much to the right; masks of the first layer multiply
the weights at every step; the outputs are split and gated by separate operations; weights in the default order. Both
have the same filters and the same number of weights, and give the same loss from the same weights. Rounds alternate in
one process, and the quickest of each counts: a busy neighbour only ever adds time.
"""

import pytest
import torch
from side_by_side import race
from torch import nn

from course_lib.autoregressive.gated_pixelcnn import GatedLayer, GatedPixelCNN
from course_lib.training import SingleLoss, make_fabric
from course_lib.training.device import fastest_precision

ROUNDS, BATCH, CHANNELS, LAYERS, KERNEL = 8, 64, 64, 6, 3


class PeerLayer(nn.Module):
    def __init__(self, layer: GatedLayer):
        super().__init__()
        k, first = layer.horizontal.kernel_size[1], layer.first
        inputs, outputs = layer.vertical.in_channels, layer.vertical.out_channels
        self.first, self.side = first, k // 2
        self.vertical = nn.Conv2d(inputs, outputs, (k // 2 + 1, k), padding=k // 2)
        self.horizontal = nn.Conv2d(inputs, outputs, (1, k // 2 + 1), padding=(0, k // 2), bias=False)
        self.down = nn.Conv2d(outputs, outputs, 1)
        self.out = nn.Conv2d(outputs // 2, outputs // 2, 1, bias=first)
        self.register_buffer("vertical_mask", torch.ones_like(self.vertical.weight))
        self.register_buffer("horizontal_mask", torch.ones_like(self.horizontal.weight))
        if first:
            self.vertical_mask[:, :, -1] = 0
            self.horizontal_mask[..., -1] = 0
        self.copy(layer)

    @torch.no_grad()
    def copy(self, layer):
        rows = layer.vertical.kernel_size[0]
        self.vertical.weight[:, :, :rows] = layer.vertical.weight
        self.vertical.bias.copy_(layer.vertical.bias)
        self.horizontal.weight.copy_(layer.horizontal.weight[..., : self.side + 1])
        self.down.load_state_dict(layer.down.state_dict())
        self.out.load_state_dict(layer.out.state_dict())

    def forward(self, v, h):
        height, width = v.shape[-2:]
        if self.first:
            self.vertical.weight.data *= self.vertical_mask
            self.horizontal.weight.data *= self.horizontal_mask
        a = self.vertical(v)[:, :, :height]
        b = self.horizontal(h)[:, :, :, :width] + self.down(a)
        a_tanh, a_sigmoid = torch.chunk(a, 2, dim=1)
        b_tanh, b_sigmoid = torch.chunk(b, 2, dim=1)
        v = torch.tanh(a_tanh) * torch.sigmoid(a_sigmoid)
        out = self.out(torch.tanh(b_tanh) * torch.sigmoid(b_sigmoid))
        return v, out if self.first else out + h


class Peer(nn.Module):
    def __init__(self, model: GatedPixelCNN):
        super().__init__()
        self.layers = nn.ModuleList([PeerLayer(layer) for layer in model.layers])
        self.head = nn.Sequential(
            *(
                nn.Conv2d(part.in_channels, part.out_channels, 1)
                if isinstance(part, nn.Conv2d)
                else nn.ReLU()
                for part in model.head
            )
        )
        state = {name: value.contiguous() for name, value in model.head.state_dict().items()}
        self.head.load_state_dict(state)

    def loss(self, x):
        v = h = 2 * x.float() - 1
        for layer in self.layers:
            v, h = layer(v, h)
        logits = self.head(h).unsqueeze(2)
        return nn.functional.cross_entropy(logits, x, reduction="none").flatten(1).sum(1).mean()


class PeerStep:
    def __init__(self, model, x):
        self.model, self.x = Peer(model), x
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def __call__(self):
        self.optimizer.zero_grad()
        loss = self.model.loss(self.x)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class OurStep:
    def __init__(self, model, x, precision):
        self.batch = (x, torch.zeros(len(x), dtype=torch.long))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        self.algorithm = SingleLoss(model, optimizer)
        self.algorithm.setup(make_fabric("cpu", precision))

    def __call__(self):
        return self.algorithm.step(self.batch)["loss"].item()


def build():
    torch.manual_seed(0)
    return GatedPixelCNN((1, 28, 28), 2, channels=CHANNELS, layers=LAYERS, kernel_size=KERNEL)


def test_gated_pixelcnn_step_against_padded_and_cropped_convolutions(benchmark):
    """Ratios of the quickest steps, peer / ours, in `extra_info`: at least 1 in float32, and at least 1.8 in the
    automatic precision where that is bfloat16."""
    x = torch.randint(2, (BATCH, 1, 28, 28), generator=torch.Generator().manual_seed(1))
    bf16 = fastest_precision(torch.device("cpu")) == "bf16-mixed"
    contestants = {
        "peer": PeerStep(build(), x),
        "float32": OurStep(build(), x, "32-true"),
        "auto": OurStep(build(), x, "auto"),
    }
    times, first, _ = result = race(benchmark, contestants, ROUNDS, warmup_rounds=1)
    ratios = result.ratios("peer", "float32", "auto")
    benchmark.extra_info |= {f"peer_to_{name}": round(ratio, 3) for name, ratio in ratios.items()}
    precision = "bf16-mixed" if bf16 else "32-true"
    print(
        f"\nGated PixelCNN step, {LAYERS} layers of {CHANNELS}, batch {BATCH}: padded and cropped "
        f"{1e3 * times['peer']:.0f} ms; {ratios['float32']:.2f} times as fast in float32, {ratios['auto']:.2f} in the "
        f"automatic precision ({precision})"
    )
    assert first["float32"] == pytest.approx(first["peer"], rel=1e-5)  # the same network
    assert first["auto"] == pytest.approx(first["peer"], rel=1e-2)
    assert ratios["float32"] >= 1
    assert not bf16 or ratios["auto"] >= 1.8
