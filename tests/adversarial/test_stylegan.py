"""StyleGAN: official parameter counts, which w acts where, mixing and truncation, regularisers, path lengths."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib.adversarial.modulation import Noise
from course_lib.adversarial.stylegan import (
    PRESETS,
    Discriminator,
    Generator,
    MappingNetwork,
    StyleGAN,
    StyleGANSettings,
    StyleLayer,
    Synthesis,
    lazy_adam,
    mix_styles,
    path_lengths,
    perceptual_path_length,
    slerp,
    stylegan,
)
from course_lib.training import fit

SHAPE = (2, 16, 16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def tiny(shape=SHAPE, seed=0, **changes):
    torch.manual_seed(seed)
    small = {"latent_dim": 5, "style_dim": 6, "mapping_layers": 2, "base": 64, "cap": 6}
    return stylegan(shape, **{**small, **changes})


def count(network):
    return sum(p.numel() for p in network.parameters())


def noisy(generator, strength=0.3):
    """Noise that can be seen: it begins at 0."""
    for module in generator.modules():
        if isinstance(module, Noise):
            module.strength.data.fill_(strength)
    return generator


# --- Networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "generator", "discriminator"), [(1024, 30_370_060, 29_012_513), (256, 30_034_338, 28_864_129)]
)
def test_parameter_counts_of_configuration_f(side, generator, discriminator):
    """What the authors' code prints for 1024 × 1024, and the same architecture at 256 × 256."""
    with torch.device("meta"):
        gan = stylegan((3, side, side), "paper", ema=None)
    assert count(gan.generator) == generator
    assert count(gan.discriminator) == discriminator
    assert count(gan.generator.mapping) == 8 * (512 * 512 + 512)
    assert gan.generator.n_layers == 2 * int(math.log2(side)) - 2


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("modulation", ["demodulate", "adain"])
def test_shapes_at_every_size(side, channels, modulation):
    gan = tiny((channels, side, side), modulation=modulation)
    x = gan.generator(normal(3, 5))
    assert x.shape == (3, channels, side, side)
    assert x.dtype == torch.float32
    assert gan.discriminator(x).shape == (3,)
    assert len(gan.generator.synthesis.sides) == gan.generator.n_layers == 2 * int(math.log2(side)) - 2


@pytest.mark.parametrize("modulation", ["demodulate", "adain"])
def test_each_w_first_acts_at_the_side_it_is_said_to(modulation):
    generator = tiny((1, 32, 32), modulation=modulation).generator
    layers, seen = [m for m in generator.modules() if isinstance(m, StyleLayer)], []
    for layer in layers:
        layer.register_forward_hook(lambda m, i, output: seen.append(output))
    ws = normal(1, 8, 6)
    picture = generator.synthesize(ws)
    plain = seen[:]
    assert [p.shape[-1] for p in plain] == list(generator.synthesis.sides)[: len(layers)]
    for number in range(8):
        seen.clear()
        other = ws.clone()
        other[:, number] += 1
        changed = generator.synthesize(other)
        differs = [not torch.equal(a, b) for a, b in zip(seen, plain, strict=True)]
        assert differs == [layer >= number for layer in range(len(layers))]
        assert not torch.equal(changed, picture)


def test_with_adain_the_picture_is_read_off_the_last_maps_alone():
    synthesis, seen = tiny((3, 32, 32), modulation="adain").generator.synthesis, []
    for layer in synthesis.layers:
        layer.register_forward_hook(lambda m, i, output: seen.append(output))
    ws = normal(2, 8, 6)
    picture = synthesis(ws, "fixed")
    (output,) = synthesis.outputs
    torch.testing.assert_close(picture, 0.5 * output(seen[-1], ws[:, -1]) + 0.5)
    assert len(tiny((3, 32, 32)).generator.synthesis.outputs) == 4  # StyleGAN2: one a size


def test_each_output_takes_the_w_that_follows_those_of_its_size():
    synthesis, seen = tiny((1, 32, 32)).generator.synthesis, []
    for output in synthesis.outputs:
        output.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[1]))
    ws = normal(2, 8, 6)
    synthesis(ws)
    for w, number in zip(seen, (1, 3, 5, 7), strict=True):
        assert torch.equal(w, ws[:, number])


def test_pictures_are_around_0_1_while_training_and_within_it_afterwards():
    generator = tiny().generator
    generator.synthesis.outputs[-1].bias.data.copy_(torch.tensor([3.0, -3.0]))
    z = normal(4, 5)
    free = generator(z)
    assert free.max() > 1
    assert free.min() < 0
    assert torch.equal(generator.eval()(z), free.clamp(0, 1))
    assert torch.equal(generator.synthesize(generator.styles(z)), free.clamp(0, 1))  # noise is still 0


def test_the_picture_is_the_sum_of_what_each_size_adds():
    generator = tiny().generator
    ws = normal(2, 6, 6)
    whole = generator.synthesis(ws)
    for i, output in enumerate(generator.synthesis.outputs):
        shifted = copy.deepcopy(generator.synthesis)
        shifted.outputs[i].bias.data += 1.0
        change = (shifted(ws) - whole)[:, :, 7:9, 7:9]  # in the middle no border is felt
        torch.testing.assert_close(change, torch.full_like(change, 0.5), rtol=1e-4, atol=1e-5)
        assert output.bias.shape == (2,)


def test_the_mapping_network_sees_directions_only():
    torch.manual_seed(0)
    mapping = MappingNetwork(5, 6, 3)
    z = normal(4, 5)
    torch.testing.assert_close(mapping(3 * z), mapping(z))
    assert not torch.allclose(mapping(-z), mapping(z))


def test_noise_moves_nothing_at_the_start_and_is_there_to_learn():
    gan = tiny()
    ws = gan.generator.styles(normal(2, 5))
    pictures = [gan.generator.synthesize(ws, noise) for noise in Noise.KINDS]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
    noisy(gan.generator)
    fixed = gan.generator.synthesize(ws)
    assert torch.equal(fixed, gan.generator.synthesize(ws, "fixed"))
    assert not torch.equal(fixed, gan.generator.synthesize(ws, "none"))
    one, two = (gan.generator.synthesize(ws, "random", seeded(s)) for s in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, gan.generator.synthesize(ws, "random", seeded(1)))


def test_the_discriminator_mixes_examples_by_the_minibatch_deviation_only():
    torch.manual_seed(0)
    x = torch.rand(4, *SHAPE, generator=seeded())
    alone = Discriminator(SHAPE, 64, 6, group=1)
    torch.testing.assert_close(alone(x)[:2], alone(x[:2]))
    grouped = Discriminator(SHAPE, 64, 6)
    assert not torch.allclose(grouped(x)[:2], grouped(x[:2]), atol=1e-4)
    assert count(grouped) == count(alone) + 9 * 6


# --- Styles -------------------------------------------------------------------------------------------------------


def test_w_avg_follows_the_mean_of_w_in_training_only():
    torch.manual_seed(0)
    mapping = MappingNetwork(5, 6, 2)
    generator = Generator(mapping, Synthesis(SHAPE, 6, 64, 6), w_decay=0.75)
    z = normal(8, 5)
    mean = mapping(z).mean(dim=0)
    generator(z)
    torch.testing.assert_close(generator.w_avg, 0.25 * mean)
    generator(z)
    torch.testing.assert_close(generator.w_avg, (0.25 + 0.75 * 0.25) * mean)
    kept = generator.w_avg.clone()
    generator.eval()(z)
    assert torch.equal(generator.w_avg, kept)


def test_truncation_to_nothing_gives_the_mean_picture():
    gan = tiny(ema=None)
    gan.generator.w_avg.copy_(normal(6))
    mean = gan.generator.synthesize(gan.generator.w_avg.expand(1, 6, 6))
    pictures = gan.sample(3, seeded(), psi=0.0)
    torch.testing.assert_close(pictures, mean.expand(3, -1, -1, -1))
    assert not torch.allclose(gan.sample(3, seeded()), pictures, atol=1e-3)


def test_truncation_is_linear_and_stops_where_it_is_told():
    generator = tiny().generator
    generator.w_avg.copy_(normal(6))
    z = normal(3, 5)
    w = generator.mapping(z)
    full = generator.styles(z)
    assert full.shape == (3, 6, 6)
    for number in range(6):
        torch.testing.assert_close(full[:, number], w)
    half = generator.styles(z, psi=0.5, until=2)
    torch.testing.assert_close(half[:, 0], generator.w_avg + 0.5 * (w - generator.w_avg))
    torch.testing.assert_close(half[:, 1], half[:, 0])
    torch.testing.assert_close(half[:, 2:], full[:, 2:])
    with pytest.raises(ValueError, match="until should be in 0 … 6, got 7"):
        generator.styles(z, 0.5, 7)


def test_mixing_takes_the_first_layers_from_the_first():
    a, b = normal(3, 6, 2), normal(3, 6, 2, seed=1)
    assert torch.equal(mix_styles(a, b, 0), b)
    assert torch.equal(mix_styles(a, b, 6), a)
    each = mix_styles(a, b, torch.tensor([1, 4, 6]))
    for i, limit in enumerate((1, 4, 6)):
        assert torch.equal(each[i, :limit], a[i, :limit])
        assert torch.equal(each[i, limit:], b[i, limit:])
    with pytest.raises(ValueError, match="alike, got"):
        mix_styles(a, b[:2], 3)


def test_mixing_with_the_same_w_is_no_mixing():
    generator = tiny().generator
    z, crossover = normal(4, 5), torch.tensor([1, 2, 3, 5])
    torch.testing.assert_close(generator(z, z, crossover), generator(z))
    other = normal(4, 5, seed=1)
    mixed = mix_styles(generator.styles(z), generator.styles(other), crossover)
    torch.testing.assert_close(generator(z, other, crossover), generator.synthesis(mixed))
    assert not torch.allclose(generator(z, other, crossover), generator(z), atol=1e-3)


@pytest.mark.parametrize("mixing", [0.0, 0.9, 1.0])
def test_training_mixes_as_often_as_it_is_told(mixing):
    gan, seen = tiny(mixing=mixing), []
    gan.generator.forward = lambda z, other=None, crossover=None: seen.append((z, other, crossover))
    n = 4_000
    torch.manual_seed(0)
    gan.fake((torch.zeros(n, *SHAPE),))
    z, other, crossover = seen[0]
    assert z.shape == (n, 5)
    if mixing == 0:
        assert other is crossover is None
        return
    assert not torch.equal(z, other)
    assert 1 <= crossover.min() <= crossover.max() <= 6
    assert (crossover < 6).double().mean().item() == pytest.approx(mixing, abs=0.02)  # 4 standard errors
    shares = torch.bincount(crossover, minlength=6)[1:6] / n
    torch.testing.assert_close(shares, torch.full((5,), mixing / 5), rtol=0, atol=0.03)


# --- Regularisers -------------------------------------------------------------------------------------------------


class LinearCritic(nn.Module):
    """D(x) = ⟨a, x⟩: its slope is a everywhere."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        self.a = nn.Parameter(normal(*shape, seed=5).double())

    def forward(self, x):
        return (x.double() * self.a).flatten(1).sum(dim=1)


def with_linear_critic(lr=0.0, **options):
    generator, critic = tiny().generator, LinearCritic()
    optimisers = torch.optim.SGD(generator.parameters(), lr=0.0), torch.optim.SGD(critic.parameters(), lr=lr)
    return StyleGAN(generator, critic, *optimisers, mixing=0.0, **options)


def test_lazy_r1_is_exact_for_a_linear_discriminator():
    gan = with_linear_critic(r1=0.7, r1_every=4)
    expected = 0.7 * 4 * 0.5 * gan.discriminator.a.square().sum().item()
    for step in range(9):
        terms = gan.step((torch.rand(4, *SHAPE),))
        assert ("r1" in terms) == (step % 4 == 0)
        if "r1" in terms:
            assert terms["r1"].item() == pytest.approx(expected, rel=1e-5)
    assert "r1" not in with_linear_critic(r1=0.0).step((torch.rand(4, *SHAPE),))


def test_lazy_r1_moves_the_weights_as_far_as_the_plain_one():
    """a shrinks by γ·a a step in the mean: with SGD and a small rate the sum over 12 steps is that of lazy ones."""

    def moved(every, r1):
        torch.manual_seed(0)
        gan = with_linear_critic(1e-4, r1=r1, r1_every=every)
        before, x = gan.discriminator.a.detach().clone(), torch.rand(4, *SHAPE, generator=seeded())
        for _ in range(12):
            gan.step((x,))
        return gan.discriminator.a.detach() - before, before

    loss_alone, a = moved(1, 0.0)
    for every in (1, 4, 6):
        by_r1 = moved(every, 0.5)[0] - loss_alone
        torch.testing.assert_close(by_r1, -12 * 1e-4 * 0.5 * a, rtol=0.01, atol=1e-5)


def test_adam_is_slowed_down_by_the_lazy_ratio():
    parameters = [nn.Parameter(torch.zeros(1))]
    defaults = lazy_adam(parameters, 2e-3, 16, (0.5, 0.99)).defaults
    assert defaults["lr"] == pytest.approx(2e-3 * 16 / 17)
    assert [b**17 for b in defaults["betas"]] == pytest.approx([0.5**16, 0.99**16])
    plain = lazy_adam(parameters, 2e-3, None).defaults
    assert (plain["lr"], plain["betas"], plain["eps"]) == (2e-3, (0.0, 0.99), 1e-8)
    gan = tiny(path_length=1.0, path_length_every=8, lr=0.1)
    assert gan.d_optimizer.defaults["lr"] == pytest.approx(0.1 * 16 / 17)
    assert gan.g_optimizer.defaults["lr"] == pytest.approx(0.1 * 8 / 9)
    assert tiny(lr=0.1).g_optimizer.defaults["lr"] == 0.1  # no path length, no steps on top


def test_path_lengths_of_a_linear_generator():
    """pictures = Σ_l J_l w_l: the slope in w_l is J_lᵀ y/√(HW), the length √(mean over l of its square)."""
    jacobian = normal(3, 4, 2 * 5 * 5)  # (layers, style_dim, C·H·W)
    ws, y = normal(7, 3, 4, seed=1).requires_grad_(), normal(7, 2, 5, 5, seed=2)
    pictures = torch.einsum("bld,ldp->bp", ws, jacobian).view(7, 2, 5, 5)
    slopes = torch.einsum("ldp,bp->bld", jacobian, y.flatten(1)) / 5
    expected = slopes.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_lengths(pictures, ws, y), expected)


def test_the_path_step_penalises_the_distance_from_the_running_mean():
    gan = tiny(path_length=0.5, path_length_every=3, lr=0.0)
    mean = 0.0
    for step in range(7):
        terms = gan.step((torch.rand(2, *SHAPE, generator=seeded(step)),))
        assert ("path" in terms) == (step % 3 == 0)
        if "path" in terms:  # of half the batch: one picture
            path = terms["path"].item()
            assert path > 0.01
            mean += 0.01 * (path - mean)
            assert gan.mean_path.item() == pytest.approx(mean, rel=1e-4)
            assert terms["path_penalty"].item() == pytest.approx(0.5 * 3 * (path - mean) ** 2, rel=1e-3)


def test_the_path_penalty_teaches_the_generator():
    gan, idle = tiny(path_length=1.0, path_length_every=1), tiny(path_length=0.0)
    x = torch.rand(4, *SHAPE, generator=seeded())
    for trained in (gan, idle):
        torch.manual_seed(3)
        trained.step((x,))
    first = gan.generator.mapping.layers[0].weight, idle.generator.mapping.layers[0].weight
    assert not torch.equal(*first)


def test_the_average_follows_and_is_what_is_evaluated():
    gan = tiny(ema=0.75, mixing=1.0)
    old = [p.detach().clone() for p in gan.ema.module.parameters()]
    gan.step((torch.rand(4, *SHAPE),))  # the first update copies
    new = [p.detach().clone() for p in gan.generator.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
    gan.step((torch.rand(4, *SHAPE),))
    for average, a, b in zip(gan.ema.module.parameters(), new, gan.generator.parameters(), strict=True):
        torch.testing.assert_close(average, 0.75 * a + 0.25 * b)
    assert gan.evaluated is gan.ema.module
    assert gan.ema.module.w_avg.abs().sum() > 0
    torch.testing.assert_close(
        gan.sample(2, seeded(), noise="none"),
        gan.ema.module.synthesize(gan.ema.module.styles(normal(2, 5)), "none"),
    )
    assert tiny(ema=None).evaluated is not None


# --- Path lengths of a latent space ---------------------------------------------------------------------------------


class Straight(nn.Module):
    """w = A z and one "picture" B w."""

    n_layers = 1

    def __init__(self, latent=6, style=4, pixels=3):
        super().__init__()
        self.mapping = nn.Linear(latent, style, bias=False)
        self.mapping.latent_dim = latent
        self.out = nn.Linear(style, pixels, bias=False)
        self.mapping.weight.data, self.out.weight.data = normal(style, latent), normal(pixels, style, seed=1)

    def synthesis(self, ws, noise):
        assert noise == "fixed"
        return self.out(ws[:, 0])

    @property
    def energy(self):
        return (self.out.weight @ self.mapping.weight).square().sum().item()


@pytest.mark.parametrize("where", ["full", "end"])
def test_path_length_of_a_linear_generator(where):
    """In W the way is straight: E‖BA(z₂ − z₁)‖² = 2‖BA‖². In Z it turns: the speed is √D·Ω in a random direction,
    so E = ‖BA‖²·E Ω², with the angle Ω between two directions of density ∝ sin^{D−2}."""
    network, n = Straight().double(), 20_000
    options = {"where": where, "n": n, "epsilon": 1e-4, "batch": 5_000}
    in_w = perceptual_path_length(network, lambda x: x, space="w", generator=seeded(), **options)
    assert in_w == pytest.approx(2 * network.energy, rel=0.04)
    angle = (torch.arange(10_000, dtype=torch.float64) + 0.5) * math.pi / 10_000
    density = angle.sin() ** (6 - 2)
    mean_square = ((angle.square() * density).sum() / density.sum()).item()
    in_z = perceptual_path_length(network, lambda x: x, space="z", generator=seeded(), **options)
    assert in_z == pytest.approx(network.energy * mean_square, rel=0.04)


def test_path_length_at_the_ends_differs_where_the_features_are_not_linear():
    """Features w²: their speed along a + t(b − a) is 2w(b − a), and E (2w(b − a))² = 16 at t = 0, 8 over all t."""

    class Identity(Straight):
        def __init__(self):
            super().__init__(4, 4, 4)
            self.mapping.weight.data = self.out.weight.data = torch.eye(4)

    network = Identity().double()
    for where, expected in (("end", 16.0), ("full", 8.0)):
        found = perceptual_path_length(
            network,
            torch.square,
            where=where,
            n=40_000,
            epsilon=1e-4,
            batch=40_000,
            generator=seeded(),
        )
        assert found == pytest.approx(4 * expected, rel=0.06), where


def test_path_length_of_a_real_generator_does_not_hang_on_epsilon_or_batch():
    generator = noisy(tiny().generator)

    def pixels(x):
        return x.flatten(1)

    for space in ("z", "w"):
        found = [
            perceptual_path_length(generator, pixels, space=space, n=40, generator=seeded(), **o)
            for o in ({"batch": 40}, {"batch": 40, "epsilon": 2e-3})
        ]
        assert found[0] > 0
        assert found[0] == pytest.approx(found[1], rel=0.02)


def test_slerp_stays_on_the_sphere_and_turns_evenly():
    a, b = normal(5, 8), normal(5, 8, seed=1)
    points = [slerp(a, b, torch.full((5,), t)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for point in points:
        torch.testing.assert_close(point.norm(dim=1), torch.full((5,), 8**0.5))
    torch.testing.assert_close(points[0], 8**0.5 * a / a.norm(dim=1, keepdim=True))
    torch.testing.assert_close(points[4], 8**0.5 * b / b.norm(dim=1, keepdim=True))
    steps = torch.stack([(p - q).norm(dim=1) for p, q in zip(points[1:], points[:-1], strict=True)])
    torch.testing.assert_close(steps, steps[:1].expand(4, -1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slerp(a, a, torch.full((5,), 0.3)), points[0], rtol=1e-5, atol=1e-5)


# --- Settings and learning ------------------------------------------------------------------------------------------


def test_the_paper_s_setting_is_the_paper_s():
    paper = PRESETS["paper"]
    assert (paper.latent_dim, paper.style_dim, paper.mapping_layers, paper.mapping_lr_factor) == (
        512, 512, 8, 0.01,
    )  # fmt: skip
    assert (paper.lr, paper.r1_every, paper.path_length_every, paper.mixing) == (2e-3, 16, 4, 0.9)
    # Slopes per pixel in [0, 1] are twice those in [−1, 1].
    assert (paper.r1, paper.path_length) == (10 / 4, 2 * 4)
    assert paper.ema ** (10_000 / 32) == pytest.approx(0.5)


def test_every_field_of_the_settings_is_used():
    other = {
        "latent_dim": 7, "style_dim": 8, "mapping_layers": 4, "mapping_lr_factor": 0.5, "base": 128, "cap": 5,
        "modulation": "adain", "group": 1, "lr": 0.5, "r1": 3.0, "r1_every": 5, "path_length": 1.0,
        "path_length_every": 7, "mixing": 0.2, "ema": None, "w_decay": 0.5,
    }  # fmt: skip
    assert set(other) == set(StyleGANSettings.__dataclass_fields__)

    def described(gan):
        g = gan.generator
        factors = [g.mapping.layers[0].lr_factor, g.w_decay, gan.discriminator.group]
        shapes = [tuple(p.shape) for n in (g, gan.discriminator) for p in n.parameters()]
        weights = [gan.r1, gan.r1_every, gan.path_length, gan.path_length_every, gan.mixing, gan.ema is None]
        return [factors, shapes, weights, gan.g_optimizer.defaults["lr"], gan.d_optimizer.defaults["lr"]]

    plain = described(tiny())
    for name, value in other.items():
        assert described(tiny(**{name: value})) != plain, name


@pytest.mark.parametrize("change", [{}, {"modulation": "adain"}, {"path_length": 1.0}, {"mixing": 0.0}])
def test_every_weight_of_both_networks_learns(change):
    gan = tiny(**change)
    before = copy.deepcopy([dict(n.named_parameters()) for n in (gan.generator, gan.discriminator)])
    for _ in range(2):  # behind AdaIN nothing but the picture's own noise is felt at first
        terms = gan.step((torch.rand(8, *SHAPE, generator=seeded()), torch.zeros(8)))
    assert all(v.isfinite() for v in terms.values())
    for network, old in zip((gan.generator, gan.discriminator), before, strict=True):
        for name, value in network.named_parameters():
            assert not torch.equal(value, old[name]), name


def test_a_state_is_taken_up_again():
    torch.manual_seed(0)
    gan, x = tiny(path_length=1.0, r1_every=2), torch.rand(4, *SHAPE, generator=seeded())
    gan.step((x,))
    copied = tiny(seed=1, path_length=1.0, r1_every=2)
    copied.load_state_dict(copy.deepcopy(gan.state_dict()))
    assert copied.mean_path == gan.mean_path != 0
    results = []
    for one in (gan, copied):
        torch.manual_seed(2)
        terms = [one.step((x,)) for _ in range(2)]
        results.append([terms, one.sample(2, seeded())])
    assert str(results[0][0]) == str(results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_it_learns_a_tiny_set():
    """Bars, upright or lying, red or blue: the pictures' distance from the nearest of the four falls."""
    bars = torch.zeros(4, 2, 16, 16)
    bars[0, 0, 6:10], bars[1, 1, 6:10], bars[2, 0, :, 6:10], bars[3, 1, :, 6:10] = 1, 1, 1, 1

    def distance(gan):
        pictures = gan.sample(64, seeded())
        return torch.cdist(pictures.flatten(1), bars.flatten(1)).min(dim=1).values.median().item()

    changes = {"base": 128, "cap": 12, "lr": 1e-2, "mapping_lr_factor": 0.1, "ema": 0.9}
    gan = tiny(seed=3, **changes)
    data = TensorDataset(bars.repeat(16, 1, 1, 1))
    untrained = distance(gan)
    fit(gan, DataLoader(data, batch_size=8, shuffle=True), steps=180, device="cpu", progress=False)
    assert untrained > 8
    assert distance(gan) < 0.6 * untrained


def test_bfloat16_leaves_pictures_and_losses_in_float32():
    gan = tiny(path_length=1.0)
    data = TensorDataset(torch.rand(16, *SHAPE, generator=seeded()))
    history = fit(
        gan, DataLoader(data, batch_size=8), steps=2, device="cpu", precision="bf16-mixed", progress=False
    )
    assert all(abs(v) < 100 for v in history["d_loss"])
    assert gan.sample(2).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in gan.generator.parameters())


# --- Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 28, 28), {}, r"power of two, at least 16 .*image_size=32.*got \(1, 28, 28\)"),
        ((1, 8, 8), {}, "at least 16"),
        ((1, 32, 16), {}, "got"),
        ((32, 32), {}, "got"),
        (SHAPE, {"base": 8}, "base should be at least the side, 16, .* got 8"),
        (SHAPE, {"cap": 0}, "cap at least 1; got 64, 0"),
        (SHAPE, {"latent_dim": 0}, "expected latent_dim, style_dim, layers ≥ 1"),
        (SHAPE, {"mapping_lr_factor": 0.0}, "lr_factor > 0"),
        (SHAPE, {"modulation": "spade"}, "unknown modulation 'spade'; the known ones are: demodulate, adain"),
        (SHAPE, {"preset": "huge"}, "unknown preset 'huge'; the known ones are: small, paper"),
        (SHAPE, {"mixing": 1.5}, r"mixing in \[0, 1\].*mixing=1.5"),
        (SHAPE, {"path_length": -1.0}, "path_length ≥ 0"),
        (SHAPE, {"r1": -1.0}, "r1"),
        (SHAPE, {"group": 0}, "group should be at least 1, got 0"),
        (SHAPE, {"w_decay": 1.0}, "w_decay < 1"),
    ],
)
def test_what_does_not_fit_is_named(shape, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(shape, **changes)


def test_wrong_inputs_are_named():
    gan = tiny()
    with pytest.raises(ValueError, match=r"expected latents \(B, 5\), got \(2, 4\)"):
        gan.generator(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"one w a layer, \(B, 6, 6\), got \(2, 6\)"):
        gan.generator.synthesize(torch.zeros(2, 6))
    with pytest.raises(ValueError, match="unknown noise 'loud'; the known ones are: random, fixed, none"):
        gan.generator.synthesize(torch.zeros(2, 6, 6), "loud")
    for pictures in (torch.zeros(2, 2, 32, 32), torch.zeros(2, *SHAPE, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected pictures \(B, 2, 16, 16\) in \[0, 1\], got"):
            gan.discriminator(pictures)
    with pytest.raises(ValueError, match="n should be at least 1, got 0"):
        gan.sample(0)
    with pytest.raises(ValueError, match="unknown space 'x'"):
        perceptual_path_length(gan.generator, torch.flatten, space="x")
    with pytest.raises(ValueError, match="epsilon > 0"):
        perceptual_path_length(gan.generator, torch.flatten, epsilon=0)
    with pytest.raises(ValueError, match=r"expected \(B, D\) twice"):
        slerp(torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(2))
    with pytest.raises(TypeError, match="depth"):
        tiny(depth=3)
