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
from jaxnets.optim.clip import clip, clip_by_global_norm
from jaxnets.optim.curvature import (
    GaussNewtonBartlettState,
    HutchinsonState,
    gauss_newton_bartlett_estimator_diag_hessian,
    hutchinson_estimator_diag_hessian,
)
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import TraceState, sgd, trace
from jaxnets.optim.dimensions import MuonDimensionNumbers
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.muon import MuonState, muon, scale_by_muon, scale_by_shape
from jaxnets.optim.orthogonalize import orthogonalize_via_newton_schulz
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
from jaxnets.optim.shampoo import ScaleByShampooState, scale_by_shampoo, shampoo
from jaxnets.optim.soap import ScaleBySoapState, scale_by_soap, soap
from jaxnets.optim.sophia import SophiaState, scale_by_sophia, sophia
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    apply_updates,
    chain,
    identity,
)

__all__ = [
    "EmptyState",
    "GaussNewtonBartlettState",
    "GradientTransformation",
    "HutchinsonState",
    "MuonDimensionNumbers",
    "MuonState",
    "ScaleByAdamState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "ScaleByShampooState",
    "ScaleBySoapState",
    "ScheduledState",
    "SophiaState",
    "TraceState",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "gauss_newton_bartlett_estimator_diag_hessian",
    "hutchinson_estimator_diag_hessian",
    "identity",
    "join_schedules",
    "linear_schedule",
    "muon",
    "orthogonalize_via_newton_schulz",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_muon",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_stddev",
    "sgd",
    "shampoo",
    "soap",
    "sophia",
    "trace",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
]
