"""The probe study of StyleGAN: the silhouette, the probe, and who is counted as whose."""

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.adversarial.stylegan import stylegan
from course_lib.adversarial.stylegan_study import (
    FACTORS,
    FIELDS,
    SETTINGS,
    Probe,
    aligned_sprites,
    main,
    mixing_shares,
    probe_accuracy,
    read_results,
    silhouette,
    stored,
    summary,
    train_probe,
    write_results,
)
from course_lib.data import load
from course_lib.study_table import store_weights


def test_aligned_sprites_are_plain_about_upright_and_in_the_middle():
    ours, originals = aligned_sprites("test", 300), load("sprites", "test", size=300)
    assert ours.images.shape == (300, 3, 32, 32)
    assert ours.factors["texture"].max() == ours.factors["backdrop"].max() == 0
    for name, limit in (("x", 0.085), ("y", 0.085), ("turn", 8)):
        assert limit / 2 < ours.factors[name].abs().max() <= limit + 1e-6
    for name in ("shape", "colour", "background"):
        assert torch.equal(ours.factors[name], originals.factors[name])
    torch.testing.assert_close(ours.factors["size"], 1.4 * originals.factors["size"])
    assert not torch.equal(ours.images, originals.images)
    x = ours.tensor()  # nothing reaches the corners, and of a plain background they are all alike
    assert torch.equal(x[:, :, 0, 0], x[:, :, -1, -1])
    assert torch.equal(x[:, :, 0, -1], x[:, :, -1, 0])


def test_a_silhouette_forgets_colours_and_keeps_the_outline():
    inside = torch.zeros(1, 1, 8, 8)
    inside[:, :, 2:6, 3:7] = 1
    for background, colour in (((0.1, 0.2, 0.3), (0.9, 0.1, 0.5)), ((0.6, 0.5, 0.4), (0.1, 0.9, 0.2))):
        a, b = (torch.tensor(c).view(1, 3, 1, 1) for c in (background, colour))
        torch.testing.assert_close(silhouette(a + (b - a) * inside), inside)
    assert silhouette(torch.full((1, 3, 8, 8), 0.4)).abs().max() == 0


def test_a_little_training_names_colours_and_shapes_better_than_chance():
    probe = train_probe(steps=60, n=500)
    accuracy = probe_accuracy(probe, 200)
    assert accuracy["background"] > 0.6  # chance: 1/6
    assert accuracy["colour"] > 0.4  # 1/10
    assert accuracy["shape"] > 0.3  # 1/6
    assert not any(p.requires_grad for p in probe.parameters())
    assert probe(torch.rand(2, 3, 32, 32)).shape == (2, 96)


class ByLayers(nn.Module):
    """A generator whose shape is layer 0's w, whose colour is layer 2's; background: of neither where they differ."""

    n_layers = 3

    def __init__(self):
        super().__init__()
        self.mapping = nn.Identity()
        self.mapping.latent_dim = 3

    def styles(self, z, psi):
        return z[:, None].expand(-1, 3, -1)

    def synthesize(self, ws):
        return ws

    def factors(self, ws):
        def value(x):
            return (x > 0).long()

        both = torch.where((ws[:, :1] == ws).all(dim=(1, 2)), value(ws[:, 0, 2]), 5)
        return {"shape": value(ws[:, 0, 0]), "colour": value(ws[:, 2, 1]), "background": both}


def test_shares_count_whose_factor_the_mixed_picture_has():
    network = ByLayers()
    rows = mixing_shares(network, network, 200)
    found = {(row["crossover"], row["factor"]): (row["from_a"], row["from_b"]) for row in rows}
    assert len(rows) == 4 * len(FACTORS)
    for crossover in range(4):
        assert found[crossover, "shape"] == ((1, 0) if crossover > 0 else (0, 1))
        assert found[crossover, "colour"] == ((1, 0) if crossover > 2 else (0, 1))
    assert found[0, "background"] == (0, 1)
    assert found[1, "background"] == found[2, "background"] == (0, 0)  # neither's
    assert found[3, "background"] == (1, 0)


def test_without_crossing_over_all_is_from_one_source():
    torch.manual_seed(0)
    generator, probe = stylegan((3, 32, 32), ema=None).generator, Probe().eval()
    for row in mixing_shares(generator, probe, 20, crossovers=(0, generator.n_layers)):
        expected = (0.0, 1.0) if row["crossover"] == 0 else (1.0, 0.0)
        found = row["from_a"], row["from_b"]
        assert found == expected or np.isnan(found).all()  # an untrained probe may name all alike


@pytest.mark.parametrize("setting", SETTINGS)
def test_weights_are_stored_and_read_back(tmp_path, setting):
    torch.manual_seed(0)
    generator, probe = stylegan((3, 32, 32), **SETTINGS[setting], ema=None).generator, Probe()
    generator.w_avg.normal_()
    store_weights({"generator": generator}, tmp_path / f"stylegan_{setting}.npz")
    store_weights({"probe": probe}, tmp_path / "stylegan_probe.npz")
    again, probe_again = stored(setting, tmp_path)
    assert not again.training
    ws = generator.styles(torch.randn(2, 32))
    torch.testing.assert_close(again.synthesize(ws), generator.synthesize(ws), rtol=0.02, atol=0.02)
    torch.testing.assert_close(again.w_avg, generator.w_avg, rtol=1e-3, atol=1e-3)
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(probe_again(x), probe(x), rtol=0.01, atol=0.01)


def test_the_table_is_written_below_its_command_and_read_back(tmp_path):
    numbers = dict.fromkeys(FIELDS[6:], 2.0)
    rows = [
        {
            "setting": "demodulate",
            "seed": 0,
            "crossover": c,
            "factor": f,
            "from_a": c / 2,
            "from_b": 1 - c / 2,
        }
        | numbers
        for c in range(3)
        for f in FACTORS
    ]
    write_results(rows, tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith("# python -m course_lib.adversarial.stylegan_study --run\n")
    assert read_results(tmp_path / "t.csv") == rows
    lines = summary(rows).splitlines()
    assert lines[0].startswith("demodulate, seeds: 1. Fréchet 2.0")
    assert lines[2].split() == ["shape", "of", "A,", "%", "0", "50", "100"]


def test_the_command_refuses_unknown_settings():
    with pytest.raises(SystemExit):
        main(["--run", "--only", "magic"])


# ---- what is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_stored_probe_knows_real_sprites_and_the_stored_generators_are_the_table_s(setting):
    generator, probe = stored(setting)
    assert not any(p.requires_grad for p in [*generator.parameters(), *probe.parameters()])
    assert min(probe_accuracy(probe).values()) > 0.98  # 1 when it was trained
    rows = {
        (r["crossover"], r["factor"]): r for r in read_results() if r["seed"] == 0 and r["setting"] == setting
    }
    for found in mixing_shares(generator, probe, crossovers=(4,)):  # the table's own pairs
        stated = rows[found["crossover"], found["factor"]]
        assert found["from_a"] == pytest.approx(stated["from_a"], abs=0.02)  # weights in half precision
        assert found["from_b"] == pytest.approx(stated["from_b"], abs=0.02)


def test_coarse_styles_carry_the_shape_and_fine_ones_the_colour():
    middle = [r for r in read_results() if r["setting"] == "adain" and r["crossover"] == 4]
    for seed in {r["seed"] for r in middle}:
        share = {r["factor"]: r for r in middle if r["seed"] == seed}
        assert share["colour"]["from_b"] > 0.7 > 0.1 > share["colour"]["from_a"]
        assert share["shape"]["from_a"] > share["colour"]["from_a"] + 0.2


def test_the_table_has_every_crossover_of_every_run_and_whole_mixtures_at_its_ends():
    rows = read_results()
    runs = {(r["setting"], r["seed"]) for r in rows}
    assert len(rows) == len(runs) * 9 * len(FACTORS)
    for row in rows:
        if row["crossover"] in (0, 8):
            expected = (0.0, 1.0) if row["crossover"] == 0 else (1.0, 0.0)
            assert (row["from_a"], row["from_b"]) == expected
