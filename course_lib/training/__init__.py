"""One loop for every algorithm.

What differs between a VAE, a GAN and a CycleGAN is *what one step does*. So an algorithm is an object that holds
its networks and optimisers and has ``step(batch) -> {name: scalar}``; all the rest is here, once: the place and
the precision of the networks, the progress bar, the history, callbacks, checkpoints, and stopping well.

    algorithm = SingleLoss(model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True))
    history = fit(algorithm, loader, steps=2_000, checkpoint="runs/vae.pt", every=500)
    history["loss"]                                    # one number a step

**Exact resume.** A run of 200 steps equals 100 steps, a new process, and 100 steps more, to the last bit on one
CPU. It follows from two rules. The order of the data is a function of (seed, epoch) alone, so an epoch can be
begun again and its first batches passed over; everything else that a step reads (weights, optimisers, schedules,
averages, random states of Python, NumPy and torch) is in the checkpoint. What callbacks draw is put back.

The loop runs on Lightning Fabric (https://lightning.ai/docs/fabric), which places modules and batches and knows
precisions and strategies: the same ``step`` runs on a laptop, on one GPU and on many machines. Averages of
weights and learning-rate schedules are torch's own (``torch.optim.swa_utils``, ``torch.optim.lr_scheduler``).
Exponential moving averages of weights go back to Polyak and Juditsky (1992, SIAM J. Control Optim. 30).

Departure from common practice: the first Ctrl-C lets the step in hand finish, so that the state which is kept
can be continued exactly; a second one stops at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from course_lib.training.algorithm import Algorithm, SingleLoss
    from course_lib.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
    from course_lib.training.device import default_device, fastest_precision, make_fabric
    from course_lib.training.history import History
    from course_lib.training.loop import NonFiniteError, fit
    from course_lib.training.randomness import seed_everything

__all__ = [
    "Algorithm",
    "CheckpointError",
    "History",
    "NonFiniteError",
    "SingleLoss",
    "default_device",
    "fastest_precision",
    "fit",
    "load_checkpoint",
    "make_fabric",
    "save_checkpoint",
    "seed_everything",
]

_HOME = {
    "algorithm": ("Algorithm", "SingleLoss"),
    "checkpoints": ("CheckpointError", "load_checkpoint", "save_checkpoint"),
    "device": ("default_device", "fastest_precision", "make_fabric"),
    "history": ("History",),
    "loop": ("NonFiniteError", "fit"),
    "randomness": ("seed_everything",),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: Fabric costs over a second, and who only derives from
    ``Algorithm`` does not need it."""
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
