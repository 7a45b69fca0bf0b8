"""The loop: exact resume, stopping well, checkpoints that are whole, and the user's own objects at the end."""

import copy
import csv
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from course_lib.training import (
    Algorithm,
    CheckpointError,
    History,
    NonFiniteError,
    SingleLoss,
    default_device,
    fastest_precision,
    fit,
    load_checkpoint,
    save_checkpoint,
    seed_everything,
)
from course_lib.training import loop as training_loop

N = 50


class Noisy(nn.Module):
    """A regression that draws from torch (dropout, noise) in every step."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.2), nn.Tanh(), nn.Linear(width, 1))

    def loss(self, x, y):
        error = (self.layers(x + 0.1 * torch.randn_like(x)) - y).square().mean()
        return {"loss": error, "error": error.detach().sqrt()}


class Augmented(Dataset):
    """Examples that draw from Python's and NumPy's generators each time they are shown."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        x = torch.full((4,), i / N) + 0.01 * random.random() + 0.01 * float(np.random.randn())  # noqa: NPY002
        return x, x.sum(0, keepdim=True)


def points(n=N):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(7))
    return TensorDataset(x, x.sum(1, keepdim=True))


def plain_loader():
    return DataLoader(points(), batch_size=8, shuffle=True)


LOADERS = {
    "shuffle": plain_loader,
    "own generator": lambda: DataLoader(
        points(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "weighted": lambda: DataLoader(points(), batch_size=8, sampler=WeightedRandomSampler([1.0] * N, N)),
    "random examples": lambda: DataLoader(Augmented(), batch_size=8, shuffle=True),
    "list of batches": lambda: list(DataLoader(points(), batch_size=8)),
}


def make(seed=0, width=8, lr=0.05):
    """Model, and everything that a step may have beside it."""
    torch.manual_seed(seed)
    model = Noisy(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    scheduler = CosineAnnealingLR(optimizer, T_max=300)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    return SingleLoss(model, optimizer, scheduler, ema, clip_grad=1.0)


def quiet_fit(algorithm, loader, **options):
    return fit(algorithm, loader, **{"device": "cpu", "progress": False, **options})


def assert_same_state(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same_state(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, list | tuple):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


# ---------------------------------------------------------------------------------------------------- exact resume


# 7 batches an epoch: stopped within one, at the end of one, after the very first
@pytest.mark.parametrize(
    ("name", "stop", "steps"),
    [("shuffle", 100, 200), *((name, stop, 35) for name in LOADERS for stop in (17, 14, 1))],
)
def test_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(name, stop, steps, tmp_path):
    whole, path = make(), tmp_path / "c.pt"
    history = quiet_fit(whole, LOADERS[name](), steps=steps)
    quiet_fit(make(), LOADERS[name](), steps=stop, checkpoint=path)
    random.seed(99)  # a new process would be in another state
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    second = make(seed=5)  # its initial weights are not those of the run
    resumed = quiet_fit(second, LOADERS[name](), steps=steps, checkpoint=path)
    assert_same_state(whole.state_dict(), second.state_dict())
    assert resumed.keys() == history.keys()
    for key in history:
        np.testing.assert_array_equal(history[key], resumed[key])
    np.testing.assert_array_equal(resumed.steps, np.arange(1, steps + 1))


def test_resume_is_exact_with_loader_workers(tmp_path):
    def loader():
        return DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=1)

    whole, second = make(), make()
    quiet_fit(whole, loader(), steps=9)
    quiet_fit(make(), loader(), steps=4, checkpoint=tmp_path / "c.pt")
    quiet_fit(second, loader(), steps=9, checkpoint=tmp_path / "c.pt")
    assert_same_state(whole.state_dict(), second.state_dict())


def test_every_example_is_seen_once_an_epoch_in_an_order_that_changes():
    seen = []

    class Note(Noisy):
        def loss(self, x, y):
            seen.append(x[:, 0].clone())
            return super().loss(x, y)

    model = Note()
    quiet_fit(SingleLoss(model, torch.optim.SGD(model.parameters(), lr=0.01)), plain_loader(), steps=14)
    first, second = torch.cat(seen[:7]), torch.cat(seen[7:])
    assert len(first) == len(second) == N
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


def test_same_seed_same_numbers_other_seed_other_numbers():
    losses = [quiet_fit(make(), plain_loader(), steps=20, seed=seed)["loss"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert not np.array_equal(losses[0], losses[2])


def test_one_loader_serves_two_runs_and_is_left_as_it_was():
    loader = LOADERS["own generator"]()
    before = loader.generator.get_state()
    losses = [quiet_fit(make(), loader, steps=20)["loss"] for _ in range(2)]
    np.testing.assert_array_equal(*losses)
    assert torch.equal(before, loader.generator.get_state())


def test_a_finished_run_is_not_trained_again(tmp_path):
    quiet_fit(make(), plain_loader(), steps=10, checkpoint=tmp_path / "c.pt")
    again = make(seed=3)
    history = quiet_fit(again, plain_loader(), steps=10, checkpoint=tmp_path / "c.pt")
    assert len(history) == 10
    assert_same_state(again.state_dict(), load_checkpoint(tmp_path / "c.pt")["state"])


# -------------------------------------------------------------------------------------- two networks, two optimisers


class TinyGAN(Algorithm):
    """A GAN in one dimension; the generator learns every second step. It also owns a generator and a counter."""

    forward_methods = ()

    def __init__(self):
        self.generator = nn.Linear(1, 1)
        self.critic = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=0.05)
        self.critic_optimizer = torch.optim.SGD(self.critic.parameters(), lr=0.05, momentum=0.5)
        self.noise = torch.Generator().manual_seed(11)
        self.seen = torch.zeros((), dtype=torch.int64)

    def step(self, batch):
        (real,) = batch
        self.seen = self.seen + len(real)
        fake = self.generator(torch.randn(real.shape, generator=self.noise))
        self.critic_optimizer.zero_grad()
        critic_loss = self.critic(fake.detach()).mean() - self.critic(real).mean()
        critic_loss = critic_loss + 0.1 * sum(p.square().sum() for p in self.critic.parameters())
        self.backward(critic_loss)
        self.critic_optimizer.step()
        terms = {"critic": critic_loss}
        if int(self.seen) % 32 == 0:
            self.generator_optimizer.zero_grad()
            with self.frozen("critic") as critic:
                generator_loss = -critic(fake).mean()
                self.backward(generator_loss)
            self.generator_optimizer.step()
            terms["generator"] = generator_loss
        return terms


def gan_loader():
    data = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) + 3
    return DataLoader(TensorDataset(data), batch_size=16, shuffle=True)


def make_gan():
    torch.manual_seed(0)
    return TinyGAN()


def test_gan_resumes_exactly_with_all_it_owns(tmp_path):
    whole, second = make_gan(), make_gan()
    history = quiet_fit(whole, gan_loader(), steps=40)
    quiet_fit(make_gan(), gan_loader(), steps=17, checkpoint=tmp_path / "c.pt")
    quiet_fit(second, gan_loader(), steps=40, checkpoint=tmp_path / "c.pt")
    assert_same_state(whole.state_dict(), second.state_dict())
    assert int(second.seen) == 40 * 16
    assert torch.equal(second.noise.get_state(), whole.noise.get_state())
    assert np.isnan(history["generator"][::2]).all()  # reported every second step
    steps, values = history.series("generator")
    np.testing.assert_array_equal(steps, np.arange(2, 41, 2))
    assert np.isfinite(values).all()


def test_frozen_passes_gradients_through_but_keeps_none():
    gan = make_gan()
    fake = gan.generator(torch.randn(4, 1))
    with gan.frozen("critic") as critic:
        critic(fake).mean().backward()
    assert all(p.grad is None and p.requires_grad for p in gan.critic.parameters())
    assert gan.generator.weight.grad is not None


def test_parts_that_would_be_lost_are_refused():
    gan = make_gan()
    gan.more = [nn.Linear(1, 1)]
    with pytest.raises(ValueError, match=r"TinyGAN\.more is a list of networks"):
        quiet_fit(gan, gan_loader(), steps=1)


def test_algorithm_without_a_step_says_so():
    with pytest.raises(NotImplementedError, match="has to define step"):
        quiet_fit(Algorithm(), gan_loader(), steps=1)


# -------------------------------------------------------------------------------------------- what the user gets back


def test_users_objects_are_trained_and_plain_again():
    algorithm = make()
    model, optimizer, ema = algorithm.model, algorithm.optimizer, algorithm.ema
    before = copy.deepcopy(model.state_dict())
    quiet_fit(algorithm, plain_loader(), steps=5)
    assert (algorithm.model, algorithm.optimizer, algorithm.ema) == (model, optimizer, ema)
    assert type(algorithm.optimizer) is torch.optim.Adam
    assert algorithm.fabric is None
    assert not torch.equal(before["layers.0.weight"], model.layers[0].weight)


def test_users_objects_are_plain_again_after_an_error():
    algorithm = make()
    model = algorithm.model

    def fail(*_):
        raise RuntimeError("in a callback")

    with pytest.raises(RuntimeError, match="in a callback"):
        quiet_fit(algorithm, plain_loader(), steps=5, callbacks=[(2, fail)])
    assert algorithm.model is model
    assert algorithm.fabric is None


def test_fit_puts_trained_networks_into_training_mode_and_leaves_tools_alone():
    algorithm = make()
    algorithm.tool = nn.Dropout().eval()
    algorithm.model.eval()
    quiet_fit(algorithm, plain_loader(), steps=1)
    assert algorithm.model.training
    assert not algorithm.tool.training


def test_it_learns():
    torch.manual_seed(0)

    class Linear(nn.Linear):
        def loss(self, x, y):
            return {"loss": (self(x) - y).square().mean()}

    model = Linear(4, 1)
    quiet_fit(SingleLoss(model, torch.optim.SGD(model.parameters(), lr=0.1)), plain_loader(), steps=300)
    torch.testing.assert_close(model.weight.data, torch.ones(1, 4), atol=1e-4, rtol=0)


def test_a_step_is_that_of_the_bare_loop():
    ours, theirs = make(), make()
    batches = list(plain_loader())
    quiet_fit(ours, batches, steps=7, seed=4)
    seed_everything(4)
    for x, y in batches:
        theirs.optimizer.zero_grad()
        theirs.model.loss(x, y)["loss"].backward()
        nn.utils.clip_grad_norm_(theirs.model.parameters(), 1.0)
        theirs.optimizer.step()
        theirs.scheduler.step()
        theirs.ema.update_parameters(theirs.model)
    assert_same_state(ours.state_dict(), theirs.state_dict())


def test_algorithm_steps_without_fit():
    ours, theirs = make(), make()
    batches = list(plain_loader())
    quiet_fit(ours, batches, steps=7)
    seed_everything(0)
    for batch in batches:
        theirs.step(batch)
    assert_same_state(ours.state_dict(), theirs.state_dict())


# --------------------------------------------------------------------------------------------- history and callbacks


def test_history_has_rows_terms_and_gaps(tmp_path):
    history = History()
    history.record(1, {"loss": 2.0})
    history.record(2, {"loss": 1.0, "kl": 0.5})
    history.record(2, {"val": 3.0})
    assert history.keys() == ("loss", "kl", "val")
    np.testing.assert_array_equal(history["kl"], [np.nan, 0.5])
    np.testing.assert_array_equal(history.steps, [1, 2])
    assert history.mean("loss") == 1.5
    assert history.latest() == {"loss": 1.0, "kl": 0.5, "val": 3.0}
    history.save_csv(tmp_path / "h.csv")
    with open(tmp_path / "h.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"step": "1", "loss": "2.0", "kl": "", "val": ""}
    with pytest.raises(KeyError, match="loss, kl, val"):
        history["los"]
    with pytest.raises(ValueError, match="rows are in order"):
        history.record(1, {"loss": 0.0})


def test_callbacks_come_in_their_steps_and_see_plain_modules():
    algorithm, calls = make(), []
    model = algorithm.model

    def note(given, step, history):
        assert given.model is model
        assert len(history) == step
        calls.append(step)
        history.record(step, {"twice": 2 * step})

    history = quiet_fit(algorithm, plain_loader(), steps=10, callbacks=[(3, note)])
    assert calls == [3, 6, 9]
    np.testing.assert_array_equal(history.series("twice")[1], [6, 12, 18])


def test_what_callbacks_draw_and_switch_leaves_no_trace():
    def disturb(algorithm, step, history):
        algorithm.model.eval()
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002

    plain, disturbed, loader = make(), make(), LOADERS["random examples"]
    quiet_fit(plain, loader(), steps=20)
    quiet_fit(disturbed, loader(), steps=20, callbacks=[(1, disturb)])
    assert_same_state(plain.state_dict(), disturbed.state_dict())


def test_log_every_thins_the_history():
    history = quiet_fit(make(), plain_loader(), steps=25, log_every=10)
    np.testing.assert_array_equal(history.steps, [10, 20, 25])


def test_metrics_that_are_fetched_later_are_the_same(monkeypatch):
    """What a GPU does, on a CPU: metrics wait on the device, many are fetched at once."""
    at_once = quiet_fit(make(), plain_loader(), steps=30)
    monkeypatch.setattr(training_loop, "_reads_at_once", lambda device: False)
    later = quiet_fit(make(), plain_loader(), steps=30)
    for key in at_once:
        np.testing.assert_array_equal(at_once[key], later[key])


# -------------------------------------------------------------------------------------------------- stopping: Ctrl-C


class StopsItself(SingleLoss):
    """Sends itself what Ctrl-C sends, in the middle of a step."""

    def __init__(self, *args, at, how, **kwargs):
        super().__init__(*args, **kwargs)
        self.at, self.how, self.count = at, how, 0

    def step(self, batch):
        self.count += 1
        if self.count == self.at:
            self.how()
        return super().step(batch)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def raise_interrupt():
    raise KeyboardInterrupt


def interrupted_at(at, how=ctrl_c):
    base = make()
    return StopsItself(base.model, base.optimizer, base.scheduler, base.ema, 1.0, at=at, how=how)


def test_ctrl_c_finishes_the_step_and_can_be_continued_exactly(tmp_path, capsys):
    path, handler = tmp_path / "c.pt", signal.getsignal(signal.SIGINT)
    stopped = interrupted_at(17)
    history = quiet_fit(stopped, plain_loader(), steps=40, checkpoint=path)
    assert history.interrupted
    assert len(history) == 17
    assert signal.getsignal(signal.SIGINT) is handler
    message = capsys.readouterr().err
    assert "after step 17 of 40" in message
    assert str(path) in message
    assert stopped.fabric is None
    whole, second = interrupted_at(-1), interrupted_at(-1)
    quiet_fit(whole, plain_loader(), steps=40)
    again = quiet_fit(second, plain_loader(), steps=40, checkpoint=path)
    assert not again.interrupted
    assert_same_state(whole.state_dict(), second.state_dict())


def test_a_keyboard_interrupt_from_within_a_step_keeps_what_was_learned(tmp_path, capsys):
    stopped = interrupted_at(5, raise_interrupt)
    history = quiet_fit(stopped, plain_loader(), steps=40, checkpoint=tmp_path / "c.pt")
    assert history.interrupted
    assert len(history) == 4
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 4
    assert isinstance(stopped.model, Noisy)
    assert "Interrupted after step 4" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_the_step():
    reached = []

    def twice():
        ctrl_c()
        ctrl_c()
        reached.append("the rest of the step")

    assert quiet_fit(interrupted_at(3, twice), plain_loader(), steps=9).interrupted
    assert reached == []


# --------------------------------------------------------------------------------------------------- stopping: NaN


class Diverges(Noisy):
    def __init__(self, at, value=float("nan"), weights_only=False):
        super().__init__()
        self.at, self.value, self.weights_only, self.count = at, value, weights_only, 0

    def loss(self, x, y):
        self.count += 1
        terms = super().loss(x, y)
        if self.count < self.at:
            return terms
        if self.weights_only:  # the loss is finite, its gradient is not: d/dw √|w| at w = 0
            w = self.layers[0].weight
            return {"loss": terms["loss"] + (w - w.detach()).abs().sqrt().sum()}
        return {**terms, "error": terms["error"] * self.value}


def diverging(**options):
    torch.manual_seed(0)
    model = Diverges(**options)
    return SingleLoss(model, torch.optim.SGD(model.parameters(), lr=0.01))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at_once", [True, False])
def test_nan_stops_names_step_and_metric_and_keeps_the_good_checkpoint(value, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "_reads_at_once", lambda device: at_once)
    path, algorithm = tmp_path / "c.pt", diverging(at=13, value=value)
    with pytest.raises(NonFiniteError, match="learning rate") as caught:
        quiet_fit(algorithm, plain_loader(), steps=40, checkpoint=path, every=5)
    assert isinstance(caught.value, FloatingPointError)
    assert (caught.value.step, caught.value.name) == (13, "error")
    assert str(path) in str(caught.value)
    assert load_checkpoint(path)["step"] == 10
    assert algorithm.fabric is None
    if at_once:
        assert algorithm.model.count == 13


def test_a_checkpoint_with_nan_weights_is_not_written(tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(NonFiniteError) as caught:
        quiet_fit(diverging(at=10, weights_only=True), plain_loader(), steps=40, checkpoint=path, every=5)
    assert (caught.value.step, caught.value.name) == (10, "model.layers.0.weight")
    assert load_checkpoint(path)["step"] == 5


# ------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    quiet_fit(make(), plain_loader(), steps=10, checkpoint=tmp_path / "c.pt")
    return tmp_path / "c.pt"


def test_checkpoint_runs_no_code_and_says_what_it_is(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert content["format"] == 1
    assert (content["algorithm"], content["step"], content["seed"]) == ("SingleLoss", 10, 0)
    assert os.listdir(checkpoint.parent) == ["c.pt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_leaves_the_former_file_and_says_so(failing, checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(
        OSError, match=r"could not write the checkpoint .*No space left.*former.*unchanged"
    ) as caught:
        quiet_fit(make(), plain_loader(), steps=20, checkpoint=checkpoint)
    assert caught.value.errno == errno.ENOSPC
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["c.pt"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "other", "flipped"])
def test_damaged_file_is_refused_and_nothing_changes(damage, checkpoint):
    data = checkpoint.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, checkpoint)
    elif damage == "flipped":  # the directory at the end of the archive
        checkpoint.write_bytes(data[:-60] + bytes(60))
    else:
        checkpoint.write_bytes(
            {"truncated": data[: len(data) // 2], "garbage": b"x" * 500, "empty": b""}[damage]
        )
    algorithm = make()
    before = copy.deepcopy(algorithm.state_dict())
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        quiet_fit(algorithm, plain_loader(), steps=20, checkpoint=checkpoint)
    assert_same_state(before, algorithm.state_dict())


def test_checkpoint_of_other_shapes_names_them_and_changes_nothing(checkpoint):
    algorithm = make(width=9)
    before = copy.deepcopy(algorithm.state_dict())
    with pytest.raises(
        CheckpointError, match=r"model.layers.0.weight: shape \(8, 4\) in the file, \(9, 4\) here"
    ):
        quiet_fit(algorithm, plain_loader(), steps=20, checkpoint=checkpoint)
    assert_same_state(before, algorithm.state_dict())


def test_checkpoint_with_other_keys_names_them(checkpoint):
    algorithm = make()
    algorithm.model.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"model: 'extra.weight' is not in the file"):
        quiet_fit(algorithm, plain_loader(), steps=20, checkpoint=checkpoint)
    algorithm = make()
    algorithm.scheduler = None
    with pytest.raises(CheckpointError, match="parts: 'scheduler' is only in the file"):
        quiet_fit(algorithm, plain_loader(), steps=20, checkpoint=checkpoint)


def test_checkpoint_of_another_algorithm_or_seed_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="algorithm 'SingleLoss', this run has 'TinyGAN'"):
        quiet_fit(make_gan(), gan_loader(), steps=20, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="seed 0, this run has 1"):
        quiet_fit(make(), plain_loader(), steps=20, checkpoint=checkpoint, seed=1)


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['a'\]\[1\] is a function"):
        save_checkpoint(tmp_path / "c.pt", {"a": [1, make]})
    assert not (tmp_path / "c.pt").exists()


# ------------------------------------------------------------------------------------------------ device and precision


def test_precision_holds_inside_the_loss():
    kinds = []

    class Note(Noisy):
        def loss(self, x, y):
            kinds.append(self.layers(x).dtype)
            return super().loss(x, y)

    for precision in ("32-true", "bf16-mixed"):
        model = Note()
        algorithm = SingleLoss(model, torch.optim.SGD(model.parameters(), lr=0.01))
        quiet_fit(algorithm, plain_loader(), steps=1, precision=precision)
    assert kinds == [torch.float32, torch.bfloat16]
    assert model.layers[0].weight.dtype == torch.float32


def test_automatic_precision_is_measured_once_and_draws_nothing():
    torch.manual_seed(0)
    fastest_precision.cache_clear()
    before = torch.get_rng_state()
    chosen = fastest_precision(torch.device("cpu"))
    assert chosen in ("32-true", "bf16-mixed")
    assert torch.equal(before, torch.get_rng_state())
    assert len(quiet_fit(make(), plain_loader(), steps=2, precision="auto")) == 2
    assert fastest_precision.cache_info().misses == 1


def test_device_order(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert default_device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert default_device().type == "cpu"


# ---------------------------------------------------------------------------------------------------- bar, arguments


def test_bar_goes_to_stderr_and_can_be_switched_off(capsys):
    fit(make(), plain_loader(), steps=5, device="cpu")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "5/5" in shown.err
    assert "loss=" in shown.err
    quiet_fit(make(), plain_loader(), steps=5)
    assert capsys.readouterr().err == ""


def test_bar_is_text_where_widgets_are_missing(monkeypatch, capsys):
    def no_widgets(**options):
        raise ImportError("IProgress not found")

    monkeypatch.setattr(
        training_loop, "tqdm", type("tqdm", (), {"__new__": lambda cls, **o: no_widgets(**o)})
    )
    fit(make(), plain_loader(), steps=5, device="cpu")
    assert "5/5" in capsys.readouterr().err


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0: expected an integer of at least 1"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"every": 0}, "every=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"seed": -1}, "seed=-1: expected 0 ≤ seed"),
        ({"callbacks": [print]}, "expected a pair"),
        ({"callbacks": [(0, print)]}, "expected at least 1"),
        ({"algorithm": nn.Linear(1, 1)}, "algorithm is a Linear; expected an Algorithm"),
        ({"loader": 3}, "loader is a int; expected a DataLoader"),
        ({"loader": iter([])}, "which can be iterated again"),
        ({"loader": DataLoader(Nothing())}, "gives no batches"),
        ({"precision": "7-bit"}, "7-bit"),
        ({"device": "gpu"}, "device 'gpu': expected auto, cpu, cuda, mps"),
        ({"device": "mps"}, "device 'mps' is not available"),
    ],
)
def test_bad_arguments_say_what_was_expected(change, message, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    arguments = {"algorithm": make(), "loader": plain_loader(), "steps": 3, **change}
    with pytest.raises(ValueError, match=message):
        quiet_fit(arguments.pop("algorithm"), arguments.pop("loader"), **arguments)


def test_model_without_a_loss_and_bad_clipping_are_refused():
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Linear has no method loss"):
        SingleLoss(model, torch.optim.SGD(model.parameters(), lr=1))
    with pytest.raises(ValueError, match="clip_grad=0"):
        SingleLoss(Noisy(), torch.optim.SGD(model.parameters(), lr=1), clip_grad=0)


# ------------------------------------------------------------------------------------------------- several processes

SEVERAL = """
    import atexit
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch
    import torch.distributed
    from test_training import TinyGAN, assert_same_state, gan_loader, make, make_gan, plain_loader
    from course_lib.training import fit

    folder = Path({folder!r})
    options = dict(device="cpu", devices=2, strategy="ddp", progress=False)

    @atexit.register  # before `fit` registers its own, so it runs after it: gloo's threads must be gone by now
    def left():
        if not torch.distributed.is_initialized():
            (folder / f"left-{{rank}}").touch()

    def weights(algorithm):
        return [p.detach().clone() for p in algorithm.parts()["critic" if gan else "model"].parameters()]

    for gan, new, loader in ((False, make, plain_loader), (True, make_gan, gan_loader)):
        path = folder / f"gan-{{gan}}.pt"
        whole, second = new(), new()
        seen = []
        note = lambda algorithm, step, history: seen.append(type(algorithm.parts()["critic" if gan else "model"]))
        history = fit(whole, loader(), steps=23, callbacks=[(10, note)], **options)
        fit(new(), loader(), steps=9, checkpoint=path, **options)
        fit(second, loader(), steps=23, checkpoint=path, **options)
        rank = torch.distributed.get_rank()
        assert len(seen) == (2 if rank == 0 else 0), seen
        for a, b in zip(weights(whole), weights(second), strict=True):
            assert torch.equal(a, b), "resume is not exact"
        for value in weights(whole):  # both processes have the same weights …
            other = [torch.empty_like(value) for _ in range(2)]
            torch.distributed.all_gather(other, value)
            assert torch.equal(*other), "weights differ"
        losses = [None, None]  # … from different batches
        torch.distributed.all_gather_object(losses, history["critic" if gan else "loss"].tolist())
        assert losses[0] != losses[1], "both processes saw the same data"
    (folder / f"done-{{rank}}").touch()
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("launcher", ["fit", "fabric run"])
def test_two_processes_share_gradients_and_resume_exactly(launcher, tmp_path):
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parent)
    script.write_text(textwrap.dedent(SEVERAL.format(tests=tests, folder=str(tmp_path))))
    command = [sys.executable, str(script)]
    if launcher == "fabric run":  # what the command line calls, without its need for the package click
        call = (
            "from argparse import Namespace; from lightning.fabric.cli import main; main(Namespace("
            f"accelerator='cpu', strategy='ddp', devices='2', num_nodes=1, node_rank=0, main_address='127.0.0.1', "
            f"main_port={free_port()}, precision=None, script={str(script)!r}))"
        )
        command = [sys.executable, "-c", call]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LT_", "PYTEST_"))}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in tmp_path.glob("done-*")) == ["done-0", "done-1"]
    assert sorted(p.name for p in tmp_path.glob("left-*")) == ["left-0", "left-1"]
