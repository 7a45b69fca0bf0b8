"""The command line of the autoregressive models: what pixels they learn, resuming, what is reported."""

import json
import math
from pathlib import Path

import pytest
import torch

from course_lib.train import main

TINY = (
    "--set",
    "train_size=100",
    "--set",
    "validate_every=10",
    "--set",
    "sample_every=20",
    "--batch-size",
    "10",
)
SMALL = ("--set", "channels=8", "--set", "layers=2", "--set", "kernel_size=3", "--set", "head_channels=8")


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return main([*arguments, "--no-progress", "--device", "cpu"])


def result(folder):
    found = json.loads(Path(folder, "result.json").read_text())
    found.pop("train_seconds", None)
    return found


@pytest.mark.parametrize("levels", [(), ("--set", "levels=5")], ids=["binarised anew", "5 levels"])
def test_a_resumed_run_learns_the_same_pixels(in_tmp, levels):
    """Without `levels` grey digits are binarised anew each time; a resumed run must not cut them at one half."""
    start = (
        "gated-pixelcnn",
        "--data",
        "glyphs",
        *TINY,
        *SMALL,
        *levels,
        "--set",
        "schedule=constant",
        "--set",
        "image_size=8",
    )
    assert run(*start, "--out", "whole", "--steps", "12") == 0
    assert run(*start, "--out", "parts", "--steps", "7") == 0
    assert run("--resume", "parts", "--steps", "12") == 0
    assert result("whole") == result("parts")
    settings = json.loads(Path("parts", "config.json").read_text())["settings"]
    assert settings["levels"] == (5 if levels else None)


def test_what_is_reported(in_tmp):
    """Nats an image, their standard error, bits per dimension; samples as pictures."""
    options = ("--set", "image_size=8", "--out", "run", "--steps", "10")
    assert run("pixelcnn", "--data", "glyphs", *TINY, "--set", "hidden=4", "--set", "blocks=1", *options) == 0
    found = result("run")
    assert found["test_bits_per_dim"] == pytest.approx(found["test_nll"] / (64 * math.log(2)))
    assert 0 < found["test_nll"] < 64 * math.log(2) * 1.5
    assert found["test_nll_stderr"] > 0
    assert Path("run", "samples", "final.png").stat().st_size > 500
    assert torch.load("run/checkpoint.pt", weights_only=True)["step"] == 10
