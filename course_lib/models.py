"""The models of the course by name, as the command line builds them: from the shape of an example and keywords.

Every keyword is a number, a text or a list, so that a recipe or ``--set`` can name it; the builders of the model
files themselves take modules and more. Importing this is fast: each builder imports what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from course_lib.adversarial.cyclegan import CycleGAN
    from course_lib.adversarial.gan import GAN


def linear_autoencoder(shape: Sequence[int], *, latent_dim: int = 32, noise_std: float = 0.0) -> nn.Module:
    """Linear autoencoder: finds the subspace of PCA."""
    from course_lib.latent.autoencoder import linear_autoencoder as build

    return build(shape, latent_dim, noise_std=noise_std)


def autoencoder(
    shape: Sequence[int],
    *,
    latent_dim: int = 32,
    hidden: Sequence[int] = (512, 256),
    activation: str = "relu",
    noise_std: float = 0.0,
) -> nn.Module:
    """Fully connected autoencoder."""
    from course_lib.latent.autoencoder import mlp_autoencoder

    return mlp_autoencoder(
        shape, latent_dim, tuple(hidden), activation=_activation(activation), noise_std=noise_std
    )


def conv_autoencoder(
    shape: Sequence[int],
    *,
    latent_dim: int = 32,
    width: int = 32,
    activation: str = "relu",
    noise_std: float = 0.0,
) -> nn.Module:
    """Convolutional autoencoder."""
    from course_lib.latent.autoencoder import conv_autoencoder as build

    return build(shape, latent_dim, width, activation=_activation(activation), noise_std=noise_std)


def denoising_autoencoder(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    width: int = 32,
    activation: str = "relu",
    noise_std: float = 0.3,
) -> nn.Module:
    """Convolutional autoencoder that removes Gaussian noise of standard deviation noise_std."""
    return conv_autoencoder(
        shape, latent_dim=latent_dim, width=width, activation=activation, noise_std=noise_std
    )


def vae(
    shape: Sequence[int],
    *,
    latent_dim: int = 20,
    hidden: Sequence[int] = (400,),
    activation: str = "relu",
    likelihood: str = "bernoulli",
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> nn.Module:
    """Variational autoencoder, fully connected."""
    from course_lib.latent.vae import mlp_vae

    return mlp_vae(
        shape,
        latent_dim,
        tuple(hidden),
        likelihood=_likelihood(likelihood),
        activation=_activation(activation),
        beta=beta,
        free_bits=free_bits,
    )


def conv_vae(
    shape: Sequence[int],
    *,
    latent_dim: int = 32,
    width: int = 32,
    activation: str = "relu",
    likelihood: str = "bernoulli",
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> nn.Module:
    """Variational autoencoder, convolutional."""
    from course_lib.latent.vae import conv_vae as build

    return build(
        shape,
        latent_dim,
        width,
        likelihood=_likelihood(likelihood),
        activation=_activation(activation),
        beta=beta,
        free_bits=free_bits,
    )


def iwae(
    shape: Sequence[int],
    *,
    latent_dim: int = 20,
    hidden: Sequence[int] = (400,),
    activation: str = "relu",
    likelihood: str = "bernoulli",
    k: int = 50,
    estimator: str = "reparameterised",
) -> nn.Module:
    """Importance-weighted autoencoder, fully connected; k samples of z an example."""
    from course_lib.latent.iwae import mlp_iwae

    return mlp_iwae(
        shape,
        latent_dim,
        tuple(hidden),
        k=k,
        estimator=estimator,
        likelihood=_likelihood(likelihood),
        activation=_activation(activation),
    )


def vade(
    shape: Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (500, 500, 2000),
    clusters: int = 10,
    activation: str = "relu",
    likelihood: str = "bernoulli",
    pretrain_steps: int = 2_000,
    covariance: str = "diag",
    balanced: bool = False,
    regularise: float = 0.0,
    augment: bool = False,
    width: int = 0,
) -> nn.Module:
    """VAE with a mixture of Gaussians as its prior; begins with pretrain_steps as an autoencoder.

    augment: pictures are turned and shifted a little on their way into the encoder. width: of convolutions in place of
    the layers `hidden`. covariance, balanced, regularise: of the mixture that is fitted to the codes.
    """
    from course_lib.latent.augmentation import RandomAffine
    from course_lib.latent.vade import COVARIANCES, conv_vade, mlp_vade

    if pretrain_steps < 1:  # `pretrain` takes them, before the steps of the run, and then fits the mixture
        raise ValueError(f"pretrain_steps={pretrain_steps}: expected at least 1")
    choose(covariance, dict.fromkeys(COVARIANCES), "covariance")
    return (conv_vade if width else mlp_vade)(
        shape,
        latent_dim,
        width or tuple(hidden),
        clusters,
        likelihood=_likelihood(likelihood),
        activation=_activation(activation),
        augment=RandomAffine() if augment else None,
    )


def discrete_vae(
    shape: Sequence[int],
    *,
    variables: int = 20,
    categories: int = 10,
    hidden: Sequence[int] = (400,),
    activation: str = "relu",
    likelihood: str = "bernoulli",
    estimator: str = "gumbel-softmax",
    temperature: float = 1.0,
    final_temperature: float = 1.0,
    anneal_steps: int = 0,
    samples: int = 1,
) -> nn.Module:
    """VAE with categorical latent variables, fully connected."""
    from course_lib.latent.discrete_vae import mlp_discrete_vae

    return mlp_discrete_vae(
        shape,
        variables,
        categories,
        tuple(hidden),
        likelihood=_likelihood(likelihood),
        activation=_activation(activation),
        estimator=estimator,
        temperature=temperature,
        final_temperature=final_temperature,
        anneal_steps=anneal_steps,
        samples=samples,
    )


def vqvae(
    shape: Sequence[int],
    *,
    num_codes: int = 128,
    dim: int = 32,
    width: int = 64,
    residual_width: int = 32,
    residual_layers: int = 2,
    downsamplings: int = 2,
    likelihood: str = "gaussian-learned",
    beta: float = 0.25,
    codebook_ema: bool = True,
    decay: float = 0.99,
    restart_below: float = 0.0,
    prior_steps: int = 0,
    prior_lr: float = 1e-3,
    prior_channels: int = 64,
    prior_layers: int = 6,
) -> nn.Module:
    """Autoencoder whose code is a grid of numbers of learned vectors (VQ-VAE); then prior_steps of their prior."""
    from course_lib.latent.vqvae import conv_vqvae

    _check_prior(prior_steps, prior_lr)
    return conv_vqvae(
        shape,
        num_codes,
        dim,
        width=width,
        residual_width=residual_width,
        residual_layers=residual_layers,
        downsamplings=downsamplings,
        likelihood=_likelihood(likelihood),
        beta=beta,
        ema=codebook_ema,
        decay=decay,
        restart_below=restart_below,
    )


def vqvae2(
    shape: Sequence[int],
    *,
    num_codes: int = 128,
    dim: int = 32,
    width: int = 64,
    residual_width: int = 32,
    residual_layers: int = 2,
    downsamplings: int = 2,
    likelihood: str = "gaussian-learned",
    beta: float = 0.25,
    codebook_ema: bool = True,
    decay: float = 0.99,
    restart_below: float = 0.0,
    prior_steps: int = 0,
    prior_lr: float = 1e-3,
    prior_channels: int = 64,
    prior_layers: int = 6,
) -> nn.Module:
    """VQ-VAE-2: two grids of codes, a coarse one and a fine one; then prior_steps of the priors of both."""
    from course_lib.latent.vqvae2 import conv_vqvae2

    _check_prior(prior_steps, prior_lr)
    return conv_vqvae2(
        shape,
        num_codes,
        dim,
        width=width,
        residual_width=residual_width,
        residual_layers=residual_layers,
        downsamplings=downsamplings,
        likelihood=_likelihood(likelihood),
        beta=beta,
        ema=codebook_ema,
        decay=decay,
        restart_below=restart_below,
    )


def _check_prior(steps: int, lr: float) -> None:
    """What only `fit_prior` reads is checked before any work, too."""
    if steps < 0 or not lr > 0:
        raise ValueError(f"prior_steps={steps}, prior_lr={lr}: expected at least 0 and more than 0")


def beta_vae(
    shape: Sequence[int],
    *,
    latent_dim: int = 10,
    width: int = 32,
    activation: str = "relu",
    likelihood: str = "bernoulli",
    beta: float = 4.0,
) -> nn.Module:
    """Convolutional VAE whose KL weighs more than in the bound: factors apart, pictures less sharp."""
    return conv_vae(
        shape, latent_dim=latent_dim, width=width, activation=activation, likelihood=likelihood, beta=beta
    )


# Autoregressive models learn pixels of 2 levels from grey ones, binarised anew each time, or from the run's ``levels``.


def pixelcnn(
    shape: Sequence[int],
    *,
    levels: int = 2,
    hidden: int = 16,
    blocks: int = 7,
    kernel_size: int = 3,
    first_kernel_size: int = 7,
    head_channels: int = 32,
) -> nn.Module:
    """PixelCNN: masked convolutions."""
    from course_lib.autoregressive.pixelcnn import PixelCNN

    return PixelCNN(
        shape,
        levels,
        hidden=hidden,
        blocks=blocks,
        kernel_size=kernel_size,
        first_kernel_size=first_kernel_size,
        head_channels=head_channels,
    )


def row_lstm(
    shape: Sequence[int],
    *,
    levels: int = 2,
    hidden: int = 16,
    layers: int = 7,
    kernel_size: int = 3,
    first_kernel_size: int = 7,
    head_channels: int = 32,
) -> nn.Module:
    """PixelRNN whose LSTMs go from row to row."""
    from course_lib.autoregressive.pixelrnn import RowLSTM

    return RowLSTM(
        shape,
        levels,
        hidden=hidden,
        layers=layers,
        kernel_size=kernel_size,
        first_kernel_size=first_kernel_size,
        head_channels=head_channels,
    )


def diagonal_bilstm(
    shape: Sequence[int],
    *,
    levels: int = 2,
    hidden: int = 16,
    layers: int = 7,
    first_kernel_size: int = 7,
    head_channels: int = 32,
    margin: bool = True,
) -> nn.Module:
    """PixelRNN whose LSTMs go from diagonal to diagonal, in both directions."""
    from course_lib.autoregressive.pixelrnn import DiagonalBiLSTM

    return DiagonalBiLSTM(
        shape,
        levels,
        hidden=hidden,
        layers=layers,
        first_kernel_size=first_kernel_size,
        head_channels=head_channels,
        margin=margin,
    )


def gated_pixelcnn(
    shape: Sequence[int],
    *,
    levels: int = 2,
    channels: int = 32,
    layers: int = 8,
    kernel_size: int = 3,
    first_kernel_size: int = 7,
    head_channels: int = 32,
    num_classes: int = 0,
) -> nn.Module:
    """Gated PixelCNN: two stacks, no blind spot; num_classes > 0: conditioned on the class."""
    from course_lib.autoregressive.gated_pixelcnn import GatedPixelCNN

    return GatedPixelCNN(
        shape,
        levels,
        channels=channels,
        layers=layers,
        kernel_size=kernel_size,
        first_kernel_size=first_kernel_size,
        head_channels=head_channels,
        num_classes=num_classes or None,
    )


def pixelcnn_pp(
    shape: Sequence[int],
    *,
    levels: int = 2,
    filters: int = 40,
    resnets: int = 2,
    mixtures: int = 5,
    resolutions: int = 3,
    dropout: float = 0.0,
    num_classes: int = 0,
) -> nn.Module:
    """PixelCNN++: a mixture of logistics for each pixel, three resolutions; num_classes as for gated-pixelcnn."""
    from course_lib.autoregressive.pixelcnn_pp import PixelCNNpp

    return PixelCNNpp(
        shape,
        levels,
        filters=filters,
        resnets=resnets,
        mixtures=mixtures,
        resolutions=resolutions,
        dropout=dropout,
        num_classes=num_classes or None,
    )


# The builders of the adversarial models return the ready algorithm, its learning rates in units of the run's ``lr``.


def gan(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    hidden: Sequence[int] = (256, 512),
    loss: str = "non_saturating",
    beta1: float = 0.5,
    d_lr_factor: float = 1.0,
    d_steps: int = 1,
    r1: float = 0.0,
) -> GAN:
    """Generative adversarial network, fully connected."""
    import torch

    from course_lib.adversarial.gan import GAN

    networks = _mlp_players(shape, latent_dim, tuple(hidden))
    optimisers = [
        torch.optim.Adam(network.parameters(), lr=factor, betas=(beta1, 0.999), fused=True)
        for network, factor in zip(networks, (1.0, d_lr_factor), strict=True)
    ]
    return GAN(*networks, *optimisers, latent_dim=latent_dim, loss=loss, d_steps=d_steps, r1=r1)


def dcgan(
    shape: Sequence[int],
    *,
    width: int = 32,
    latent_dim: int = 64,
    prior: str = "normal",
    loss: str = "non_saturating",
    beta1: float = 0.5,
    d_lr_factor: float = 1.0,
    d_steps: int = 1,
    r1: float = 0.0,
    normalise: str = "batch",
    strided: bool = True,
    resize: bool = False,
) -> GAN:
    """Deep convolutional GAN, for square pictures whose side is a power of two, at least 16."""
    from course_lib.adversarial.dcgan import dcgan as build

    algorithm = build(
        shape,
        width=width,
        latent_dim=latent_dim,
        prior=prior,
        lr=1.0,
        beta1=beta1,
        ema=None,
        normalise=normalise,
        strided=strided,
        resize=resize,
        options={"loss": loss, "d_steps": d_steps, "r1": r1},
    )
    algorithm.d_optimizer.param_groups[0]["lr"] = d_lr_factor
    return algorithm


def wgan_gp(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    width: int = 32,
    hidden: Sequence[int] = (128, 128, 128),
    critic_steps: int = 5,
    penalty: float = 10.0,
) -> GAN:
    """Wasserstein GAN with gradient penalty: DCGAN's networks (width) for pictures, layers (hidden) for points."""
    import torch

    from course_lib.adversarial import dcgan as convolutional
    from course_lib.adversarial.wgan import WGAN

    options = {"latent_dim": latent_dim, "critic_steps": critic_steps, "penalty": penalty}
    if len(shape) == 3:
        return convolutional.wgan_gp(shape, width=width, lr=1.0, ema=None, **options)
    networks = _mlp_players(shape, latent_dim, tuple(hidden))
    optimisers = [torch.optim.Adam(n.parameters(), lr=1.0, betas=(0.0, 0.9), fused=True) for n in networks]
    return WGAN(*networks, *optimisers, **options)


# Translators learn from two pictures at a time: Pix2Pix from pairs, CycleGAN from two sets (see `load_split`).


def pix2pix(
    shape: Sequence[int],
    *,
    width: int = 32,
    depth: int = 0,
    dropouts: int = 3,
    noise: float = 0.5,
    normalise: str = "instance",
    skips: bool = True,
    d_depth: int = 2,
    l1_weight: float = 100.0,
    gan_weight: float = 1.0,
    beta1: float = 0.5,
) -> GAN:
    """Pictures from label maps, learned from pairs; depth of the U-Net, 0: down to a map of 1 × 1."""
    from course_lib.adversarial.pix2pix import pix2pix as build

    return build(
        shape,
        width=width,
        depth=depth or None,
        dropouts=dropouts,
        noise=noise,
        normalise=normalise,
        skips=skips,
        d_depth=d_depth,
        l1_weight=l1_weight,
        gan_weight=gan_weight,
        lr=1.0,
        beta1=beta1,
    )


def cyclegan(
    shape: Sequence[int],
    *,
    width: int = 24,
    blocks: int = 2,
    downsamplings: int = 1,
    kernel: int = 3,
    normalise: str = "none",
    d_width: int = 32,
    d_depth: int = 1,
    cycle: float = 10.0,
    identity: float = 5.0,
    pool: int = 50,
    beta1: float = 0.5,
) -> CycleGAN:
    """Two sets of pictures, each translated into the other, learned without pairs."""
    from course_lib.adversarial.cyclegan import cyclegan as build

    return build(
        shape,
        width=width,
        blocks=blocks,
        downsamplings=downsamplings,
        kernel=kernel,
        normalise=normalise,
        d_width=d_width,
        d_depth=d_depth,
        cycle=cycle,
        identity=identity,
        pool=pool,
        lr=1.0,
        beta1=beta1,
        init_std=None if normalise == "none" else 0.02,  # without norms 0.02 would silence what comes after
    )


def stylegan(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    style_dim: int = 64,
    mapping_layers: int = 4,
    mapping_lr_factor: float = 0.01,
    base: int = 1_024,
    cap: int = 128,
    modulation: str = "demodulate",
    group: int = 4,
    r1: float = 0.5,
    r1_every: int = 16,
    path_length: float = 0.0,
    path_length_every: int = 4,
    mixing: float = 0.9,
    w_decay: float = 0.995,
) -> GAN:
    """StyleGAN2 (modulation="adain": layers of StyleGAN), for square pictures, the side a power of two, at least 16."""
    from course_lib.adversarial.stylegan import stylegan as build

    return build(
        shape,
        latent_dim=latent_dim,
        style_dim=style_dim,
        mapping_layers=mapping_layers,
        mapping_lr_factor=mapping_lr_factor,
        base=base,
        cap=cap,
        modulation=modulation,
        group=group,
        lr=1.0,
        r1=r1,
        r1_every=r1_every,
        path_length=path_length,
        path_length_every=path_length_every,
        mixing=mixing,
        ema=None,
        w_decay=w_decay,
    )


def _mlp_players(shape: Sequence[int], latent_dim: int, hidden: tuple[int, ...]) -> list[nn.Module]:
    from torch import nn

    from course_lib.adversarial.gan import mlp_discriminator, mlp_generator

    pixels = nn.Sigmoid() if len(shape) == 3 else None
    return [mlp_generator(latent_dim, shape, hidden, output=pixels), mlp_discriminator(shape, hidden[::-1])]


#: MODEL → the function that builds it from the shape of an example; its keywords are settings, too.
MODELS: dict[str, Callable[..., Any]] = {
    "linear-autoencoder": linear_autoencoder,
    "autoencoder": autoencoder,
    "conv-autoencoder": conv_autoencoder,
    "denoising-autoencoder": denoising_autoencoder,
    "vae": vae,
    "conv-vae": conv_vae,
    "beta-vae": beta_vae,
    "iwae": iwae,
    "vade": vade,
    "discrete-vae": discrete_vae,
    "vqvae": vqvae,
    "vqvae2": vqvae2,
    "pixelcnn": pixelcnn,
    "row-lstm": row_lstm,
    "diagonal-bilstm": diagonal_bilstm,
    "gated-pixelcnn": gated_pixelcnn,
    "pixelcnn-pp": pixelcnn_pp,
    "gan": gan,
    "dcgan": dcgan,
    "wgan-gp": wgan_gp,
    "stylegan": stylegan,
    "pix2pix": pix2pix,
    "cyclegan": cyclegan,
}


def _activation(name: str) -> type[nn.Module]:
    from torch import nn

    known = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}
    return choose(name, known, "activation")


def _likelihood(name: str) -> nn.Module:
    """bernoulli, bernoulli-dynamic, gaussian, gaussian-SIGMA, gaussian-learned, gaussian-per-pixel, categorical-L."""
    from course_lib.latent.vae import Bernoulli, CategoricalPixels, Gaussian

    if re.fullmatch(r"gaussian-\d*\.?\d+", name):
        return Gaussian(float(name.removeprefix("gaussian-")))
    if name.startswith("categorical-") and name.removeprefix("categorical-").isdigit():
        return CategoricalPixels(int(name.removeprefix("categorical-")))
    known = {
        "bernoulli": lambda: Bernoulli(),
        "bernoulli-dynamic": lambda: Bernoulli(binarize="dynamic"),
        "gaussian": lambda: Gaussian(),
        "gaussian-learned": lambda: Gaussian(sigma="learned"),
        "gaussian-per-pixel": lambda: Gaussian(sigma="per_pixel"),
    }
    return choose(name, known, "likelihood", also=("gaussian-SIGMA", "categorical-LEVELS"))()


def choose(name: str, known: Mapping[str, Any], what: str, also: Sequence[str] = ()) -> Any:
    """The entry of that name; ValueError lists the known ones, and those that `also` describes."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; the known ones are: {', '.join([*known, *also])}")
    return known[name]


def is_adversarial(model: Any) -> bool:
    """Whether it is a ready `GAN` or `CycleGAN` (and no network with a loss)."""
    from course_lib.adversarial.cyclegan import CycleGAN
    from course_lib.adversarial.gan import GAN

    return isinstance(model, GAN | CycleGAN)


def is_translator(model: Any) -> bool:
    """Whether it makes pictures of pictures."""
    return is_adversarial(model) and hasattr(model, "translate")


def is_autoregressive(model: Any) -> bool:
    """Whether it is a `PixelModel`, whose likelihood is exact."""
    from course_lib.autoregressive.model import PixelModel

    return isinstance(model, PixelModel)
