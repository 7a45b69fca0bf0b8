"""Real sets: read where they lie, and every way in which a download can fail. No test needs a network."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import pickle
import shutil
import socketserver
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import data
from course_lib.data import download, real
from course_lib.data.download import DataError, RemoteFile, fetch, unpack

CONTENT = bytes(range(256)) * 40


def remote(url: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("folder/file.bin", (url,), "md5:" + hashlib.md5(content).hexdigest(), len(content))


def everything_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def source(tmp_path) -> str:
    """A file:// address with the right content."""
    file = tmp_path / "source.bin"
    file.write_bytes(CONTENT)
    return file.as_uri()


def test_a_good_download_is_kept_and_not_repeated(source, tmp_path):
    root = tmp_path / "root"
    path = fetch(remote(source), root)
    assert path.read_bytes() == CONTENT
    assert everything_under(root) == [path]
    assert fetch(remote("file:///nowhere"), root) == path


def test_the_next_mirror_is_tried(source, tmp_path):
    good = remote(source)
    both = RemoteFile(good.path, ("file:///nowhere/file.bin", source), good.digest, good.length)
    assert fetch(both, tmp_path / "root").read_bytes() == CONTENT


def test_no_connection_says_where_to_put_the_file(tmp_path):
    with pytest.raises(DataError) as failure:
        fetch(remote("file:///nowhere/file.bin"), tmp_path)
    assert str(tmp_path / "folder" / "file.bin") in str(failure.value)
    assert "COURSE_DATA_ROOT" in str(failure.value)
    assert "digits" in str(failure.value)
    assert everything_under(tmp_path) == []


def test_wrong_content_is_thrown_away(tmp_path):
    other = tmp_path / "other.bin"
    other.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="MD5"):
        fetch(remote(other.as_uri()), tmp_path / "root")
    assert everything_under(tmp_path / "root") == []


class _CutServer(http.server.BaseHTTPRequestHandler):
    """Announces the whole file and sends a third of it."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 3])

    def log_message(self, *arguments):
        """Be quiet."""


@pytest.mark.parametrize("checked", [True, False])
def test_a_cut_connection_leaves_nothing(tmp_path, checked):
    with socketserver.TCPServer(("127.0.0.1", 0), _CutServer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
        with pytest.raises(DataError, match=r"cut off|IncompleteRead"):
            fetch(remote(url) if checked else RemoteFile("folder/file.bin", (url,)), tmp_path)
        thread.join()
    assert everything_under(tmp_path) == []


def test_a_full_disk_leaves_nothing_and_is_named(monkeypatch, source, tmp_path):
    def no_room(origin, goal, length):
        goal.write(origin.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.shutil, "copyfileobj", no_room)
    with pytest.raises(DataError, match="No space left on device"):
        fetch(remote(source), tmp_path / "root")
    assert everything_under(tmp_path / "root") == []


def test_ctrl_c_leaves_nothing(monkeypatch, source, tmp_path):
    def interrupted(origin, goal, length):
        goal.write(origin.read(100))
        raise KeyboardInterrupt

    monkeypatch.setattr(download.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(source), tmp_path / "root")
    assert everything_under(tmp_path / "root") == []


def test_a_damaged_copy_is_named_and_kept(tmp_path):
    damaged = tmp_path / "folder" / "file.bin"
    damaged.parent.mkdir()
    damaged.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match="Delete it and try again"):
        fetch(remote("file:///nowhere"), tmp_path)
    assert damaged.is_file()


def tar(folder: Path, goal: Path) -> Path:
    with tarfile.open(goal, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return goal


def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "1.txt").write_bytes(bytes(torch.randint(256, (5000,)).tolist()))
    archive = tar(tmp_path / "set", tmp_path / "set.tar.gz")
    unpack(archive, tmp_path / "good", "set", ("train",))
    assert (tmp_path / "good" / "train" / "1.txt").stat().st_size == 5000
    with pytest.raises(DataError, match="lacks the folders val"):
        unpack(archive, tmp_path / "lacking", "set", ("train", "val"))
    cut = tmp_path / "cut.tar.gz"
    for length in (
        archive.stat().st_size // 2,
        archive.stat().st_size - 4,
    ):  # the last bytes are gzip's checksum
        cut.write_bytes(archive.read_bytes()[:length])
        with pytest.raises(DataError, match="could not be unpacked"):
            unpack(cut, tmp_path / "cut", "set", ("train",))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"set", "set.tar.gz", "good", "cut.tar.gz"}


def test_an_archive_cannot_write_outside(tmp_path):
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as archive:
        member = tarfile.TarInfo("../../escaped.txt")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(DataError):
        unpack(evil, tmp_path / "a" / "goal" if (tmp_path / "a").mkdir() is None else evil, "set", ())
    assert not list(tmp_path.rglob("escaped.txt"))


# -- small imitations of the real files ----------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> str:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def little_mnist(monkeypatch, tmp_path) -> tuple[Path, np.ndarray]:
    """A root with 30 training and 6 test images in MNIST's format, and the training images."""
    rng = np.random.default_rng(0)
    digests, images = {}, rng.integers(0, 256, (30, 28, 28))
    for part, n in (("train", 30), ("test", 6)):
        first, second = real._IDX[part]
        digests[first] = write_idx(tmp_path / "MNIST/raw" / first, images[:n])
        digests[second] = write_idx(tmp_path / "MNIST/raw" / second, np.arange(n) % 10)
    monkeypatch.setitem(real._IDX_SETS, "mnist", ("MNIST/raw", ("file:///nowhere/",), digests))
    monkeypatch.setitem(real.VAL, "mnist", 5)
    return tmp_path, images


def test_mnist_format_and_splits(little_mnist):
    root, images = little_mnist
    train, val, test = (
        data.load("mnist", split, root=root, levels=256) for split in ("train", "val", "test")
    )
    assert (len(train), len(val), len(test)) == (25, 5, 6)
    assert np.array_equal(train.images[:, 0].numpy(), images[:25])
    assert np.array_equal(val.images[:, 0].numpy(), images[25:])
    assert val.labels.tolist() == [5, 6, 7, 8, 9]
    assert len(data.load("mnist", "train+val", root=root)) == 30


def test_a_damaged_mnist_file_is_named(little_mnist):
    root, _ = little_mnist
    path = root / "MNIST/raw/train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        data.load("mnist", root=root)


def test_a_file_that_is_not_idx_is_refused(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"hello, this is no IDX file"))
    with pytest.raises(DataError, match="no IDX file"):
        real.read_idx(path)


@pytest.mark.parametrize("unpacked", [True, False])
def test_cifar10_from_archive_or_folder(monkeypatch, tmp_path, unpacked):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 10, 3072), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    digests: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        content = pickle.dumps({b"data": pixels[i], b"labels": [k % 10 for k in range(10)]}, protocol=2)
        (folder / name).write_bytes(content)
        digests["test" if name == "test_batch" else "train"][name] = "md5:" + hashlib.md5(content).hexdigest()
    archive = tar(folder, tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(real, "_CIFAR10_BATCHES", digests)
    digest = "md5:" + hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(real, "CIFAR10", RemoteFile("cifar-10-python.tar.gz", (), digest))
    monkeypatch.setitem(real.VAL, "cifar10", 5)
    if not unpacked:
        shutil.rmtree(folder)
    train, val = (data.load("cifar10", split, root=tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (45, 5)
    assert np.array_equal(train.images[12].numpy(), pixels[1, 2].reshape(3, 32, 32))
    assert train.labels[12] == 2
    assert np.array_equal(
        data.load("cifar10", "test", root=tmp_path).images.numpy(), pixels[5].reshape(10, 3, 32, 32)
    )


def test_the_cifar_reader_builds_nothing_but_arrays():
    with pytest.raises(pickle.UnpicklingError, match="not expected"):
        real._ArrayUnpickler(io.BytesIO(pickle.dumps(Path("x"))), encoding="bytes").load()


def jpeg(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def facade_pair(number: int, side: int = 32) -> np.ndarray:
    """Left a grey photo whose shade is its number, right a map: window above, shop below."""
    photo = np.full((side, side, 3), 20 + 10 * number, dtype=np.uint8)
    label_map = np.empty((side, side, 3), dtype=np.uint8)
    label_map[: side // 2], label_map[side // 2 :] = real.CMP_PALETTE[2].numpy(), real.CMP_PALETTE[11].numpy()
    return np.concatenate([photo, label_map], axis=1)


@pytest.fixture
def little_facades(monkeypatch, tmp_path) -> Path:
    """A root with facades/{train,val,test} of 12, 2 and 2 pairs of 32 pixels; the download is their archive."""
    sizes = {"train": 12, "val": 2, "test": 2}
    origin = tmp_path / "origin" / "facades"
    for split, n in sizes.items():
        (origin / split).mkdir(parents=True)
        for number in range(1, n + 1):
            (origin / split / f"{number}.jpg").write_bytes(jpeg(facade_pair(number)))
    archive = tar(origin, tmp_path / "facades.tar.gz")
    description = real.DESCRIPTIONS["facades"]
    changed = {**description.__dict__, "sizes": sizes, "shape": (3, 32, 32)}
    monkeypatch.setitem(real.DESCRIPTIONS, "facades", data.Description(**changed))
    monkeypatch.setattr(real, "FACADES", RemoteFile("facades.tar.gz", (archive.as_uri(),)))
    return tmp_path / "root"


def test_facades_are_downloaded_unpacked_and_cut_into_map_and_photo(little_facades):
    dataset = data.load("facades", root=little_facades)
    label_map, photo = dataset[9]  # the tenth picture is 10.jpg, not the one after 1.jpg
    assert photo.mean().item() == pytest.approx((20 + 100) / 255, abs=0.01)
    assert label_map.shape == (3, 32, 32)
    assert (dataset.label_index[:, 2:14, 2:-2] == 2).all()
    assert (dataset.label_index[:, 18:-2, 2:-2] == 11).all()
    assert len(data.load("facades", "test", root=little_facades, size=1)) == 1
    assert data.load("facades", root=little_facades, image_size=16).image_shape == (3, 16, 16)
    with pytest.raises(ValueError, match="have 32 pixels"):
        data.load("facades", root=little_facades, image_size=64)


def test_an_incomplete_or_damaged_facade_folder_is_noticed(little_facades):
    data.load("facades", root=little_facades)
    one = little_facades / "facades" / "train" / "3.jpg"
    whole = one.read_bytes()
    one.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"3\.jpg is damaged"):
        data.load("facades", root=little_facades)
    one.unlink()
    with pytest.raises(DataError, match="11 pictures"):
        data.load("facades", root=little_facades)


def test_a_damaged_facade_archive_leaves_nothing(little_facades):
    little_facades.mkdir()
    archive = little_facades / "facades.tar.gz"
    content = (little_facades.parent / "facades.tar.gz").read_bytes()
    archive.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match="could not be unpacked"):
        data.load("facades", root=little_facades)
    assert everything_under(little_facades) == [archive]


def test_horse2zebra_splits_and_domains(monkeypatch, tmp_path):
    counts = {"trainA": 5, "trainB": 7, "testA": 2, "testB": 3}
    archive = tmp_path / "horse2zebra.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for domain, n in counts.items():
            for number in range(n):
                shade = (40 if domain.endswith("A") else 180) + 5 * number
                picture = jpeg(np.full((32, 32, 3), shade, dtype=np.uint8))
                opened.writestr(f"horse2zebra/{domain}/n{number}.jpg", picture)
    monkeypatch.setattr(real, "HORSE2ZEBRA_COUNTS", counts)
    monkeypatch.setattr(real, "HORSE2ZEBRA_VAL", 2)
    monkeypatch.setattr(real, "HORSE2ZEBRA", RemoteFile("horse2zebra.zip", (archive.as_uri(),)))
    root = tmp_path / "root"
    train, val = (data.load("horse2zebra", split, root=root, image_size=32) for split in ("train", "val"))
    assert train.labels.tolist() == [0] * 3 + [1] * 5
    assert val.labels.tolist() == [0, 0, 1, 1]
    zebras = data.load("horse2zebra", "test", root=root, image_size=32, classes=["zebra"])
    assert zebras.labels.tolist() == [1, 1, 1]
    assert zebras.tensor().mean().item() == pytest.approx(185 / 255, abs=0.01)


def test_cifar10_jpeg_says_where_to_put_it_and_notices_damage(tmp_path):
    with pytest.raises(DataError, match="not downloaded"):
        data.load("cifar10_jpeg", root=tmp_path)
    (tmp_path / "cifar10_jpeg.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="damaged"):
        data.load("cifar10_jpeg", root=tmp_path)
    assert "likelihoods" in str(data.describe("cifar10_jpeg"))


# -- the real files, where they are --------------------------------------------------------------------------------


def real_file(shared_data: Path, name: str) -> Path:
    if not (shared_data / name).exists():
        pytest.skip(f"{shared_data / name} is not there")
    return shared_data


def test_real_mnist(shared_data):
    root = real_file(shared_data, "MNIST/raw/t10k-images-idx3-ubyte.gz")
    test = data.load("mnist", "test", root=root)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.tensor().mean().item() == pytest.approx(0.1325, abs=1e-4)
    assert len(data.load("mnist", root=root)) == 55_000
    assert len(data.load("mnist", "val", root=root, levels=2)) == 5_000


def test_real_facades(shared_data):
    root = real_file(shared_data, "facades/val")
    dataset = data.load("facades", "val", root=root)
    assert len(dataset) == 100
    assert dataset.image_shape == (3, 128, 128)
    colours = dataset.palette[dataset.label_index.long()].permute(0, 3, 1, 2).int()
    error = (colours - dataset.label_maps.int()).abs().amax(dim=1)
    assert (error < 40).float().mean() > 0.7  # most pixels have one of the twelve colours; edges are JPEG
    # Photos are no maps: hardly any pixel has one of the colours.
    photos = real.nearest_label(dataset.pictures[:10])
    colours = dataset.palette[photos.long()].permute(0, 3, 1, 2).int()
    assert ((colours - dataset.pictures[:10].int()).abs().amax(dim=1) < 40).float().mean() < 0.01
    with pytest.raises(ValueError, match="have 128 pixels"):
        data.load("facades", "val", root=root, image_size=256)


def test_real_cifar10_as_jpeg(shared_data):
    root = real_file(shared_data, "cifar10_jpeg.zip")
    test = data.load("cifar10_jpeg", "test", root=root)
    assert test.labels.bincount().tolist() == [200] * 10
    assert test.image_shape == (3, 32, 32)
    # Pictures of one class share something: aeroplanes have more sky (blue) than frogs.
    planes, frogs = (test.subset(test.labels == label).tensor().mean((0, 2, 3)) for label in (0, 6))
    assert planes[2] > planes[0]
    assert frogs[2] < frogs[0]
