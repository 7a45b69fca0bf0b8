"""Train a model of the course from the command line.

    python -m course_lib.train vae --data mnist
    python -m course_lib.train vae --data glyphs --size quick --set latent_dim=10 --set beta=4.0
    python -m course_lib.train --resume runs/vae-mnist-20260101-120000 --steps 400000

Settings come, each over the one before, from: the defaults of ``Settings`` and of the model's builder in
`course_lib.models`; the model's recipe, ``course_lib/recipes/MODEL.toml`` (its tables ``[default]``, then ``[DATA]``,
then for ``--size NAME`` ``[default.NAME]`` and ``[DATA.NAME]``); the options; ``--set key=value``. What came out is in
``config.json``.

A run's folder holds ``config.json``, ``metrics.csv`` (training terms, means since the row before; validation
terms), ``samples/*.png``, ``checkpoint.pt`` and at the end ``result.json`` (test metrics; nats per example).
Exit codes: 0 done, 1 failed while training, 2 wrong usage, 130 stopped by Ctrl-C (and can be resumed).
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import math
import os
import shlex
import sys
import time
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_lib.evaluation import (
    SampleJudge,
    clustering_terms,
    code_terms,
    evaluated,
    mean_terms,
    pixel_terms,
    save_samples,
    translation_terms,
)
from course_lib.models import MODELS, choose, is_adversarial, is_autoregressive, is_translator

if TYPE_CHECKING:  # torch and Fabric take seconds to import: --help and wrong options do not wait for them
    from lightning.fabric import Fabric
    from torch import Tensor, nn

    from course_lib.adversarial.gan import GAN
    from course_lib.latent.code_prior import CodePrior
    from course_lib.training import Algorithm, History

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Settings:
    """What every run has, whatever the model. A recipe or ``--set`` may name any of these."""

    steps: int = 5_000  # optimiser steps
    epochs: int | None = None  # instead of steps
    batch_size: int = 128  # on each device
    lr: float = 1e-3
    lr_end: float = 1e-4  # where the schedule ends
    schedule: str = "cosine"  # or "constant", or a paper's: "burda", "jiang", … (see `SCHEDULES`)
    beta2: float = 0.999  # of Adam
    eps: float = 1e-8  # of Adam
    clip_grad: float | None = None  # largest gradient norm
    ema: float | None = None  # decay of the average of weights that is evaluated, e.g. 0.999
    train_split: str = "train"  # "train+val": what papers without a validation set use
    validation_split: str = "val"  # "test" with "train+val": then nothing may be selected on the curve
    train_size: int | None = None  # examples; None: all
    image_size: int | None = None  # pixels a side; None: as the data set has it
    levels: int | None = None  # integer grey levels; None: grey values in [0, 1]
    validate_every: int = 1_000  # steps; also a row of metrics.csv
    validation_images: int = 2_000
    sample_every: int = 5_000  # steps
    checkpoint_every: int = 2_000  # steps
    log_every: int = 1  # steps between rows of the history in the checkpoint
    precision: str = "32-true"  # "bf16-mixed"; "auto": the faster one here
    nll_k: int = 5_000  # samples of z an image for the test likelihood
    nll_images: int = 1_000  # test images for it; 0: leave it out
    seed: int = 0


# -------------------------------------------------------------------------------------------------------- settings


def recipe(model: str) -> dict[str, Any]:
    """The model's file of recipes, as it stands."""
    path = RECIPES / f"{model}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def recipe_sizes(model: str, data: str) -> tuple[str, ...]:
    """What ``--size`` may be for this model and data set: "full" and the sub-tables."""
    tables = recipe(model)
    own = [
        key for name in ("default", data) for key, value in tables.get(name, {}).items() if _is_table(value)
    ]
    return ("full", *dict.fromkeys(own))


def _table_names(data: str) -> tuple[str, ...]:
    """The tables for a data set, the more special the later: default, toy2d, toy2d/ring."""
    return tuple(dict.fromkeys(("default", data.split("/")[0], data)))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def resolve(
    model: str, data: str, size: str, overrides: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """(settings, keywords of the builder) of a run; unknown names and wrong types raise ValueError."""
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; the known ones are: {', '.join(MODELS)}")
    from course_lib import data as data_sets

    data_sets.describe(data)  # lists the known names if this is none
    if size not in (sizes := recipe_sizes(model, data)):
        raise ValueError(
            f"no size {size!r} in the recipes of {model} for {data}; there is: {', '.join(sizes)}"
        )
    tables = [recipe(model).get(name, {}) for name in _table_names(data)]
    layers = tables + [table.get(size, {}) for table in tables] + [overrides]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update({key: value for key, value in layer.items() if not _is_table(value)})
        if "steps" in layer and "epochs" not in layer:
            merged.pop("epochs", None)  # the later of the two ways to say how long
    return _split(model, merged)


def _split(model: str, merged: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    general, special = typing.get_type_hints(Settings), model_keys(model)
    unknown = [key for key in merged if key not in general and key not in special]
    if unknown:
        theirs, all_runs = ", ".join(special), ", ".join(general)
        raise ValueError(
            f"unknown setting {unknown[0]!r}; {model} knows: {theirs}; every run knows: {all_runs}"
        )
    for key, value in merged.items():
        kind = general[key] if key in general else type(special[key])
        if not _fits(value, kind):
            wanted = "a list" if kind is tuple else getattr(kind, "__name__", kind)
            raise ValueError(f"{key}={value!r}: expected {wanted}")
    settings = Settings(**{key: value for key, value in merged.items() if key in general})
    _check_settings(settings)
    return settings, {key: value for key, value in merged.items() if key in special}


def model_keys(model: str) -> dict[str, Any]:
    """The builder's settings and their defaults."""
    parameters = list(inspect.signature(MODELS[model]).parameters.values())[1:]
    return {p.name: p.default for p in parameters}


def _fits(value: Any, kind: Any) -> bool:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    wider = {float: (int, float), tuple: (list, tuple)}  # what TOML and JSON have in their place
    kinds = tuple(k for kind in kinds for k in wider.get(kind, (kind,)))
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _check_settings(settings: Settings) -> None:
    for name in (
        "steps",
        "epochs",
        "batch_size",
        "validate_every",
        "sample_every",
        "checkpoint_every",
        "log_every",
    ):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    if not 0 < settings.lr_end <= settings.lr:
        raise ValueError(f"lr={settings.lr}, lr_end={settings.lr_end}: expected 0 < lr_end ≤ lr")
    choose(settings.schedule, SCHEDULES, "schedule")
    choose(settings.precision, dict.fromkeys(("32-true", "bf16-mixed", "auto")), "precision")


def _parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value``, the value as TOML (numbers, lists, true) or else as a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected key=value")
    if value.lower() == "none":
        return key.strip(), None
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


# ------------------------------------------------------------------------------------------------------- optimiser


def _constant(step: int, settings: Settings, epoch: int) -> float:
    return 1.0


def _cosine(step: int, settings: Settings, epoch: int) -> float:
    """Half a cosine from lr to lr_end (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts)."""
    end = settings.lr_end / settings.lr
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))


def _burda(step: int, settings: Settings, epoch: int) -> float:
    """Stages i = 0 … 7 of 3^i epochs with learning rate lr·10^(−i/7) (Burda et al. 2016, section 5.1)."""
    stage, end = 0, epoch
    while stage < 7 and step >= end:
        stage += 1
        end += epoch * 3**stage
    return (settings.lr_end / settings.lr) ** (stage / 7)


def _jiang(step: int, settings: Settings, epoch: int) -> float:
    """A tenth less every 10 epochs, but not below lr_end (Jiang et al. 2017, section 4.2)."""
    return max(settings.lr_end / settings.lr, 0.9 ** (step // (10 * epoch)))


def _salimans(step: int, settings: Settings, epoch: int) -> float:
    """0.999995 of itself each step, but not below lr_end (Salimans et al. 2017, the authors' code)."""
    return max(settings.lr_end / settings.lr, 0.999995**step)


def _zhu(step: int, settings: Settings, epoch: int) -> float:
    """Constant for half of the steps, then linearly to 0, whatever lr_end is (Zhu et al. 2017, section 4)."""
    from course_lib.adversarial.cyclegan import linear_decay

    return linear_decay(step, settings.steps)


#: name → (step, settings, steps an epoch) → factor of the learning rate. As functions they are not in the
#: checkpoint: a run that is resumed with more steps follows the longer schedule.
SCHEDULES = {
    "constant": _constant,
    "cosine": _cosine,
    "burda": _burda,
    "jiang": _jiang,
    "salimans": _salimans,
    "zhu": _zhu,
}


def make_algorithm(model: nn.Module | GAN, settings: Settings, steps_per_epoch: int) -> Algorithm:
    """The model with Adam, its schedule, and the average of weights if one is asked for."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from course_lib.training import SingleLoss

    if is_adversarial(model):
        return _run_adversarially(model, settings, steps_per_epoch)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=settings.lr, betas=(0.9, settings.beta2), eps=settings.eps, fused=True
    )
    factor = SCHEDULES[settings.schedule]
    scheduler = LambdaLR(optimizer, lambda step: factor(step, settings, steps_per_epoch))
    return SingleLoss(model, optimizer, scheduler, _average(model, settings), settings.clip_grad)


def _run_adversarially(gan: GAN, settings: Settings, steps_per_epoch: int) -> GAN:
    """Give both players the run's learning rate and schedule, and the generator its average of weights."""
    from torch.optim.lr_scheduler import LambdaLR

    if settings.clip_grad is not None or settings.levels is not None:
        raise ValueError("adversarial models know neither clip_grad nor levels: leave them out")
    factor = SCHEDULES[settings.schedule]
    for player in ("g", "d"):
        optimizer = getattr(gan, f"{player}_optimizer")
        for group in optimizer.param_groups:
            group["lr"] *= settings.lr
            group["eps"] = settings.eps
        schedule = LambdaLR(optimizer, lambda step: factor(step, settings, steps_per_epoch))
        setattr(gan, f"{player}_scheduler", schedule)
    if hasattr(gan, "generator"):
        gan.ema = _average(gan.generator, settings)
    elif settings.ema is not None:
        raise ValueError("CycleGAN has no average of weights: leave ema out")
    return gan


def _average(network: nn.Module, settings: Settings) -> nn.Module | None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    if settings.ema is None:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)


# ------------------------------------------------------------------------------------------------- what is written


def write_metrics(path: Path, history: History, every: int) -> None:
    """One row every ``every`` steps: means of the training terms since the row before, then what was validated.

    The file is written anew from the history each time, so that a resumed run has one table without gaps.
    """
    import numpy as np

    steps, names = history.steps, history.keys()
    marks = range(every, int(steps[-1]) + 1, every)
    columns = {name: history[name] for name in names}
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *names])
        for mark in marks:
            rows = (steps > mark - every) & (steps <= mark)
            means = ([v for v in columns[name][rows] if not math.isnan(v)] for name in names)
            writer.writerow([mark, *(f"{np.mean(values):.6g}" if values else "" for values in means)])
    os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class Recorder:
    """The periodic part of a run: validation, metrics.csv, samples."""

    def __init__(self, out: Path, settings: Settings, validation: Any, measure: Callable) -> None:
        self.out, self.settings, self.validation, self.measure = out, settings, validation, measure
        self._mark: float | None = None  # when the clock of ``seconds`` was last read

    def callbacks(self) -> list[tuple[int, Callable]]:
        return [(self.settings.validate_every, self.validate), (self.settings.sample_every, self.sample)]

    def validate(self, algorithm: Algorithm, step: int, history: History) -> None:
        now = time.perf_counter()
        before = history.latest().get("seconds", 0.0)
        seconds = before + now - (self.started if self._mark is None else self._mark)
        self._mark = now
        terms = self.measure(evaluated(algorithm), self.validation)
        history.record(step, {f"val_{name}": value for name, value in terms.items()} | {"seconds": seconds})
        write_metrics(self.out / "metrics.csv", history, self.settings.validate_every)

    def sample(self, algorithm: Algorithm, step: int, history: History) -> None:
        save_samples(evaluated(algorithm), self.validation, self.out / "samples" / f"step_{step:07d}.png")

    def start(self) -> None:
        self.started = time.perf_counter()


# ------------------------------------------------------------------------------------------------------ the command


def describe_all() -> str:
    """What ``--help`` adds: models with their settings, data sets, recipes, settings of every run."""
    from course_lib import data as data_sets

    lines = ["models and their settings (with defaults):"]
    for name, builder in MODELS.items():
        keys = ", ".join(f"{k}={v!r}" for k, v in model_keys(name).items())
        lines += [f"  {name:22} {inspect.getdoc(builder).splitlines()[0]}", f"  {'':22}   {keys}"]
    lines += ["", "data sets:", "  " + ", ".join(data_sets.names()), "", "recipes (model: data sets; sizes):"]
    for name in MODELS:
        tables = recipe(name)
        sizes = sorted({size for data in tables for size in recipe_sizes(name, data)})
        lines.append(f"  {name:22} {', '.join(tables) or 'none'}; {', '.join(sizes) or 'full'}")
    lines += ["", "settings of every run (with defaults):"]
    lines += [f"  {field.name}={field.default!r}" for field in fields(Settings)]
    lines += ["", "Under `fabric run` leave --devices, --strategy and --num-nodes to it."]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        return super().format_help() + "\n" + describe_all() + "\n"


def parser() -> argparse.ArgumentParser:
    text = "Train a model of the course: writes metrics, samples, checkpoints and test results into a folder."
    p = _Parser(prog="python -m course_lib.train", description=text)
    p.add_argument("model", nargs="?", metavar="MODEL", help="see below")
    p.add_argument("--data", metavar="NAME", help="data set, see below")
    p.add_argument("--data-root", metavar="DIR", help="where real data sets lie or are put")
    p.add_argument("--size", default=None, metavar="NAME", help="of the recipe: full (default), quick, …")
    p.add_argument("--steps", type=int, help="number of the last step")
    p.add_argument("--epochs", type=int, help="instead of --steps")
    p.add_argument("--batch-size", type=int, help="on each device")
    p.add_argument("--lr", type=float, help="learning rate at the start")
    p.add_argument("--precision", choices=("32-true", "bf16-mixed", "auto"), help="auto: the faster one here")
    p.add_argument("--device", default="auto", help="cpu, cuda, mps; default: CUDA, then MPS, then the CPU")
    p.add_argument("--devices", type=int, default=1, metavar="N", help="processes on this machine")
    p.add_argument("--strategy", default="auto", help="of Lightning Fabric: ddp, fsdp, …")
    p.add_argument("--num-nodes", type=int, default=1, metavar="N", help="machines")
    p.add_argument("--seed", type=int, help="default 0")
    p.add_argument(
        "--nll-k", type=int, metavar="K", help="samples an image of the test likelihood; default 5000"
    )
    p.add_argument("--nll-images", type=int, metavar="N", help="test images for it; default 1000; 0: none")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; may be repeated"
    )
    p.add_argument("--out", metavar="DIR", help="default: runs/MODEL-DATA-TIME")
    p.add_argument(
        "--resume", metavar="DIR", help="go on with the run in DIR (MODEL and --data come from there)"
    )
    p.add_argument("--no-progress", action="store_true", help="no progress bar")
    return p


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run."""

    model: str
    data: str
    size: str
    settings: Settings
    model_settings: Mapping[str, Any]
    out: Path
    resumed: bool

    def config(self) -> dict[str, Any]:
        import torch

        return {
            "model": self.model,
            "data": self.data,
            "size": self.size,
            "settings": asdict(self.settings),
            "model_settings": {**model_keys(self.model), **self.model_settings},
            "command": shlex.join(["python", "-m", "course_lib.train", *sys.argv[1:]]),
            "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        }


def plan(arguments: argparse.Namespace) -> Plan:
    """Check everything that can be checked before any work. Raises ValueError."""
    options = ("steps", "epochs", "batch_size", "lr", "precision", "seed", "nll_k", "nll_images")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    given |= dict(_parse_assignment(text) for text in arguments.set)
    if "lr" in given and "lr_end" not in given:
        given["lr_end"] = given["lr"] / 10
    if arguments.resume is not None:
        return _resumed(arguments, given)
    if arguments.model is None:
        raise ValueError(f"which MODEL? The known ones are: {', '.join(MODELS)}")
    if arguments.data is None:
        from course_lib import data as data_sets

        raise ValueError(f"--data NAME is missing; the known ones are: {', '.join(data_sets.names())}")
    size = arguments.size or "full"
    settings, model_settings = resolve(arguments.model, arguments.data, size, given)
    when = time.strftime("%Y%m%d-%H%M%S")
    out = Path(arguments.out or f"runs/{arguments.model}-{arguments.data.replace('/', '-')}-{when}")
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a run already: --resume {out}, or another --out")
    return Plan(arguments.model, arguments.data, size, settings, model_settings, out, False)


def _resumed(arguments: argparse.Namespace, given: dict[str, Any]) -> Plan:
    out = Path(arguments.resume)
    if not (out / "config.json").is_file():
        raise ValueError(f"--resume {out}: there is no config.json, so no run to go on with")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    for name in ("model", "data", "size"):
        if getattr(arguments, name) not in (None, config[name]):
            raise ValueError(
                f"--resume {out}: its {name} is {config[name]!r}, not {getattr(arguments, name)!r}"
            )
    movable = {"steps", "epochs", "precision", "nll_k", "nll_images"}
    if fixed := [key for key in given if key not in movable]:
        raise ValueError(f"--resume: {fixed[0]} cannot change within a run; {', '.join(sorted(movable))} can")
    merged = {**config["model_settings"], **config["settings"], **given}
    for name in model_keys(config["model"]):
        if name in config["settings"] and merged[name] is None:
            del merged[name]  # the run left it to the data set and the model, each with a default of its own
    if "steps" in given:
        merged["epochs"] = None
    settings, model_settings = _split(config["model"], merged)
    return Plan(config["model"], config["data"], config["size"], settings, model_settings, out, True)


def check_pairs(plan: Plan) -> None:
    """A model that learns from pairs needs them, and the others can do nothing with them. Raises ValueError."""
    paired = plan.data.startswith("facades")
    if plan.model == "pix2pix" and not paired:
        raise ValueError(f"pix2pix learns from pairs of pictures; {plan.data} has none")
    if plan.model not in ("pix2pix", "cyclegan") and paired:
        raise ValueError(f"{plan.model} learns from single pictures; {plan.data} has pairs")


def load_split(plan: Plan, split: str, **options: Any) -> Any:
    """A split of the run's data; for CycleGAN the two sets that it has."""
    from course_lib import data as data_sets

    if plan.model != "cyclegan":
        return data_sets.load(plan.data, split, **options)
    del options["levels"]
    return data_sets.load_unpaired(plan.data, split, **options)


def run(plan: Plan, fabric: Fabric, data_root: str | None = None, progress: bool = True) -> int:
    """Train, write, evaluate. Returns the exit code."""
    import torch

    from course_lib import data as data_sets
    from course_lib.training import fit, seed_everything

    settings = plan.settings
    options = {"image_size": settings.image_size, "levels": settings.levels, "root": data_root}
    check_pairs(plan)
    with fabric.rank_zero_first(local=True):  # it downloads, the others find the files
        train = load_split(plan, settings.train_split, size=settings.train_size, **options)
        validation = load_split(plan, settings.validation_split, **options)
        test = load_split(plan, "test", **options)
    validation = validation.subset(torch.arange(min(len(validation), settings.validation_images)))
    seed_everything(settings.seed)
    model = MODELS[plan.model](tuple(train[0][0].shape), **plan.model_settings)
    loader = data_sets.loader(train, settings.batch_size, seed=settings.seed)
    epoch = max(1, len(loader) // fabric.world_size)
    if settings.epochs is not None:
        settings = replace(settings, steps=settings.epochs * epoch)
    algorithm = make_algorithm(model, settings, epoch)
    if fabric.is_global_zero:
        plan.out.mkdir(parents=True, exist_ok=True)
        write_json(plan.out / "config.json", replace(plan, settings=settings).config())
        print(f"{plan.model} on {plan.data}: {settings.steps:,} steps, {plan.out}", file=sys.stderr)
    if not pretrain(plan, settings, model, train, loader, fabric, progress):
        return 130
    measure = clustering_terms if hasattr(model, "cluster") else mean_terms
    if is_adversarial(algorithm):
        judge = SampleJudge(plan.data, settings.image_size, data_root)
        measure = translation_terms if is_translator(algorithm) else judge
    elif is_autoregressive(model):
        measure = pixel_terms
    recorder = Recorder(plan.out, settings, validation, measure)
    recorder.start()
    history = fit(
        algorithm,
        loader,
        steps=settings.steps,
        seed=settings.seed,
        checkpoint=plan.out / "checkpoint.pt",
        every=settings.checkpoint_every,
        callbacks=recorder.callbacks(),
        fabric=fabric,
        progress=progress,
        log_every=settings.log_every,
    )
    interrupted, prior = history.interrupted, None
    if not interrupted:
        interrupted, prior = fit_prior(plan, settings, algorithm, train, validation, fabric, progress)
    if not fabric.is_global_zero:
        return 0
    if interrupted:
        print(f"Go on with: python -m course_lib.train --resume {plan.out}", file=sys.stderr)
        return 130
    result = finish(plan, algorithm, history, test, measure, prior)
    print(json.dumps(result, indent=2))
    return 0


def pretrain(
    plan: Plan, settings: Settings, model: Any, train: Any, loader: Any, fabric: Fabric, progress: bool
) -> bool:
    """The stages of a VaDE before its ELBO: the autoencoder, then the mixture of its codes. False: interrupted.

    For other models, and where the run's own checkpoint holds what came later, there is nothing to do.
    """
    from course_lib.latent.vade import Pretraining, VaDE
    from course_lib.training import fit

    if not isinstance(model, VaDE) or (plan.out / "checkpoint.pt").exists():
        return True
    special = {**model_keys(plan.model), **plan.model_settings}
    steps = special["pretrain_steps"]
    settings = replace(settings, steps=steps, schedule="cosine", ema=None)
    history = fit(
        make_algorithm(Pretraining(model), settings, 1),
        loader,
        steps=steps,
        seed=settings.seed,
        checkpoint=plan.out / "pretrained.pt",
        every=settings.checkpoint_every,
        fabric=fabric,
        progress=progress,
        log_every=settings.log_every,
    )
    if history.interrupted:
        if fabric.is_global_zero:
            print(f"Go on with: python -m course_lib.train --resume {plan.out}", file=sys.stderr)
        return False
    x, _ = train.batch(range(len(train)))
    options = {name: special[name] for name in ("covariance", "balanced", "regularise")}
    model.eval().initialise_from_gmm(x, seed=settings.seed, **options)  # every process, alike
    return True


class Codes:
    """The codes of a data set's images, with its labels, as a data set: (T,) integers an example."""

    def __init__(self, prior: CodePrior, dataset: Any, device: Any) -> None:
        import torch

        random = torch.Generator(device).manual_seed(0)  # where images are binarised, once
        parts, labels = [], []
        for start in range(0, len(dataset), 500):
            x, label = dataset.batch(range(start, min(start + 500, len(dataset))))
            parts.append(prior.encode(x.to(device), random).cpu())
            labels.append(label)
        self.codes, self.labels = torch.cat(parts), torch.cat(labels)

    def __len__(self) -> int:
        return len(self.codes)

    def batch(self, indices: Any) -> tuple[Tensor, Tensor]:
        import torch

        indices = torch.as_tensor(indices)
        return self.codes[indices], self.labels[indices]


def fit_prior(
    plan: Plan,
    settings: Settings,
    algorithm: Algorithm,
    train: Any,
    validation: Any,
    fabric: Fabric,
    progress: bool,
) -> tuple[bool, CodePrior | None]:
    """The second stage of a VQ-VAE: (interrupted, the prior over its codes), in the folder ``prior``.

    For other models, and with ``prior_steps = 0``, there is nothing to do. The checkpoint is named after the steps of
    the first stage, whose codes it was trained on.
    """
    keys = {**model_keys(plan.model), **plan.model_settings}
    if not keys.get("prior_steps"):
        return False, None
    from course_lib import data as data_sets
    from course_lib.latent.code_prior import gated_prior
    from course_lib.training import fit, seed_everything

    seed_everything(settings.seed)
    prior = gated_prior(evaluated(algorithm), channels=keys["prior_channels"], layers=keys["prior_layers"])
    lr = keys["prior_lr"]
    stage = replace(
        settings, steps=keys["prior_steps"], lr=lr, lr_end=lr / 10, schedule="cosine", clip_grad=None
    )
    codes = (Codes(prior, dataset, fabric.device) for dataset in (train, validation))
    folder, loader = (
        plan.out / "prior",
        data_sets.loader(next(codes), settings.batch_size, seed=settings.seed),
    )
    second = make_algorithm(prior, stage, 1)
    recorder = Recorder(folder, stage, next(codes), mean_terms)
    if fabric.is_global_zero:
        folder.mkdir(exist_ok=True)
        print(f"prior over its codes: {stage.steps:,} steps, {folder}", file=sys.stderr)
    recorder.start()
    history = fit(
        second,
        loader,
        steps=stage.steps,
        seed=settings.seed,
        checkpoint=folder / f"checkpoint-{settings.steps}.pt",
        every=settings.checkpoint_every,
        callbacks=[(settings.validate_every, recorder.validate)],
        fabric=fabric,
        progress=progress,
        log_every=settings.log_every,
    )
    return history.interrupted, evaluated(second)


def likelihood_images(model: nn.Module, test: Any, n: int) -> Tensor:
    """n test images of a fixed random choice, as the likelihood sees them.

    They are binarised here, once: a fresh binarisation for each group of samples would average p(x) over several x,
    and the logarithm of that is nats too good.
    """
    import torch

    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:n]
    images = test.batch(chosen)[0]
    likelihood = getattr(model, "likelihood", None)
    if likelihood is not None:
        images = likelihood.prepare(images, torch.Generator().manual_seed(0))
    return images


def finish(
    plan: Plan,
    algorithm: Algorithm,
    history: History,
    test: Any,
    measure: Callable,
    prior: CodePrior | None = None,
) -> dict[str, Any]:
    """Test metrics into result.json, the last samples and metrics beside it."""

    from course_lib import metrics

    settings, model = plan.settings, evaluated(algorithm)
    save_samples(model if prior is None else prior, test, plan.out / "samples" / "final.png")
    write_metrics(plan.out / "metrics.csv", history, settings.validate_every)
    result: dict[str, Any] = {"steps": int(history.steps[-1])}
    if "seconds" in history:
        result["train_seconds"] = round(history.latest()["seconds"], 1)
    result |= {f"test_{name}": value for name, value in measure(model, test).items()}
    if prior is not None:
        result |= {f"test_{name}": value for name, value in code_terms(prior, test).items()}
    if hasattr(model, "log_weights") and settings.nll_images > 0:
        images = likelihood_images(model, test, settings.nll_images)
        n = len(images)
        print(f"NLL by importance sampling: {n:,} images, k = {settings.nll_k:,} …", file=sys.stderr)
        estimate = metrics.importance_nll(model, images, k=settings.nll_k)
        result |= {
            "nll": estimate.mean,
            "nll_stderr": estimate.stderr,
            "nll_k": settings.nll_k,
            "nll_images": n,
        }
    write_json(plan.out / "result.json", result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        chosen = plan(arguments)
        from course_lib.training import make_fabric

        fabric = make_fabric(
            arguments.device,
            chosen.settings.precision,
            arguments.strategy,
            arguments.devices,
            arguments.num_nodes,
        )
        # Processes that were started a second apart have different names for the folder: the first one's holds.
        chosen = replace(chosen, out=Path(fabric.broadcast(str(chosen.out))))
        return run(chosen, fabric, arguments.data_root, progress=not arguments.no_progress)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}\n(--help lists models, data sets and settings)", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
