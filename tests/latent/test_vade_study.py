"""VaDE's clusters of digits: the stored table says what the lecture quotes, and a short run makes rows like its own."""

import statistics
from dataclasses import replace

import pytest
import torch

from course_lib.data import load
from course_lib.latent import vade_study
from course_lib.latent.vade_study import (
    BASELINES,
    BEFORE,
    COPIES,
    DEFAULT,
    FIELDS,
    NETWORKS,
    ORDER,
    RESULTS,
    SCORES,
    SEEDS,
    changed_copies,
    main,
    read_results,
    run,
    summary,
    write_results,
)

SHORT = replace(DEFAULT, width=8, latent_dim=6, pretrain_steps=300, steps=20)


def check(row: dict, setting: str, seed: int) -> None:
    assert tuple(row) == FIELDS
    assert (row["setting"], row["seed"]) == (setting, seed)
    assert all(0.3 < row[f"{split}_accuracy"] <= 1 for split in ("train", "test"))  # by chance: 0.15
    assert all(0.25 < row[f"{split}_nmi"] <= 1 for split in ("train", "test"))
    assert row["cpu_seconds"] >= 0


def test_a_short_run_of_the_vade_gives_its_two_rows_and_finds_clusters():
    name = "VaDE, no changes"
    rows = run(name, 3, replace(SHORT, augment=None), train_size=400)
    for row, setting in zip(rows, (BEFORE[name], name), strict=True):
        check(row, setting, 3)


def test_a_run_repeats_with_its_seed():
    first, second = (
        run("VaDE", 1, replace(SHORT, pretrain_steps=10, steps=5), train_size=200) for _ in range(2)
    )
    assert [[row[key] for key in SCORES] for row in first] == [[row[key] for key in SCORES] for row in second]


@pytest.mark.parametrize("name", ["k-means", "GMM on PCA, diagonal", "GMM on PCA, balanced"])
def test_a_baseline_gives_one_row(name):
    (row,) = run(name, 0, train_size=400)
    check(row, name, 0)


def test_baselines_on_changed_copies_learn_from_those_and_are_scored_on_the_pictures(monkeypatch):
    seen = {}

    def remember(x, seed):
        seen["x"] = x
        return lambda images: torch.arange(len(images)) % 10

    monkeypatch.setattr(vade_study, "k_means", remember)
    (row,) = run("k-means, changed copies", 0, train_size=100)
    train = load("digits", "train", size=100).tensor()
    assert seen["x"].shape == (COPIES * 100, 1, 8, 8)
    assert not any(torch.equal(part, train) for part in seen["x"].split(100))
    assert (seen["x"].view(COPIES, 100, -1) - train.view(100, -1)).abs().mean() < 0.3  # but like them
    assert row["train_accuracy"] < 0.35
    assert torch.equal(seen["x"], changed_copies(train))


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"unknown method 'x'; there are: k-means, .*VaDE"):
        run("x")


# --- The stored table -------------------------------------------------------------------------------------------


def mean(method: str, score: str) -> float:
    return statistics.mean(row[score] for row in read_results() if row["setting"] == method)


def test_the_stored_table_has_five_seeds_of_every_method():
    rows = read_results()
    assert tuple(dict.fromkeys(row["setting"] for row in rows)) == ORDER
    assert set(ORDER) == {*BASELINES, *NETWORKS, *BEFORE.values()}
    for method in ORDER:
        assert [row["seed"] for row in rows if row["setting"] == method] == list(SEEDS)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("other", [*BASELINES, "VaDE, no changes"])
def test_in_the_stored_table_vade_is_better_than_every_baseline(other, score):
    assert mean("VaDE", score) > mean(other, score)


def test_the_table_is_written_below_its_command_in_its_order_and_read_back(tmp_path):
    write_results(read_results()[::-1], tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith("# python -m course_lib.latent.vade_study --run\n")
    assert text == RESULTS.read_text()


def test_the_summary_has_means_and_standard_deviations():
    row = {
        "setting": "VaDE",
        "seed": 0,
        "train_nmi": 0.5,
        "test_accuracy": 0.7,
        "test_nmi": 0.6,
        "cpu_seconds": 9.0,
    }
    rows = [{**row, "train_accuracy": value} for value in (0.8, 0.9)]
    assert summary(rows).splitlines()[1].split() == (
        ["VaDE", "2", "85.0", "±", "7.1", "50.0", "±", "0.0", "70.0", "±", "0.0", "60.0", "±", "0.0", "9.0"]
    )


def test_the_command_measures_what_it_is_asked_to_and_keeps_the_other_rows(monkeypatch, tmp_path, capsys):
    path = tmp_path / "t.csv"
    old = [
        dict.fromkeys(SCORES, 0.5) | {"setting": s, "seed": 2, "cpu_seconds": 1.0}
        for s in ("k-means", "VaDE")
    ]
    write_results(old, path)
    monkeypatch.setattr(vade_study, "read_results", lambda: read_results(path))
    monkeypatch.setattr(vade_study, "write_results", lambda rows: write_results(rows, path))
    monkeypatch.setattr(vade_study, "RESULTS", path)
    monkeypatch.setattr(
        vade_study, "run", lambda name, seed: [dict(old[0], setting=name, seed=seed, train_accuracy=0.75)]
    )
    assert main(["--run", "--only", "k-means", "--seeds", "2"]) == 0
    found = {(row["setting"], row["seed"]): row["train_accuracy"] for row in read_results(path)}
    assert found == {("k-means", 2): 0.75, ("k-means", 3): 0.75, ("VaDE", 2): 0.5}
    assert "k-means" in capsys.readouterr().out


def test_the_command_prints_the_stored_table_and_refuses_no_seeds(capsys):
    assert main([]) == 0
    assert "GMM on PCA, full" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--run", "--seeds", "0"])
