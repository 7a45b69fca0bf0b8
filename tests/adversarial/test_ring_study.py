"""The default setting covers the ring, the other collapses, and the stored table says so, too."""

from dataclasses import replace

import pytest

from course_lib.adversarial.ring_study import (
    COLLAPSE,
    DEFAULT,
    RESULTS,
    SETTINGS,
    main,
    read_results,
    run,
    summary,
    write_results,
)


def test_the_default_setting_covers_all_modes_in_a_third_of_its_steps():
    _, found = run(replace(DEFAULT, steps=1_300))
    assert found["modes"] == 8
    assert found["high_quality"] > 0.8
    assert found["rarest_mode"] > 0.03


def test_the_other_setting_collapses():
    _, found = run(replace(COLLAPSE, steps=700))
    assert found["modes"] <= 2


def test_the_stored_table_has_every_setting_and_the_numbers_that_the_lecture_quotes():
    rows = read_results()
    assert {row["setting"] for row in rows} == set(SETTINGS)
    default = [row for row in rows if row["setting"] == "default"]
    assert len(default) >= 10
    assert sum(row["modes"] == 8 and row["high_quality"] >= 0.9 for row in default) >= 9
    assert max(row["cpu_seconds"] for row in default) < 30
    collapse = [row for row in rows if row["setting"] == "collapse"]
    assert len(collapse) >= 3
    assert max(row["modes"] for row in collapse) <= 2


def test_the_table_is_written_below_its_command_and_read_back(tmp_path):
    row = {
        "setting": "default",
        "seed": 0,
        "modes": 8,
        "high_quality": 0.95,
        "rarest_mode": 0.1,
        "cpu_seconds": 9.0,
    }
    write_results([row, {**row, "seed": 1, "high_quality": 0.85}], tmp_path / "t.csv")
    assert (
        (tmp_path / "t.csv").read_text().startswith("# python -m course_lib.adversarial.ring_study --run\n")
    )
    assert read_results(tmp_path / "t.csv")[0] == row
    assert summary(read_results(tmp_path / "t.csv")).splitlines()[1].split() == (
        ["default", "2", "8.0", "(8", "to", "8)", "90.0", "(85", "to", "95)", "1", "9.0"]
    )


def test_reading_and_writing_back_changes_nothing(tmp_path):
    write_results(read_results(), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == RESULTS.read_text()


def test_the_command_prints_the_stored_table_and_refuses_unknown_settings(capsys):
    assert main([]) == 0
    assert "collapse" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--run", "--only", "magic"])
