"""The generated sets: the same on every machine, and their factors are the truth."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, ks_2samp

from course_lib import data
from course_lib.data import creatures, facades_synthetic, sprites
from course_lib.data.facades_synthetic import BALCONY, BLIND, PILLAR, SHOP, WINDOW
from course_lib.data.random_bits import COS, SIN, Bits, shuffled
from course_lib.data.raster import box, cover, disc, plane, polygon


def checksum(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# Only + − × ÷ √ on float32 and raw bits of PCG64 go into the pictures, so these hold on every machine.
def test_sprites_are_the_same_everywhere():
    assert checksum(data.load("sprites", size=600).images) == "378d9c242ffa7b8a"
    assert checksum(data.load("sprites", size=20, image_size=64).images) == "0045375283d3f583"


def test_creatures_are_the_same_everywhere():
    assert checksum(data.load("creatures", size=300).images) == "06314f2960bf3f7f"


def test_facades_are_the_same_everywhere():
    facades = data.load("facades_synthetic", size=30)
    assert checksum(facades.label_maps, facades.pictures, facades.label_index) == "343f95a2ab688caa"


def test_random_bits_are_the_same_everywhere():
    assert Bits("a", 3).below(1000, 5).tolist() == [842, 144, 557, 407, 976]
    assert shuffled(8, "order").tolist() == [4, 1, 2, 0, 6, 3, 5, 7]
    assert np.abs(COS**2 + SIN**2 - 1).max() < 2e-6


@pytest.mark.parametrize(("name", "size"), [("sprites", 3000), ("creatures", 3000)])
def test_factors_are_uniform_and_independent(name, size):
    dataset = data.load(name, size=size, image_size=4)
    derived = {"shape"} if name == "sprites" else {"alive", "flies"}
    binned = {"label": dataset.labels.numpy()}
    for factor, values in dataset.factors.items():
        if factor not in derived:
            unique = values.unique()
            edges = torch.quantile(values.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
            binned[factor] = (
                values if len(unique) <= 12 else torch.bucketize(values.double(), edges)
            ).numpy()
    for first, second in itertools.combinations(binned, 2):
        table = np.zeros((binned[first].max() + 1, binned[second].max() + 1))
        np.add.at(table, (binned[first], binned[second]), 1)
        # About 40 pairs: 1e-4 each keeps a true independence from failing (the seed is fixed anyway).
        assert chi2_contingency(table).pvalue > 1e-4, (first, second)


def sprite_factors(n: int, **fixed: float) -> dict[str, np.ndarray]:
    """Factors of n sprites: a yellow square on sand, but for what is fixed otherwise."""
    plain = {"shape": 1, "colour": 2, "texture": 0, "background": 4, "backdrop": 0, "turn": 5}
    measures = {"size": 0.5, "x": 0.0, "y": 0.0}
    factors = {name: np.full(n, fixed.get(name, value)) for name, value in plain.items()}
    return factors | {
        name: np.broadcast_to(np.float32(fixed.get(name, value)), n) for name, value in measures.items()
    }


def test_sprites_are_where_and_as_large_as_their_factors_say():
    rng = np.random.default_rng(0)
    size, x, y = (rng.uniform(low, high, 20) for low, high in ((0.38, 0.62), (-0.3, 0.3), (-0.3, 0.3)))
    images = sprites.render(sprite_factors(20, shape=0, background=0, size=size, x=x, y=y), 64) / 255
    share = (images[:, 0] - images[:, 0, :1, :1]) / (
        sprites._RGB[2, 0] - images[:, 0, :1, :1]
    )  # 0 outside, 1 inside
    across, down = (axis[0] for axis in plane(64))
    mass = share.sum((1, 2))
    assert np.allclose((share * across).sum((1, 2)) / mass, x, atol=0.005)
    assert np.allclose((share * down).sum((1, 2)) / mass, y, atol=0.005)
    assert np.allclose(mass * (2 / 64) ** 2, np.pi * (0.92 * size) ** 2, rtol=0.02)  # the image is [−1, 1]²


def test_colour_of_a_sprite_is_the_one_named():
    dataset = data.load("sprites", size=300)
    plain = dataset.subset((dataset.factors["texture"] == 0) & (dataset.labels == 0))
    for image, colour, fx, fy in zip(
        plain.tensor(), plain.factors["colour"], plain.factors["x"], plain.factors["y"], strict=True
    ):
        column, row = int((fx + 1) * 16), int((fy + 1) * 16)
        assert torch.allclose(image[:, row, column], torch.from_numpy(sprites._RGB[colour]), atol=0.003)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": 3},
        {"colour": 5},
        {"texture": 2},
        {"background": 0},
        {"backdrop": 3},
        {"turn": -9},
        {"size": 0.6},
    ],
    ids=str,
)
def test_changing_one_factor_changes_the_picture(change):
    before, after = (sprites.render(sprite_factors(1, **what), 32).astype(int) for what in ({}, change))
    assert np.abs(after - before).max() > 12  # of 255; the joints of the tiles are the faintest of all


def test_creatures_have_the_two_factors():
    dataset = data.load("creatures")
    names = [dataset.label_names[label] for label in dataset.labels.tolist()]
    assert dataset.factors["alive"].tolist() == [int(name in ("dog", "bird")) for name in names]
    assert dataset.factors["flies"].tolist() == [int(name in ("bird", "plane")) for name in names]
    assert torch.equal(dataset.labels.bincount() > 900, torch.ones(4, dtype=torch.bool))


def test_creatures_stay_inside_the_picture():
    images = data.load("creatures", size=500).tensor()
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    assert (border.amax(dim=(1, 2)) > 0.2).float().mean() < 0.05


def test_kinds_of_creatures_can_be_told_apart():
    train, test = data.load("creatures", size=1000), data.load("creatures", "test", size=200)
    nearest = torch.cdist(test.tensor().flatten(1), train.tensor().flatten(1)).argmin(1)
    assert (train.labels[nearest] == test.labels).float().mean() > 0.97
    assert len(creatures.LABELS) == 4


def test_facade_maps_and_pictures_belong_together():
    facades = data.load("facades_synthetic", size=100)
    maps, pictures = facades.tensor()
    assert torch.equal(maps, facades.palette[facades.label_index.long()].permute(0, 3, 1, 2) / 255)
    # Glass is darker than the wall around it by day.
    index, grey = facades.label_index, pictures.mean(1)
    day = facades.factors["sky"] != 3
    assert grey[day][index[day] == WINDOW].mean() < grey[day][index[day] == 3].mean() - 0.1
    # A map from another house explains a picture less well: variance within the labels of one picture.
    own, foreign = (
        torch.stack([grey[i][index[(i + shift) % 100] == 0].var() for i in range(100)]).mean()
        for shift in (0, 37)
    )
    assert own < 0.6 * foreign


def test_hidden_factors_of_facades_are_those_that_the_map_does_not_tell():
    factors = facades_synthetic._factors("test", 0)
    whole = facades_synthetic.render(factors, 32)
    for name in factors:
        others = {**factors, name: np.roll(factors[name], 1, axis=0)}
        if name == "bays":
            others["door_bay"] = others["door_bay"] % others["bays"]
        labels, pictures = facades_synthetic.render(others, 32)
        assert (labels == whole[0]).all() == (name in facades_synthetic.HIDDEN), name
        assert (pictures != whole[1]).any(), name


def test_facades_are_drawn_again_with_the_same_map_and_other_colours():
    _, pictures = data.load("facades_synthetic", "test", size=60).tensor()
    again = (
        facades_synthetic.redrawn(51, 60).float() / 255
    )  # of the second chunk, and more than one chunk of draws
    assert again.shape == (60, 3, 64, 64)
    # Edges stay, colours do not: without each channel's mean the average house is nearest to its own true picture.
    flat = (pictures - pictures.mean((2, 3), keepdim=True)).flatten(1)
    mean = again.mean(0, keepdim=True)
    mean = (mean - mean.mean((2, 3), keepdim=True)).flatten(1)
    assert torch.nn.functional.cosine_similarity(flat, mean).argmax() == 51
    assert (
        torch.cdist(again.flatten(1), again.flatten(1)).add(torch.eye(60) * 99).min() > 1
    )  # no two are the same
    assert again.mean((2, 3)).std(0).min() > 0.05
    assert torch.equal(facades_synthetic.redrawn(51, 3), facades_synthetic.redrawn(51, 60)[:3])
    for index, n in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="index ≥ 0 and n ≥ 1"):
            facades_synthetic.redrawn(index, n)


def test_facade_factors_are_what_the_map_shows():
    facades = data.load("facades_synthetic", size=200)
    has = {
        label: (facades.label_index == label).flatten(1).any(1) for label in (SHOP, BLIND, PILLAR, BALCONY)
    }
    assert torch.equal(has[SHOP], facades.factors["shops"] == 1)
    assert torch.equal(
        has[BLIND] | (facades.factors["balconies"] > 0), (facades.factors["blinds"] == 1) | has[BALCONY]
    )
    assert not has[PILLAR][facades.factors["pillars"] == 0].any()
    assert torch.equal(has[BALCONY], facades.factors["balconies"] > 0)


@pytest.mark.parametrize("name", [name for name in data.names() if name.startswith("toy2d")])
def test_density_integrates_to_one_and_fits_the_samples(name):
    toy = data.load(name, size=4000)
    axis = torch.linspace(-4, 4, 321, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = toy.log_prob(grid).exp()
    cell = (axis[1] - axis[0]) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    # The log-density at the samples has the distribution that it has under the density itself:
    # E log p(x), once over the samples and once over the grid, within four standard errors.
    inside = density > 0
    expected = (density[inside] * density[inside].log()).sum() * cell
    at_samples = toy.log_prob(toy.points.double())
    assert abs(at_samples.mean() - expected) < 4 * at_samples.std() / len(toy) ** 0.5
    assert toy.log_prob(torch.zeros(3, 5, 2)).shape == (3, 5)


def test_labels_of_toys_are_their_components():
    ring = data.load("toy2d/ring", size=2000)
    assert ring.means.shape == (8, 2)
    nearest = torch.cdist(ring.points, ring.means).argmin(1)
    assert torch.equal(nearest, ring.labels)
    assert (ring.points - ring.means[ring.labels]).std().item() == pytest.approx(ring.std, rel=0.05)
    grid = data.load("toy2d/grid", size=2000)
    assert torch.equal(torch.cdist(grid.points, grid.means).argmin(1), grid.labels)
    assert data.load("toy2d/moons", size=5).means is None


def test_toys_refuse_points_that_are_not_in_the_plane():
    with pytest.raises(ValueError, match="2"):
        data.load("toy2d/ring", size=5).log_prob(torch.zeros(4, 3))


def test_toy_points_are_the_same_everywhere_to_six_digits():
    expected = torch.tensor([[0.6262815, -1.1468362], [-0.6648592, 1.2168514], [2.2265723, -0.1715729]])
    torch.testing.assert_close(data.load("toy2d/moons", size=3).points, expected, rtol=1e-6, atol=1e-6)


def test_normal_draws_are_normal():
    draws = Bits("normal").normal(20_000)
    reference = np.random.default_rng(0).standard_normal(20_000)
    assert ks_2samp(draws, reference).pvalue > 1e-3


def test_antialiased_area_is_exact_to_a_fraction_of_a_pixel():
    x, y = plane(64)
    pixel = 2 / 64
    area = {
        "disc": (cover(disc(x, y, 0.1, 0.0, 0.5), pixel), np.pi * 0.25),
        "box": (cover(box(x, y, -0.5, -0.31, 0.5, 0.42), pixel), 0.73),
        "polygon": (cover(polygon(x, y, [(0.0, -0.7), (0.8, 0.6), (0.0, 0.1), (-0.8, 0.6)]), pixel), 0.64),
    }
    for shape, (share, expected) in area.items():
        assert share.sum() * pixel**2 == pytest.approx(expected, rel=0.01), shape
