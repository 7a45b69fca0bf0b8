"""The door: names, descriptions, arguments, and what every set must keep."""

from __future__ import annotations

import re

import pytest
import torch

from course_lib import data
from course_lib.data.datasets import quantise

WITHOUT_DOWNLOAD = tuple(
    name for name in data.names() if not data.describe(name).downloaded and name != "cifar10_jpeg"
)
GENERATED = tuple(name for name in data.names() if data.describe(name).generated)
PIXELS = ("digits", "glyphs", "sprites", "creatures")


def rows(dataset) -> torch.Tensor:
    """All examples as rows of numbers (N, D)."""
    values = dataset.tensor()
    return (torch.cat(values, dim=1) if isinstance(values, tuple) else values).flatten(1)


def small(name: str, split: str = "train"):
    return data.load(name, split, size=60)


def test_the_catalogue_has_every_row_of_the_course():
    toys = {f"toy2d/{kind}" for kind in ("ring", "grid", "moons", "spiral", "pinwheel")}
    others = {
        "digits",
        "glyphs",
        "sprites",
        "facades_synthetic",
        "creatures",
        "mnist",
        "fashion_mnist",
        "cifar10",
    }
    assert toys | others | {"facades", "horse2zebra"} <= set(data.names())


@pytest.mark.parametrize("name", data.names())
def test_descriptions_are_complete_and_printable(name):
    description = data.describe(name)
    assert description.name == name
    assert set(description.sizes) == {"train", "val", "test"}
    assert description.licence
    assert description.source
    assert name in str(description)
    assert "licence" in str(description)
    for factor in description.factors:
        assert f"factor {factor}" in description._repr_markdown_()


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
def test_shape_and_default_sizes_are_as_described(name):
    description = data.describe(name)
    dataset = small(name)
    shape = tuple(dataset.points.shape[1:]) if name.startswith("toy2d") else dataset.image_shape
    assert shape == description.shape
    assert len(dataset) == 60
    assert dataset.label_names == description.label_names
    if name != "sprites":  # 12,000 of them take two seconds
        assert len(data.load(name, "test")) == description.sizes["test"]


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
def test_values_lie_in_range_and_labels_are_known(name):
    dataset = small(name)
    first, second = dataset[3]
    batch_first, batch_second = dataset.batch([3, 5])
    assert torch.equal(first, batch_first[0])
    assert torch.equal(second, batch_second[0])
    assert first.dtype == torch.float32
    if not name.startswith("toy2d"):
        values = rows(dataset)
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.max() > 0.9  # white is used: nobody forgot to divide, or divided twice
    if not name.startswith("facades"):
        assert dataset.labels.dtype == torch.int64
        assert dataset.labels.min() >= 0
        assert dataset.labels.max() < len(dataset.label_names)


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
def test_splits_are_disjoint(name):
    seen: set[bytes] = set()
    total = 0
    for split in ("train", "val", "test"):
        values = rows(small(name, split) if name in GENERATED else data.load(name, split))
        seen |= {row.numpy().tobytes() for row in values}
        total += len(values)
    assert len(seen) == total


@pytest.mark.parametrize("name", GENERATED)
def test_a_longer_request_begins_with_the_shorter_one(name):
    assert torch.equal(rows(data.load(name, size=10)), rows(data.load(name, size=25))[:10])


@pytest.mark.parametrize("name", GENERATED)
def test_generated_sets_repeat_and_leave_the_global_random_state_alone(name):
    state = torch.get_rng_state()
    first = rows(small(name))
    torch.manual_seed(99)
    again = rows(small(name))
    torch.set_rng_state(state)
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", PIXELS)
def test_levels_are_bins_of_equal_width(name):
    native = data.describe(name).levels
    stored = small(name).images
    whole = data.load(name, size=60, levels=native)
    assert torch.equal(whole.batch(slice(None))[0], stored)
    assert whole.tensor().dtype == torch.int64
    halves = data.load(name, size=60, levels=2)
    assert torch.equal(halves.tensor(), (stored.float() >= native / 2).long())
    assert halves[0][0].dtype == torch.uint8


def test_quantise_fills_every_level_evenly():
    levels = quantise(torch.arange(256, dtype=torch.uint8), 255, 8)
    assert torch.equal(levels.long().bincount(), torch.full((8,), 32))


@pytest.mark.parametrize("name", ["digits", "glyphs", "sprites", "creatures", "facades_synthetic"])
@pytest.mark.parametrize("side", [16, 40])
def test_image_size(name, side):
    assert data.load(name, size=4, image_size=side).image_shape[1:] == (side, side)


@pytest.mark.parametrize("name", ["sprites", "creatures"])
def test_generated_sets_are_redrawn_at_another_size_not_changed(name):
    fine = data.load(name, size=12, image_size=64).tensor()
    coarse = data.load(name, size=12, image_size=32).tensor()
    # Averaging 2×2 pixels of the fine drawing gives the coarse one, up to the antialiasing of small details.
    assert (torch.nn.functional.avg_pool2d(fine, 2) - coarse).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "wanted"), [("digits", [0, 7]), ("glyphs", ["A", "3"]), ("creatures", ["bird"])]
)
def test_classes_keep_only_these_labels_and_their_numbers(name, wanted):
    dataset = data.load(name, classes=wanted)
    names = {dataset.label_names[label] for label in dataset.labels.tolist()}
    assert names == {str(label) for label in wanted}
    if name != "creatures":
        everything = data.load(name)
        assert len(dataset) == sum(
            int((everything.labels == label).sum()) for label in set(dataset.labels.tolist())
        )


def test_size_takes_the_first_of_a_fixed_shuffle():
    ten, twenty = data.load("digits", size=10), data.load("digits", size=20)
    assert torch.equal(ten.images, twenty.images[:10])
    assert not torch.equal(ten.images, data.load("digits").images[:10])


def test_train_and_val_together():
    both = data.load("digits", "train+val")
    assert len(both) == 1257 + 270
    assert torch.equal(both.images[:1257], data.load("digits").images)
    assert len(data.load("digits", "train+val", size=50)) == 50
    assert data.load("creatures", "train+val", size=5).split == "train+val"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "digit"}, "the known ones are: digits, glyphs"),
        ({"name": "digits", "split": "dev"}, "expected one of train, val, test"),
        ({"name": "digits", "size": 0}, "at least 1"),
        ({"name": "digits", "size": 9999}, "has 1,257 examples"),
        ({"name": "digits", "split": "train+val", "size": 9999}, "has 1,527 examples"),
        ({"name": "digits", "levels": 256}, "from 2 to 17"),
        ({"name": "sprites", "levels": 1}, "from 2 to 256"),
        ({"name": "sprites", "levels": True}, "from 2 to 256"),
        ({"name": "facades_synthetic", "levels": 4}, "pairs of floats"),
        ({"name": "facades_synthetic", "classes": [1]}, "belong to pixels"),
        ({"name": "toy2d/ring", "classes": [1]}, "another density"),
        ({"name": "toy2d/ring", "image_size": 8}, "points"),
        ({"name": "sprites", "image_size": 2}, "4 to 1024"),
        ({"name": "glyphs", "classes": ["I"]}, "'I' is no label"),
        ({"name": "glyphs", "classes": [34]}, "from 0 to 33"),
        ({"name": "glyphs", "classes": []}, "at least one"),
    ],
)
def test_bad_arguments_are_refused_with_what_was_expected(arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        data.load(**arguments)


def test_describe_refuses_unknown_names():
    with pytest.raises(ValueError, match="unknown data set 'imagenet'"):
        data.describe("imagenet")


def test_root_from_argument_environment_or_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_ROOT", str(tmp_path))
    assert data.data_root() == tmp_path
    assert data.data_root("elsewhere").name == "elsewhere"
    monkeypatch.delenv("COURSE_DATA_ROOT")
    assert data.data_root().parts[-2:] == ("data", "downloads")
