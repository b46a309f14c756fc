"""The ways to learn a task from few labels, each a function to its accuracy on test examples."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.transfer.base import Base, Floats
from jaxnets import losses, nn, optim, train
from jaxnets.types import Array, Params

Indices = NDArray[np.intp]

STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Of the probe's `C`, on standardized features."""
FEWEST = 40
"""Labels from which on a fifth of them choose the strength; below, it is the middle one."""
BATCH = 16
RANK = 8


def draw(labels: NDArray[np.int32], n: int, n_classes: int, seed: int) -> Indices:
    """`n` examples, as many of each class as of any other, or one more."""
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(n_classes)]
    turn = [indices[i] for i in range(max(map(len, order))) for indices in order
            if i < len(indices)]  # fmt: skip
    return np.array(turn[:n])


@partial(jax.jit, static_argnames="n_classes")
def _solve(x: Array, y: Array, n_classes: int, strength: Array) -> Params:
    return train.linear_probe(
        x, y, n_classes, inverse_l2=strength, max_steps=200, tol=1e-3
    ).params  # fmt: skip


def _correct(params: Params, x: Floats, y: NDArray[np.int32]) -> float:
    return float(np.mean(np.argmax(nn.dense(params, jnp.asarray(x, jnp.float32)), -1) == y))


def _no_wider_than_long(z: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """`z` turned so that few examples need few features, and the way back for kernels.

    A penalized kernel lies in the span of the examples: with `z zᵀ = U Λ Uᵀ` it is solved for on
    `U √Λ` instead, at the same penalty.
    """
    if len(z) >= z.shape[1]:
        return z.astype(np.float32), lambda kernel: kernel
    values, vectors = np.linalg.eigh(z @ z.T)
    kept = values > 1e-9 * values[-1]
    turned, roots = vectors[:, kept], np.sqrt(values[kept])
    return (turned * roots).astype(np.float32), lambda kernel: z.T @ (turned / roots @ kernel)


class Head(NamedTuple):
    """A linear head, and which share of labels that were held out for the choice it had right."""

    params: Params
    score: float
    """NaN where there were too few to hold some out."""


def probe(x: Floats, y: NDArray[np.int32], n_classes: int, seed: int) -> Head:
    """Logistic regression on standardized features; the head is for them as they are."""
    mean = x.mean(0, dtype=np.float64)
    # what hardly varies among few examples must not be blown up
    deviation = np.sqrt(x.var(0, dtype=np.float64) + 1e-4)
    z, back = _no_wider_than_long((x - mean) / deviation)
    strength, score = STRENGTHS[len(STRENGTHS) // 2], float("nan")
    if len(y) >= FEWEST:
        order = np.random.default_rng(seed).permutation(len(y))
        held, known = np.split(order, [len(y) // 5])
        scores = [
            _correct(_solve(z[known], y[known], n_classes, jnp.float32(c)), z[held], y[held])
            for c in STRENGTHS
        ]
        strength, score = STRENGTHS[int(np.argmax(scores))], max(scores)
    solved = _solve(z, y, n_classes, jnp.float32(strength))
    kernel = back(np.asarray(solved["kernel"])) / deviation[:, None]
    bias = np.asarray(solved["bias"]) - mean @ kernel
    params = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    return Head(params, score)


def frozen(base: Base, chosen: Indices, seed: int, *, levels: bool | None) -> float:
    """Logistic regression on what the base's own head sees, or on all of its depths.

    With `levels` None the labels held out choose, all depths where they are too few or equal.
    """
    parts = {False: (base.train.last, base.test.last)}
    if base.train.levels is not None and base.test.levels is not None:
        parts[True] = (base.train.levels, base.test.levels)
    heads = {
        part: probe(known[chosen], base.train_y[chosen], len(base.classes), seed)
        for part, (known, _) in parts.items()
        if levels in (None, part)
    }
    best = max(heads, key=lambda part: (np.nan_to_num(heads[part].score), part))
    return _correct(heads[best].params, parts[best][1], base.test_y)


def _take(below: Any, indices: Indices) -> Any:
    return jax.tree.map(
        lambda leaf: (
            leaf[indices].astype(np.float32) if leaf.dtype == np.float16 else leaf[indices]
        ),
        below,
    )


def _loss_of(base: Base) -> Callable[[Params, Any], Array]:
    def loss(params: Params, batch: Any) -> Array:
        logits = base.logits(params, batch["below"])
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    return loss


Tune = Callable[[Indices, int], float]
"""`(which examples, seed) -> accuracy`"""


def _run(
    base: Base, step: Any, test: Any, state: Any, fixed: Params, chosen: Indices, steps: int,
    seed: int,
) -> float:  # fmt: skip
    """Steps one by one: a convolution's gradient is slow in a loop on CPUs."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        indices = rng.choice(chosen, BATCH)
        batch = {"below": _take(base.train.below, indices), "y": base.train_y[indices]}
        state, _ = step(state, fixed, batch)
    logits = [
        test(state.params, fixed, _take(base.test.below, part))
        for part in np.array_split(np.arange(len(base.test_y)), -(-len(base.test_y) // 100))
    ]
    return float(np.mean(np.argmax(np.concatenate(logits), -1) == base.test_y))


def make_fine_tuning(base: Base, steps: int, rate: float) -> Tune:
    """The upper layers trained on, from the head that logistic regression found.

    Begun with a solved head, the layers below are not torn apart by one that knows nothing (Kumar
    et al., "Fine-tuning can distort pretrained features", 2022). Rates fall by half with depth.
    """
    optimizer = optim.chain(
        optim.adam(optim.cosine_decay_schedule(rate, steps)),
        train.layerwise_rates(base.depths, 0.5),
    )
    loss = _loss_of(base)

    @partial(jax.jit, donate_argnums=0)
    def step(state: train.TrainState, fixed: Params, batch: Any) -> Any:
        return train.step(train.with_frozen(loss, fixed), optimizer)(state, batch)

    @jax.jit
    def test(trained: Params, fixed: Params, below: Any) -> Array:
        return base.logits(train.merge_params(trained, fixed), below)

    def tune(chosen: Indices, seed: int) -> float:
        head = probe(base.train.last[chosen], base.train_y[chosen], len(base.classes), seed).params
        trained, fixed = train.split_params(base.params | {"classifier": head}, base.tuned)
        # given up to the first step: not the base's own
        trained = jax.tree.map(jnp.copy, trained)
        state = train.init_state(trained, optimizer, jax.random.key(seed))
        return _run(base, step, test, state, fixed, chosen, steps, seed)

    return tune


def make_lora(base: Base, steps: int, rate: float) -> Tune:
    """Adapters of rank 8 and the head trained, from the same head."""
    optimizer = optim.adam(optim.cosine_decay_schedule(rate, steps))
    loss = _loss_of(base)

    def with_head(fixed: Params, head: Params) -> Params:
        return {**fixed, "classifier": head}

    @partial(jax.jit, donate_argnums=0)
    def step(state: train.TrainState, fixed: Params, batch: Any) -> Any:
        def of_both(both: Params, batch: Any) -> Array:
            adapted = train.with_lora(loss, with_head(fixed, both["classifier"]))
            value: Array = adapted(both["adapters"], batch)
            return value

        return train.step(of_both, optimizer)(state, batch)

    @jax.jit
    def test(both: Params, fixed: Params, below: Any) -> Array:
        whole = with_head(fixed, both["classifier"])
        return base.logits(train.merge_lora(whole, both["adapters"]), below)

    def tune(chosen: Indices, seed: int) -> float:
        head = probe(base.train.last[chosen], base.train_y[chosen], len(base.classes), seed).params
        key = jax.random.key(seed)
        fixed = with_head(base.params, head)
        adapters = train.init_lora(key, fixed, base.adapted, RANK)
        both = {"adapters": adapters, "classifier": jax.tree.map(jnp.copy, head)}
        state = train.init_state(both, optimizer, key)
        return _run(base, step, test, state, fixed, chosen, steps, seed)

    return tune
