"""Optimizers, schedules and the transformations they are made of; a drop-in for Optax.

    optimizer = chain(clip_by_global_norm(1.0), adamw(1e-3, mask="kernel$"))
    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params)
    params = apply_updates(params, updates)

Names, arguments, defaults, states and numbers are Optax's, except where the table of differences in
docs/optimizers.md says so: arithmetic and moments are float32 at least, any hyper-parameter may be
a schedule or a traced array, and bad input is an error.
"""

from jaxnets.optim.accumulate import (
    MultiSteps,
    MultiStepsState,
    accumulate,
    skip_large_updates,
    skip_not_finite,
)
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
from jaxnets.optim.ademamix import (
    ScaleByAdemamixState,
    ScaleBySimplifiedAdEMAMixState,
    ademamix,
    scale_by_ademamix,
    scale_by_simplified_ademamix,
    simplified_ademamix,
)
from jaxnets.optim.adopt import adopt, scale_by_adopt
from jaxnets.optim.amsgrad import ScaleByAmsgradState, amsgrad, scale_by_amsgrad
from jaxnets.optim.averages import ApplyEvery, EmaState, apply_every, ema
from jaxnets.optim.blocks import (
    centralize,
    normalize_by_update_norm,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
)
from jaxnets.optim.clip import clip, clip_by_global_norm
from jaxnets.optim.clip_blocks import (
    adaptive_grad_clip,
    clip_by_block_rms,
    clip_per_leaf,
    unitwise_clip,
    unitwise_norm,
)
from jaxnets.optim.combine import named_chain
from jaxnets.optim.conditional import (
    ApplyIfFiniteState,
    ConditionallyMaskState,
    ConditionallyTransformState,
    apply_if_finite,
    conditionally_mask,
    conditionally_transform,
)
from jaxnets.optim.constrain import (
    NonNegativeParamsState,
    ZeroNansState,
    keep_params_nonnegative,
    zero_nans,
)
from jaxnets.optim.curvature import (
    GaussNewtonBartlettState,
    HutchinsonState,
    gauss_newton_bartlett_estimator_diag_hessian,
    hutchinson_estimator_diag_hessian,
)
from jaxnets.optim.cycles import (
    cosine_onecycle_schedule,
    linear_onecycle_schedule,
    piecewise_interpolate_schedule,
    sgdr_schedule,
)
from jaxnets.optim.decay import add_decayed_weights
from jaxnets.optim.descent import TraceState, sgd, trace
from jaxnets.optim.dimensions import MuonDimensionNumbers
from jaxnets.optim.distance import DoGState, DoWGState, dog, dowg, scale_by_dog, scale_by_dowg
from jaxnets.optim.factored import FactoredState, adafactor, scale_by_factored_rms
from jaxnets.optim.flat import FlatState, flat
from jaxnets.optim.flatten import flatten
from jaxnets.optim.freezing import freeze, selective_transform
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.in_turn import step_in_turn
from jaxnets.optim.inject import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    StatefulSchedule,
    WrappedSchedule,
    WrappedScheduleState,
    inject_hyperparams,
    inject_stateful_hyperparams,
)
from jaxnets.optim.layer_distance import (
    ScaleByDistanceOverGradientsState,
    scale_by_distance_over_gradients,
)
from jaxnets.optim.lbfgs import ScaleByLBFGSState, lbfgs, scale_by_lbfgs
from jaxnets.optim.linesearch import (
    BacktrackingLinesearchInfo,
    ScaleByBacktrackingLinesearchState,
    scale_by_backtracking_linesearch,
    value_and_grad_from_state,
)
from jaxnets.optim.lookahead import LookaheadParams, LookaheadState, lookahead
from jaxnets.optim.loss_scale import (
    DynamicLossScaleState,
    dynamic_loss_scale,
    loss_scale,
    scale_loss,
)
from jaxnets.optim.masking import MaskedNode, MaskedState, masked
from jaxnets.optim.mechanic import MechanicState, mechanize
from jaxnets.optim.moments import (
    bias_correction,
    update_infinity_moment,
    update_moment,
    update_moment_per_elem_norm,
)
from jaxnets.optim.monitor import MonitorState, SnapshotState, measure_with_ema, monitor, snapshot
from jaxnets.optim.muon import MuonState, muon, scale_by_muon, scale_by_shape
from jaxnets.optim.nadam import ScaleByNadamState, nadam, nadamw, scale_by_nadam
from jaxnets.optim.names import (
    AdaptiveGradClipState,
    AddDecayedWeightsState,
    ClipByGlobalNormState,
    ClipState,
    ConditionFn,
    MaskOrFn,
    OptState,
    ScaleByTrustRatioState,
    ScaleState,
    ShouldSkipUpdateFunction,
    TransformInitFn,
    TransformUpdateFn,
    init_empty_state,
    safe_int32_increment,
)
from jaxnets.optim.noise import AddNoiseState, add_noise, noisy_sgd
from jaxnets.optim.novograd import ScaleByNovogradState, novograd, scale_by_novograd
from jaxnets.optim.numerics import global_norm, safe_increment, safe_norm, safe_root_mean_squares
from jaxnets.optim.optimistic import (
    ScaleByOptimisticGradientState,
    optimistic_adam,
    optimistic_adam_v2,
    optimistic_gradient_descent,
    scale_by_optimistic_gradient,
)
from jaxnets.optim.orthogonalize import orthogonalize_via_newton_schulz
from jaxnets.optim.packing import Packed, pack, unpack
from jaxnets.optim.partition import (
    MultiTransformState,
    PartitionState,
    label_by_path,
    multi_transform,
    partition,
)
from jaxnets.optim.plateau import ReduceLROnPlateauState, reduce_on_plateau
from jaxnets.optim.polyak import polyak_sgd, scale_by_polyak
from jaxnets.optim.prodigy import ProdigyState, prodigy
from jaxnets.optim.radam import radam, scale_by_radam
from jaxnets.optim.range_test import learning_rate_range, suggest_rate
from jaxnets.optim.reading import hyperparams
from jaxnets.optim.rprop import ScaleByRpropState, rprop, scale_by_rprop
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
from jaxnets.optim.shampoo import ScaleByShampooState, scale_by_shampoo, shampoo
from jaxnets.optim.sign import (
    ScaleByLionState,
    lion,
    scale_by_lion,
    scale_by_sign,
    sign_sgd,
    signum,
)
from jaxnets.optim.slow_copies import incremental_update, periodic_update
from jaxnets.optim.sm3 import ScaleBySM3State, scale_by_sm3, sm3
from jaxnets.optim.soap import ScaleBySoapState, scale_by_soap, soap
from jaxnets.optim.sophia import SophiaState, scale_by_sophia, sophia
from jaxnets.optim.state_trees import tree_map_params
from jaxnets.optim.stateless import set_to_zero, stateless, stateless_with_tree_map
from jaxnets.optim.transform import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    TransformUpdateExtraArgsFn,
    Updates,
    apply_updates,
    chain,
    identity,
    with_extra_args_support,
)
from jaxnets.optim.trust_ratio import fromage, lamb, lars, scale_by_trust_ratio
from jaxnets.optim.warmup import (
    inverse_sqrt_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)
from jaxnets.optim.yogi import scale_by_yogi, yogi
from jaxnets.optim.zoom import (
    ScaleByZoomLinesearchState,
    ZoomLinesearchInfo,
    scale_by_zoom_linesearch,
)
from jaxnets.types import Params, ScalarOrSchedule, Schedule

__all__ = [
    "AdaptiveGradClipState",
    "AddDecayedWeightsState",
    "AddNoiseState",
    "ApplyEvery",
    "ApplyIfFiniteState",
    "BacktrackingLinesearchInfo",
    "ClipByGlobalNormState",
    "ClipState",
    "ConditionFn",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "DoGState",
    "DoWGState",
    "DynamicLossScaleState",
    "EmaState",
    "EmptyState",
    "FactoredState",
    "FlatState",
    "GaussNewtonBartlettState",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "HutchinsonState",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "LookaheadParams",
    "LookaheadState",
    "MaskOrFn",
    "MaskedNode",
    "MaskedState",
    "MechanicState",
    "MonitorState",
    "MultiSteps",
    "MultiStepsState",
    "MultiTransformState",
    "MuonDimensionNumbers",
    "MuonState",
    "NonNegativeParamsState",
    "NormalizeState",
    "OptState",
    "Packed",
    "Params",
    "PartitionState",
    "ProdigyState",
    "ReduceLROnPlateauState",
    "SAMState",
    "ScalarOrSchedule",
    "ScaleByAdaDeltaState",
    "ScaleByAdamState",
    "ScaleByAdanState",
    "ScaleByAdemamixState",
    "ScaleByAmsgradState",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByBeliefState",
    "ScaleByDistanceOverGradientsState",
    "ScaleByLBFGSState",
    "ScaleByLionState",
    "ScaleByNadamState",
    "ScaleByNovogradState",
    "ScaleByOptimisticGradientState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRpropState",
    "ScaleByRssState",
    "ScaleBySM3State",
    "ScaleByScheduleState",
    "ScaleByShampooState",
    "ScaleBySimplifiedAdEMAMixState",
    "ScaleBySoapState",
    "ScaleByTrustRatioState",
    "ScaleByZoomLinesearchState",
    "ScaleState",
    "Schedule",
    "ScheduleFreeState",
    "ScheduledState",
    "ShouldSkipUpdateFunction",
    "SnapshotState",
    "SophiaState",
    "StatefulSchedule",
    "TraceState",
    "TransformInitFn",
    "TransformUpdateExtraArgsFn",
    "TransformUpdateFn",
    "Updates",
    "WrappedSchedule",
    "WrappedScheduleState",
    "ZeroNansState",
    "ZoomLinesearchInfo",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "ademamix",
    "adopt",
    "amsgrad",
    "apply_every",
    "apply_if_finite",
    "apply_updates",
    "bias_correction",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_per_leaf",
    "conditionally_mask",
    "conditionally_transform",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "dog",
    "dowg",
    "dynamic_loss_scale",
    "ema",
    "exponential_decay",
    "flat",
    "flatten",
    "freeze",
    "fromage",
    "gauss_newton_bartlett_estimator_diag_hessian",
    "global_norm",
    "hutchinson_estimator_diag_hessian",
    "hyperparams",
    "identity",
    "incremental_update",
    "init_empty_state",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "inverse_sqrt_schedule",
    "join_schedules",
    "keep_params_nonnegative",
    "label_by_path",
    "lamb",
    "lars",
    "lbfgs",
    "learning_rate_range",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "lookahead",
    "loss_scale",
    "masked",
    "measure_with_ema",
    "mechanize",
    "monitor",
    "multi_transform",
    "muon",
    "nadam",
    "nadamw",
    "named_chain",
    "noisy_sgd",
    "normalize",
    "normalize_by_update_norm",
    "novograd",
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "orthogonalize_via_newton_schulz",
    "pack",
    "partition",
    "periodic_update",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polyak_sgd",
    "polynomial_schedule",
    "prodigy",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "rprop",
    "safe_increment",
    "safe_int32_increment",
    "safe_norm",
    "safe_root_mean_squares",
    "sam",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_backtracking_linesearch",
    "scale_by_belief",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_muon",
    "scale_by_nadam",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_polyak",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_simplified_ademamix",
    "scale_by_sm3",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "scale_by_zoom_linesearch",
    "scale_loss",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "selective_transform",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "shampoo",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "skip_large_updates",
    "skip_not_finite",
    "sm3",
    "snapshot",
    "soap",
    "sophia",
    "stateless",
    "stateless_with_tree_map",
    "step_in_turn",
    "suggest_rate",
    "trace",
    "tree_map_params",
    "unitwise_clip",
    "unitwise_norm",
    "unpack",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "value_and_grad_from_state",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
    "with_extra_args_support",
    "yogi",
    "zero_nans",
]
