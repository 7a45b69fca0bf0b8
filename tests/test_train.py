"""The command line: recipes that resolve, errors that help, runs that can be resumed, on one process and on two."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import data, metrics, train
from course_lib.train import MODELS, Settings, main, model_keys, recipe, recipe_sizes, resolve

TINY = ["--set", "train_size=200", "--set", "validate_every=10", "--set", "sample_every=20"]
TINY += ["--set", "checkpoint_every=10", "--nll-k", "3", "--nll-images", "5", "--batch-size", "20"]


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(*arguments):
    return main([*arguments, *(() if "--resume" in arguments else TINY), "--no-progress", "--device", "cpu"])


def rows(folder):
    with open(Path(folder) / "metrics.csv") as file:
        return list(csv.DictReader(file))


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("model", MODELS)
def test_every_recipe_resolves_and_names_known_data(model):
    tables = recipe(model)
    assert "default" in tables
    for name in tables:
        if name not in ("default", "toy2d"):
            data.describe(name)
        known = "digits" if name == "default" else "toy2d/ring" if name == "toy2d" else name
        for size in recipe_sizes(model, known):
            settings, special = resolve(model, known, size, {})
            assert isinstance(settings, Settings)
            assert special.keys() <= model_keys(model).keys()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_builds_from_its_recipe_and_has_a_loss(model):
    _, special = resolve(model, "digits", "full", {})
    network = MODELS[model]((1, 8, 8), **special)
    terms = network.loss(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(terms["loss"])


def test_later_layers_win(monkeypatch):
    tables = {
        "default": {
            "lr": 0.5,
            "lr_end": 0.1,
            "beta": 2.0,
            "steps": 7,
            "quick": {"steps": 3, "batch_size": 9},
        },
        "toy2d": {"batch_size": 11, "quick": {"beta": 3.0}},
        "toy2d/ring": {"latent_dim": 2},
    }
    monkeypatch.setattr(train, "recipe", lambda model: tables)
    settings, special = resolve("vae", "toy2d/ring", "full", {})
    assert (settings.lr, settings.steps, settings.batch_size) == (0.5, 7, 11)
    assert special == {"beta": 2.0, "latent_dim": 2}
    settings, special = resolve("vae", "toy2d/ring", "quick", {"beta": 4.0})
    assert (settings.steps, settings.batch_size) == (3, 9)
    assert special == {"beta": 4.0, "latent_dim": 2}
    assert recipe_sizes("vae", "toy2d/ring") == ("full", "quick")


def test_mnist_recipe_is_that_of_burda_et_al():
    _, special = resolve("vae", "mnist", "full", {})
    assert (special["hidden"], special["latent_dim"], special["activation"]) == ([200, 200], 50, "tanh")
    assert special["likelihood"] == "bernoulli-dynamic"
    long, _ = resolve("vae", "mnist", "burda", {})
    assert (long.batch_size, long.eps, long.beta2, long.epochs) == (
        20,
        1e-4,
        0.999,
        sum(3**i for i in range(8)),
    )


def test_schedules_begin_and_end_where_they_should():
    settings = replace(Settings(), steps=3280 * 5, lr=1e-3, lr_end=1e-4)
    epoch = 5
    for name in ("cosine", "burda"):
        factor = train.SCHEDULES[name]
        assert factor(0, settings, epoch) == pytest.approx(1)
        assert factor(settings.steps - 1, settings, epoch) == pytest.approx(0.1, rel=1e-4)
    stage = [train.SCHEDULES["burda"](step, settings, epoch) for step in (4, 5, 19, 20, 64, 65)]
    assert stage == pytest.approx([1, *[10 ** (-1 / 7)] * 2, *[10 ** (-2 / 7)] * 2, 10 ** (-3 / 7)])
    assert train.SCHEDULES["cosine"](settings.steps // 2, settings, epoch) == pytest.approx(0.55, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vea", "--data", "digits"], "unknown model 'vea'; the known ones are: linear-autoencoder, "),
        (["vae", "--data", "digitz"], "unknown data set 'digitz'; the known ones are: digits, glyphs, "),
        (["vae"], "--data NAME is missing; the known ones are: digits"),
        ([], "which MODEL?"),
        (
            ["vae", "--data", "digits", "--size", "huge"],
            "no size 'huge' in the recipes of vae for digits; there is",
        ),
        (
            ["vae", "--data", "digits", "--set", "latent=3"],
            "unknown setting 'latent'; vae knows: latent_dim, ",
        ),
        (["vae", "--data", "digits", "--set", "latent_dim"], "expected key=value"),
        (["vae", "--data", "digits", "--set", "latent_dim=2.5"], "latent_dim=2.5: expected int"),
        (["vae", "--data", "digits", "--set", "hidden=5"], "hidden=5: expected a list"),
        (["vae", "--data", "digits", "--set", "steps=true"], "steps=True: expected int"),
        (
            ["vae", "--data", "digits", "--set", "schedule=step"],
            "unknown schedule 'step'; the known ones are: constant",
        ),
        (["vae", "--data", "digits", "--set", "activation=rulu"], "unknown activation 'rulu'"),
        (["vae", "--data", "digits", "--set", "likelihood=poisson"], "unknown likelihood 'poisson'"),
        (["vae", "--data", "digits", "--steps", "0"], "steps=0: expected at least 1"),
        (["vae", "--data", "facades_synthetic", "--set", "train_size=5"], "facades_synthetic has pairs"),
        (["--resume", "nowhere"], "there is no config.json"),
    ],
)
def test_wrong_usage_names_what_is_known(arguments, message, in_tmp, capsys):
    assert main([*arguments, "--no-progress", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(in_tmp.iterdir()) == []


def test_help_lists_models_data_sets_recipes_and_settings(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in (
        *MODELS,
        *data.names(),
        "burda",
        "latent_dim=20",
        "schedule='cosine'",
        "--resume",
        "--devices",
    ):
        assert name in text


# ------------------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("model", ["vae", "conv-autoencoder"])
def test_a_run_writes_its_folder(model, in_tmp, capsys):
    assert tiny(model, "--data", "digits", "--steps", "25", "--out", "run", "--set", "latent_dim=3") == 0
    run = in_tmp / "run"
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["steps"] == 25
    assert config["model_settings"]["latent_dim"] == 3
    assert [row["step"] for row in rows(run)] == ["10", "20"]
    assert all(float(row["loss"]) > 0 and float(row["val_loss"]) > 0 for row in rows(run))
    assert {p.name for p in (run / "samples").iterdir()} == {"step_0000020.png", "final.png"}
    result = json.loads((run / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["steps"] == 25
    if model == "vae":
        assert result["test_elbo"] == pytest.approx(-result["test_recon"] - result["test_kl"])
        assert 0 < result["nll"] < 200  # 64 pixels at random cost 64 log 2 = 44 nats
    else:
        assert "nll" not in result


def test_a_folder_is_not_overwritten_and_can_be_resumed(in_tmp, capsys):
    start = ("vae", "--data", "digits", "--out")
    assert tiny(*start, "whole", "--steps", "30", "--set", "schedule=constant") == 0
    assert tiny(*start, "parts", "--steps", "13", "--set", "schedule=constant") == 0
    assert tiny(*start, "parts") == 2
    assert "--resume parts" in capsys.readouterr().err
    assert tiny("--resume", "parts", "--lr", "0.1") == 2
    assert tiny("--resume", "parts", "autoencoder") == 2
    assert tiny("--resume", "parts", "--steps", "30") == 0

    def without_clock(row):
        return {key: value for key, value in row.items() if key != "seconds"}

    assert list(map(without_clock, rows("whole"))) == list(map(without_clock, rows("parts")))
    whole, parts = (json.loads(Path(name, "result.json").read_text()) for name in ("whole", "parts"))
    assert whole["nll"] == parts["nll"]


def test_a_run_that_diverges_says_so(in_tmp, capsys):
    code = tiny("autoencoder", "--data", "digits", "--steps", "30", "--lr", "1e30", "--out", "run")
    assert code == 1
    assert "training stopped" in capsys.readouterr().err


def test_average_of_weights_is_what_is_evaluated(in_tmp):
    options = ("--steps", "20", "--set", "ema=0.99", "--set", "schedule=constant")
    assert tiny("vae", "--data", "digits", "--out", "run", *options) == 0
    assert tiny("vae", "--data", "digits", "--out", "plain", *options[:2], *options[4:]) == 0
    losses = [float(rows(name)[-1]["val_loss"]) for name in ("run", "plain")]
    assert losses[0] > losses[1]  # after 20 steps the average is still near the beginning


def test_likelihood_is_measured_on_one_binarisation_of_each_image(in_tmp, monkeypatch):
    """A fresh binarisation for each group of samples would make the estimate several nats too good."""
    given = []
    original = metrics.importance_nll
    monkeypatch.setattr(metrics, "importance_nll", lambda m, x, **o: given.append(x) or original(m, x, **o))
    for name in ("a", "b"):
        assert tiny("vae", "--data", "digits", "--steps", "2", "--out", name) == 0
    assert given[0].shape == (5, 1, 8, 8)
    assert set(given[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(*given)


def test_points_of_the_plane_can_be_trained_on(in_tmp):
    assert tiny("vae", "--data", "toy2d/ring", "--steps", "20", "--out", "run") == 0
    assert (in_tmp / "run" / "samples" / "final.png").exists()


# ---------------------------------------------------------------------------------------------- as a command, in full


def command(*arguments):
    return [sys.executable, "-m", "course_lib.train", *arguments, "--no-progress", "--device", "cpu"]


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("LT_")} | {"OMP_NUM_THREADS": "1"}


def test_two_devices(in_tmp):
    out = in_tmp / "run"
    start = command("vae", "--data", "digits", "--steps", "12", "--devices", "2", "--out", str(out), *TINY)
    done = subprocess.run(start, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MEMBER: 2/2" in done.stderr
    assert json.loads((out / "result.json").read_text())["steps"] == 12
    assert [row["step"] for row in rows(out)] == ["10"]
    assert len(torch.load(out / "checkpoint.pt", weights_only=True)["random"]) == 2


def test_ctrl_c_exits_130_and_says_how_to_resume(in_tmp):
    out = in_tmp / "run"
    start = command("vae", "--data", "digits", "--steps", "1000000", "--out", str(out), *TINY)
    process = subprocess.Popen(start, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert f"--resume {out}" in error
    step = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert f"Interrupted after step {step:,} of 1,000,000" in error
