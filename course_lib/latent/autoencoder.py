"""Autoencoders: an encoder e and a decoder d trained together so that d(e(x)) is close to x.

With linear maps and squared error the best pair spans PCA's subspace (Baldi & Hornik, 1989), though its axes
need not be orthogonal; deep maps do better at equal code size (Hinton & Salakhutdinov, 2006). A denoising
autoencoder sees x + noise and has to return the clean x (Vincent et al., 2008), so it cannot simply copy.

Papers: P. Baldi and K. Hornik (1989), Neural networks and principal component analysis; G. Hinton and
R. Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313; P. Vincent et al.
(2008), Extracting and composing robust features with denoising autoencoders, ICML. Departures: trained end to
end, without the layer-wise pretraining that 2006 needed; denoising uses Gaussian noise.

The networks built here are also the encoders and decoders of `vae`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Autoencoder(nn.Module):
    """An encoder (B, *input_shape) → (B, m) and a decoder back, trained on squared error.

    noise_std: standard deviation, in units of the data, of the Gaussian noise added to the input while training
    (denoising); the target stays clean. input_shape: if given, inputs of another shape raise ValueError.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        noise_std: float = 0.0,
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if not noise_std >= 0:
            raise ValueError(f"noise_std should be at least 0, got {noise_std}")
        self.encoder, self.decoder, self.noise_std = encoder, decoder, noise_std
        self.input_shape = None if input_shape is None else tuple(input_shape)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (B, m)."""
        check_input(x, self.input_shape)
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Reconstructions (B, *input_shape) from codes (B, m)."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """d(e(x)), without noise."""
        return self.decode(self.encode(x))

    def loss(
        self, x: Tensor, label: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "recon"}: ‖x − d(e(x + noise))‖², summed over pixels, mean over the batch.

        It is the number that PCA calls the sum of the discarded eigenvalues, so the two compare directly. Noise enters
        in training mode only. `label` is ignored: batches of (image, label) can be passed as they come.
        """
        check_input(x, self.input_shape)
        noisy = x
        if self.training and self.noise_std > 0:
            noisy = x + self.noise_std * gaussian_noise(x.shape, x, generator)
        reconstruction = self(noisy)
        if reconstruction.shape != x.shape:
            raise ValueError(f"the decoder returned {tuple(reconstruction.shape)} for {tuple(x.shape)}")
        recon = (reconstruction - x).square().sum() / len(x)
        return {"loss": recon, "recon": recon}


def linear_autoencoder(input_shape: Sequence[int], latent_dim: int, *, noise_std: float = 0.0) -> Autoencoder:
    """One affine map each way: PCA's function class, without its orthogonality."""
    return mlp_autoencoder(input_shape, latent_dim, hidden=(), noise_std=noise_std)


def mlp_autoencoder(
    input_shape: Sequence[int],
    latent_dim: int,
    hidden: Sequence[int] = (512, 256),
    *,
    activation: Activation = nn.ReLU,
    noise_std: float = 0.0,
) -> Autoencoder:
    """Fully connected: input – hidden – latent_dim – reversed hidden – input; no activation on code and output."""
    encoder = mlp_encoder(input_shape, latent_dim, hidden, activation)
    decoder = mlp_decoder(latent_dim, input_shape, hidden, activation)
    return Autoencoder(encoder, decoder, noise_std, input_shape)


def conv_autoencoder(
    input_shape: Sequence[int],
    latent_dim: int,
    width: int = 32,
    *,
    activation: Activation = nn.ReLU,
    noise_std: float = 0.0,
) -> Autoencoder:
    """Two strided convolutions each way; input_shape (C, H, W) with H and W divisible by 4."""
    encoder = conv_encoder(input_shape, latent_dim, width, activation)
    decoder = conv_decoder(latent_dim, input_shape, width, activation)
    return Autoencoder(encoder, decoder, noise_std, input_shape)


# --- Building blocks, shared with the variational models ---------------------------------------------------


def mlp(sizes: Sequence[int], activation: Activation = nn.ReLU) -> nn.Sequential:
    """Linear layers of the given sizes with the activation between them, none after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def mlp_encoder(
    input_shape: Sequence[int], out_features: int, hidden: Sequence[int], activation: Activation = nn.ReLU
) -> nn.Sequential:
    """(B, *input_shape) → (B, out_features)."""
    _check_sizes(input_shape, out_features, hidden, activation)
    return nn.Sequential(nn.Flatten(), *mlp([math.prod(input_shape), *hidden, out_features], activation))


def mlp_decoder(
    in_features: int, output_shape: Sequence[int], hidden: Sequence[int], activation: Activation = nn.ReLU
) -> nn.Sequential:
    """(B, in_features) → (B, *output_shape). `hidden` is the encoder's; it is used in reverse."""
    _check_sizes(output_shape, in_features, hidden, activation)
    layers = mlp([in_features, *reversed(hidden), math.prod(output_shape)], activation)
    return nn.Sequential(*layers, nn.Unflatten(1, tuple(output_shape)))


def conv_encoder(
    input_shape: Sequence[int], out_features: int, width: int = 32, activation: Activation = nn.ReLU
) -> nn.Sequential:
    """(B, C, H, W) → (B, out_features): two 4×4 convolutions of stride 2, then one linear layer."""
    channels, height, side = _check_image_shape(input_shape)
    _check_sizes(input_shape, out_features, (width,), activation)
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),  # (B, w, H/2, W/2)
        activation(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (B, 2w, H/4, W/4)
        activation(),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (side // 4), out_features),
    )


def conv_decoder(
    in_features: int, output_shape: Sequence[int], width: int = 32, activation: Activation = nn.ReLU
) -> nn.Sequential:
    """(B, in_features) → (B, C, H, W): the mirror of `conv_encoder`, with transposed convolutions."""
    channels, height, side = _check_image_shape(output_shape)
    _check_sizes(output_shape, in_features, (width,), activation)
    small = (2 * width, height // 4, side // 4)
    return nn.Sequential(
        nn.Linear(in_features, math.prod(small)),
        activation(),
        nn.Unflatten(1, small),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),  # (B, w, H/2, W/2)
        activation(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),  # (B, C, H, W)
    )


def gaussian_noise(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise with the device and dtype of `like`. A CPU generator serves a model on any device."""
    device = like.device if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def check_input(x: Tensor, input_shape: Sequence[int] | None) -> None:
    """ValueError unless x is a tensor (B, *input_shape) with at least one example."""
    if not isinstance(x, Tensor):
        raise ValueError(f"expected a torch tensor, got {type(x).__name__}")
    if x.ndim < 2 or len(x) == 0 or (input_shape is not None and x.shape[1:] != tuple(input_shape)):
        wanted = "…" if input_shape is None else ", ".join(map(str, input_shape))
        raise ValueError(f"expected a batch (B, {wanted}) with B ≥ 1, got {tuple(x.shape)}")


def _check_sizes(shape: Sequence[int], features: int, hidden: Sequence[int], activation: Activation) -> None:
    if isinstance(shape, int) or not shape or any(size < 1 for size in (*shape, *hidden)) or features < 1:
        raise ValueError(f"sizes should be positive, got shape {shape}, {features} features, hidden {hidden}")
    if not callable(activation):
        raise ValueError(f"activation should be a module class such as torch.nn.Tanh, got {activation!r}")


def _check_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if isinstance(shape, int) or len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
        raise ValueError(f"expected an image shape (C, H, W) with H and W divisible by 4, got {shape}")
    return tuple(shape)
