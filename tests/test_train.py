"""The command line: recipes that resolve, errors that help, runs that can be resumed, on one process and on two."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import data, evaluation, metrics, models, train
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


ADVERSARIAL = ("gan", "dcgan", "wgan-gp", "stylegan")
TRANSLATORS = ("pix2pix", "cyclegan")  # in test_train_translation.py


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ADVERSARIAL + TRANSLATORS])
def test_every_model_builds_from_its_recipe_and_has_a_loss(model):
    _, special = resolve(model, "digits", "full", {})
    network = MODELS[model]((1, 8, 8), **special)
    levels = special.get("levels", 2)  # grey values, or integer levels
    x = torch.rand(3, 1, 8, 8) if levels == 2 else torch.randint(levels, (3, 1, 8, 8))
    terms = network.loss(x, torch.zeros(3, dtype=torch.int64))
    assert torch.isfinite(terms["loss"])


@pytest.mark.parametrize("model", ADVERSARIAL)
@pytest.mark.parametrize("name", ["digits", "glyphs", "sprites", "mnist", "cifar10_jpeg", "toy2d/ring"])
def test_every_adversarial_model_builds_for_its_data_with_the_run_s_learning_rates(model, name):
    settings, special = resolve(model, name, "full", {"lr": 0.01, "lr_end": 0.002, "eps": 1e-6, "ema": 0.5})
    if name == "toy2d/ring":
        if model in ("dcgan", "stylegan"):  # for pictures only
            return
        shape = (2,)
    else:
        channels, side, _ = data.describe(name).shape
        shape = (channels, *[settings.image_size or side] * 2)
    torch.manual_seed(0)
    narrow = {"width": 4} if "width" in special else {}
    game = train.make_algorithm(MODELS[model](shape, **special | narrow), settings, 10)
    batch = torch.rand(10, *shape)
    game.step((batch, torch.zeros(10)))  # the average begins here
    assert all(v.isfinite() for v in game.step((batch, torch.zeros(10))).values())
    # With lazy regularisation, k steps become k + 1, each shorter by k/(k + 1).
    every = model_keys(model).get("r1_every")
    d_lr = 0.01 * special.get("d_lr_factor", 1.0) * (every / (every + 1) if every else 1)
    assert game.g_optimizer.param_groups[0]["initial_lr"] == 0.01
    assert game.d_optimizer.param_groups[0]["initial_lr"] == pytest.approx(d_lr)
    assert game.d_optimizer.param_groups[0]["lr"] < d_lr  # the schedule runs
    assert game.g_optimizer.param_groups[0]["eps"] == 1e-6
    assert game.sample(2).shape == (2, *shape)
    assert not torch.equal(*(next(n.parameters()) for n in (game.generator, game.ema.module)))


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


def test_mnist_recipe_is_that_of_jiang_et_al():
    settings, special = resolve("vade", "mnist", "full", {})
    assert (special["hidden"], special["latent_dim"]) == ([500, 500, 2000], 10)
    assert (settings.batch_size, settings.lr, settings.schedule) == (100, 2e-3, "jiang")
    factor = train.SCHEDULES["jiang"]
    epochs = (0, 9.99, 10, 25, 215, 220, 1000)
    found = [factor(int(epoch * 600), settings, 600) for epoch in epochs]
    assert found == pytest.approx([1, 1, 0.9, 0.81, 0.9**21, 0.1, 0.1])


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
        (["vade", "--data", "digits", "--set", "pretrain_steps=0"], "pretrain_steps=0: expected at least 1"),
        (["dcgan", "--data", "digits", "--set", "image_size=28", "--precision", "32-true"], "power of two"),
        (
            ["dcgan", "--data", "digits", "--set", "normalise=group", "--precision", "32-true"],
            "unknown normalise",
        ),
        (["dcgan", "--data", "digits", "--set", "strided=1"], "strided=1: expected bool"),
        (["gan", "--data", "digits", "--set", "loss=l1"], "unknown loss 'l1'; the known ones are: minimax"),
        (["gan", "--data", "digits", "--set", "clip_grad=1.0"], "neither clip_grad nor levels"),
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


def test_a_vade_has_its_three_stages_and_reports_its_clusters(in_tmp):
    """The autoencoder's steps have a checkpoint of their own; what follows resumes as any other run does."""
    options = ("--set", "pretrain_steps=30", "--set", "hidden=[32]", "--set", "schedule=constant")
    start = ("vade", "--data", "digits", *options, "--out")
    assert tiny(*start, "whole", "--steps", "20") == 0
    assert tiny(*start, "parts", "--steps", "13") == 0
    pretrained = Path("parts", "pretrained.pt")
    stage = torch.load(pretrained, weights_only=True)
    assert stage["step"] == 30
    pretrained.unlink()  # the resumed run does not need it
    assert tiny("--resume", "parts", "--steps", "20") == 0
    assert not pretrained.exists()
    whole, parts = (json.loads(Path(name, "result.json").read_text()) for name in ("whole", "parts"))
    del whole["train_seconds"], parts["train_seconds"]
    assert whole == parts
    assert whole["test_elbo"] == pytest.approx(-whole["test_recon"] - whole["test_kl"])
    assert 0 < whole["test_kl"] < 50  # the mixture began where the codes were
    assert 0 < whole["nll"] < 200
    row = rows("whole")[-1]
    assert {"recon", "kl", "log_p_z_given_c", "log_p_c", "entropy_z", "entropy_c"} <= row.keys()
    assert {"val_cluster_accuracy", "val_cluster_nmi"} <= row.keys()


def test_clusters_are_compared_with_the_labels_under_their_best_naming():
    digits = data.load("digits", "test")
    named = iter(((digits.labels + 3) % 10).split(500))  # the right clusters by other names
    model = models.vade((1, 8, 8), hidden=(8,))
    model.cluster = lambda x, generator: next(named)
    terms = evaluation.clustering_terms(model, digits)
    assert (terms["cluster_accuracy"], terms["cluster_nmi"]) == (1.0, pytest.approx(1.0))
    assert terms["elbo"] == pytest.approx(-terms["loss"], rel=1e-5)


def test_a_vade_that_is_stopped_in_its_first_stage_goes_on_there(in_tmp, monkeypatch):
    import course_lib.training

    options = ("--set", "pretrain_steps=30", "--set", "hidden=[8]", "--out", "run", "--steps", "10")
    original = course_lib.training.fit

    def interrupted(*arguments, steps, **keywords):
        history = original(*arguments, steps=12, **keywords)
        history.interrupted = True
        return history

    monkeypatch.setattr(course_lib.training, "fit", interrupted)
    assert tiny("vade", "--data", "digits", *options) == 130
    assert torch.load("run/pretrained.pt", weights_only=True)["step"] == 12
    monkeypatch.setattr(course_lib.training, "fit", original)
    assert tiny("--resume", "run") == 0
    assert torch.load("run/pretrained.pt", weights_only=True)["step"] == 30
    assert json.loads(Path("run", "result.json").read_text())["steps"] == 10


def test_a_discrete_vae_resumes_at_its_temperature(in_tmp):
    """From 1 to 0.01 over 20 steps: the rows of steps 1–10, 11–20 and 21–30 have these means of τ."""
    options = ("--set", "temperature=1.0", "--set", "final_temperature=0.01", "--set", "anneal_steps=20")
    start = ("discrete-vae", "--data", "digits", "--out", "run", *options)
    assert tiny(*start, "--steps", "13") == 0
    assert tiny("--resume", "run", "--steps", "30") == 0
    tau = [0.01 ** (min(step, 20) / 20) for step in range(30)]
    expected = [sum(tau[start : start + 10]) / 10 for start in (0, 10, 20)]
    assert [float(row["temperature"]) for row in rows("run")] == pytest.approx(expected, rel=1e-4)
    result = json.loads(Path("run", "result.json").read_text())
    assert result["test_elbo"] == pytest.approx(-result["test_recon"] - result["test_kl"])
    assert 0 < result["nll"] < 200


def test_a_vqvae_resumes_with_its_codebook_and_reports_its_rate(in_tmp):
    start = ("vqvae", "--data", "digits", "--set", "schedule=constant", "--out")
    assert tiny(*start, "whole", "--steps", "20") == 0
    assert tiny(*start, "parts", "--steps", "13") == 0
    assert tiny("--resume", "parts", "--steps", "20") == 0
    whole, parts = (json.loads(Path(name, "result.json").read_text()) for name in ("whole", "parts"))
    del whole["train_seconds"], parts["train_seconds"]
    assert whole == parts
    assert whole["test_kl"] == pytest.approx(16 * math.log(32), rel=1e-6)  # 4×4 places, 32 codes
    assert whole["test_elbo"] == pytest.approx(-whole["test_recon"] - whole["test_kl"])
    assert 1 <= whole["test_perplexity"] <= 32
    assert {"commitment", "perplexity", "val_perplexity"} <= rows("whole")[-1].keys()
    assert Path("whole", "samples", "final.png").exists()


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


@pytest.mark.parametrize("model", ["gan", "wgan-gp"])
def test_adversarial_models_of_the_ring_count_its_modes(model, in_tmp):
    assert tiny(model, "--data", "toy2d/ring", "--steps", "20", "--out", "run") == 0
    result = json.loads(Path("run", "result.json").read_text())
    assert 0 <= result["test_modes"] <= 8
    assert 0 <= result["test_high_quality"] <= 1
    row = rows("run")[-1]
    assert {"d_loss", "g_loss", "val_modes", "val_high_quality", "val_d_gap"} <= row.keys()
    assert ("wasserstein" in row) == (model == "wgan-gp")
    assert Path("run", "samples", "final.png").exists()


def test_a_dcgan_is_judged_by_its_samples_and_can_be_resumed(in_tmp, monkeypatch):
    asked = []

    def extractor(name, **options):
        asked.append((name, options["image_size"]))
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())

    monkeypatch.setattr(metrics, "feature_extractor", extractor)
    start = (
        "dcgan",
        "--data",
        "digits",
        "--set",
        "width=2",
        "--set",
        "strided=false",
        "--precision",
        "32-true",
    )
    start += ("--set", "schedule=constant", "--set", "log_every=1", "--out")
    assert tiny(*start, "whole", "--steps", "20") == 0
    assert tiny(*start, "parts", "--steps", "13") == 0
    assert tiny("--resume", "parts", "--steps", "20") == 0
    assert set(asked) == {("digits", 16)}
    whole, parts = (json.loads(Path(name, "result.json").read_text()) for name in ("whole", "parts"))
    del whole["train_seconds"], parts["train_seconds"]
    assert whole == parts
    assert whole["test_frechet"] > 0
    assert 0 <= whole["test_precision"] <= 1
    assert {"val_frechet", "val_recall", "val_d_gap", "d_accuracy_real"} <= rows("whole")[-1].keys()
    assert {p.name for p in Path("whole", "samples").iterdir()} == {"step_0000020.png", "final.png"}


def test_the_judge_gives_the_measured_distances_of_the_samples():
    """Samples that are the data: no distance, everything covered, no gap."""
    points, pictures = data.load("toy2d/ring", "val"), data.load("digits", "val", image_size=16)

    def judged(name, dataset, shape, image_size=None):
        game = models.gan(shape)
        examples = dataset.batch(range(len(dataset)))[0]
        parts = iter(examples.split(500))
        game.sample = lambda n, generator: next(parts)
        return evaluation.SampleJudge(name, image_size, None)(game, dataset)

    assert judged("toy2d/ring", points, (2,)) == {
        "d_gap": 0.0,
        "modes": 8,
        "high_quality": pytest.approx(0.989, abs=0.01),
    }
    found = judged("digits", pictures, (1, 16, 16), 16)
    assert found == {"d_gap": 0.0, "frechet": pytest.approx(0, abs=1e-6), "precision": 1.0, "recall": 1.0}


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
