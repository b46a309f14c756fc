"""Per-example gradients of any JAX loss, and what follows from them."""

from jaxnets.gradients import accounting, privacy
from jaxnets.gradients.activations import tag
from jaxnets.gradients.backprop import (
    Operation,
    Tape,
    backprop,
    backward,
    descend,
    describe,
    record,
)
from jaxnets.gradients.check import LeafCheck, check_gradients
from jaxnets.gradients.clipping import (
    ClippedGradMetrics,
    adapted_clip_norm,
    clipped_grad,
    clipped_sum,
    sensitivity,
)
from jaxnets.gradients.diagnose import Finding, diagnose
from jaxnets.gradients.explain import ParameterPlan, explain, plan
from jaxnets.gradients.factors import (
    dot,
    gram,
    materialize,
    norms,
    norms_by_rule,
    second_moment,
    sq_norms,
    sq_norms_by_leaf,
    weighted_sum,
)
from jaxnets.gradients.flow import Flow, SiteFlow, flow, value_and_grad_flow, with_updates
from jaxnets.gradients.local_rules import RULES, Rule
from jaxnets.gradients.measures import Spread, histogram_edges
from jaxnets.gradients.per_example import per_example_grad, per_example_norms
from jaxnets.gradients.program import Factors
from jaxnets.gradients.statistics import (
    Diversity,
    Moments,
    NoiseScale,
    SignalToNoise,
    diversity,
    hardest,
    moments,
    noise_scale,
    self_influence,
    signal_to_noise,
    tracin,
)

__all__ = [
    "RULES",
    "ClippedGradMetrics",
    "Diversity",
    "Factors",
    "Finding",
    "Flow",
    "LeafCheck",
    "Moments",
    "NoiseScale",
    "Operation",
    "ParameterPlan",
    "Rule",
    "SignalToNoise",
    "SiteFlow",
    "Spread",
    "Tape",
    "accounting",
    "adapted_clip_norm",
    "backprop",
    "backward",
    "check_gradients",
    "clipped_grad",
    "clipped_sum",
    "descend",
    "describe",
    "diagnose",
    "diversity",
    "dot",
    "explain",
    "flow",
    "gram",
    "hardest",
    "histogram_edges",
    "materialize",
    "moments",
    "noise_scale",
    "norms",
    "norms_by_rule",
    "per_example_grad",
    "per_example_norms",
    "plan",
    "privacy",
    "record",
    "second_moment",
    "self_influence",
    "sensitivity",
    "signal_to_noise",
    "sq_norms",
    "sq_norms_by_leaf",
    "tag",
    "tracin",
    "value_and_grad_flow",
    "weighted_sum",
    "with_updates",
]
