"""The comparison of all families: fair budgets, likelihoods of the right kind, full rows, and a stored table that is
complete and says what lecture 17 quotes."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib import compare, train
from course_lib.compare import (
    BASELINES,
    CONTESTANTS,
    FIELDS,
    ORDER,
    RESULTS,
    SHOWN,
    SIDE,
    binary,
    density,
    drawn,
    hamming,
    latent_space,
    likelihood,
    main,
    outputs,
    printed,
    read_results,
    read_samples,
    run,
    search,
    spherical_middle,
    summary,
    train_contestant,
    write_results,
    write_samples,
)
from course_lib.models import is_adversarial, is_autoregressive

STEP = 0.125  # seconds that a step takes by the clock of `by_the_clock`


@pytest.fixture(scope="module")
def judge():
    return compare.Judge()


@pytest.fixture
def untrained(monkeypatch):
    """Contestants as they are before their first step."""
    monkeypatch.setattr(compare, "_seconds_per_step", lambda *_: 1.0)
    monkeypatch.setattr(
        compare, "_fit", lambda model, settings, batches, steps: train.make_algorithm(model, settings, 1)
    )


@pytest.fixture
def by_the_clock(monkeypatch):
    """No training: a clock that moves on by `STEP` for every step that is asked for. Returns the stages' steps."""
    clock, stages = [0.0], []

    def fit(model, settings, batches, steps, callbacks=()):
        for _ in range(steps):
            clock[0] += STEP
            for _, function in callbacks:
                function()
        if not callbacks:
            stages.append(steps)
        return train.make_algorithm(model, settings, 1)

    monkeypatch.setattr(compare, "time", SimpleNamespace(process_time=lambda: clock[0]))
    monkeypatch.setattr(compare, "_fit", fit)
    monkeypatch.setattr(
        compare.VaDE, "initialise_from_gmm", lambda *_, **__: clock.__setitem__(0, clock[0] + 1)
    )
    return stages


# --- The budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PixelCNN", [80]),  # 10 s / STEP
        ("VaDE", [20, 52]),  # 2.5 s, 1 s of the mixture, the other 6.5 s
        ("VQ-VAE + PixelCNN", [40, 40]),
    ],
)
def test_all_stages_of_a_training_fill_one_budget(by_the_clock, name, expected):
    found = train_contestant(name, 10.0)
    assert by_the_clock == expected
    assert found.steps == sum(expected)
    assert found.seconds == pytest.approx(10.0)


def test_a_name_that_nobody_has_and_a_budget_of_nothing_are_refused():
    with pytest.raises(ValueError, match=r"one of VAE, .* got 'pix2pix'"):
        train_contestant("pix2pix")
    with pytest.raises(ValueError, match="a budget > 0"):
        train_contestant("VAE", 0.0)
    with pytest.raises(ValueError, match="unknown setting 'x'; there are: independent pixels"):
        run("x")


# --- Contestants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_contestant_is_built_draws_pictures_and_is_what_the_table_says(untrained, name):
    model = train_contestant(name, 1.0).model
    x = outputs(model, 2, torch.Generator().manual_seed(0))
    assert x.shape == (2, 1, SIDE, SIDE)
    assert x.min() >= 0
    assert x.max() <= 1
    assert set(drawn(model, x, torch.Generator().manual_seed(0)).unique().tolist()) <= {0.0, 1.0}
    kind = "exact" if is_autoregressive(model) else "none" if is_adversarial(model) else "bound"
    assert density(name) == CONTESTANTS[name].density == kind
    assert (latent_space(model) is None) == (CONTESTANTS[name].latent == "none") == (kind == "exact")
    if CONTESTANTS[name].latent == "encoder":
        space, test = latent_space(model), binary("test").tensor()[:2]
        assert space.decode(space.encode(test)).shape == test.shape


def test_the_samples_of_a_gan_are_rounded_and_those_of_a_decoder_drawn():
    x = torch.full((1, 1, 100, 100), 0.6)
    random = torch.Generator().manual_seed(0)
    assert printed(x).mean() == 1
    assert drawn(nn.Identity(), x, random).mean() == pytest.approx(0.6, abs=0.02)  # 4 standard errors


@pytest.mark.parametrize("name", ["VAE", "GAN"])
def test_a_short_run_gives_a_full_row(judge, name):
    row, samples = run(name, 0, 0.3, judge)
    assert set(row) == set(FIELDS)
    none = {key for key, value in row.items() if isinstance(value, float) and math.isnan(value)}
    assert none == {"VAE": {"naive_ms"}, "GAN": {"naive_ms", "nats", "elbo_nats"}}[name]
    assert row["steps"] >= 1
    assert 0 <= row["precision"] <= 1
    assert 0 < row["wrong_pixels"] < 0.6
    assert samples.shape == (2, SHOWN, SIDE, SIDE)
    assert samples.dtype == bool


def test_a_bound_by_importance_sampling_is_not_above_the_elbo_and_a_gan_has_neither(judge, untrained):
    terms = likelihood(train_contestant("VAE", 1.0).model)
    assert terms["nats"] < terms["elbo_nats"]
    assert all(math.isnan(v) for v in likelihood(train_contestant("GAN", 1.0).model).values())


# --- What the numbers are made of -------------------------------------------------------------------------------------


def test_hamming_counts_the_pixels_that_differ():
    a, b = (torch.rand(n, 1, 4, 5).round() for n in (6, 7))
    expected = (a[:, None] != b[None]).flatten(2).sum(2).float()
    assert torch.equal(hamming(a, b), expected)


def test_the_density_of_the_copies_sums_to_one(monkeypatch):
    monkeypatch.setattr(compare, "SIDE", 2)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    memory = every[[3, 5, 5]]
    nats = [compare._kernel_nats(hamming(x[None], memory), torch.tensor(0.1)) for x in every]
    assert sum(math.exp(-value) for value in nats) == pytest.approx(1, abs=1e-6)


def test_independent_pixels_and_copies_have_the_likelihood_that_a_loop_finds():
    test = compare.judged_pictures().tensor()
    x = binary("train").tensor()
    p = (x.double().sum(0) + 1) / (len(x) + 2)
    logs = torch.where(test.bool(), p.log(), (1 - p).log()).flatten(1).sum(1)
    nats, samples, _, count = compare.independent_pixels(2_000, torch.Generator().manual_seed(0))
    assert nats == pytest.approx(-logs.mean().item(), rel=1e-5)
    assert count == SIDE**2
    assert (samples.mean(0) - p).abs().max() < 0.06  # over 5 standard errors of 2,000 draws
    nats, clean, noisy, _ = compare.copies(5, torch.Generator().manual_seed(0))
    assert hamming(clean, x).min(dim=1).values.max() == 0
    assert hamming(noisy, x).min(dim=1).values.min() > 0
    assert 0 < nats < -logs.mean().item()


def test_half_way_on_the_sphere_is_as_long_as_the_ends():
    a, b = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.allclose(spherical_middle(a, b).norm(dim=1), (a.norm(dim=1) + b.norm(dim=1)) / 2)
    assert torch.allclose(spherical_middle(a, a), a, atol=1e-6)


def test_the_search_finds_a_z_that_makes_the_picture():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    with torch.no_grad():
        generator[0].weight.mul_(5)
        x = generator(torch.randn(4, 8)).round()
    z = search(generator, x, 8)
    assert (generator(z).round() != x).float().mean() < 0.02
    assert all(p.grad is None for p in generator.parameters())


def test_copies_are_found_by_their_distance_and_noise_by_its_features(judge):
    random = torch.Generator().manual_seed(0)
    memory, noise = binary("train").tensor()[:300], torch.rand(300, 1, SIDE, SIDE, generator=random).round()
    assert judge(memory)["nearest"] == 0
    assert judge(noise)["nearest"] > 5
    assert judge(noise)["frechet"] > 10 * judge(memory)["frechet"]
    assert judge.precision(memory) > 0.5 > judge.precision(noise)


# --- The stored table -------------------------------------------------------------------------------------------------


def mean(setting, key):
    return compare.mean(read_results(), setting, key)


def test_the_stored_table_has_the_same_seeds_of_every_setting():
    rows = read_results()
    assert tuple(dict.fromkeys(row["setting"] for row in rows)) == ORDER
    seeds = {setting: [row["seed"] for row in rows if row["setting"] == setting] for setting in ORDER}
    assert all(its == seeds[ORDER[0]] and its for its in seeds.values())


def test_the_stored_table_has_likelihoods_of_their_kinds_and_one_budget():
    for row in read_results():
        kind = density(row["setting"])
        assert math.isnan(row["nats"]) == (kind == "none")
        assert math.isnan(row["elbo_nats"]) == (kind != "bound")
        if kind == "bound":
            assert row["nats"] <= row["elbo_nats"]
        if row["setting"] in CONTESTANTS:
            assert compare.BUDGET / 2 < row["cpu_seconds"] < 1.5 * compare.BUDGET


def test_the_stored_table_says_what_the_lecture_quotes():
    learned = [setting for setting in CONTESTANTS if mean(setting, "frechet") < mean("copies", "frechet")]
    assert not learned
    assert mean("copies", "frechet") < mean("real pictures", "frechet")
    assert mean("copies", "nearest") == 0
    exact = [s for s in CONTESTANTS if density(s) == "exact"]
    assert max(mean(s, "nats") for s in exact) < mean("copies", "nats") < mean("independent pixels", "nats")


def test_the_stored_samples_are_black_and_white_pictures_of_every_setting():
    samples = read_samples()
    assert tuple(samples) == ORDER
    for x in samples.values():
        assert x.shape == (2, SHOWN, 1, SIDE, SIDE)
        assert set(x.unique().tolist()) == {0.0, 1.0}
    assert hamming(samples["copies"][0], binary("train").tensor()).min(dim=1).values.max() == 0


def test_tables_and_samples_are_written_and_read_back(tmp_path):
    write_results(read_results()[::-1], tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert text.startswith("# python -m course_lib.compare --run\n")
    assert text == RESULTS.read_text()
    x = torch.rand(2, SHOWN, SIDE, SIDE).round()
    write_samples({"GAN": x.numpy()}, tmp_path / "s.npz")
    assert torch.equal(read_samples(tmp_path / "s.npz")["GAN"], x.unsqueeze(2))


def test_the_summary_marks_what_is_exact_and_what_is_a_bound():
    row = {**dict.fromkeys(FIELDS, 1.0), "seed": 0}
    lines = summary([{**row, "setting": s} for s in ("PixelCNN", "VAE", "GAN")]).splitlines()[1:]
    assert [line.split("1.0 (1.0 to 1.0)")[0].split()[-1] for line in lines] == ["=", "≤", "–"]
    assert BASELINES.keys() <= set(ORDER)


def test_the_command_prints_the_stored_table_and_refuses_unknown_settings(capsys):
    assert main([]) == 0
    assert "Gated PixelCNN" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--run", "--only", "pix2pix"])
