"""Two sets of pictures without pairs: sizes, partners, what each name means, errors."""

import pytest
import torch

from course_lib import data
from course_lib.data import ImageDataset, UnpairedDataset, load_unpaired


def numbered(n, side=4, **options):
    """n pictures, the i-th of grey value i."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, side, side).contiguous()
    return ImageDataset(
        images, torch.zeros(n), name="numbers", split="train", label_names=("one",), **options
    )


@pytest.mark.parametrize(("n", "m"), [(5, 12), (12, 5), (7, 7), (1, 3)])
def test_an_epoch_shows_every_picture_of_the_larger_set_once(n, m):
    both = UnpairedDataset(numbered(n), numbered(m))
    assert len(both) == max(n, m)
    seen = [[], []]
    for a, b in data.loader(both, 2, drop_last=False, seed=3):
        assert a.shape == b.shape
        assert a.dtype == torch.float32
        for found, pictures in zip(seen, (a, b), strict=True):
            found += (255 * pictures[:, 0, 0, 0]).round().int().tolist()
    for found, size in zip(seen, (n, m), strict=True):
        counts = torch.bincount(torch.tensor(found), minlength=size)
        assert counts.min() >= max(n, m) // size
        assert counts.max() <= -(-max(n, m) // size)


def test_what_belonged_together_does_so_no_more():
    both = UnpairedDataset(numbered(100), numbered(100))
    a, b = both.batch(range(100))
    assert (a[:, 0, 0, 0] == b[:, 0, 0, 0]).float().mean() < 0.1
    assert torch.equal(both[7][1], b[7])
    assert not torch.equal(UnpairedDataset(numbered(100), numbered(100), seed=1).batch(range(100))[1], b)
    assert torch.equal(both.subset([7, 9]).batch([0, 1])[0], a[[7, 9]])


def test_sprites_are_plain_and_striped():
    both = load_unpaired("sprites", size=400, image_size=16)
    assert both.image_shape == (3, 16, 16)
    names = both.first.factor_values["texture"]
    assert {names[i] for i in both.first.factors["texture"].tolist()} == {"plain"}
    assert {names[i] for i in both.second.factors["texture"].tolist()} == {"stripes"}
    assert 70 < len(both.first) < 130
    assert 70 < len(both.second) < 130
    assert torch.equal(both[0][0], both.first[0][0])


def test_facades_lose_their_pairs():
    pairs = data.load("facades_synthetic", "val", size=30, image_size=16)
    both = load_unpaired("facades_synthetic", "val", size=30, image_size=16)
    assert len(both) == 30
    assert torch.equal(both.first.images, pairs.label_maps)
    assert torch.equal(both.second.images, pairs.pictures)
    assert torch.equal(both.second.factors["wall"], pairs.factors["wall"])


def test_what_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="'digits' has no two sides; the sets that have are: sprites, facades_s"
    ):
        load_unpaired("digits")
    with pytest.raises(ValueError, match="one shape in"):
        UnpairedDataset(numbered(3), numbered(3, side=5))
    with pytest.raises(ValueError, match="one shape in"):
        UnpairedDataset(numbered(3), numbered(3, levels=4))
    with pytest.raises(ValueError, match="not empty"):
        UnpairedDataset(numbered(3), numbered(3).subset([]))
