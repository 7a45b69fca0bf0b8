"""Weights that studies store: what comes back, from which setting, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.adversarial import translation_study as study
from course_lib.adversarial.translation_study import STORED, STUDIES, Training, measured, stored_translators
from course_lib.study_table import load_weights, store_weights


def networks(seed):
    torch.manual_seed(seed)
    return {"one": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "two": nn.Linear(2, 2)}


def test_weights_come_back_in_half_precision(tmp_path):
    kept, other = networks(0), networks(1)
    kept["one"][1].running_mean.fill_(0.3)
    path = tmp_path / "deeper" / "weights.npz"
    store_weights(kept, path)
    load_weights(other, path)
    assert [p.name for p in path.parent.iterdir()] == ["weights.npz"]  # no half-written file is left
    for name, network in other.items():
        assert not network.training
        for key, value in network.state_dict().items():
            assert torch.equal(value, kept[name].state_dict()[key].half().to(value.dtype)), (name, key)
        assert not any(p.requires_grad for p in network.parameters())


def test_weights_of_another_build_or_name_are_refused(tmp_path):
    store_weights(networks(0), tmp_path / "weights.npz")
    with pytest.raises(KeyError, match="holds no network 'three'"):
        load_weights({"three": nn.Linear(2, 2)}, tmp_path / "weights.npz")
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights({"two": nn.Linear(2, 3)}, tmp_path / "weights.npz")


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The study with no training at all, in a folder of its own."""
    untrained = Training(0, 4, changes={"width": 2, "d_width": 2})
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    monkeypatch.setattr(study, "CYCLEGAN", untrained)
    changes = {"training": untrained, "quick": untrained, "measure": lambda model: {}}
    monkeypatch.setitem(STUDIES, "cyclegan", replace(STUDIES["cyclegan"], **changes))
    return untrained


def test_the_first_seeds_generators_are_kept(short, tmp_path):
    for setting in study.CYCLEGAN_SETTINGS:
        measured("cyclegan", setting, 1)
        measured("cyclegan", setting, 0, quick=True)
    assert not list(tmp_path.iterdir())
    for setting in study.CYCLEGAN_SETTINGS:
        measured("cyclegan", setting, 0)
    assert len(list(tmp_path.iterdir())) == len(STORED)
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for setting in STORED:
        trained = study.train_cyclegan(study._changed(short, **study.CYCLEGAN_SETTINGS[setting]), 0)
        read = stored_translators(setting)
        assert read.cycle == trained.cycle
        for to in ("a", "b"):
            torch.testing.assert_close(
                read.translate(picture, to), trained.translate(picture, to), rtol=0, atol=2e-3
            )
        assert not torch.allclose(read.translate(picture, "a"), read.translate(picture, "b"), atol=2e-3)
    with pytest.raises(ValueError, match="unknown setting 'no history'; the stored ones are: full, no cycle"):
        stored_translators("no history")


@pytest.mark.parametrize("setting", STORED)
def test_the_stored_generators_translate(setting):
    """Those in the repository, on 240 sprites: both change the style; with the cycle the content is kept, too."""
    test = study.load_unpaired("sprites", "test", size=240)
    model = stored_translators(setting)
    found = study.measure_cyclegan(model, test)
    assert min(found["style_ab"], found["style_ba"]) > 0.9
    assert math.isfinite(found["cycle"])
    if setting == "full":
        assert min(found["content_ab"], found["content_ba"]) > 0.9
        assert found["cycle"] < 0.05
