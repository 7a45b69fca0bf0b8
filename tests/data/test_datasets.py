"""Datasets in memory and the loader that fetches whole batches."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from course_lib import data
from course_lib.data.datasets import ImageDataset


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return data.load("digits", size=103)


def test_a_batch_of_the_loader_is_one_indexing(digits):
    images, labels = next(iter(data.loader(digits, 16, shuffle=False)))
    assert torch.equal(images, digits.tensor()[:16])
    assert torch.equal(labels, digits.labels[:16])


def test_an_epoch_has_every_example_once_in_an_order_given_by_the_seed(digits):
    def epochs(seed: int) -> list[torch.Tensor]:
        loader = data.loader(digits, 10, drop_last=False, seed=seed)
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    first, second = epochs(0)
    assert torch.equal(first, epochs(0)[0])
    assert torch.equal(second, epochs(0)[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first, epochs(1)[0])

    def as_sorted_rows(images):
        return sorted(map(tuple, images.flatten(1).tolist()))

    assert as_sorted_rows(first) == as_sorted_rows(digits.tensor())


def test_drop_last_by_default_only_where_a_full_batch_is_left(digits):
    assert [len(labels) for _, labels in data.loader(digits, 50)] == [50, 50]
    assert [len(labels) for _, labels in data.loader(digits, 50, shuffle=False)] == [50, 50, 3]
    assert [len(labels) for _, labels in data.loader(digits, 500)] == [103]


@pytest.mark.parametrize(("batch_size", "drop_last"), [(0, None), (2.5, None), (500, True)])
def test_loader_refuses_what_gives_no_batch(digits, batch_size, drop_last):
    with pytest.raises(ValueError, match="batch"):
        data.loader(digits, batch_size, drop_last=drop_last)


def test_loader_refuses_an_empty_dataset(digits):
    with pytest.raises(ValueError, match="nothing to load"):
        data.loader(digits.subset([]), 4)


def test_two_processes_of_a_distributed_sampler_share_the_examples(digits):
    loader = data.loader(digits, 10, shuffle=False)
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank, shuffle=False)
        share = DataLoader(loader.dataset, batch_size=10, sampler=sampler, collate_fn=loader.collate_fn)
        seen += [labels for _, labels in share]
    assert sum(map(len, seen)) == 104  # one example twice, so that both get the same number
    assert torch.equal(
        torch.cat(seen).bincount()[1:] >= digits.labels.bincount()[1:], torch.ones(9, dtype=torch.bool)
    )


def test_fabric_keeps_the_batches():
    from lightning.fabric import Fabric

    points = data.load("toy2d/ring", size=64)
    plain = [batch for batch, _ in data.loader(points, 16, seed=3)]
    fabric = Fabric(accelerator="cpu", devices=1)
    ours = [batch for batch, _ in fabric.setup_dataloaders(data.loader(points, 16, seed=3))]
    assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))


def test_the_ordinary_dataloader_works_too(digits):
    images, labels = next(iter(DataLoader(digits, batch_size=8)))
    assert torch.equal(images, digits.tensor()[:8])
    assert torch.equal(labels, digits.labels[:8])


def test_subset_takes_lists_masks_and_slices(digits):
    mask = digits.labels == 3
    assert torch.equal(digits.subset(mask).labels, digits.labels[mask])
    assert torch.equal(digits.subset([5, -1]).images, digits.images[[5, 102]])
    assert len(digits.subset(slice(10, 20))) == 10
    sprites = data.load("sprites", size=30)
    part = sprites.subset(sprites.factors["texture"] == 1)
    assert (part.factors["texture"] == 1).all()
    assert len(part.factors["x"]) == len(part) < len(sprites)


def test_indices_outside_are_refused(digits):
    with pytest.raises(IndexError):
        digits[103]
    with pytest.raises(IndexError):
        digits.subset([103])
    with pytest.raises(ValueError, match="boolean mask"):
        digits.subset(torch.ones(5, dtype=torch.bool))


def test_iteration_ends(digits):
    assert len(list(digits)) == 103


@pytest.mark.parametrize("name", ["digits", "sprites", "facades_synthetic", "toy2d/moons"])
def test_datasets_can_be_pickled_for_worker_processes(name):
    dataset = data.load(name, size=5)
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[2][0], dataset[2][0])


def test_images_must_be_bytes_with_a_label_each():
    with pytest.raises(ValueError, match="uint8"):
        ImageDataset(torch.zeros(2, 1, 4, 4), torch.zeros(2), name="x", split="train", label_names="ab")
    with pytest.raises(ValueError, match="3 labels"):
        ImageDataset(
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(3),
            name="x",
            split="train",
            label_names="ab",
        )
