"""Training as pure functions: a step, whole epochs in one scan, runs, checkpoints."""

from jaxnets.train.checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint
from jaxnets.train.run import (
    History,
    epoch,
    epoch_indices,
    evaluate,
    run,
    steps_per_epoch,
)
from jaxnets.train.step import TrainState, batched, init_state, step
from jaxnets.train.stopping import Stopping, init_stopping, update_stopping

__all__ = [
    "History",
    "Stopping",
    "TrainState",
    "batched",
    "epoch",
    "epoch_indices",
    "evaluate",
    "init_state",
    "init_stopping",
    "latest_checkpoint",
    "restore_checkpoint",
    "run",
    "save_checkpoint",
    "step",
    "steps_per_epoch",
    "update_stopping",
]
