"""Training as pure functions: a step, whole epochs in one scan, runs, checkpoints."""

from jaxnets.train import selection
from jaxnets.train.checkpoint import (
    checkpoint_steps,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from jaxnets.train.gan import GANState, gan_step, init_gan_state
from jaxnets.train.kfac import KFACState, adaptive_kfac, kfac
from jaxnets.train.kfac_step import kfac_blocks, kfac_step
from jaxnets.train.population import Member, member, members, paired, population, table
from jaxnets.train.run import (
    History,
    batch_indices,
    epoch,
    epoch_indices,
    evaluate,
    run,
    steps_per_epoch,
)
from jaxnets.train.step import TrainState, batched, init_state, step
from jaxnets.train.stopping import Stopping, best, init_stopping, should_stop, update_stopping
from jaxnets.train.windows import drawn, random_windows, windows

__all__ = [
    "GANState",
    "History",
    "KFACState",
    "Member",
    "Stopping",
    "TrainState",
    "adaptive_kfac",
    "batch_indices",
    "batched",
    "best",
    "checkpoint_steps",
    "drawn",
    "epoch",
    "epoch_indices",
    "evaluate",
    "gan_step",
    "init_gan_state",
    "init_state",
    "init_stopping",
    "kfac",
    "kfac_blocks",
    "kfac_step",
    "latest_checkpoint",
    "member",
    "members",
    "paired",
    "population",
    "random_windows",
    "restore_checkpoint",
    "run",
    "save_checkpoint",
    "selection",
    "should_stop",
    "step",
    "steps_per_epoch",
    "table",
    "update_stopping",
    "verify_checkpoint",
    "windows",
]
