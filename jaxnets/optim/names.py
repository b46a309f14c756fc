"""Optax's names for what here is a plain type or has no state of its own."""

from typing import TypeAlias

from jaxnets.optim.accumulate import ShouldSkip
from jaxnets.optim.conditional import Condition
from jaxnets.optim.decay import Mask
from jaxnets.optim.numerics import safe_increment
from jaxnets.optim.transform import EmptyState, Init, State, Update, empty_state

AdaptiveGradClipState = EmptyState
AddDecayedWeightsState = EmptyState
ClipByGlobalNormState = EmptyState
ClipState = EmptyState
ScaleByTrustRatioState = EmptyState
ScaleState = EmptyState
init_empty_state = empty_state

ConditionFn: TypeAlias = Condition
MaskOrFn: TypeAlias = Mask | None
OptState: TypeAlias = State
ShouldSkipUpdateFunction: TypeAlias = ShouldSkip
TransformInitFn: TypeAlias = Init
TransformUpdateFn: TypeAlias = Update

safe_int32_increment = safe_increment
"""Optax's former name."""
