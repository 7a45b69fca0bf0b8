"""The format between judge and student: what it carries, and that nothing else gets through."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.classroom import wire
from course_lib.classroom.wire import WireError

LIMIT = 10_000_000


def frame(value, modules: bool = False) -> bytes:
    """A value as a whole frame without its prefix."""
    encoder = wire.Encoder(modules=modules)
    coded = encoder(value)
    packed = wire.pack({"id": "x", "value": coded}, encoder.blobs)
    assert wire.frame_length(packed[: wire.PREFIX], LIMIT) == len(packed) - wire.PREFIX
    return packed[wire.PREFIX :]


def decode(body: bytes, modules: bool = False):
    """What comes out of a frame."""
    header, blobs = wire.unpack(body)
    return wire.Decoder(blobs, modules=modules)(header.get("value"))


def same(a, b) -> bool:
    """Equal in type and content, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


VALUES = [
    None, True, False, 0, -5, 2**70, 10**999, 0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324, "", "Grüße\n\0\ud800 𝄞",
    (), [], {}, (1, [2.0, {"a": None}]), {"α": (True,), "": []},
    torch.tensor(3.5), torch.arange(6).reshape(2, 3), torch.zeros(0, 3), torch.tensor([True, False]),
    torch.tensor([1 + 2j]), torch.tensor([math.nan, math.inf]), np.arange(4, dtype=np.int16), np.array(2.5),
    np.array([[True]]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_as_they_were(value):
    assert same(decode(frame(value)), value)


@pytest.mark.parametrize("dtype", wire.DTYPES)
def test_every_dtype(dtype):
    tensor = torch.tensor([[0, 1, 1]]).to(getattr(torch, dtype))
    assert same(decode(frame(tensor)), tensor)


def test_what_is_not_plain_becomes_plain():
    class Sub(torch.Tensor):
        pass

    assert type(decode(frame(torch.zeros(2).as_subclass(Sub)))) is torch.Tensor
    parameter = decode(frame(nn.Parameter(torch.ones(2))))
    assert type(parameter) is torch.Tensor
    assert not parameter.requires_grad
    assert same(decode(frame(torch.arange(6).reshape(2, 3).T)), torch.arange(6).reshape(2, 3).T.contiguous())
    assert same(decode(frame(np.float32(2.5))), 2.5)
    assert same(decode(frame(torch.zeros(2, 3).shape)), (2, 3))

    class Number(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    assert type(decode(frame(Number(4)))) is int
    decode(frame(torch.zeros(2))).add_(1)  # memory of its own, to be written to


def test_generators_and_networks_as_arguments():
    made = torch.Generator().manual_seed(3)
    torch.rand(5, generator=made)
    copy = decode(frame(made, modules=True), modules=True)
    assert torch.equal(torch.rand(4, generator=copy), torch.rand(4, generator=made))
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(4, 2, (3, 4), 2, 1), nn.InstanceNorm2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(2 * 7 * 8, 6),
        nn.Unflatten(1, (2, 3)), nn.GELU(approximate="tanh"), nn.Softplus(2.0), nn.Tanh(), nn.Sigmoid(), nn.ReLU(),
        nn.Identity(),
    ).double()  # fmt: skip
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net(x)  # moves the running averages
    for module in (net.train(), net.eval()):
        twin = decode(frame(module, modules=True), modules=True)
        assert twin.training == module.training
        assert torch.equal(twin(x), module(x))
    assert all(p.requires_grad for p in twin.parameters())


@pytest.mark.parametrize("value", [torch.Generator(), nn.Sequential(nn.Tanh()), nn.Tanh(), object(), len, {1: 2}, {3},
                                   b"x", np.array([object()]), np.array(["a"]), 10**1001,
                                   "x" * (wire.MAX_TEXT + 1)], ids=lambda v: type(v).__name__)  # fmt: skip
def test_nothing_else_is_sent(value):
    with pytest.raises(WireError):
        wire.Encoder()(value)


def test_layers_outside_the_list_are_not_sent():
    with pytest.raises(WireError, match="Dropout"):
        wire.Encoder(modules=True)(nn.Sequential(nn.Dropout()))


def test_networks_and_references_are_not_taken_from_a_student():
    for value in (torch.Generator(), nn.Sequential(nn.Tanh())):
        with pytest.raises(WireError, match="unknown kind"):
            decode(frame(value, modules=True))
    for kind in ("name", "handle"):
        with pytest.raises(WireError, match="unknown kind"):
            wire.Decoder([])({"t": kind, "v": "x"})


def test_depth_and_count_are_bounded():
    deep = 1
    for _ in range(wire.MAX_DEPTH):
        deep = [deep]
    assert same(decode(frame(deep)), deep)
    with pytest.raises(WireError, match="deeper"):
        wire.Encoder()([deep])
    with pytest.raises(WireError, match="deeper"):
        wire.Encoder()([0] * wire.MAX_PARTS)
    loop: list = []
    loop.append(loop)
    with pytest.raises(WireError, match="deeper"):
        wire.Encoder()(loop)
    coded = {"t": "int", "v": "0x1"}
    with pytest.raises(WireError, match="deeper"):
        wire.Decoder([])({"t": "list", "v": [coded] * wire.MAX_PARTS})
    for _ in range(wire.MAX_DEPTH + 1):
        coded = {"t": "list", "v": [coded]}
    with pytest.raises(WireError, match="deeper"):
        wire.Decoder([])(coded)


def array(**changes):
    """The coded form of a good array of six float32, changed."""
    return {"t": "tensor", "dtype": "float32", "shape": [2, 3], "blob": 0, **changes}


@pytest.mark.parametrize(
    "coded",
    [
        array(shape=[2, 4]), array(shape=[2]), array(shape=[2, 3, 2**30]), array(shape=[-2, -3]), array(shape=[2, 3.0]),
        array(shape="6"), array(shape=None), array(shape=[True, 6]), array(shape=[1] * 9 + [6]),
        array(shape=[2**62, 2**62]), array(shape=[0, 2**40]), array(shape=[0] + [2**31 - 1] * 7), array(dtype="object"),
        array(dtype="O"), array(dtype="float64"), array(dtype=["float32"]), array(dtype="str"), array(dtype="V24"),
        array(dtype="datetime64"), array(dtype=None), array(t="array", dtype="bfloat16", shape=[12]), array(blob=1),
        array(blob=-1), array(blob=True), array(blob="0"), array(blob=None),
        {"t": "list", "v": [array(), array()]},  # one blob twice: a small frame would become large
        {"t": "const", "v": 1}, {"t": "const", "v": []}, {"t": "int", "v": 1}, {"t": "int", "v": "0x"},
        {"t": "int", "v": "f" * 1001}, {"t": "int", "v": "1_"}, {"t": "float", "v": "x"},
        {"t": "float", "v": "0x1p99999"},
        {"t": "str", "v": 1}, {"t": "str", "v": "x" * (wire.MAX_TEXT + 1)}, {"t": "dict", "v": {}},
        {"t": "dict", "v": [["a"]]}, {"t": "dict", "v": [[1, {"t": "const", "v": None}]]}, {"t": "dict", "v": ["ab"]},
        {"t": "list", "v": "ab"}, {"t": "tuple", "v": None}, {"t": "set", "v": []}, {"t": None}, {"t": {}},
        {}, [], None, "x", 3, {"v": 1}, {"t": "pickle", "v": "gASVA=="},
    ],
    ids=lambda coded: str(coded)[:60],
)  # fmt: skip
def test_malformed_values(coded):
    blobs = [memoryview(np.arange(6, dtype=np.float32).tobytes())]
    with pytest.raises(WireError):
        wire.Decoder(blobs)(coded)


def test_a_good_array_is_decoded():
    blobs = [memoryview(np.arange(6, dtype=np.float32).tobytes())]
    assert same(wire.Decoder(blobs)(array()), torch.arange(6.0).reshape(2, 3))


def test_truth_values_are_zero_or_one():
    decoded = wire.Decoder([memoryview(bytes([0, 1, 2, 255]))])(array(dtype="bool", shape=[4]))
    assert decoded.tolist() == [False, True, True, True]
    assert decoded.view(torch.uint8).tolist() == [0, 1, 1, 1]


def with_header(text: bytes, blobs: bytes = b"", size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(4, "big") + text + blobs


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0", b"\0\0\0\x05{}", with_header(b"{}", size=2**32 - 1), with_header(b"{}"), with_header(b"[]"),
        with_header(b"null"), with_header(b"\xff\xfe"), with_header(b"{" * 10_000), with_header(b"[" * 500_000),
        with_header(b'{"blobs": [5]}'), with_header(b'{"blobs": [-1, 1]}'), with_header(b'{"blobs": [1e0]}', b"x"),
        with_header(b'{"blobs": [true]}', b"x"), with_header(b'{"blobs": {}}'), with_header(b'{"blobs": []}', b"x"),
        with_header(b'{"blobs": [1]}', b"xy"), with_header(b'{"a": ' + b"9" * 5000 + b', "blobs": []}'),
        with_header(json.dumps({"blobs": [], "x": "y" * wire.MAX_HEADER}).encode()),
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
def test_malformed_frames(body):
    with pytest.raises(WireError):
        wire.unpack(body)


def test_length_is_checked_before_anything_is_read():
    assert wire.frame_length((10).to_bytes(8, "big"), 10) == 10
    for length in (11, 2**63, 2**64 - 1):
        with pytest.raises(WireError, match="at most 10"):
            wire.frame_length(length.to_bytes(8, "big"), 10)


def test_large_headers_are_not_packed():
    with pytest.raises(WireError, match="header"):
        wire.pack({"x": "y" * wire.MAX_HEADER}, [])


def test_mutated_frames_raise_nothing_but_wire_errors():
    """2,000 frames with random bytes changed, inserted or removed: decoded to plain data, or refused."""
    good = frame({"a": [torch.arange(6.0), 3, "text"], "b": (None, True, 0.5), "c": np.ones((2, 2))})
    random.seed(0)
    refused = 0
    for _ in range(2_000):
        body = bytearray(good)
        for _ in range(random.randint(1, 4)):
            position = random.randrange(len(body))
            how = random.randrange(3)
            body[position : position + (how != 1)] = b"" if how == 2 else bytes([random.randrange(256)])
        try:
            decode(bytes(body))
        except WireError:
            refused += 1
    assert 1_000 < refused < 2_000
