"""The real sets: read where they lie, downloaded when they are not there, checked either way.

Folder layout and checksums of MNIST (LeCun, Cortes & Burges 1998), Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747)
and CIFAR-10 (Krizhevsky 2009) are torchvision's, so a root that ``torchvision.datasets`` filled serves here too, and
the other way round. We read the official files themselves and unpack nothing beside them: the root may be read-only.

Facades (Tyleček & Šára 2013, as paired by Isola et al. 2017, arXiv:1611.07004) and horse2zebra (Zhu et al. 2017,
arXiv:1703.10593) are the papers' archives. No checksum of the facades was ever published: we compare the length, gzip's
own checksum and the number of pictures.

None of these sets has a validation split (but facades); ours is a fixed slice off the training set. ``load(name,
"train+val")`` is the papers' training set.
"""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from course_lib.data.catalogue import Description, Request, choose, resize, stored_images
from course_lib.data.datasets import ImageDataset, PairDataset
from course_lib.data.download import DataError, RemoteFile, fetch, unpack

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ANIMALS = ("horse", "zebra")

# The twelve labels of the CMP facade base, and their colours as we find them in the flat areas of pix2pix's pictures.
CMP_LABELS = (
    "background", "facade", "window", "door", "cornice", "sill", "balcony", "blind", "deco", "molding", "pillar",
    "shop",
)  # fmt: skip
CMP_PALETTE = torch.tensor(
    [
        [0, 0, 222], [0, 48, 255], [0, 128, 255], [0, 208, 255], [32, 255, 224], [112, 255, 144],
        [192, 255, 64], [255, 240, 0], [255, 160, 0], [255, 80, 0], [255, 0, 0], [176, 0, 0],
    ],
    dtype=torch.uint8,
)  # fmt: skip

_IDX = {  # (images, labels) of torchvision's train and test
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_IDX_SETS = {
    "mnist": (
        "MNIST/raw",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": (
        "FashionMNIST/raw",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
CIFAR10 = RemoteFile(
    "cifar-10-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    "md5:c58f30108f718f92721af3b95e74349a",
)
_CIFAR10_BATCHES = {
    "train": {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"test_batch": "md5:40351d587109b95175f43aff81a1287e"},
}
_BERKELEY = "efrosgans.eecs.berkeley.edu"
FACADES = RemoteFile(
    "facades.tar.gz",
    tuple(f"{scheme}://{_BERKELEY}/pix2pix/datasets/facades.tar.gz" for scheme in ("https", "http")),
    length=30_168_306,
)
HORSE2ZEBRA = RemoteFile(
    "horse2zebra.zip",
    tuple(f"{scheme}://{_BERKELEY}/cyclegan/datasets/horse2zebra.zip" for scheme in ("https", "http")),
    "sha256:a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
    length=116_867_962,
)

VAL = {"mnist": 5_000, "fashion_mnist": 5_000, "cifar10": 5_000}  # the last so many of the training set
HORSE2ZEBRA_COUNTS = {"trainA": 1067, "trainB": 1334, "testA": 120, "testB": 140}
HORSE2ZEBRA_VAL = 100  # the last so many of either animal
JPEG_VAL = 100  # the last so many of every class

_AS_THE_PAPERS = "val is the end of the official training set; load(name, 'train+val') gives all of it."
DESCRIPTIONS = {
    d.name: d
    for d in (
        Description(
            name="mnist",
            summary="handwritten digits, white on black",
            shape=(1, 28, 28),
            sizes={"train": 55_000, "val": 5_000, "test": 10_000},
            label_names=DIGITS,
            source="LeCun, Cortes & Burges 1998, the four official files (12 MB)",
            licence="CC BY-SA 3.0",
            downloaded=True,
            notes=_AS_THE_PAPERS,
        ),
        Description(
            name="fashion_mnist",
            summary="pieces of clothing, grey on black",
            shape=(1, 28, 28),
            sizes={"train": 55_000, "val": 5_000, "test": 10_000},
            label_names=CLOTHES,
            source="Xiao, Rasul & Vollgraf 2017 (31 MB)",
            licence="MIT",
            downloaded=True,
            notes=_AS_THE_PAPERS,
        ),
        Description(
            name="cifar10",
            summary="small photographs of ten kinds of things",
            shape=(3, 32, 32),
            sizes={"train": 45_000, "val": 5_000, "test": 10_000},
            label_names=OBJECTS,
            source="Krizhevsky 2009 (170 MB)",
            licence="free for research, no licence stated",
            downloaded=True,
            notes=_AS_THE_PAPERS,
        ),
        Description(
            name="cifar10_jpeg",
            summary="a part of CIFAR-10 kept as JPEG: for samples, not for likelihoods",
            shape=(3, 32, 32),
            sizes={"train": 11_000, "val": 1_000, "test": 2_000},
            label_names=OBJECTS,
            source="cifar10_jpeg.zip under the root, class folders in train/ and test/ (never downloaded)",
            licence="as CIFAR-10",
            notes="JPEG has changed the pixels: bits per dimension on this set cannot be compared with any published.",
        ),
        Description(
            name="facades",
            summary="photographs of façades ↔ hand-made label maps",
            shape=(3, 128, 128),
            sizes={"train": 400, "val": 100, "test": 106},
            label_names=CMP_LABELS,
            source="CMP facade base (Tyleček & Šára 2013), paired by Isola et al. 2017 (30 MB)",
            licence="CC BY-SA 3.0 (as the CMP facade base)",
            downloaded=True,
            notes="dataset[i] is (label_map, picture). The archive has 256 pixels (image_size=256). The maps are JPEG: "
            "label_index is the nearest of the twelve colours, wrong here and there along edges.",
        ),
        Description(
            name="horse2zebra",
            summary="photographs of horses and of zebras, not paired",
            shape=(3, 128, 128),
            sizes={"train": 2201, "val": 200, "test": 260},
            label_names=ANIMALS,
            source="ImageNet pictures chosen by Zhu et al. 2017 (CycleGAN; 117 MB)",
            licence="as the ImageNet pictures; for research",
            downloaded=True,
            notes="One domain: classes=['horse'] or ['zebra']. The archive has 256 pixels (image_size=256). "
            + _AS_THE_PAPERS,
        ),
    )
}


def _slice(split: str, n: int, val: int) -> slice:
    """The part of the n official training examples that is our train or val; everything for test."""
    return {"train": slice(0, n - val), "val": slice(n - val, n), "test": slice(None)}[split]


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes → uint8 tensor. The header: 0, 0, type 8 (byte), number of axes, then the sizes."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise DataError(
            f"{path} is no IDX file of bytes: it begins with {content[:4]!r}. Delete it and try again."
        )
    axes = content[3]
    sizes = np.frombuffer(content, dtype=">u4", count=axes, offset=4).tolist()
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).copy()).reshape(sizes)


def _make_idx(request: Request, label_names: Sequence[str]) -> ImageDataset:
    folder, mirrors, digests = _IDX_SETS[request.name]
    arrays = []
    for file in _IDX["test" if request.split == "test" else "train"]:
        remote = RemoteFile(f"{folder}/{file}", tuple(mirror + file for mirror in mirrors), digests[file])
        arrays.append(read_idx(fetch(remote, request.root)))
    part = _slice(request.split, len(arrays[0]), VAL[request.name])
    return stored_images(arrays[0][part, None], arrays[1][part].long(), request, label_names)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the pickles of CIFAR-10, which hold NumPy arrays, and would build nothing else."""

    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in CIFAR-10")


def _cifar10_batches(root: Path, part: str) -> Iterable[bytes]:
    """The contents of the batch files: from torchvision's folder where it is, else straight out of the archive."""
    batches = _CIFAR10_BATCHES[part]
    folder = root / "cifar-10-batches-py"
    if folder.is_dir():
        for name, digest in batches.items():
            yield fetch(RemoteFile(f"cifar-10-batches-py/{name}", (), digest), root).read_bytes()
        return
    with tarfile.open(fetch(CIFAR10, root)) as archive:
        for name in batches:
            yield archive.extractfile(f"cifar-10-batches-py/{name}").read()


def _make_cifar10(request: Request) -> ImageDataset:
    part = "test" if request.split == "test" else "train"
    decoded = [
        _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        for content in _cifar10_batches(request.root, part)
    ]
    images = torch.from_numpy(np.concatenate([batch[b"data"] for batch in decoded])).reshape(-1, 3, 32, 32)
    labels = torch.tensor([label for batch in decoded for label in batch[b"labels"]])
    chosen = _slice(request.split, len(images), VAL["cifar10"])
    return stored_images(images[chosen], labels[chosen], request, OBJECTS)


def _decode(content: bytes, name: str) -> Tensor:
    """JPEG → (3, H, W) uint8. DataError names a picture that cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{name} is damaged ({error}). Delete it and try again.") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _by_number(path: Path) -> tuple[int, str]:
    """Sorting key: 2.jpg before 10.jpg."""
    number = re.search(r"\d+", path.name)
    return (int(number.group()) if number else 0, path.name)


def _folder_pictures(folder: Path, expected: int) -> list[Tensor]:
    """All pictures of a folder in the order of their numbers. DataError if there are not as many as expected."""
    paths = sorted(folder.glob("*.jpg"), key=_by_number) if folder.is_dir() else []
    if len(paths) != expected:
        raise DataError(
            f"{folder} has {len(paths)} pictures (*.jpg) instead of {expected}: the set is incomplete. Delete "
            f"{folder.parent} and try again: it will be downloaded anew."
        )
    return [_decode(path.read_bytes(), str(path)) for path in paths]


def _to_side(images: Tensor, request: Request) -> Tensor:
    side = request.image_size or DESCRIPTIONS[request.name].shape[-1]
    if side > images.shape[-1]:
        raise ValueError(
            f"image_size={side}: the pictures of {request.name!r} under {request.root} have {images.shape[-1]} pixels"
        )
    return resize(images, side)


def nearest_label(maps: Tensor) -> Tensor:
    """Label maps (N, 3, H, W) uint8 → (N, H, W) uint8: the number of the nearest colour of ``CMP_PALETTE``."""
    nearest = []
    for one in maps:  # one at a time: twelve distances for every pixel
        difference = one.permute(1, 2, 0)[:, :, None].to(torch.int32) - CMP_PALETTE.to(torch.int32)
        nearest.append((difference * difference).sum(-1).argmin(-1).to(torch.uint8))
    return torch.stack(nearest)


def _make_facades(request: Request) -> PairDataset:
    description = DESCRIPTIONS["facades"]
    folder = request.root / "facades"
    if not folder.is_dir():
        unpack(fetch(FACADES, request.root), folder, "facades", ("train", "val", "test"))
    both = torch.stack(_folder_pictures(folder / request.split, description.sizes[request.split]))
    if both.shape[-1] != 2 * both.shape[-2]:
        raise DataError(
            f"{folder / request.split}: expected photo and label map side by side, got {tuple(both.shape)}"
        )
    both = both[choose(torch.zeros(len(both)), request)]
    pictures, maps = (_to_side(half.contiguous(), request) for half in both.chunk(2, dim=-1))
    return PairDataset(
        maps,
        pictures,
        nearest_label(maps),
        name="facades",
        split=request.split,
        label_names=CMP_LABELS,
        palette=CMP_PALETTE,
    )


def _make_horse2zebra(request: Request) -> ImageDataset:
    folder = request.root / "horse2zebra"
    if not folder.is_dir():
        unpack(fetch(HORSE2ZEBRA, request.root), folder, "horse2zebra", tuple(HORSE2ZEBRA_COUNTS))
    images, labels = [], []
    for label, domain in enumerate("AB"):
        if request.classes is not None and label not in request.classes:
            continue
        part = ("test" if request.split == "test" else "train") + domain
        pictures = _folder_pictures(folder / part, HORSE2ZEBRA_COUNTS[part])
        pictures = pictures[_slice(request.split, len(pictures), HORSE2ZEBRA_VAL)]
        images.append(_to_side(torch.stack(pictures), request))
        labels += [label] * len(pictures)
    return stored_images(torch.cat(images), torch.tensor(labels), request, ANIMALS)


def _make_cifar10_jpeg(request: Request) -> ImageDataset:
    path = request.root / "cifar10_jpeg.zip"
    if not path.is_file():
        raise DataError(
            f"{path} is missing, and this set is not downloaded. Put the file there or point COURSE_DATA_ROOT "
            "(or root=) at its folder; 'cifar10' is the original, downloaded on demand."
        )
    part = "test" if request.split == "test" else "train"
    images, labels = [], []
    try:
        with zipfile.ZipFile(path) as archive:
            for label, kind in enumerate(OBJECTS):
                members = sorted(name for name in archive.namelist() if name.startswith(f"{part}/{kind}/"))
                for member in members[_slice(request.split, len(members), JPEG_VAL)]:
                    images.append(_decode(archive.read(member), f"{path}: {member}"))
                    labels.append(label)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged ({error}). Put a fresh copy there.") from error
    if len(images) != DESCRIPTIONS["cifar10_jpeg"].sizes[request.split]:
        raise DataError(
            f"{path} has {len(images)} pictures for split {request.split!r}: it is not the expected file"
        )
    return stored_images(torch.stack(images), torch.tensor(labels), request, OBJECTS)


def make(request: Request) -> ImageDataset | PairDataset:
    """The requested split of a real set; raises DataError where it is neither there nor to be had."""
    if request.name == "mnist":
        return _make_idx(request, DIGITS)
    if request.name == "fashion_mnist":
        return _make_idx(request, CLOTHES)
    makers = {
        "cifar10": _make_cifar10,
        "cifar10_jpeg": _make_cifar10_jpeg,
        "facades": _make_facades,
        "horse2zebra": _make_horse2zebra,
    }
    return makers[request.name](request)
