"""The ablation of DCGAN: what a run does, and that the stored table holds what the lecture says."""

from dataclasses import replace
from statistics import mean

import pytest
import torch

from course_lib.adversarial.dcgan import dcgan
from course_lib.adversarial.dcgan_study import (
    COMPARED,
    DEFAULT,
    FIELDS,
    REFERENCES,
    SETTINGS,
    Judge,
    main,
    pictures,
    read_results,
    summary,
    train,
    write_results,
)


def rows_of(setting):
    return [row for row in read_results() if row["setting"] == setting]


def distances(setting):
    return [row["frechet"] for row in rows_of(setting)]


def test_every_setting_but_two_changes_one_thing_of_the_default():
    for name, settings in SETTINGS.items():
        changes = len(settings.changes)
        assert changes == (0 if name.startswith("default") else 1), name
        assert settings.steps == DEFAULT.steps
        assert settings.batch == DEFAULT.batch
        assert (settings.precision == DEFAULT.precision) == (name != "default, float32")
    for settings in SETTINGS.values():
        dcgan((1, 32, 32), **{"width": 2, **settings.changes})  # the names of the changes exist


def test_real_pictures_are_near_and_the_untrained_generator_is_far():
    judge = Judge()
    near, far = judge(pictures("real")), judge(pictures("untrained"))
    for name, found in (("real", near), ("untrained", far)):  # the stored rows come from this code
        stored = rows_of(name)[0]
        assert found["frechet"] == pytest.approx(stored["frechet"], rel=1e-3)
        assert found["recall"] == pytest.approx(stored["recall"], abs=0.01)
    assert far["frechet"] > 20 * near["frechet"]
    assert pictures("real", 1).shape == (COMPARED, 1, 32, 32)


def test_some_steps_bring_the_pictures_nearer():
    short = replace(DEFAULT, precision="32-true", changes={"width": 16, "ema": None})
    judge, random = Judge(), torch.Generator().manual_seed(0)
    distance = [judge(train(replace(short, steps=n)).sample(COMPARED, random))["frechet"] for n in (0, 150)]
    assert distance[0] > 500
    assert distance[1] < 0.8 * distance[0]


def test_the_stored_table_is_complete():
    rows = read_results()
    assert all(tuple(row) == FIELDS for row in rows)
    for name in (*SETTINGS, *REFERENCES):
        assert [row["seed"] for row in rows_of(name)] == list(range(len(rows_of(name)))), name
        assert len(rows_of(name)) >= 3, name
    assert all(0 <= row[key] <= 1 for row in rows for key in ("precision", "recall"))


def test_the_stored_table_has_what_the_lecture_quotes():
    assert max(distances("default")) < min(distances("untrained")) / 4
    assert max(distances("real")) < min(distances("default"))
    assert max(row["cpu_seconds"] for row in rows_of("default")) < 60


def test_bfloat16_is_within_the_spread_over_seeds():
    half, full = distances("default"), distances("default, float32")
    spread = max(*half, *full) - min(*half, *full)
    assert abs(mean(half) - mean(full)) < spread
    assert mean(half) < 1.25 * mean(full)


def test_the_table_is_written_below_its_command_and_read_back(tmp_path):
    row = {
        "setting": "default",
        "seed": 0,
        "frechet": 20.0,
        "precision": 0.25,
        "recall": 0.5,
        "cpu_seconds": 9.0,
    }
    write_results([row, {**row, "seed": 1, "frechet": 30.0}], tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith("# python -m course_lib.adversarial.dcgan_study --run\n")
    assert read_results(tmp_path / "t.csv")[0] == row
    write_results(read_results(tmp_path / "t.csv"), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == text
    line = summary(read_results(tmp_path / "t.csv")).splitlines()[1].split()
    assert line[:6] == ["default", "2", "25.0", "(20.0", "to", "30.0)"]
    assert line[6:] == ["25.0", "(25.0", "to", "25.0)", "50.0", "(50.0", "to", "50.0)", "9"]


def test_the_command_prints_the_stored_table_and_refuses_unknown_settings(capsys):
    assert main([]) == 0
    assert "no batch norm" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--run", "--only", "magic"])
