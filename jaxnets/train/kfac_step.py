"""A K-FAC training step: one forward pass, two ways back, the curvature and the update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.factors import weighted_sum
from jaxnets.gradients.kronecker import LARGEST, Blocks, kfac_factors
from jaxnets.gradients.likelihoods import Likelihood, output_errors, sampled_errors
from jaxnets.gradients.products import linearized
from jaxnets.gradients.pulls import forward
from jaxnets.optim import GradientTransformation, apply_updates
from jaxnets.optim.transform import with_extra_args_support
from jaxnets.train.step import Metrics, TrainState, leading_size, model_key
from jaxnets.types import Array, Params, PyTree


def kfac_blocks(
    outputs: Callable[..., Array], params: Params, inputs: PyTree, *, largest: int = LARGEST
) -> Blocks:
    """The shapes of a model's blocks, for `kfac`; nothing is computed.

    Args:
      outputs: `outputs(params, inputs) -> array`, of one example.
      params: parameters, or their shapes.
      inputs: of a batch, or their shapes.
      largest: as in `kfac_factors`.
    """

    def blocks(params: Params, inputs: PyTree) -> Blocks:
        run = forward(outputs, params, (inputs,))
        return kfac_factors(run.factors(jnp.ones_like(run.outputs)), largest=largest)

    shapes: Blocks = jax.eval_shape(blocks, params, inputs)
    return shapes


def kfac_step(
    outputs: Callable[..., Array],
    likelihood: Likelihood,
    optimizer: GradientTransformation,
    *,
    largest: int = LARGEST,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """`(state, (inputs, targets)) -> (state, metrics)`, as `step`, for `kfac` and `adaptive_kfac`.

    The batch runs forward once. The errors of its targets, sent back, give the gradient; those of
    targets that the model draws itself give the Fisher matrix's factors.

    Args:
      outputs: `outputs(params, inputs) -> array`, of one example.
      likelihood: what the outputs mean, from `jaxnets.gradients.likelihoods`; the loss is the mean
        of `-log p(target | outputs)` over the batch.
      optimizer: `kfac` or `adaptive_kfac`, or a `chain` with one of them.
      largest: as given to `kfac_blocks`.

    Returns:
      The step, to be jitted or scanned by the caller, as by `epoch`. Its metric is `loss`, before
      the update.

    Raises:
      ValueError: (when traced) as `per_example_grad`, or if the batch is not a pair.

    Example:
      >>> blocks = kfac_blocks(outputs, params, x)
      >>> optimizer = kfac(0.1, blocks)
      >>> state = init_state(params, optimizer, jax.random.key(0))
      >>> state, metrics = jax.jit(kfac_step(outputs, categorical, optimizer))(state, (x, y))
    """
    update = with_extra_args_support(optimizer).update

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"kfac_step: the batch must be a pair (inputs, targets), got {type(batch).__name__}"
            )
        inputs, targets = batch
        weights = jnp.full(leading_size("kfac_step", batch), 1 / leading_size("kfac_step", batch))
        run = forward(outputs, state.params, (inputs,))

        def mean_loss(z: Array) -> Array:
            return jnp.mean(jax.vmap(likelihood.loss)(z, targets))

        def all_outputs(params: Params) -> Array:
            return jax.vmap(outputs, (None, 0))(params, inputs)

        def curvature() -> Blocks:
            errors = sampled_errors(likelihood, run.outputs, model_key(state))
            return kfac_factors(run.factors(errors), largest=largest)

        def quadratic(u: Params, v: Params) -> Array:
            _, push, _ = linearized(all_outputs, state.params)
            moved = [push(t) for t in (u, v)]
            bent = [jax.jvp(jax.grad(mean_loss), (run.outputs,), (m,))[1] for m in moved]
            return jnp.array([[jnp.sum(m * b) for b in bent] for m in moved])

        value = mean_loss(run.outputs)
        errors = output_errors(likelihood, run.outputs, targets)
        gradient = weighted_sum(run.factors(errors), weights)
        extra: dict[str, Any] = {
            "curvature": curvature,
            "quadratic": quadratic,
            "value": value,
            "value_fn": lambda params: mean_loss(all_outputs(params)),
        }
        updates, opt_state = update(gradient, state.opt_state, state.params, **extra)
        params = apply_updates(state.params, updates)
        after = state._replace(params=params, opt_state=opt_state, step=state.step + 1)
        return after, {"loss": value}

    return train_step
