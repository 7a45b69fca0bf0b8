"""The measures of the translation studies on pictures whose truth is known, and what a run of them does."""

import pytest
import torch
from torch import nn

from course_lib.adversarial import translation_study as study
from course_lib.adversarial.pix2pix import pix2pix
from course_lib.adversarial.translation_study import (
    CONTENT,
    CYCLEGAN_SETTINGS,
    PIX2PIX_SETTINGS,
    PLAIN,
    STRIPES,
    STUDIES,
    Training,
    draw,
    gradient_energy,
    judge,
    main,
    measure_cyclegan,
    read_content,
    train_cyclegan,
    train_pix2pix,
)
from course_lib.data import load, load_unpaired


@pytest.fixture(scope="module")
def test_set():
    return load_unpaired("sprites", "test", size=240)


class Redraw(nn.Module):
    """Knows the truth: draws each picture of a set with another texture or, as a bad translator, other factors."""

    def __init__(self, sources, **changes):
        super().__init__()
        self.known = [(source.tensor(), draw(source.factors, **changes)) for source in sources]

    def forward(self, pictures):
        for known, drawn in self.known:
            if known.shape == pictures.shape and torch.equal(known, pictures):
                return drawn
        return pictures


class Translator:
    """The interface of CycleGAN that is judged."""

    def __init__(self, to_b, to_a):
        self.to = {"b": to_b, "a": to_a}

    def translate(self, pictures, to):
        return self.to[to](pictures)


def test_gradient_energy_by_hand_and_under_blur():
    picture = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert gradient_energy(picture).item() == pytest.approx((0.25 + 0.25) / 2 + (1.0 + 0.0) / 2)
    sharp = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blurred = nn.functional.avg_pool2d(sharp, 3, 1, 1)
    assert (gradient_energy(blurred) < 0.5 * gradient_energy(sharp)).all()
    with pytest.raises(ValueError, match="at least 2 × 2"):
        gradient_energy(torch.zeros(1, 1, 1, 5))


class Painter:
    """The interface of Pix2Pix that is measured: the true pictures, changed."""

    def __init__(self, change):
        self.change = change
        self.maps, self.truth = load("facades_synthetic", "test", size=24, image_size=16).tensor()

    def translate(self, x, generator):
        which = [int((self.maps == one).flatten(1).all(1).nonzero()[0]) for one in x]
        return self.change(self.truth[which], generator)


def test_measures_of_pix2pix_on_known_answers():
    found = study.measure_pix2pix(Painter(lambda y, _: y), size=24, image_size=16)
    assert found == {"l1": 0, "energy": 1, "noise": 0}
    found = study.measure_pix2pix(Painter(lambda y, _: 0.5 + 0.5 * (y - 0.5)), size=24, image_size=16)
    assert found["energy"] == pytest.approx(0.25)
    assert found["noise"] == 0
    noisy = Painter(lambda y, generator: y + 0.1 * torch.randn(y.shape, generator=generator))
    found = study.measure_pix2pix(noisy, size=24, image_size=16)
    assert found["l1"] == pytest.approx(0.1 * (2 / torch.pi) ** 0.5, rel=0.02)  # E|N(0, σ²)| = σ √(2/π)
    assert found["noise"] == pytest.approx(0.2 / torch.pi**0.5, rel=0.02)  # a difference has variance 2σ²


def test_stored_pictures_come_back_and_those_of_other_settings_stay(tmp_path):
    path = tmp_path / "pictures.npz"
    torch.manual_seed(0)
    models = {name: pix2pix((3, 16, 16), width=2, init_std=None) for name in ("L1", "cGAN")}
    for name, model in models.items():
        study.store_pictures(name, model, path, image_size=16)
    study.store_pictures("L1", models["cGAN"], path, image_size=16)
    found = study.stored_pictures(path)
    maps, _ = load("facades_synthetic", "test", size=study.SHOWN, image_size=16).tensor()
    drawn = models["cGAN"].translate(maps, torch.Generator().manual_seed(0))
    assert set(found) == {"L1", "cGAN"}
    for pictures in found.values():
        torch.testing.assert_close(pictures, drawn, rtol=0, atol=0.5 / 255 + 1e-6)


def test_drawings_are_the_data(test_set):
    for side in (test_set.first, test_set.second):
        torch.testing.assert_close(draw(side.factors), side.tensor(), rtol=0, atol=1e-6)


def test_a_perfect_translation_is_judged_perfect(test_set):
    first, second = test_set.first, test_set.second
    perfect = Translator(Redraw([first], texture=STRIPES), Redraw([second], texture=PLAIN))
    found = measure_cyclegan(perfect, test_set)
    for way in ("ab", "ba"):
        assert found[f"content_{way}"] == 1
        assert all(found[f"{name}_{way}"] == 1 for name in CONTENT)
        assert found[f"style_{way}"] > 0.97  # the classifier's own errors


def test_what_translates_nothing_keeps_the_content_and_the_style(test_set):
    found = measure_cyclegan(Translator(nn.Identity(), nn.Identity()), test_set)
    for way in ("ab", "ba"):
        assert found[f"content_{way}"] == 1
        assert found[f"style_{way}"] < 0.03
    assert found["cycle"] == 0


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_factor_is_seen(test_set, name):
    """Every picture drawn with value 0 of one factor, and striped: only those that had it keep it."""
    factors = test_set.first.factors
    pictures = draw(factors, **{name: 0, "texture": STRIPES})
    assert (read_content(pictures, factors)[name] == 0).all()
    found = judge(pictures, factors, STRIPES)
    assert found[name] == pytest.approx((factors[name] == 0).float().mean().item(), abs=1e-6)
    others = {other: found[other] for other in CONTENT if other != name}
    assert min(others.values()) > 0.9, others  # a wrong factor hides no other
    assert found["style"] > 0.9  # dark stripes on night are harder to see


def test_settings_name_what_exists_and_change_one_thing():
    for settings in (PIX2PIX_SETTINGS, CYCLEGAN_SETTINGS):
        assert sum(not changes for changes in settings.values()) == 1
    for setting in PIX2PIX_SETTINGS.values():
        model = train_pix2pix(Training(0, 4, changes={"width": 2, **setting}), image_size=16)
        assert model.discriminator.depth == 2
    for setting in CYCLEGAN_SETTINGS.values():
        model = train_cyclegan(Training(0, 4, changes={"width": 2, "d_width": 2, **setting}))
        assert model.cycle == setting.get("cycle", 10.0)


def test_a_run_stores_its_rows_and_prints_them(monkeypatch, tmp_path, capsys):
    from dataclasses import replace

    kept = []
    short = replace(
        STUDIES["pix2pix"],
        path=tmp_path / "table.csv",
        training=Training(1, 2, "32-true", {"width": 2}),
        quick=Training(1, 2, "32-true", {"width": 2}),
        train=lambda training, seed: train_pix2pix(training, seed, image_size=16),
        measure=lambda model: study.measure_pix2pix(model, size=4, image_size=16),
        keep=lambda setting, model: kept.append(setting),
    )
    monkeypatch.setitem(STUDIES, "pix2pix", short)
    assert main(["pix2pix", "--run", "--seeds", "2", "--only", "L1", "cGAN"]) == 0
    assert main(["pix2pix", "--run", "--seeds", "1", "--only", "L1"]) == 0
    rows = study.read_results("pix2pix", short.path)
    assert [(row["setting"], row["seed"]) for row in rows] == [("L1", 0), ("cGAN", 0), ("cGAN", 1)]
    assert short.path.read_text().startswith(
        "# python -m course_lib.adversarial.translation_study pix2pix --run"
    )
    assert kept == ["L1", "cGAN", "L1"]  # the first seed's, each time
    capsys.readouterr()
    assert main(["pix2pix"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("L1 ")
    before = short.path.read_text()
    assert main(["pix2pix", "--quick", "--seeds", "1", "--only", "L1"]) == 0
    assert short.path.read_text() == before
    assert len(kept) == 3
    with pytest.raises(SystemExit):
        main(["pix2pix", "--run", "--only", "L2"])
