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
- States hold copies: parameters and states may both be donated.
- Prodigy, normalized SAM and line searches recover from zero gradients and losses without value.
- Any hyper-parameter may be a schedule, not only learning rate and weight decay.
- Numbers out of range, masks that match nothing and mismatched trees are errors.
"""

from jaxnets.optim.adam import ScaleByAdamState, adam, adamw, scale_by_adam
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
from jaxnets.optim.ademamix import (
    ScaleByAdemamixState,
    ScaleBySimplifiedAdEMAMixState,
    ademamix,
    scale_by_ademamix,
    scale_by_simplified_ademamix,
    simplified_ademamix,
)
from jaxnets.optim.adopt import adopt, scale_by_adopt
from jaxnets.optim.clip import clip, clip_by_global_norm
from jaxnets.optim.cycles import (
    cosine_onecycle_schedule,
    linear_onecycle_schedule,
    piecewise_interpolate_schedule,
    sgdr_schedule,
)
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import TraceState, sgd, trace
from jaxnets.optim.distance import DoGState, DoWGState, dog, dowg, scale_by_dog, scale_by_dowg
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.lbfgs import ScaleByLBFGSState, lbfgs, scale_by_lbfgs
from jaxnets.optim.linesearch import (
    BacktrackingLinesearchInfo,
    ScaleByBacktrackingLinesearchState,
    scale_by_backtracking_linesearch,
    value_and_grad_from_state,
)
from jaxnets.optim.mechanic import MechanicState, mechanize
from jaxnets.optim.prodigy import ProdigyState, prodigy
from jaxnets.optim.range_test import learning_rate_range, suggest_rate
from jaxnets.optim.sam import NormalizeState, SAMState, normalize, sam
from jaxnets.optim.scale import (
    ScaleByScheduleState,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from jaxnets.optim.schedule_free import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
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
from jaxnets.optim.warmup import (
    inverse_sqrt_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)
from jaxnets.optim.zoom import (
    ScaleByZoomLinesearchState,
    ZoomLinesearchInfo,
    scale_by_zoom_linesearch,
)

__all__ = [
    "BacktrackingLinesearchInfo",
    "DoGState",
    "DoWGState",
    "EmptyState",
    "GradientTransformation",
    "MechanicState",
    "NormalizeState",
    "ProdigyState",
    "SAMState",
    "ScaleByAdamState",
    "ScaleByAdemamixState",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByLBFGSState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "ScaleBySimplifiedAdEMAMixState",
    "ScaleByZoomLinesearchState",
    "ScheduleFreeState",
    "ScheduledState",
    "TraceState",
    "ZoomLinesearchInfo",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "ademamix",
    "adopt",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "dog",
    "dowg",
    "exponential_decay",
    "identity",
    "inverse_sqrt_schedule",
    "join_schedules",
    "lbfgs",
    "learning_rate_range",
    "linear_onecycle_schedule",
    "linear_schedule",
    "mechanize",
    "normalize",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "prodigy",
    "rmsprop",
    "sam",
    "scale",
    "scale_by_adam",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_backtracking_linesearch",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_simplified_ademamix",
    "scale_by_stddev",
    "scale_by_zoom_linesearch",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "sgd",
    "sgdr_schedule",
    "simplified_ademamix",
    "suggest_rate",
    "trace",
    "value_and_grad_from_state",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
]
