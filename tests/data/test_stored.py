"""digits and glyphs: splits, checksum, and that the test glyphs are no near copies of the training glyphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from course_lib import data
from course_lib.data import glyphs, make_glyphs

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def letters() -> dict[str, data.ImageDataset]:
    return {split: data.load("glyphs", split) for split in SPLITS}


def test_digits_are_those_of_scikit_learn_each_in_one_split():
    ours = (
        torch.cat([data.load("digits", split, levels=17).tensor() for split in SPLITS])
        .flatten(1)
        .double()
        .numpy()
    )
    theirs = load_digits().data
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_digits_are_stratified():
    for split, each in (("train", 126), ("val", 27), ("test", 27)):
        counts = data.load("digits", split).labels.bincount()
        assert (counts - each).abs().max() <= 4, split


def test_glyphs_come_as_promised(letters):
    labels = torch.cat([letters[split].labels for split in SPLITS])
    assert labels.bincount().tolist() == [600] * 10 + [250] * 24
    assert "I" not in glyphs.CHARACTERS
    assert "O" not in glyphs.CHARACTERS
    assert glyphs.PATH.stat().st_size < 4_000_000


def test_glyphs_look_like_mnist(letters):
    images = letters["train"].tensor()
    assert images.amax(dim=(1, 2, 3)).min() > 0.7  # every one has a white stroke on black
    assert 0.08 < images.mean() < 0.2  # MNIST: 0.13
    border = torch.cat([images[..., :2, :], images[..., -2:, :]], dim=-2)
    assert border.mean() < 0.002
    pixel = torch.arange(28) - 13.5
    mass = images.sum(dim=(1, 2, 3))
    for axis in (2, 3):
        other = 5 - axis
        centre = (images.sum(dim=(1, other)) * pixel).sum(1) / mass
        assert centre.abs().mean() < 0.1  # centred by mass
        assert centre.abs().max() < 1


def test_no_font_and_no_pose_cell_is_in_two_splits(letters):
    fonts = {split: set(letters[split].factors["font"].tolist()) for split in SPLITS}
    assert not fonts["train"] & fonts["test"]
    assert not fonts["train"] & fonts["val"]
    assert not fonts["val"] & fonts["test"]
    families = letters["train"].factor_values["font"]
    assert len(set(families)) == len(families) == 56

    def cells(split: str) -> set[tuple]:
        index = []
        for name in ("slant", "rotation", "weight"):
            low, high = make_glyphs.RANGES[name]
            share = (letters[split].factors[name].double() - low) / (high - low) * make_glyphs.CELLS
            # Values are stored in hundredths: those within rounding of the edge of a cell could be on either side.
            share[(share - share.round()).abs() < 0.006 / (high - low) * make_glyphs.CELLS] = torch.nan
            index.append(share.floor())
        inside = torch.stack(index, dim=1)
        return set(map(tuple, inside[~inside.isnan().any(1)].tolist()))

    assert not cells("train") & cells("test")
    assert not cells("train") & cells("val")


def test_test_glyphs_are_no_near_copies_of_training_glyphs(letters):
    train, test = (letters[split].tensor().flatten(1) for split in ("train", "test"))
    to_train = torch.cdist(test, train).amin(1)
    within = torch.cdist(train[:1200], train)
    within[torch.arange(1200), torch.arange(1200)] = torch.inf
    within = within.amin(1)
    # A test example is further from the training set than training examples are from each other: at the median, and
    # in the near tail, where copies would show.
    assert to_train.median() > 1.05 * within.median()
    assert to_train.quantile(0.01) > 1.1 * within.quantile(0.01)
    assert to_train.min() > 1.0


def test_glyphs_can_be_read_though_the_fonts_are_new(letters):
    train, test = letters["train"], letters["test"]
    nearest = torch.cdist(test.tensor().flatten(1), train.tensor().flatten(1)).argmin(1)
    accuracy = (train.labels[nearest] == test.labels).float().mean()
    assert 0.85 < accuracy < 0.99  # learnable, and not by memory alone


def test_factors_show_in_the_pictures(letters):
    train = letters["train"]
    ink = train.tensor().sum(dim=(1, 2, 3))
    weight = train.factors["weight"]
    assert torch.corrcoef(torch.stack([ink, weight]))[0, 1] > 0.4
    # Slant: covariance of x and y of the ink (y downwards, so a lean to the right makes it negative), for the digit 1.
    ones = train.subset(train.labels == 1)
    pixel = torch.arange(28) - 13.5
    images = ones.tensor()[:, 0]
    covariance = (images * pixel[None, None, :] * pixel[None, :, None]).sum((1, 2)) / images.sum((1, 2))
    lean = ones.factors["slant"] + ones.factors["rotation"]
    assert torch.corrcoef(torch.stack([covariance, lean]))[0, 1] < -0.6


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_glyphs_file_is_noticed(monkeypatch, tmp_path, damage):
    content = bytearray(glyphs.PATH.read_bytes())
    copy = tmp_path / "glyphs.npz"
    if damage == "cut":
        copy.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[1000] ^= 1
        copy.write_bytes(content)
    monkeypatch.setattr(glyphs, "PATH", copy)
    glyphs._arrays.cache_clear()
    with pytest.raises(data.DataError, match="git checkout"):
        data.load("glyphs")
    glyphs._arrays.cache_clear()


def test_every_font_is_named_with_package_and_licence_in_the_readme():
    readme = (glyphs.PATH.parent / "README.md").read_text(encoding="utf-8")
    assert make_glyphs.table() in readme


def test_drawing_needs_no_font_to_be_checked():
    outline = -np.ones((80, 60), dtype=np.float32)  # a bar 20 wide and 60 high
    outline[10:70, 20:40] = 5
    values = {"slant": 0.0, "rotation": 0.0, "weight": 0.0, "width": 1.0, "height": 20.0, "wobble": 0.0}
    image = make_glyphs.draw(outline, values, np.random.default_rng(0)) / 255
    assert image.sum(1)[5:23].min() > 5  # 20 pixels high
    assert image[:3].sum() == 0
    heavier = make_glyphs.draw(outline, {**values, "weight": 0.7}, np.random.default_rng(0)) / 255
    assert heavier.shape == (28, 28)
