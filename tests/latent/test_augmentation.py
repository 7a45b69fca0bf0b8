"""Random small changes of pictures: within their ranges, as numpy's own interpolation has them, and nothing else."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from course_lib.latent.augmentation import RandomAffine

NONE = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "shear": 0.0}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_change_the_picture_stays():
    x = torch.rand(4, 2, 8, 12, generator=generator())
    assert torch.allclose(RandomAffine(**NONE)(x, generator()), x, rtol=0, atol=1e-5)


def test_pictures_stay_in_the_unit_interval_keep_shape_and_type_and_repeat_with_the_generator():
    x = torch.rand(50, 1, 8, 8, generator=generator()).double()
    first, second = (RandomAffine()(x, generator()) for _ in range(2))
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, RandomAffine()(x, torch.Generator().manual_seed(1)))
    assert (
        len({tuple(picture.flatten().tolist()) for picture in RandomAffine()(x[:1].expand(50, -1, -1, -1))})
        == 50
    )


def blob(side: int = 33) -> torch.Tensor:
    """A smooth spot off the centre, to the right: its moments say where it went."""
    axis = torch.arange(side) - (side - 1) / 2
    spot = torch.exp(-((axis - 8) ** 2)[None, :] / 18 - (axis**2)[:, None] / 8)
    return spot[None, None]


def moments(x: torch.Tensor) -> torch.Tensor:
    """Centre of mass from the picture's middle, (N, 2): across, along, in pixels."""
    axis = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    mass = x.sum(dim=(1, 2, 3))
    return torch.stack([(x.sum(dim=(1, 2)) @ axis) / mass, (x.sum(dim=(1, 3)) @ axis) / mass], dim=1)


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "shear"])
def test_each_change_does_what_its_name_says_and_no_more_than_allowed(name):
    """400 changed pictures of one spot at 8 pixels right of the middle; tolerance: a twentieth of a pixel."""
    largest = {"rotation": 0.5, "scale": 0.2, "shift": 0.1, "shear": 0.4}[name]
    across, along = moments(
        RandomAffine(**NONE | {name: largest})(blob().expand(400, -1, -1, -1), generator())
    ).T
    if name == "rotation":  # around the middle: the distance stays
        assert torch.allclose(across.hypot(along), torch.tensor(8.0), rtol=0, atol=0.05)
        reached = torch.atan2(along, across)
    elif name == "scale":  # read at (1 + s) times the place: 8 pixels become 8 / (1 + s)
        assert torch.allclose(along, torch.tensor(0.0), rtol=0, atol=0.05)
        reached = 8 / across - 1
    elif name == "shift":  # in sides, both ways
        assert along.abs().max() <= 33 * largest + 0.05
        assert along.std() > 0.5 * 33 * largest / 3**0.5 * 0.9
        assert abs(np.corrcoef(across, along)[0, 1]) < 0.2
        reached = (across - 8) / 33
    else:  # rows move across in proportion to their place; the spot's own row is the middle one
        assert torch.allclose(across, torch.tensor(8.0), rtol=0, atol=0.05)
        tall = blob().transpose(2, 3).contiguous()  # the spot below the middle moves
        across, along = moments(
            RandomAffine(**NONE | {name: largest})(tall.expand(400, -1, -1, -1), generator())
        ).T
        assert torch.allclose(along, torch.tensor(8.0), rtol=0, atol=0.05)
        reached = across / 8
    assert reached.abs().max() <= largest + 0.01
    assert (
        reached.max() > 0.8 * largest
    )  # both ways, nearly to the end (an enlarged spot is cut off at the side)
    assert reached.min() < -0.8 * largest


def test_the_map_is_the_affine_one_of_scipy():
    """All changes at once on a picture that is not square, against scipy's linear interpolation."""
    x = torch.rand(3, 1, 9, 15, generator=generator()).double()
    ours = RandomAffine(0.4, 0.2, 0.1, 0.3)(x, generator())
    angle, size, right, down, shear = (2 * torch.rand(5, 3, generator=generator()) - 1).double().numpy()
    for n in range(3):
        a, s = 0.4 * angle[n], 1 + 0.2 * size[n]
        matrix = s * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        matrix[0, 1] += 0.3 * shear[n]
        v, u = np.meshgrid((2 * np.arange(9) + 1) / 9 - 1, (2 * np.arange(15) + 1) / 15 - 1, indexing="ij")
        place = np.einsum("ij,jhw->ihw", matrix, np.stack([u, v]))
        column = ((place[0] + 0.2 * right[n] + 1) * 15 - 1) / 2
        row = ((place[1] + 0.2 * down[n] + 1) * 9 - 1) / 2
        padded = np.pad(x[n, 0].numpy(), 1)  # outside is 0, approached linearly
        theirs = map_coordinates(padded, [row + 1, column + 1], order=1, mode="constant")
        assert np.abs(ours[n, 0].numpy() - theirs).max() < 1e-5


def test_under_automatic_precision_places_are_not_rounded():
    x = torch.rand(4, 1, 28, 28, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = RandomAffine()(x, generator())
    assert torch.allclose(rounded.float(), RandomAffine()(x, generator()), rtol=0, atol=1e-5)


def test_wrong_arguments_are_named():
    for wrong in ({"rotation": -0.1}, {"scale": 1.0}, {"shift": math.inf}, {"shear": math.nan}):
        with pytest.raises(ValueError, match="scale below 1, got RandomAffine"):
            RandomAffine(**wrong)
    with pytest.raises(ValueError, match=r"expected pictures \(B, C, H, W\), got shape \(3, 2\)"):
        RandomAffine()(torch.zeros(3, 2))
