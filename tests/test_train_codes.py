"""The command line's second stage: a prior over the codes of a VQ-VAE, resumed, measured and drawn from."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from course_lib.train import main

TINY = ["--data", "digits", "--device", "cpu", "--no-progress", "--size", "quick", "--batch-size", "20"]
TINY += ["--set", "train_size=100", "--set", "validation_images=50", "--set", "validate_every=4"]
TINY += ["--set", "sample_every=100", "--steps", "8", "--set", "width=8", "--set", "prior_channels=8"]


def result(folder):
    return json.loads((Path(folder) / "result.json").read_text())


@pytest.mark.parametrize(("model", "levels"), [("vqvae", ("",)), ("vqvae2", ("_top", "_bottom"))])
def test_the_prior_follows_the_autoencoder(tmp_path, model, levels):
    folder = tmp_path / "run"
    assert main([model, *TINY, "--set", "prior_steps=8", "--out", str(folder)]) == 0
    found = result(folder)
    places = 16 + 4 * (model == "vqvae2")
    assert found["test_uniform_rate"] == pytest.approx(places * math.log(32), rel=1e-5)
    assert 0 < found["test_rate"] < 2 * found["test_uniform_rate"]
    assert found["test_distortion"] == pytest.approx(found["test_recon"], rel=1e-4)
    # 17 grey levels, a sixteenth apart
    bits = (found["test_rate"] + found["test_distortion"]) / (64 * math.log(2)) + 4
    assert found["test_bits_per_dim"] == pytest.approx(bits, rel=1e-4)
    for level in levels:
        assert 1 <= found[f"test_perplexity{level}"] <= found[f"test_codes_used{level}"] <= 32
    with open(folder / "prior" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert float(rows[-1]["val_loss"]) > 0
    assert (folder / "samples" / "final.png").stat().st_size > 1000


def test_a_run_that_is_resumed_goes_on_in_its_second_stage(tmp_path):
    """With the prior's checkpoint as it stands, and with more steps of the autoencoder, whose codes are new ones."""
    folder = tmp_path / "run"
    assert main(["vqvae", *TINY, "--set", "prior_steps=4", "--out", str(folder)]) == 0
    before, checkpoint = result(folder), folder / "prior" / "checkpoint-8.pt"
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 4
    assert main(["--resume", str(folder), "--device", "cpu", "--no-progress"]) == 0
    assert result(folder)["test_rate"] == pytest.approx(before["test_rate"], rel=1e-6)
    assert main(["--resume", str(folder), "--steps", "12", "--device", "cpu", "--no-progress"]) == 0
    assert (folder / "prior" / "checkpoint-12.pt").exists()
    assert result(folder)["test_rate"] != pytest.approx(before["test_rate"], rel=1e-6)


def test_without_steps_there_is_no_prior(tmp_path):
    folder = tmp_path / "run"
    assert main(["vqvae", *TINY, "--set", "prior_steps=0", "--out", str(folder)]) == 0
    assert not (folder / "prior").exists()
    assert "test_rate" not in result(folder)


@pytest.mark.parametrize("wrong", ["prior_steps=-1", "prior_lr=0.0"])
def test_wrong_settings_are_refused(tmp_path, wrong, capsys):
    assert main(["vqvae", *TINY, "--set", wrong, "--out", str(tmp_path / "run")]) == 2
    assert wrong.split("=")[0] in capsys.readouterr().err
