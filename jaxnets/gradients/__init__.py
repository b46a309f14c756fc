"""Per-example gradients of any JAX loss, and what follows from them."""

from jaxnets.gradients import accounting, likelihoods, privacy
from jaxnets.gradients.activations import tag
from jaxnets.gradients.backprop import backprop, backward, descend, describe
from jaxnets.gradients.check import LeafCheck, check_gradients
from jaxnets.gradients.clipping import (
    ClippedGradMetrics,
    adapted_clip_norm,
    clipped_grad,
    clipped_sum,
    sensitivity,
)
from jaxnets.gradients.curvature import Sharpness, fisher_diagonal, sharpness
from jaxnets.gradients.diagnose import diagnose
from jaxnets.gradients.explain import ParameterPlan, explain, plan
from jaxnets.gradients.factors import (
    dot,
    gram,
    materialize,
    norms,
    norms_by_rule,
    sq_norms,
    sq_norms_by_leaf,
    weighted_sum,
)
from jaxnets.gradients.finding import Finding
from jaxnets.gradients.flow import flow, value_and_grad_flow
from jaxnets.gradients.hutchinson import Estimate, hutchinson_diagonal, hutchinson_trace
from jaxnets.gradients.kronecker import DiagonalBlock, KroneckerBlock, kfac_factors
from jaxnets.gradients.lanczos import (
    Eigenpairs,
    Spectrum,
    Tridiagonal,
    density,
    lanczos,
    spectrum,
    top_eigenvalues,
)
from jaxnets.gradients.likelihoods import Likelihood
from jaxnets.gradients.local_rules import RULES
from jaxnets.gradients.measures import Spread, histogram_edges
from jaxnets.gradients.moments import second_moment
from jaxnets.gradients.natural import inverses, natural_gradient
from jaxnets.gradients.per_example import per_example_grad, per_example_norms
from jaxnets.gradients.products import ggn_vp, hvp
from jaxnets.gradients.program import Factors
from jaxnets.gradients.rule import Rule
from jaxnets.gradients.site_flow import Flow, SiteFlow, SiteFlows, with_updates
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
from jaxnets.gradients.tape import Operation, Tape, record

__all__ = [
    "RULES",
    "ClippedGradMetrics",
    "DiagonalBlock",
    "Diversity",
    "Eigenpairs",
    "Estimate",
    "Factors",
    "Finding",
    "Flow",
    "KroneckerBlock",
    "LeafCheck",
    "Likelihood",
    "Moments",
    "NoiseScale",
    "Operation",
    "ParameterPlan",
    "Rule",
    "Sharpness",
    "SignalToNoise",
    "SiteFlow",
    "SiteFlows",
    "Spectrum",
    "Spread",
    "Tape",
    "Tridiagonal",
    "accounting",
    "adapted_clip_norm",
    "backprop",
    "backward",
    "check_gradients",
    "clipped_grad",
    "clipped_sum",
    "density",
    "descend",
    "describe",
    "diagnose",
    "diversity",
    "dot",
    "explain",
    "fisher_diagonal",
    "flow",
    "ggn_vp",
    "gram",
    "hardest",
    "histogram_edges",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "hvp",
    "inverses",
    "kfac_factors",
    "lanczos",
    "likelihoods",
    "materialize",
    "moments",
    "natural_gradient",
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
    "sharpness",
    "signal_to_noise",
    "spectrum",
    "sq_norms",
    "sq_norms_by_leaf",
    "tag",
    "top_eigenvalues",
    "tracin",
    "value_and_grad_flow",
    "weighted_sum",
    "with_updates",
]
