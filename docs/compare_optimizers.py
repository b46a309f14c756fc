"""Train the same Flax model with `optax.X` and `optim.X`, and print how far apart they end.

    python -m docs.compare_optimizers [name ...]

The model is a two-layer Linen net on scikit-learn's digits, with a small L2 penalty. Both runs have
the same initial parameters, batches (for L-BFGS always the same one) and steps, and each is one
compiled scan. `float32` and `float64` are the largest difference of a parameter at the end,
relative to the largest one of its leaf; `time` is Optax's over ours for a whole run, gradients
included (medians of turns; above 1, ours is faster); `loss` is the mean over the last ten steps.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import tyro
from flax import linen as nn
from sklearn.datasets import load_digits

from experiments.benchmarks.timing import interleave
from experiments.errors import UsageError, did_you_mean
from jaxnets import optim

STEPS, BATCH, ROUNDS = 100, 64, 7


class Net(nn.Module):
    """64-32-10."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of a batch."""
        return nn.Dense(10)(nn.relu(nn.Dense(32)(x)))


RATES = {
    "noisy_sgd": 0.1, "adagrad": 0.1, "adadelta": 1.0, "rmsprop": 1e-2, "adam": 1e-2, "adamw": 1e-2,
    "amsgrad": 1e-2, "nadam": 1e-2, "nadamw": 1e-2, "adamax": 1e-2, "adamaxw": 1e-2,
    "adabelief": 1e-2, "radam": 1e-2, "adan": 1e-2, "yogi": 1e-2, "novograd": 1e-2, "lion": 3e-3,
    "lamb": 1e-2, "lars": 3.0, "adafactor": 0.1, "sm3": 0.1, "rprop": 1e-3, "sign_sgd": 3e-3,
    "signum": 3e-3, "fromage": 1e-2, "optimistic_gradient_descent": 0.1,
}  # fmt: skip

# a call for each library: `base` is optim or optax, `lib` is optim or optax.contrib
SAME: dict[str, Callable[[Any, Any], Any]] = {
    "sgd": lambda base, lib: base.sgd(0.1, momentum=0.9),
    **{
        name: lambda base, lib, name=name, rate=rate: getattr(base, name)(rate)
        for name, rate in RATES.items()
    },
    "polyak_sgd": lambda base, lib: base.polyak_sgd(),
    "lbfgs": lambda base, lib: base.lbfgs(),
    "lbfgs (backtracking)": lambda base, lib: base.lbfgs(
        linesearch=base.scale_by_backtracking_linesearch(20, store_grad=True)
    ),
    "muon": lambda base, lib: lib.muon(0.05),
    "schedule_free_sgd": lambda base, lib: lib.schedule_free_sgd(1.0),
    "schedule_free_adamw": lambda base, lib: lib.schedule_free_adamw(1e-2),
    "prodigy": lambda base, lib: lib.prodigy(),
    "sophia": lambda base, lib: lib.sophia(3e-3),
    "sam": lambda base, lib: lib.sam(base.sgd(0.5), base.chain(lib.normalize(), base.sgd(0.05))),
    "ademamix": lambda base, lib: lib.ademamix(1e-2),
    "adopt": lambda base, lib: lib.adopt(1e-2),
    "mechanize": lambda base, lib: lib.mechanize(base.adamw(1e-2)),
    "dowg": lambda base, lib: lib.dowg(init_estim_sq_dist=0.1),
}
OURS_ONLY = {"shampoo": lambda: optim.shampoo(0.1), "soap": lambda: optim.soap(1e-2)}


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of a batch, and the penalty."""
    losses = optax.softmax_cross_entropy_with_integer_labels(Net().apply(params, x), y)
    return losses.mean() + 1e-3 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


def trainer(optimizer: Any) -> Callable[[Any, Any], Any]:
    """`train(params, batches) -> (params, losses)`, compiled."""
    optimizer = optim.with_extra_args_support(optimizer)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry

        # line searches hand on to it what they do not take themselves
        def batch_loss(params: Any, obj_fn: Any = None) -> jax.Array:
            return loss(params, *batch)

        value, grad = jax.value_and_grad(batch_loss)(params)
        # whichever of these an optimizer does not need, it ignores
        extra = {"value": value, "grad": grad, "value_fn": batch_loss, "obj_fn": batch_loss}
        updates, state = optimizer.update(grad, state, params, **extra)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def train(params: Any, batches: Any) -> Any:
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        return params, losses

    return train


def problem(name: str, dtype: Any) -> tuple[Any, Any]:
    """Initial parameters, and the batches of all steps: always the same one for line searches."""
    images, labels = load_digits(return_X_y=True)
    size = (1, 8 * BATCH) if "lbfgs" in name else (STEPS, BATCH)
    rows = np.random.default_rng(0).integers(len(images), size=size)
    rows = np.broadcast_to(rows, (STEPS, size[1]))
    batches = jnp.asarray(images[rows] / 16, dtype), jnp.asarray(labels[rows])
    params = Net().init(jax.random.key(0), jnp.zeros(64, jnp.float32))
    return jax.tree.map(lambda p: p.astype(dtype), params), batches


def difference(ours: Any, theirs: Any) -> float:
    """The largest of a parameter, relative to the largest parameter of its leaf."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def rounded(error: float) -> str:
    """An error in one digit."""
    return f"{error:.0e}" if error else "0"


def speed(given: tuple[Any, Any], *runs: Callable[[Any, Any], Any]) -> float:
    """How many times as fast as the second run the first one is."""

    def turn(run: Callable[[Any, Any], Any]) -> int:
        jax.block_until_ready(run(*given))
        return 1

    timings = interleave(
        {str(i): functools.partial(turn, run) for i, run in enumerate(runs)}, rounds=ROUNDS
    )
    return timings["1"].median / timings["0"].median


def row(name: str) -> str:
    """One line of the table."""
    given = problem(name, jnp.float32)
    if name in OURS_ONLY:
        _, losses = trainer(OURS_ONLY[name]())(*given)
        return f"| {name} | – | – | – | {losses[-10:].mean():.4f} | – |"
    runs = [trainer(SAME[name](optim, optim)), trainer(SAME[name](optax, optax.contrib))]
    (ours, our_losses), (theirs, their_losses) = (run(*given) for run in runs)
    with jax.enable_x64(True):
        exact = difference(*(run(*problem(name, jnp.float64))[0] for run in runs))
    return (
        f"| {name} | {rounded(difference(ours, theirs))} | {rounded(exact)} "
        f"| {speed(given, *runs):.2f}x "
        f"| {our_losses[-10:].mean():.4f} | {their_losses[-10:].mean():.4f} |"
    )


def chosen(names: Iterable[str]) -> list[str]:
    """`names`, or all there are.

    Raises:
      UsageError: for one that there is not.
    """
    known = [*SAME, *OURS_ONLY]
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown optimizer {name!r}{did_you_mean(name, known)}; there are "
                f"{', '.join(known)}"
            )
    return list(names) or known


@dataclass(frozen=True)
class Config:
    """Train the same Flax model with `optax.X` and `optim.X`, and print how far apart they end."""

    optimizers: tyro.conf.Positional[tuple[str, ...]] = ()
    """such as adam; by default all"""


def main(config: Config) -> None:
    """Print the table."""
    names = chosen(config.optimizers)
    print("| optimizer | float32 | float64 | time | loss, jaxnets | loss, Optax |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
