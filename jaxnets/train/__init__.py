"""Training as pure functions: a step, whole epochs in one scan, runs, checkpoints, transfer."""

from jaxnets.train import selection
from jaxnets.train.checkpoint import (
    checkpoint_steps,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from jaxnets.train.forgetting import (
    Replay,
    accuracy_matrix,
    add_to_replay,
    average_accuracy,
    backward_transfer,
    ewc_penalty,
    forgetting,
    init_replay,
    l2_to_start,
    sample_replay,
)
from jaxnets.train.gan import GANState, gan_step, init_gan_state
from jaxnets.train.kfac import KFACState, adaptive_kfac, kfac
from jaxnets.train.kfac_step import kfac_blocks, kfac_step
from jaxnets.train.lora import Adapter, init_lora, merge_lora, with_lora
from jaxnets.train.population import (
    Member,
    member,
    members,
    over_devices,
    paired,
    population,
    table,
)
from jaxnets.train.probe import Probe, linear_probe
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
from jaxnets.train.transfer import (
    features,
    gradual_unfreezing,
    layerwise_rates,
    merge_params,
    split_params,
    with_frozen,
)
from jaxnets.train.windows import drawn, random_windows, windows

__all__ = [
    "Adapter",
    "GANState",
    "History",
    "KFACState",
    "Member",
    "Probe",
    "Replay",
    "Stopping",
    "TrainState",
    "accuracy_matrix",
    "adaptive_kfac",
    "add_to_replay",
    "average_accuracy",
    "backward_transfer",
    "batch_indices",
    "batched",
    "best",
    "checkpoint_steps",
    "drawn",
    "epoch",
    "epoch_indices",
    "evaluate",
    "ewc_penalty",
    "features",
    "forgetting",
    "gan_step",
    "gradual_unfreezing",
    "init_gan_state",
    "init_lora",
    "init_replay",
    "init_state",
    "init_stopping",
    "kfac",
    "kfac_blocks",
    "kfac_step",
    "l2_to_start",
    "latest_checkpoint",
    "layerwise_rates",
    "linear_probe",
    "member",
    "members",
    "merge_lora",
    "merge_params",
    "over_devices",
    "paired",
    "population",
    "random_windows",
    "restore_checkpoint",
    "run",
    "sample_replay",
    "save_checkpoint",
    "selection",
    "should_stop",
    "split_params",
    "step",
    "steps_per_epoch",
    "table",
    "update_stopping",
    "verify_checkpoint",
    "windows",
    "with_frozen",
    "with_lora",
]
