"""The command line's translators: their recipes are the papers', runs on pairs and without, what is measured."""

import json

import pytest
import torch

from course_lib import evaluation, models
from course_lib.adversarial.cyclegan import linear_decay
from course_lib.train import MODELS, SCHEDULES, main, resolve

TINY = ["--size", "quick", "--steps", "4", "--no-progress", "--device", "cpu", "--precision", "32-true"]
for setting in (
    "train_size=16",
    "validate_every=2",
    "sample_every=4",
    "checkpoint_every=2",
    "validation_images=5",
    "image_size=16",
    "width=4",
):
    TINY += ["--set", setting]


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("size", "side", "generator"), [("full", 128, 41_828_995), ("paper", 256, 54_413_955)]
)
def test_pix2pix_on_facades_is_the_paper_s(size, side, generator):
    settings, special = resolve("pix2pix", "facades", size, {})
    assert (settings.image_size, settings.batch_size, settings.epochs, settings.lr) == (side, 1, 200, 2e-4)
    assert settings.schedule == "constant"
    with torch.device("meta"):
        model = MODELS["pix2pix"]((3, side, side), **special)
    assert (model.l1_weight, model.gan_weight) == (100, 1)
    assert model.discriminator.receptive_field() == 70
    assert (count(model.generator), count(model.discriminator)) == (generator, 2_768_705)


@pytest.mark.parametrize("name", ["facades", "horse2zebra"])
@pytest.mark.parametrize(
    ("size", "side", "generator"), [("full", 128, 7_837_699), ("paper", 256, 11_378_179)]
)
def test_cyclegan_on_photographs_is_the_paper_s(name, size, side, generator):
    settings, special = resolve("cyclegan", name, size, {})
    assert (settings.image_size, settings.batch_size, settings.epochs, settings.lr) == (side, 1, 200, 2e-4)
    factor = SCHEDULES[settings.schedule]
    assert [factor(step, settings, 400) for step in (0, 1_000, 4_000)] == [
        linear_decay(step, settings.steps) for step in (0, 1_000, 4_000)
    ]
    with torch.device("meta"):
        model = MODELS["cyclegan"]((3, side, side), **special)
    assert (model.cycle, model.identity, len(model.history_a.pool)) == (10, 5, 50)
    assert [count(n) for n in (model.g_ab, model.d_b)] == [generator, 2_764_737]


@pytest.mark.parametrize(
    ("model", "name", "terms"),
    [
        ("pix2pix", "facades_synthetic", {"l1", "energy"}),
        ("cyclegan", "facades_synthetic", {"cycle_a", "cycle_b"}),
        ("cyclegan", "sprites", {"cycle_a", "cycle_b"}),
    ],
)
def test_a_run_writes_its_folder_and_can_be_resumed(model, name, terms, tmp_path, capsys):
    out = str(tmp_path / "run")
    more = {"facades_synthetic": ["--set", "d_depth=1"], "sprites": ["--set", "train_size=80"]}[name]
    if (model, name) == ("cyclegan", "facades_synthetic"):
        more += ["--set", "downsamplings=1", "--set", "blocks=1"]
    assert main([model, "--data", name, *TINY, *more, "--out", out]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {f"test_{term}" for term in terms} <= set(result)
    assert all(0 <= result[f"test_{term}"] < 10 for term in terms)
    assert (tmp_path / "run" / "samples" / "step_0000004.png").exists()
    assert (tmp_path / "run" / "samples" / "final.png").exists()
    assert main(["--resume", out, "--steps", "6", "--no-progress", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 6


def test_what_pix2pix_is_judged_by():
    """A generator that draws grey: L1 from the truth, no gradients."""
    from types import SimpleNamespace

    from course_lib import data
    from course_lib.adversarial.pix2pix import pix2pix

    pairs = data.load("facades_synthetic", "val", size=30, image_size=16)
    model = pix2pix((3, 16, 16), width=2, d_depth=1)
    model.translate = lambda x, generator: torch.full_like(x, 0.5)
    found = evaluation.translation_terms(model, pairs)
    truth = pairs.tensor()[1]
    assert found == {"l1": pytest.approx((truth - 0.5).abs().mean().item(), rel=1e-5), "energy": 0}
    shown, labels = evaluation._translations(model, *pairs.batch(range(3)))
    assert len(shown) == len(labels) == 3
    assert torch.equal(shown[2], truth[:3])
    assert not models.is_translator(SimpleNamespace(translate=None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pix2pix", "--data", "sprites"], "pix2pix learns from pairs of pictures; sprites has none"),
        (["dcgan", "--data", "facades_synthetic"], "facades_synthetic has pairs"),
        (["cyclegan", "--data", "digits"], "'digits' has no two sides"),
        (
            ["cyclegan", "--data", "sprites", "--set", "ema=0.9", "--set", "train_size=40"],
            "no average of weights",
        ),
        (["cyclegan", "--data", "sprites", "--set", "schedule=zhou"], "unknown schedule 'zhou'"),
    ],
)
def test_wrong_usage_names_what_is_known(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--no-progress", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
