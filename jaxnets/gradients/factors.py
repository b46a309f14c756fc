"""What is computed from the factors of a batch, without its per-example gradients."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.equations import is_there
from jaxnets.gradients.plans import (
    Used,
    broadcast,
    choose,
    outer_products,
    own_gradients,
    same_product,
    uses_by_parameter,
    wide,
)
from jaxnets.gradients.program import Factors, values_of
from jaxnets.gradients.squares import OWN, squares
from jaxnets.gradients.uses import Use, results, total_gradient, uses
from jaxnets.types import Array, Params, PyTree

LARGE = 2**16
"""Elements of error signals from which on it is worth while to wait for a sum."""

SCALED = 8
"""How many examples at a time are computed again, scaled, if the squares of some are no numbers."""


def _zero(factors: Factors) -> Array:
    dtypes = [jnp.real(leaf).dtype for leaf in factors.params]
    return jnp.zeros((), jnp.result_type(jnp.float32, *dtypes))


def _tree(factors: Factors, leaves: Sequence[Any]) -> PyTree:
    return factors.program.structure.unflatten(leaves)


def _squares(
    factors: Factors, leaves: Sequence[int] | None = None, scale: Array | None = None
) -> list[Array]:
    """`‖sᵢ gᵢ‖²` of each parameter, or of some, where `s` is `scale`."""
    values, by_parameter = (
        values_of(factors.params, factors.constants),
        uses_by_parameter(factors, scale),
    )
    return [
        squares(choose(by_parameter[i], parameter), by_parameter[i], i, values, _examples(factors))
        for i, parameter in enumerate(factors.params)
        if leaves is None or i in leaves
    ]


def _examples(factors: Factors) -> int:
    return factors.program.examples


def sq_norms_by_leaf(factors: Factors) -> PyTree:
    """`‖gᵢ‖²` of each parameter alone: `[B]` in its place. See `sq_norms`."""
    return _tree(factors, _squares(factors))


def sq_norms(factors: Factors) -> Array:
    """`‖gᵢ‖²` over all parameters: `[B]`, accumulated in float32, where 1e20² is infinite."""
    return sum(_squares(factors), _zero(factors))


def norms(factors: Factors) -> Array:
    """`‖gᵢ‖` over all parameters: `[B]`, as long as the norm itself is representable."""
    (roots,) = norms_of_groups(factors, [range(len(factors.params))])
    return roots


class _Name(NamedTuple):
    name: Hashable


def _is_name(x: Any) -> bool:
    return isinstance(x, _Name)


def norms_by_rule(factors: Factors, rules: Mapping[str, Hashable]) -> dict[Hashable, Array]:
    """`‖gᵢ‖` over groups of parameters: `[B]` under each group's name.

    Args:
      factors: of a batch of B.
      rules: path rule -> name of the group, in order of precedence; see `jaxnets.tree`.

    Raises:
      ValueError: if a parameter is matched by no rule, or a rule decides none.

    Example:
      >>> norms_by_rule(factors, {"kernel$": "kernels", ".*": "others"})
    """
    paths = _tree(factors, list(range(len(factors.params))))
    decided = tree.apply_rules({rule: _Name(name) for rule, name in rules.items()}, paths)
    named = [leaf.name for leaf in jax.tree.leaves(decided, is_leaf=_is_name)]
    names = dict.fromkeys(named)
    groups = [[i for i, other in enumerate(named) if other == name] for name in names]
    return dict(zip(names, norms_of_groups(factors, groups), strict=True))


def norms_of_groups(factors: Factors, groups: Sequence[Sequence[int]]) -> list[Array]:
    """`‖gᵢ‖` over each group of parameters, given by their places among the leaves: `[B]` each."""

    def sums(factors: Factors, scales: Sequence[Array | None]) -> list[Array]:
        return [
            sum(_squares(factors, leaves, scale), _zero(factors))
            for leaves, scale in zip(groups, scales, strict=True)
        ]

    def few_at_a_time(scales: list[Any]) -> list[Array]:
        if scales[0] is None:
            return sums(factors, scales)

        def one(example: Any) -> list[Array]:
            saved, errors, scales = jax.tree.map(lambda x: x[None], example)
            return [jnp.squeeze(total, 0) for total in sums(_alone(factors, saved, errors), scales)]

        # squares that are no numbers are rare, and must not double the memory of all others
        totals: list[Array] = jax.lax.map(
            one, (factors.saved, factors.errors, scales), batch_size=SCALED
        )
        return totals

    return tree.roots_of_squares(few_at_a_time, len(groups))


def _alone(factors: Factors, saved: Any, errors: Any) -> Factors:
    """The factors of one example."""
    program = replace(factors.program, examples=1)
    return replace(factors, saved=saved, errors=errors, program=program)


def _without(weights: Array, values: Any) -> Any:
    """`values [B, ...]` with zeros for the examples of weight 0, which may not be finite."""

    def kept(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return jnp.where(broadcast(weights, x) == 0, 0, x)

    return jax.tree.map(kept, values)


def weighted_sum(factors: Factors, weights: Array | PyTree) -> Params:
    """`Σᵢ wᵢ gᵢ`, shaped and typed as the parameters.

    An example of weight 0 contributes 0 even if its gradient is not finite.

    Args:
      factors: of a batch of B.
      weights: `[B]`, or a tree like the parameters of a `[B]` for each.

    Raises:
      ValueError: if `weights` is neither.
    """
    values, of_leaves = (
        values_of(factors.params, factors.constants),
        _weights_of_leaves(factors, weights),
    )
    totals: list[Array] = []
    ready: Array | None = None
    # one after the other, the last first, as the backward pass made them: what each takes is freed
    for i, found in reversed(uses_by_parameter(factors).items()):
        parameter, weights = factors.params[i], of_leaves[i]
        if ready is not None:
            weights = jnp.where(ready, weights, 0)
        total = jnp.zeros_like(parameter)
        if found and choose(found, parameter).way in OWN:
            # what the norms were made of: XLA computes it once
            own = own_gradients(found, i, values)
            own = wide(_without(weights, own))
            total = jnp.tensordot(weights.astype(own.dtype), own, 1)
        else:
            for used in found:
                total = total + _pulled(used, i, values, weights)
        totals.append(total.astype(parameter.dtype))
        if sum(x.size for x in jax.tree.leaves([used.error for used in found])) >= LARGE:
            ready = is_there(totals[-1])
    return _tree(factors, totals[::-1])


def _weights_of_leaves(factors: Factors, weights: Array | PyTree) -> list[Array]:
    examples, structure = factors.program.examples, factors.program.structure
    if jax.tree.structure(weights) == structure:
        leaves = list(map(jnp.asarray, jax.tree.leaves(weights)))
    elif jax.tree_util.all_leaves([weights]):
        leaves = [jnp.asarray(weights)] * structure.num_leaves
    else:
        raise ValueError(
            f"weighted_sum: weights must be [{examples}], or a tree like the parameters, got "
            f"{jax.tree.structure(weights)}"
        )
    for leaf in leaves:
        if leaf.shape != (examples,):
            raise ValueError(f"weighted_sum: weights must be [{examples}], got {leaf.shape}")
    return leaves


def _pulled(used: Used, key: int, values: dict[Any, Any], weights: Array) -> Array:
    saved = _without(weights, used.saved)
    errors = [wide(e) for e in _without(weights, used.error)]
    weighted = [e * broadcast(weights, e) for e in errors]
    narrow = any(e.dtype != w.dtype for e, w in zip(used.error, weighted, strict=True))
    if narrow and used.seen is not None:
        return total_gradient(used.use, saved, weighted)
    weighted = [w.astype(e.dtype) for w, e in zip(weighted, used.error, strict=True)]

    def of(parameter: Array) -> Any:
        now = {**values, key: parameter}
        return jax.vmap(lambda saved: results(used.use, now, saved, alone=False))(saved)

    _, pull = jax.vjp(of, values[key])
    total: Array
    (total,) = pull(weighted)
    return total


def dot(factors: Factors, tangent: Params) -> Array:
    """`⟨gᵢ, v⟩`: `[B]`, each example's directional derivative along `tangent`.

    Raises:
      ValueError: if `tangent` has not the structure and shapes of the parameters.
    """
    paths = factors.program.paths
    vectors = tree.flatten_with_paths(tangent)
    wanted = dict(zip(paths, factors.params, strict=True))
    for path in sorted(wanted.keys() | vectors.keys()):
        want = wanted[path].shape if path in wanted else "nothing"
        got = jnp.shape(vectors[path]) if path in vectors else "nothing"
        if want != got:
            raise ValueError(f"dot: tangent must be shaped as params; {path!r}: {want}, got {got}")
    values = values_of(factors.params, factors.constants)
    direction = {i: jnp.asarray(vectors[path], wanted[path].dtype) for i, path in enumerate(paths)}
    total = jnp.broadcast_to(_zero(factors), (factors.program.examples,))
    everything = zip(
        uses(factors.program.sites, factors.saved),
        uses(factors.program.sites, factors.errors),
        strict=True,
    )
    for (use, saved), (_, error) in everything:

        def one(saved: Any, error: Any, use: Use = use) -> Array:
            def of(params: dict[Any, Any]) -> Any:
                return results(use, {**values, **params}, saved, alone=False)

            params: dict[Any, Any] = dict(enumerate(factors.params))
            if use.site.kind == "other":
                # it may have no forward derivative, as a `custom_vjp`
                _, pull = jax.vjp(of, params)
                (own,) = pull(error)
                return _paired(own, direction)
            _, moved = jax.jvp(of, (params,), (direction,))
            return _paired(error, moved)

        total = total + jax.vmap(one)(saved, error)
    return total


def _paired(left: PyTree, right: PyTree) -> Array:
    """`Re Σ l r` over all leaves, without conjugation."""
    products = jax.tree.map(lambda x, y: jnp.real(jnp.sum(wide(x) * wide(y))), left, right)
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def materialize(factors: Factors) -> Params:
    """The per-example gradients: `[B, ...]` for each parameter, equal to `vmap(grad(loss))`."""
    values = values_of(factors.params, factors.constants)
    return _tree(
        factors,
        [
            own_gradients(found, i, values)
            if found
            else jnp.zeros(
                (factors.program.examples, *factors.params[i].shape), factors.params[i].dtype
            )
            for i, found in uses_by_parameter(factors).items()
        ],
    )


def gram(factors: Factors, other: Factors | None = None) -> Array:
    """`⟨gᵢ, hⱼ⟩` over all parameters: `[B, B']`; `other=None` pairs the batch with itself.

    Raises:
      ValueError: if `other` is of other parameters.
    """
    other = factors if other is None else other
    if other.program.paths != factors.program.paths:
        raise ValueError("gram: both must be factors with respect to the same parameters")
    rows, columns = uses_by_parameter(factors), uses_by_parameter(other)
    total = jnp.broadcast_to(_zero(factors), (factors.program.examples, other.program.examples))
    for i, parameter in enumerate(factors.params):
        if not rows[i] or not columns[i]:
            continue
        ways = [choose(found, parameter).way for found in (rows[i], columns[i])]
        alike = factors.program.same_sites(other.program) or (
            ways == ["rank one", "rank one"] and same_product(rows[i][0], columns[i][0])
        )
        if ways == ["rank one", "rank one"] and alike:
            (x, error), (y, signal) = (outer_products(found[i][0]) for found in (rows, columns))
            inputs = jnp.einsum("bntd,cntd->bcn", wide(x), wide(y))
            signals = jnp.einsum("bntk,cntk->bcn", wide(error), wide(signal))
            total += jnp.sum(inputs * signals, -1)
            continue
        g, h = (
            wide(own_gradients(found[i], i, values_of(f.params, f.constants))).reshape(
                f.program.examples, -1
            )
            for found, f in ((rows, factors), (columns, other))
        )
        total = total + jnp.real(g @ h.conj().T)
    return total
