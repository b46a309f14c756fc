"""Per-example gradients, each scaled to a bounded norm, and summed.

    Σᵢ sᵢ gᵢ,    sᵢ = min(1, C / ‖gᵢ‖)    or, normalized,    sᵢ = C / (‖gᵢ‖ + γ)

over all parameters together, or for groups of them apart, where `gᵢ`, `sᵢ` and `C` are a group's.
Either way what one example adds is at most `sensitivity(C)` long.

References:
  Abadi et al., [Deep learning with differential privacy](https://arxiv.org/abs/1607.00133), 2016.
  McMahan et al., [Learning differentially private recurrent language
  models](https://arxiv.org/abs/1710.06963), 2018 (groups).
  Bu et al., [Automatic clipping](https://arxiv.org/abs/2206.07136), 2023 (normalized).
  Andrew et al., [Differentially private learning with adaptive
  clipping](https://arxiv.org/abs/1905.03871), 2021 (by a quantile).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree
from jaxnets.checks import require_positive, scalar
from jaxnets.gradients.batches import checked_mask, in_parts, without_padding
from jaxnets.gradients.part_size import part_size
from jaxnets.gradients.per_example import check, tracer
from jaxnets.gradients.two_passes import run
from jaxnets.types import Array, ArrayLike, Params, PyTree

ClipNorm: TypeAlias = ArrayLike | Mapping[str, ArrayLike]
"""One `C`, or one for each group: path rule -> `C`, where the rules cover every parameter."""
Per: TypeAlias = Literal["all", "layer", "leaf"]
PartSize: TypeAlias = int | Literal["auto"] | None
"""Of how many examples at a time gradients are computed; None for all."""


class ClippedGradMetrics(NamedTuple):
    """What was seen of each example before clipping; 0 and False for padding."""

    losses: Array
    """`[B]`"""
    norms: Array
    """`[B]`, over all parameters."""
    clipped: Array
    """`[B]`, whether the norm of any group was above its `clip_norm`, or not finite."""
    aux: Any
    """What `loss` returned beside the scalar, stacked; `None` without `has_aux`."""
    group_norms: Mapping[str, Array] | None = None
    """`[B]` of each group, if there are several."""


def clipped_grad(
    loss: Callable[..., Any],
    clip_norm: ClipNorm,
    *,
    per: Per = "all",
    normalize: ArrayLike | None = None,
    microbatch_size: PartSize = "auto",
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Params, ClippedGradMetrics]]:
    """The mean of per-example gradients, each scaled to a norm of at most `clip_norm`.

    `1/B Σᵢ gᵢ · min(1, clip_norm / ‖gᵢ‖)`. An example whose gradient, or whose norm, is not finite
    contributes 0. With `clip_norm=jnp.inf` it is the gradient of the mean loss.

    Note that it is the mean: noise for privacy is calibrated to the sum, whose sensitivity is
    `clip_norm`; see `privacy.dp_grad`.

    Args:
      loss: `loss(params, *example) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
      clip_norm: `C > 0`, or path rule -> `C` for groups of parameters that are clipped apart.
      per: of one `C`, what is clipped apart: nothing (`"all"`), each `"leaf"`, or each `"layer"`,
        the leaves whose paths differ in their last name; each of `n` groups to `C / √n`. Layers
        stacked for a scan are one leaf.
      normalize: `γ ≥ 0`: gradients are scaled by `C / (‖gᵢ‖ + γ)`, so that small ones grow, and `C`
        is but a learning rate. Bu et al. take 0.01. A gradient of 0 stays 0.
      microbatch_size: of how many examples at a time gradients are computed, one such part after
        the other; None for all at once. The result is the same but for rounding. `"auto"` takes as
        many as a CPU's cache holds, which is faster and needs less memory; on accelerators, and for
        losses with `checkpoint`, all: give a number where these do not fit in memory.
      has_aux, keep_batch_dim: as for `per_example_grad`.

    Returns:
      `f(params, *batch, mask=None) -> (gradient, ClippedGradMetrics)`. `mask` is boolean `[B]`,
      False for padding, which contributes 0 and is not counted in the mean.

    Raises:
      ValueError: for numbers outside their range; on call, if rules leave out a parameter or decide
        none, if `mask` is not `[B]`, and as for `per_example_grad`.
      TypeError: (on call) if `mask` is not boolean.
    """
    clipped = _clipped("clipped_grad", loss, clip_norm, per, normalize, microbatch_size,
                       has_aux, keep_batch_dim)  # fmt: skip

    def mean(
        params: Params, *batch: PyTree, mask: Array | None = None
    ) -> tuple[Params, ClippedGradMetrics]:
        return clipped(params, batch, mask, mean=True)

    return mean


def clipped_sum(
    loss: Callable[..., Any],
    clip_norm: ClipNorm,
    *,
    per: Per = "all",
    normalize: ArrayLike | None = None,
    microbatch_size: PartSize = "auto",
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Params, ClippedGradMetrics]]:
    """`Σᵢ maskᵢ clip(gᵢ, C)`: what `privacy.dp_grad` adds its noise to. **Not** private by itself.

    Of one batch split into microbatches the sums add up to that of the batch. An example that is
    in several of them counts as often, and is then no longer bounded by `C`.

    Arguments, results and errors as for `clipped_grad`.
    """
    clipped = _clipped("clipped_sum", loss, clip_norm, per, normalize, microbatch_size,
                       has_aux, keep_batch_dim)  # fmt: skip

    def total(
        params: Params, *batch: PyTree, mask: Array | None = None
    ) -> tuple[Params, ClippedGradMetrics]:
        return clipped(params, batch, mask, mean=False)

    return total


def sensitivity(clip_norm: ClipNorm) -> ArrayLike:
    """The longest that one example's clipped gradient can be: `C`, or `√ΣC²` over groups."""
    if isinstance(clip_norm, Mapping):
        return jnp.sqrt(sum(jnp.square(jnp.asarray(c)) for c in clip_norm.values()))
    return clip_norm


def adapted_clip_norm(
    clip_norm: ArrayLike, share_below: ArrayLike, *, quantile: ArrayLike = 0.5,
    rate: ArrayLike = 0.2,
) -> Array:  # fmt: skip
    """The next step's `C`, after a quantile of norms: `C · exp(-rate · (share_below - quantile))`.

    `clip_norm` of `clipped_grad` may be traced, so that a training loop carries it on:

        gradient, seen = clipped_grad(loss, c)(params, x, y)
        c = adapted_clip_norm(c, 1 - jnp.mean(seen.clipped))

    The share of one batch tells of its examples: for privacy take `privacy.noisy_share`.

    Args:
      clip_norm: `C > 0`.
      share_below: the share of examples that were not clipped.
      quantile: between 0 and 1, the share that is aimed at.
      rate: at least 0.

    Andrew et al., [Differentially private learning with adaptive
    clipping](https://arxiv.org/abs/1905.03871), 2021.
    """
    c, share, eta, aim = map(jnp.asarray, (clip_norm, share_below, rate, quantile))
    return c * jnp.exp(eta * (aim - share))


class _Group(NamedTuple):
    name: str
    leaves: tuple[int, ...]
    bound: ArrayLike


def _groups(params: Params, clip_norm: ClipNorm, per: Per) -> list[_Group]:
    paths = list(tree.flatten_with_paths(params))
    if isinstance(clip_norm, Mapping):
        rules = tree.apply_rules({pattern: pattern for pattern in clip_norm}, params)
        names, bounds = jax.tree.leaves(rules), dict(clip_norm)
    elif per == "all":
        return [_Group("", tuple(range(len(paths))), clip_norm)]
    else:
        names = [path.rpartition("/")[0] if per == "layer" else path for path in paths]
        bounds = dict.fromkeys(names, clip_norm / math.sqrt(len(set(names))))
    return [
        _Group(name, tuple(i for i, other in enumerate(names) if other == name), bound)
        for name, bound in bounds.items()
    ]


def _together(norms: Array) -> Array:
    """`√Σn²` over the first axis, whose squares may overflow."""
    largest = jnp.max(norms, 0)
    size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    together: Array = largest * jnp.linalg.norm(norms / size[None], axis=0)
    return together


def _scales(norms: Array, bound: ArrayLike, normalize: ArrayLike | None) -> Array:
    if normalize is None:
        above = norms > bound
        return jnp.where(above, bound / jnp.where(above, norms, 1), 1)
    size = norms + normalize
    return jnp.where(size > 0, bound / jnp.where(size > 0, size, 1), 0)


def _clipped(
    function: str, loss: Callable[..., Any], clip_norm: ClipNorm, per: Per,
    normalize: ArrayLike | None, microbatch_size: PartSize,
    has_aux: bool, keep_batch_dim: bool,
) -> Callable[..., tuple[Params, ClippedGradMetrics]]:  # fmt: skip
    _check(function, clip_norm, per, normalize, microbatch_size)
    traced = tracer(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def size_of_parts(params: Params, batch: tuple[PyTree, ...], examples: int) -> int:
        if microbatch_size is None:
            return examples
        return part_size(traced(params, batch)) if microbatch_size == "auto" else microbatch_size

    def whole(
        params: Params, batch: tuple[PyTree, ...], mask: Array | None, count: ArrayLike
    ) -> tuple[Params, ClippedGradMetrics]:
        if mask is not None:
            batch = without_padding(batch, mask)
        groups = _groups(params, clip_norm, per)
        losses, aux, norms_of, sum_of = run(traced(params, batch), together=len(groups) == 1)
        norms = norms_of([group.leaves for group in groups])
        all_norms = norms[0] if len(groups) == 1 else _together(jnp.stack(norms))
        kept = jnp.ones(all_norms.shape, bool) if mask is None else mask
        finite = jnp.isfinite(all_norms)
        above = [n > group.bound for n, group in zip(norms, groups, strict=True)]
        weights = [jnp.zeros_like(all_norms)] * len(jax.tree.leaves(params))
        for n, group in zip(norms, groups, strict=True):
            scale = _scales(jnp.where(finite, n, 0), group.bound, normalize)
            for leaf in group.leaves:
                weights[leaf] = jnp.where(kept, scale, 0) / count
        total = sum_of(weights, finite)
        by_group = {g.name: jnp.where(kept, n, 0) for g, n in zip(groups, norms, strict=True)}
        metrics = ClippedGradMetrics(
            jnp.where(kept, losses, 0), jnp.where(kept, all_norms, 0),
            kept & (jnp.any(jnp.stack(above), 0) | ~finite), aux,
            by_group if len(groups) > 1 else None,
        )  # fmt: skip
        return total, metrics

    def clipped(
        params: Params, batch: tuple[PyTree, ...], mask: Array | None, *, mean: bool
    ) -> tuple[Params, ClippedGradMetrics]:
        check(params, batch)
        examples = jnp.shape(jax.tree.leaves(batch)[0])[0]
        if mask is not None:
            mask = checked_mask(function, mask, examples)
        count: ArrayLike = 1
        if mean:
            count = examples if mask is None else jnp.maximum(jnp.sum(mask), 1)
        size = size_of_parts(params, batch, examples)
        if size >= examples:
            return whole(params, batch, mask, count)

        def part(batch: tuple[PyTree, ...], mask: Array | None) -> Any:
            return whole(params, batch, mask, count)

        return in_parts(part, params, batch, mask, examples, size)

    return clipped


def _check(
    function: str, clip_norm: ClipNorm, per: Per, normalize: ArrayLike | None,
    microbatch_size: PartSize,
) -> None:  # fmt: skip
    if per not in ("all", "layer", "leaf"):
        raise ValueError(f"{function}: per must be 'all', 'layer' or 'leaf', got {per!r}")
    if isinstance(clip_norm, Mapping):
        if per != "all":
            raise ValueError(f"{function}: per={per!r} needs one clip_norm, got rules")
        for pattern, bound in clip_norm.items():
            require_positive(
                function, f"clip_norm[{pattern!r}]", bound, finite=normalize is not None
            )
    else:
        require_positive(function, "clip_norm", clip_norm, finite=normalize is not None)
    if normalize is not None:
        gamma = scalar(function, "normalize", normalize)
        if gamma is not None and not 0 <= gamma < np.inf:
            raise ValueError(
                f"{function}: normalize must be at least 0 and finite, got {normalize}"
            )
    if microbatch_size not in (None, "auto") and not (
        isinstance(microbatch_size, int) and microbatch_size > 0
    ):
        raise ValueError(
            f"{function}: microbatch_size must be a positive integer or 'auto', "
            f"got {microbatch_size!r}"
        )
