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
- Any hyper-parameter may be a schedule, not only learning rate and weight decay, and is read from
  the state by `hyperparams`; `inject_hyperparams` does not cast them to half precision.
- Masks, labels and frozen parameters may be given by rules over paths.
- `MultiSteps` runs the inner update once in a cycle, and accumulates in the parameters' dtype where
  that is wider than float32.
- Numbers out of range, masks that match nothing and mismatched trees are errors.
"""

from jaxnets.optim.accumulate import (
    MultiSteps,
    MultiStepsState,
    accumulate,
    skip_large_updates,
    skip_not_finite,
)
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
from jaxnets.optim.combine import (
    named_chain,
)
from jaxnets.optim.conditional import (
    ApplyIfFiniteState,
    ConditionallyMaskState,
    ConditionallyTransformState,
    apply_if_finite,
    conditionally_mask,
    conditionally_transform,
)
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import TraceState, sgd, trace
from jaxnets.optim.flatten import (
    flatten,
)
from jaxnets.optim.freezing import (
    freeze,
    selective_transform,
)
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.inject import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    StatefulSchedule,
    WrappedSchedule,
    WrappedScheduleState,
    inject_hyperparams,
    inject_stateful_hyperparams,
)
from jaxnets.optim.lookahead import (
    LookaheadParams,
    LookaheadState,
    lookahead,
)
from jaxnets.optim.loss_scale import (
    DynamicLossScaleState,
    dynamic_loss_scale,
    loss_scale,
    scale_loss,
)
from jaxnets.optim.masking import (
    MaskedNode,
    MaskedState,
    masked,
)
from jaxnets.optim.partition import (
    MultiTransformState,
    PartitionState,
    label_by_path,
    multi_transform,
    partition,
)
from jaxnets.optim.plateau import (
    ReduceLROnPlateauState,
    reduce_on_plateau,
)
from jaxnets.optim.reading import (
    hyperparams,
)
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
    GradientTransformationExtraArgs,
    TransformUpdateExtraArgsFn,
    apply_updates,
    chain,
    identity,
    with_extra_args_support,
)

__all__ = [
    "ApplyIfFiniteState",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "DynamicLossScaleState",
    "EmptyState",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "LookaheadParams",
    "LookaheadState",
    "MaskedNode",
    "MaskedState",
    "MultiSteps",
    "MultiStepsState",
    "MultiTransformState",
    "PartitionState",
    "ReduceLROnPlateauState",
    "ScaleByAdamState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "ScheduledState",
    "StatefulSchedule",
    "TraceState",
    "TransformUpdateExtraArgsFn",
    "WrappedSchedule",
    "WrappedScheduleState",
    "accumulate",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "apply_if_finite",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "conditionally_mask",
    "conditionally_transform",
    "constant_schedule",
    "cosine_decay_schedule",
    "dynamic_loss_scale",
    "exponential_decay",
    "flatten",
    "freeze",
    "hyperparams",
    "identity",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "join_schedules",
    "label_by_path",
    "linear_schedule",
    "lookahead",
    "loss_scale",
    "masked",
    "multi_transform",
    "named_chain",
    "partition",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "reduce_on_plateau",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_stddev",
    "scale_loss",
    "selective_transform",
    "sgd",
    "skip_large_updates",
    "skip_not_finite",
    "trace",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "with_extra_args_support",
]
