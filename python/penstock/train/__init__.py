"""Training: ``Config``, ``run`` and what a run reports. Torch is imported when ``run`` is called."""

from __future__ import annotations

from penstock.config import Config
from penstock.train.metrics import Progress, StepEvent, TrainReport

__all__ = ["Config", "Progress", "StepEvent", "TrainReport", "run"]


def run(config: Config, progress: Progress | None = None, resume: bool = True) -> TrainReport:
    """Train the model of a recipe on its packed dataset, from the newest checkpoint if there is one.

    Parameters
    ----------
    config
        The recipe; ``data.path`` names a folder of packed shards, ``train.out`` the run's folder.
    progress
        Called with a ``StepEvent`` after every ``train.log_every``-th step.
    resume
        Go on from the newest complete checkpoint in ``train.out``. False starts anew and moves what an
        earlier run left there aside.

    Returns
    -------
    TrainReport
        Where the checkpoint, the metrics and the plot lie, and what the run did.

    Notes
    -----
    With ``train.deterministic`` a resumed run on a CPU gives the losses of an uninterrupted one to the last
    bit, given the same number of torch threads: sums are cut by thread.

    Raises
    ------
    ConfigError
        The recipe does not fit together.
    DataError
        The dataset does not fit the model: row length, lookahead or vocabulary.
    HardwareError
        The precision or device asked for is not there.
    CheckpointError
        A checkpoint is of another model, or cannot be written.
    TrainingError
        The loss or a gradient was not finite and the policy is ``stop``.
    Cancelled
        SIGINT or SIGTERM came: the step was finished and a checkpoint saved.
    """
    from penstock.train.loop import run as run_loop

    return run_loop(config, progress, resume)
