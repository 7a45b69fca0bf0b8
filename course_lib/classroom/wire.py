"""The closed format in which the judge and a student's process talk: only data, and nothing that is executed.

A frame is  length of the rest (8 bytes, big-endian) · length of the header (4 bytes) · header (JSON) · blobs.
The header is an object; values in it are written as tagged JSON, arrays as raw little-endian bytes in the blobs, with
dtype and shape in the header (what an `.npy` file holds, without its parser and without pickle).

Everything that comes from the student's process is hostile until proven otherwise: lengths are compared with limits
before anything is allocated, dtypes come from a list, shapes have to fit their bytes exactly, no blob is used twice,
depth and count are bounded. What does not fit raises `WireError`, and nothing else; its text repeats nothing of what
came. What is decoded are Python's own bool, int, float, str, None, tuple, list, dict, numpy arrays and plain torch
tensors on the CPU, of exactly these types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_DEPTH = 8
MAX_PARTS = 10_000
MAX_HEADER = 1_000_000
MAX_TEXT = 200_000
MAX_DIMENSIONS = 8
PREFIX = 8
LARGEST_INT = 10**1000  # still printable (sys.int_info.default_max_str_digits is 4300)
#: numpy's names of what may travel, with the bytes of one element; bfloat16 is torch's alone.
DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
#: the layers of which an nn.Sequential may consist that is sent to a student's function, with their settings
LAYERS = {
    "Linear": ("in_features", "out_features", "bias"),
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    "ConvTranspose2d": (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "bias",
        "dilation",
    ),
    "BatchNorm2d": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "InstanceNorm2d": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "ReLU": (), "LeakyReLU": ("negative_slope",), "Tanh": (), "Sigmoid": (), "Softplus": ("beta", "threshold"),
    "GELU": ("approximate",), "SiLU": (), "Flatten": ("start_dim", "end_dim"), "Unflatten": ("dim", "unflattened_size"),
    "Identity": (),
}  # fmt: skip


class WireError(ValueError):
    """Something that the format cannot hold, or bytes that are not of the format."""


# --- frames ------------------------------------------------------------------------------------------------------


def pack(header: dict[str, Any], blobs: list[bytes]) -> bytes:
    """One frame. `header` is JSON already (see `Encoder`)."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    if len(text) > MAX_HEADER:
        raise WireError(f"a header of {len(text)} bytes; at most {MAX_HEADER}")
    body = b"".join([len(text).to_bytes(4, "big"), text, *blobs])
    return len(body).to_bytes(PREFIX, "big") + body


def frame_length(prefix: bytes, limit: int) -> int:
    """The length that a frame's first 8 bytes announce. Raises: WireError above `limit` bytes."""
    length = int.from_bytes(prefix, "big")
    if length > limit:
        raise WireError(f"an answer of {length} bytes; at most {limit}")
    return length


def unpack(body: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """Header and blobs of a frame without its prefix. Raises: WireError."""
    size = int.from_bytes(body[:4], "big")
    if len(body) < 4 or size > min(MAX_HEADER, len(body) - 4):
        raise WireError("a frame with a header that is longer than itself")
    try:
        header = json.loads(body[4 : 4 + size].decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header that is not JSON ({type(error).__name__})") from None
    lengths = header.get("blobs") if type(header) is dict else None
    if type(lengths) is not list or not all(type(n) is int and n >= 0 for n in lengths):
        raise WireError("a header without the lengths of its blobs")
    if sum(lengths) != len(body) - 4 - size:
        raise WireError("blobs that do not fill their frame")
    view, blobs, start = memoryview(body), [], 4 + size
    for length in lengths:
        blobs.append(view[start : start + length])
        start += length
    return header, blobs


# --- values ------------------------------------------------------------------------------------------------------


class Encoder:
    """Turns values into tagged JSON and collects their arrays in `blobs`.

    Args:
        reference: what is sent for an object that is none of the data, or None if it cannot be sent; used by the
            judge for the student's names and handles.
        modules: whether nn.Sequential and torch.Generator may be sent (the judge's arguments).
    """

    def __init__(
        self, reference: Callable[[object], dict | None] = lambda thing: None, modules: bool = False
    ):
        self.blobs: list[bytes] = []
        self._reference = reference
        self._modules = modules
        self._parts = 0

    def __call__(self, thing: Any, depth: int = 0) -> dict[str, Any]:
        """Tagged JSON. Raises: WireError for what cannot be sent, is too deep or has too many parts."""
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise WireError(f"a value nested deeper than {MAX_DEPTH} or of more than {MAX_PARTS} parts")
        if (found := self._reference(thing)) is not None:
            return found
        if isinstance(thing, np.generic):
            thing = thing.item()
        if thing is None or isinstance(thing, bool):
            return {"t": "const", "v": thing}
        if isinstance(thing, int):
            if not -LARGEST_INT < thing < LARGEST_INT:
                raise WireError("a whole number of more than a thousand digits")
            return {"t": "int", "v": hex(int(thing))}
        if isinstance(thing, float):
            return {"t": "float", "v": float(thing).hex()}
        if isinstance(thing, str):
            if len(thing) > MAX_TEXT:
                raise WireError(f"a string of {len(thing)} characters; at most {MAX_TEXT}")
            return {"t": "str", "v": str(thing)}
        if isinstance(thing, tuple | list):
            return {
                "t": "tuple" if isinstance(thing, tuple) else "list",
                "v": [self(part, depth + 1) for part in thing],
            }
        if isinstance(thing, dict):
            if not all(isinstance(key, str) for key in thing):
                raise WireError("a dict with keys that are not strings")
            return {"t": "dict", "v": [[str(key), self(part, depth + 1)] for key, part in thing.items()]}
        if isinstance(thing, np.ndarray):
            return self._array("array", str(thing.dtype), thing.shape, thing.tobytes)
        return self._torch(thing, depth)

    def _array(self, kind: str, dtype: str, shape: tuple[int, ...], data: Callable[[], bytes]) -> dict:
        if dtype not in DTYPES:
            raise WireError(f"an array of {dtype}; known: {', '.join(DTYPES)}")
        self.blobs.append(data())
        return {"t": kind, "dtype": dtype, "shape": list(shape), "blob": len(self.blobs) - 1}

    def _torch(self, thing: Any, depth: int) -> dict[str, Any]:
        import torch  # a process that sends no tensor need not load it

        if isinstance(thing, torch.Tensor):
            plain = thing.detach().cpu().resolve_conj().resolve_neg().contiguous()
            dtype = str(plain.dtype).removeprefix("torch.")
            raw = plain.view(torch.int16) if dtype == "bfloat16" else plain
            return self._array("tensor", dtype, tuple(plain.shape), lambda: raw.numpy().tobytes())
        if isinstance(thing, torch.Size):
            return self(tuple(thing), depth)
        if self._modules and isinstance(thing, torch.Generator):
            return {"t": "generator", "v": self(thing.get_state(), depth + 1)}
        if self._modules and isinstance(thing, torch.nn.Sequential):
            return self._sequential(thing, depth)
        raise WireError(f"a {type(thing).__name__} cannot be sent; numbers, strings, tensors, arrays and tuples, "
                        "lists and dicts of them can")  # fmt: skip

    def _sequential(self, module: Any, depth: int) -> dict[str, Any]:
        layers = []
        for layer in module:
            name = type(layer).__name__
            if name not in LAYERS:
                raise WireError(f"a layer {name} cannot be sent; known: {', '.join(LAYERS)}")
            settings = {key: getattr(layer, key) for key in LAYERS[name]}
            if "bias" in settings:
                settings["bias"] = settings["bias"] is not None
            layers.append([name, self(settings, depth + 1)])
        state = self(dict(module.state_dict()), depth + 1)
        return {"t": "sequential", "v": layers, "state": state, "training": module.training}


class Decoder:
    """Turns tagged JSON and blobs back into values.

    Args:
        resolve: gives the object for a reference, or None where references are not allowed (in the judge).
        modules: whether generators and networks are made (in the student's process).
    """

    def __init__(
        self,
        blobs: list[memoryview],
        resolve: Callable[[dict], object] | None = None,
        modules: bool = False,
    ) -> None:
        self._blobs = blobs
        self._used: set[int] = set()
        self._resolve = resolve
        self._modules = modules
        self._parts = 0

    def __call__(self, tagged: Any, depth: int = 0) -> Any:
        """The value. Raises: WireError for anything that the format does not allow."""
        self._parts += 1
        if depth > MAX_DEPTH or self._parts > MAX_PARTS:
            raise WireError(f"a value nested deeper than {MAX_DEPTH} or of more than {MAX_PARTS} parts")
        kind = tagged.get("t") if type(tagged) is dict else None
        value = tagged.get("v") if type(tagged) is dict else None
        if kind == "const" and (value is None or type(value) is bool):
            return value
        if kind in ("int", "float", "str") and type(value) is str and len(value) <= MAX_TEXT:
            return self._scalar(kind, value)
        if kind in ("tuple", "list") and type(value) is list:
            parts = [self(part, depth + 1) for part in value]
            return tuple(parts) if kind == "tuple" else parts
        if kind == "dict" and type(value) is list:
            if not all(type(pair) is list and len(pair) == 2 and type(pair[0]) is str for pair in value):
                raise WireError("a dict that is not made of pairs")
            return {key: self(part, depth + 1) for key, part in value}
        if kind in ("tensor", "array"):
            return self._array(tagged, torch_kind=kind == "tensor")
        if self._modules and kind == "generator":
            return self._generator(self(value, depth + 1))
        if self._modules and kind == "sequential":
            return self._sequential(tagged, depth)
        if self._resolve is not None and kind in ("name", "handle"):
            return self._resolve(tagged)
        raise WireError("an unknown kind of value")

    def _scalar(self, kind: str, text: str) -> int | float | str:
        if kind == "str":
            return text
        if len(text) > 1000:
            raise WireError("a number of too many digits")
        try:
            return int(text, 16) if kind == "int" else float.fromhex(text)
        except (ValueError, OverflowError):
            raise WireError("text that is no number, in a number's place") from None

    def _array(self, tagged: dict, torch_kind: bool) -> Any:
        dtype, shape, index = tagged.get("dtype"), tagged.get("shape"), tagged.get("blob")
        if type(dtype) is not str or dtype not in DTYPES or (dtype == "bfloat16" and not torch_kind):
            raise WireError("an array of an unknown dtype")
        if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
            raise WireError("an array without a proper shape")
        if not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise WireError("an array without a proper shape")
        if type(index) is not int or not 0 <= index < len(self._blobs):
            raise WireError("an array without its bytes")
        if index in self._used:  # one blob for many arrays would grow in memory without limit
            raise WireError("two arrays of the same bytes")
        self._used.add(index)
        blob = self._blobs[index]
        if math.prod(shape) * DTYPES[dtype] != len(blob):
            raise WireError("an array whose shape does not fit its bytes")
        stored = {"bool": "uint8", "bfloat16": "int16"}.get(dtype, dtype)
        flat = np.frombuffer(blob, dtype=np.dtype(stored).newbyteorder("<")).astype(stored)
        try:
            array = flat.reshape(shape)
        except ValueError:  # no elements, but sides whose product numpy cannot hold
            raise WireError("an array without a proper shape") from None
        if dtype == "bool":
            array = array != 0  # any other byte than 0 and 1 would be no truth value
        if not torch_kind:
            return array
        import torch

        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor

    def _generator(self, state: Any) -> Any:
        import torch

        made = torch.Generator()
        made.set_state(state)
        return made

    def _sequential(self, tagged: dict, depth: int) -> Any:
        import torch

        layers = [getattr(torch.nn, name)(**self(settings, depth + 1)) for name, settings in tagged["v"]]
        module = torch.nn.Sequential(*layers)
        module.load_state_dict(self(tagged["state"], depth + 1), assign=True)  # with the dtype that was sent
        return module.train(tagged["training"])
