"""Products of curvature matrices with vectors, without the matrices.

The Hessian `H` of a loss has as many entries as the square of its parameters. `H v` costs about as
much as two gradients.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.equations import programs_inside
from jaxnets.types import Array, Params, PyTree

Product: TypeAlias = Callable[[Params], Params]
"""`v -> M v`, both shaped as the parameters."""


def hvp(loss: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Product]:
    """Products with the Hessian of a loss, `H v = ∂/∂ε ∇L(θ + ε v)`, forward over reverse.

    Args:
      loss: `loss(params, *batch) -> scalar`, such as the mean over a batch.
      has_aux: whether it returns `(scalar, aux)`; aux is dropped.

    Returns:
      `f(params, *batch) -> product`, with `product(v) = H v`. The gradient is linearized once, so
      that further products repeat only what depends on `v`.

    Raises:
      TypeError: (on call) if `params` or the loss are not real and floating.
      ValueError: (on call) if the loss is not scalar; (of `product`) if `v` is not shaped as the
        parameters.

    Example:
      >>> product = hvp(lambda w: 0.5 * w @ w)(jnp.array([1.0, 2.0]))
      >>> product(jnp.array([3.0, 4.0]))
      Array([3., 4.], dtype=float32)

    References:
      Pearlmutter, [Fast exact multiplication by the Hessian](
      https://doi.org/10.1162/neco.1994.6.1.147), 1994.
    """

    def at(params: Params, *batch: PyTree) -> Product:
        require_real_params("hvp", params)

        def value(params: Params) -> Array:
            out = loss(params, *batch)
            scalar: Array = out[0] if has_aux else out
            advice = "take the mean, or pass has_aux=True where it returns (scalar, aux)"
            require_scalar("hvp: loss", scalar, advice)
            return scalar

        _, push = jax.linearize(jax.grad(value), params)

        def product(v: Params) -> Params:
            return push(like(v, params, "hvp"))

        return product

    return at


def ggn_vp(outputs: Callable[..., Any], loss: Callable[..., Any]) -> Callable[..., Product]:
    """Products with the generalized Gauss-Newton matrix, `G v = Jᵀ H_L J v`.

    `J` is the derivative of a model's outputs by its parameters, `H_L` the Hessian of the loss by
    the outputs. Of `H = G + Σ_k ∂L/∂z_k ∇²z_k` this is the part without the model's own curvature:
    positive semi-definite where the loss is convex in the outputs. For the likelihoods in
    `jaxnets.gradients.likelihoods` it is the Fisher matrix.

    Args:
      outputs: `outputs(params, inputs) -> z`, an array or a pytree of them, for a whole batch.
      loss: `loss(z, *targets) -> scalar`.

    Returns:
      `f(params, inputs, *targets) -> product`, with `product(v) = G v`.

    Raises:
      TypeError: (on call) if `params` or the loss are not real and floating.
      ValueError: (on call) if the loss is not scalar; (of `product`) if `v` is not shaped as the
        parameters.

    References:
      Schraudolph, [Fast curvature matrix-vector products](
      https://doi.org/10.1162/08997660260028683), 2002.
    """

    def at(params: Params, inputs: PyTree, *targets: PyTree) -> Product:
        require_real_params("ggn_vp", params)

        def value(z: PyTree) -> Array:
            out: Array = loss(z, *targets)
            require_scalar("ggn_vp: loss", out)
            return out

        z, push, pull = linearized(lambda params: outputs(params, inputs), params)
        _, bend = jax.linearize(jax.grad(value), z)

        def product(v: Params) -> Params:
            (back,) = pull(bend(push(like(v, params, "ggn_vp"))))
            return back

        return product

    return at


def linearized(
    function: Callable[[Params], PyTree], params: Params
) -> tuple[PyTree, Callable[[Params], PyTree], Callable[[PyTree], tuple[Params]]]:
    """`function(params)`, `v -> J v` and `e -> (Jᵀ e,)`, the forward pass done once.

    Where a part of the function has only a reverse derivative (a `custom_vjp`), `J v` is the
    transpose of `Jᵀ e`, which is linear: the backward pass differentiated once more, at about
    twice its cost.
    """
    if not _only_reverse(jax.make_jaxpr(function)(params).jaxpr):
        z, push = jax.linearize(function, params)
        return z, push, jax.linear_transpose(push, params)
    z, pull = jax.vjp(function, params)
    _, transposed = jax.vjp(pull, jax.tree.map(jnp.zeros_like, z))
    return z, lambda v: transposed((v,))[0], pull


def _only_reverse(jaxpr: Any) -> bool:
    """Whether something in a program has a `custom_vjp`, through which `jvp` does not go."""
    return any(
        equation.primitive.name.startswith("custom_vjp_call")
        or any(map(_only_reverse, programs_inside(equation)))
        for equation in jaxpr.eqns
    )


def require_scalar(name: str, value: Any, advice: str = "take the mean") -> None:
    """Raise unless `value`, which `name` returned, is one real, floating number.

    Raises:
      ValueError: if it is not scalar.
      TypeError: if it is not floating.
    """
    shape = jax.tree.map(jnp.shape, value)
    if shape != ():
        raise ValueError(f"{name} must return a scalar, got shape {shape}; {advice}")
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(f"{name} must be real and floating, got {jnp.result_type(value)}")


def require_real_params(function: str, params: Params) -> None:
    """Raise `TypeError` unless there are parameters, all real and floating."""
    leaves = tree.flatten_with_paths(params)
    if not leaves:
        raise TypeError(f"{function}: params has no leaves")
    for path, leaf in leaves.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{function}: params must be real and floating, got {jnp.result_type(leaf)} at "
                f"{path!r}; close over what is not trained"
            )


def same_structure(x: PyTree, y: PyTree) -> bool:
    """Whether two trees have the same nodes."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (x, y)]
    return bool(structures[0] == structures[1])


def widened(x: PyTree) -> PyTree:
    """The leaves in float32 at least: to accumulate in."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32)), x
    )


def like(v: PyTree, params: Params, function: str) -> PyTree:
    """`v` in the dtypes of `params`.

    Raises:
      ValueError: if it has another structure or other shapes.
    """
    shapes = [
        {path: jnp.shape(leaf) for path, leaf in tree.flatten_with_paths(x).items()}
        for x in (params, v)
    ]
    if shapes[0] != shapes[1] or not same_structure(v, params):
        wrong = [
            p for p in shapes[0].keys() | shapes[1].keys() if shapes[0].get(p) != shapes[1].get(p)
        ]
        where = f" at {min(wrong)!r}: {shapes[1].get(min(wrong))} for {shapes[0].get(min(wrong))}" \
            if wrong else f", got {jax.tree.structure(v)}"  # fmt: skip
        raise ValueError(f"{function}: the vector must be shaped as params{where}")
    return jax.tree.map(lambda x, p: jnp.asarray(x, jnp.result_type(p)), v, params)
