"""Where and in which precision to compute."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import time

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from course_lib.training.randomness import random_state_kept

# Lightning sets this variable when it is imported, against CUDA being initialised before a fork. With it,
# torch.cuda.is_available(), which every optimiser step asks, opens a driver library each time: 60 µs, a quarter
# of a small step. Nothing here forks.
os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

# Lightning announces the precision on stderr, which a notebook shows like a warning.
for _name in ("lightning.fabric", "lightning.pytorch"):
    logging.getLogger(f"{_name}.utilities.rank_zero").addFilter(
        lambda record: "Automatic Mixed Precision" not in record.getMessage()
    )

LAUNCHED_BY_FABRIC_RUN = "LT_CLI_USED"  # set by Fabric's command line, which has made the processes


def default_device() -> torch.device:
    """CUDA, then MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _checked(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return default_device()
    kind, _, index = str(device).partition(":")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here or not (index == "" or index.isdigit()):
        raise ValueError(
            f"device {str(device)!r}: expected auto, {', '.join(here)}, or one of them with a number (cuda:1)"
        )
    if not here[kind]:
        raise ValueError(f"device {str(device)!r} is not available to PyTorch on this machine")
    return torch.device(device)


def make_fabric(
    device: str | torch.device = "auto",
    precision: str = "32-true",
    strategy: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
) -> Fabric:
    """A launched ``Fabric``. Under ``fabric run`` the command line decides what it was told."""
    device = _checked(device)
    by_command_line = bool(int(os.environ.get(LAUNCHED_BY_FABRIC_RUN, "0")))
    if precision == "auto":
        # Processes have to agree, so several of them do not measure.
        alone = devices == 1 and num_nodes == 1 and not by_command_line
        precision = fastest_precision(device) if alone or device.type == "cuda" else "32-true"
    arguments = {
        "accelerator": device.type,
        "devices": devices if device.index is None or device.type == "cpu" else [device.index],
        "strategy": strategy,
        "num_nodes": num_nodes,
        "precision": precision,
    }
    if by_command_line:
        arguments = {k: v for k, v in arguments.items() if f"LT_{k.upper()}" not in os.environ}
        fabric = Fabric(**arguments)
    else:
        fabric = Fabric(**arguments)
        fabric.launch()
    if fabric.world_size > 1:
        _leave_process_group_at_exit()
    return fabric


@functools.cache  # once, however many times `fit` is called
def _leave_process_group_at_exit() -> None:
    """Stop gloo's threads before Python ends: one that asks for the interpreter after that aborts the process."""

    @atexit.register
    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@functools.cache
def fastest_precision(device: torch.device) -> str:
    """ "bf16-mixed" where it is faster than "32-true": by capability on CUDA, measured (0.1 s, once) on a CPU.

    CPUs with AMX or AVX-512-BF16 multiply bfloat16 several times faster; others emulate it, several times slower.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if supported else "32-true"
    if device.type != "cpu":
        return "32-true"
    with random_state_kept(device):
        networks = [
            (nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)), torch.randn(128, 512)),
            (nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()), torch.randn(8, 32, 16, 16)),
        ]
    plain, bf16 = (sum(_seconds(network, x, enabled) for network, x in networks) for enabled in (False, True))
    return (
        "bf16-mixed" if bf16 < 0.8 * plain else "32-true"
    )  # casts of small tensors cost, too: ask for a margin


def _seconds(network: nn.Module, x: Tensor, bf16: bool) -> float:
    """The least of a few forward and backward passes."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            y = network(x)
        y.float().sum().backward()
        times.append(time.perf_counter() - start)
    return min(times)
