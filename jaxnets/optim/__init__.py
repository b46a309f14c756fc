"""Optimizers, schedules and the transformations they are made of; a drop-in for Optax.

    optimizer = chain(clip_by_global_norm(1.0), adamw(1e-3, mask="kernel$"))
    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params)
    params = apply_updates(params, updates)

Where they differ from Optax, it is on purpose:

- Arithmetic and moments are float32 at least. Optax's are of the parameters' dtype: zero gradients
  in float16 give NaN, and in bfloat16 the second moment cannot decay.
- States keep their dtypes from step to step, whatever the gradients' dtype.
- `clip_by_global_norm` does not overflow, and its derivative at 0 is finite.
- Centered RMSProp stays finite where rounding makes the variance negative.
- Second moments of complex parameters are real.
- Any hyper-parameter may be a schedule, not only learning rate and weight decay.
- Numbers out of range, masks that match nothing and mismatched trees are errors.
"""

from jaxnets.optim.adabelief import ScaleByBeliefState, adabelief, scale_by_belief
from jaxnets.optim.adadelta import ScaleByAdaDeltaState, adadelta, scale_by_adadelta
from jaxnets.optim.adam import ScaleByAdamState, adam, adamw, scale_by_adam
from jaxnets.optim.adamax import adamax, adamaxw, scale_by_adamax
from jaxnets.optim.adan import ScaleByAdanState, adan, scale_by_adan
from jaxnets.optim.adaptive import (
    ScaleByRmsState,
    ScaleByRmsWithCountState,
    ScaleByRssState,
    ScaleByRStdDevState,
    ScaleByRStdDevWithCountState,
    adagrad,
    rmsprop,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
)
from jaxnets.optim.amsgrad import ScaleByAmsgradState, amsgrad, scale_by_amsgrad
from jaxnets.optim.clip import clip, clip_by_global_norm
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import TraceState, sgd, trace
from jaxnets.optim.flat import FlatState, flat
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.nadam import ScaleByNadamState, nadam, nadamw, scale_by_nadam
from jaxnets.optim.novograd import ScaleByNovogradState, novograd, scale_by_novograd
from jaxnets.optim.packing import Packed, pack, unpack
from jaxnets.optim.radam import radam, scale_by_radam
from jaxnets.optim.rprop import ScaleByRpropState, rprop, scale_by_rprop
from jaxnets.optim.scale import (
    ScaleByScheduleState,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from jaxnets.optim.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    join_schedules,
    linear_schedule,
    piecewise_constant_schedule,
    polynomial_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
)
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    apply_updates,
    chain,
    identity,
)
from jaxnets.optim.yogi import scale_by_yogi, yogi

__all__ = [
    "EmptyState",
    "FlatState",
    "GradientTransformation",
    "Packed",
    "ScaleByAdaDeltaState",
    "ScaleByAdamState",
    "ScaleByAdanState",
    "ScaleByAmsgradState",
    "ScaleByBeliefState",
    "ScaleByNadamState",
    "ScaleByNovogradState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRpropState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "ScheduledState",
    "TraceState",
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "add_decayed_weights",
    "amsgrad",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "flat",
    "identity",
    "join_schedules",
    "linear_schedule",
    "nadam",
    "nadamw",
    "novograd",
    "pack",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "radam",
    "rmsprop",
    "rprop",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_learning_rate",
    "scale_by_nadam",
    "scale_by_novograd",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_stddev",
    "scale_by_yogi",
    "sgd",
    "trace",
    "unpack",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "yogi",
]
