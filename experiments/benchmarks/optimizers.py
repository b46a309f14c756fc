"""Optimizers: jaxnets beside Optax, the same call on the same leaves, jitted and donated.

Run it alone on the machine: `python -m experiments.benchmarks.optimizers --help`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro

from experiments.benchmarks.timing import at_least_one, chosen, interleave, versions
from experiments.errors import UsageError
from jaxnets import losses, models, optim

FLOOR = 28
"""Bytes that AdamW in float32 must move for each parameter: reads four, writes three."""


class Shape(NamedTuple):
    """A net as an optimizer sees it."""

    leaves: int
    size: int
    """Of all leaves together."""

    def __str__(self) -> str:
        return f"{self.leaves} leaves, {self.size / 1e6:g} M parameters"


MANY_SMALL, MANY, FEW = Shape(150, 960_000), Shape(150, 24_960_000), Shape(8, 25_165_824)
MEDIUM = Shape(30, 960_000)

NETS = ((75, 32), (75, 128), (8, 512))
"""Depths and widths of the MLPs."""

CACHED = 2**20
"""Elements of a buffer, which the cache holds several times."""


class Contender(NamedTuple):
    """A compiled update with all that it needs."""

    run: Callable[[], int]
    compile_seconds: float
    bytes_moved: float
    """By XLA's own account of what its kernels read and write, for each parameter."""


def make_leaves(shape: Shape, seed: int) -> dict[str, jax.Array]:
    """Matrices of equal size, of 32 columns."""
    rows = shape.size // shape.leaves // 32
    keys = jax.random.split(jax.random.key(seed), shape.leaves)
    return {f"layer{i}": jax.random.normal(key, (rows, 32)) for i, key in enumerate(keys)}


def compiled(
    step: Callable[..., Any], state: Any, params: Any, *inputs: Any, size: int
) -> Contender:
    """`step(state, params, *inputs) -> (state, params)`, with both donated."""
    state, params = jax.tree.map(jnp.copy, (state, params))
    started = time.perf_counter()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(state, params, *inputs).compile()
    seconds = time.perf_counter() - started
    moved = (program.cost_analysis() or {}).get("bytes accessed", float("nan"))

    def run() -> int:
        nonlocal state, params
        state, params = program(state, params, *inputs)
        jax.block_until_ready((state, params))
        return 1

    return Contender(run, seconds, moved / size)


def update_alone(
    optimizer: Any,
    shape: Shape,
    *,
    packed: bool = False,
    full: int | None = None,
    in_turn: bool = False,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> Contender:
    """The optimizer's step, with its gradients there already; `extra` is what else it is given."""
    params, grads = make_leaves(shape, 0), make_leaves(shape, 1)
    held, given = (
        (optim.pack(params, full=full), optim.pack(grads, full=full)) if packed else (params, grads)
    )

    def step(state: Any, params: Any, grads: Any) -> Any:
        if in_turn:
            return optim.step_in_turn(optimizer, grads, state, params, **extra)[::-1]
        updates, state = optimizer.update(grads, state, params, **extra)
        return state, optim.apply_updates(params, updates)

    return compiled(step, jax.jit(optimizer.init)(held), held, given, size=shape.size)


def in_training(optimizer: Any, depth: int, width: int, *, packed: bool) -> Contender:
    """The whole step of a deep MLP: its leaves, gradients and all."""
    config = models.MLPConfig(n_in=width, n_out=10, hidden=(width,) * (depth - 1))
    params = models.init_mlp(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (64, width))
    y = jnp.arange(64) % 10

    def loss(params: Any) -> jax.Array:
        leaves = optim.unpack(params) if packed else params
        logits = models.mlp(leaves, config, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    def step(state: Any, params: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return state, optim.apply_updates(params, updates)

    held = optim.pack(params) if packed else params
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return compiled(step, jax.jit(optimizer.init)(held), held, size=size)


def report(title: str, contenders: dict[str, Contender], rounds: int) -> None:
    """Time them in turns and print a table; the first is what the others are compared with."""
    baseline, *_ = contenders
    timings = interleave({name: c.run for name, c in contenders.items()}, rounds=rounds)
    print(f"\n{title}")
    print(f"{'':<42}{'median ms':>10}{'speed':>8}{'compile s':>11}{'bytes/param':>13}")
    for name, (_, seconds, moved) in contenders.items():
        median = timings[name].median
        speed = timings[baseline].median / median
        print(f"{name:<42}{1e3 * median:>10.3f}{speed:>7.2f}x{seconds:>11.2f}{moved:>13.0f}")


def flat_tables(rounds: int) -> None:
    """AdamW per leaf and packed, alone and in training."""
    for shape in (MANY_SMALL, MANY, FEW):
        report(
            f"AdamW's step, {shape} (floor: {FLOOR} bytes a parameter)",
            {
                "optax": update_alone(optax.adamw(1e-3), shape),
                "jaxnets": update_alone(optim.adamw(1e-3), shape),
                "jaxnets, flat, leaves in and out": update_alone(
                    optim.flat(optim.adamw(1e-3)), shape
                ),
                "jaxnets, flat, kept packed": update_alone(
                    optim.flat(optim.adamw(1e-3)), shape, packed=True
                ),
                "jaxnets, flat, kept packed, in turn": update_alone(
                    optim.flat(optim.adamw(1e-3)), shape, packed=True, full=CACHED, in_turn=True
                ),
            },
            rounds,
        )
    for depth, width in NETS:
        report(
            f"Whole training step, AdamW, MLP of {depth} layers of {width}, batch 64",
            {
                "optax": in_training(optax.adamw(1e-3), depth, width, packed=False),
                "jaxnets": in_training(optim.adamw(1e-3), depth, width, packed=False),
                "jaxnets, flat, leaves in and out": in_training(
                    optim.flat(optim.adamw(1e-3)), depth, width, packed=False
                ),
                "jaxnets, flat, kept packed": in_training(
                    optim.flat(optim.adamw(1e-3)), depth, width, packed=True
                ),
            },
            rounds,
        )


SAME_CALL: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda lib: lib.sgd(1e-3, momentum=0.9),
    "noisy_sgd": lambda lib: lib.noisy_sgd(1e-3, key=0),
    "adagrad": lambda lib: lib.adagrad(1e-3),
    "adadelta": lambda lib: lib.adadelta(1e-3),
    "rmsprop": lambda lib: lib.rmsprop(1e-3),
    "adam": lambda lib: lib.adam(1e-3),
    "adamw": lambda lib: lib.adamw(1e-3),
    "amsgrad": lambda lib: lib.amsgrad(1e-3),
    "nadam": lambda lib: lib.nadam(1e-3),
    "nadamw": lambda lib: lib.nadamw(1e-3),
    "adamax": lambda lib: lib.adamax(1e-3),
    "adamaxw": lambda lib: lib.adamaxw(1e-3),
    "adabelief": lambda lib: lib.adabelief(1e-3),
    "radam": lambda lib: lib.radam(1e-3),
    "adan": lambda lib: lib.adan(1e-3),
    "yogi": lambda lib: lib.yogi(1e-3),
    "novograd": lambda lib: lib.novograd(1e-3),
    "lion": lambda lib: lib.lion(1e-3),
    "lamb": lambda lib: lib.lamb(1e-3),
    "lars": lambda lib: lib.lars(1e-3),
    "adafactor": lambda lib: lib.adafactor(1e-3, min_dim_size_to_factor=32),
    "sm3": lambda lib: lib.sm3(1e-3),
    "rprop": lambda lib: lib.rprop(1e-3),
    "sign_sgd": lambda lib: lib.sign_sgd(1e-3),
    "signum": lambda lib: lib.signum(1e-3),
    "fromage": lambda lib: lib.fromage(1e-3),
    "optimistic_gradient_descent": lambda lib: lib.optimistic_gradient_descent(1e-3),
    "optimistic_adam_v2": lambda lib: lib.optimistic_adam_v2(1e-3),
    "polyak_sgd": lambda lib: lib.polyak_sgd(),
    "lbfgs, without a search": lambda lib: lib.lbfgs(1e-3, linesearch=None),
    "muon": lambda lib: _contrib(lib).muon(1e-3),
    "schedule_free_sgd": lambda lib: _contrib(lib).schedule_free_sgd(1e-3),
    "schedule_free_adamw": lambda lib: _contrib(lib).schedule_free_adamw(1e-3),
    "prodigy": lambda lib: _contrib(lib).prodigy(),
    "ademamix": lambda lib: _contrib(lib).ademamix(1e-3),
    "adopt": lambda lib: _contrib(lib).adopt(1e-3),
    "simplified_ademamix": lambda lib: _contrib(lib).simplified_ademamix(1e-3),
    "sophia": lambda lib: _contrib(lib).sophia(1e-3),
    "sam": lambda lib: _contrib(lib).sam(
        lib.sgd(1e-3), lib.chain(_contrib(lib).normalize(), lib.sgd(1e-3))
    ),
    "dog": lambda lib: _contrib(lib).dog(),
    "dowg": lambda lib: _contrib(lib).dowg(),
    "mechanize": lambda lib: _contrib(lib).mechanize(lib.adam(1e-3)),
    "clip_by_global_norm": lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(1e-3)),
    "adaptive_grad_clip": lambda lib: lib.chain(lib.adaptive_grad_clip(0.1), lib.adamw(1e-3)),
    "masked": lambda lib: lib.masked(lib.adamw(1e-3), _every_second),
    "inject_hyperparams": lambda lib: lib.inject_hyperparams(lib.adamw)(1e-3),
    "adamw, then ema": lambda lib: lib.chain(lib.adamw(1e-3), lib.ema(0.9)),
    "MultiSteps, 4": lambda lib: lib.MultiSteps(lib.adamw(1e-3), 4),
    "apply_if_finite": lambda lib: lib.apply_if_finite(lib.adamw(1e-3), 3),
}
"""The same call in both libraries; line searches are left out, since how often they evaluate a loss
depends on it, and what Optax's names deprecate (`optimistic_adam`)."""

EXTRA: dict[str, Mapping[str, Any]] = {
    "polyak_sgd": {"value": 1.0},
    "sophia": {"obj_fn": lambda params: sum(jnp.sum(p**4) for p in jax.tree.leaves(params))},
}
"""What they are given beside gradients."""

_LONGEST_AXIS = 512
"""Longer ones have no preconditioner, as in `experiments.optimizers`."""

OURS_ONLY: dict[str, Callable[[], Any]] = {
    "shampoo": lambda: optim.shampoo(
        1e-3, precondition_frequency=10, max_precond_dim=_LONGEST_AXIS
    ),
    "soap": lambda: optim.soap(1e-3, max_precond_dim=_LONGEST_AXIS),
}
"""Those that Optax does not have, beside its AdamW."""

WRAPPERS = ("clip_by_global_norm", "adaptive_grad_clip", "MultiSteps, 4", "apply_if_finite")


def _contrib(lib: Any) -> Any:
    return getattr(lib, "contrib", lib)


def _every_second(params: Any) -> Any:
    return {name: int(name.removeprefix("layer")) % 2 == 0 for name in params}


def same_call_table(rounds: int, shape: Shape, names: Iterable[str]) -> None:
    """Optimizers and wrappers, per leaf in both libraries."""
    print(f"\nThe same call, update alone, {shape}")
    print(f"{'':<42}{'optax ms':>10}{'ours ms':>10}{'speed':>8}{'bytes/param':>16}")
    for name in names:
        build, extra = SAME_CALL[name], EXTRA.get(name, {})
        theirs = update_alone(build(optax), shape, extra=extra)
        ours = update_alone(build(optim), shape, extra=extra)
        timings = interleave({"theirs": theirs.run, "ours": ours.run}, rounds=rounds)
        before, after = timings["theirs"].median, timings["ours"].median
        moved = f"{theirs.bytes_moved:.0f} -> {ours.bytes_moved:.0f}"
        line = f"{name:<42}{1e3 * before:>10.3f}{1e3 * after:>10.3f}{before / after:>7.2f}x"
        print(f"{line}{moved:>16}", flush=True)


@dataclass(frozen=True)
class Config:
    """Time optimizers beside Optax's, in turns, and print medians and ratios."""

    rounds: int = 11
    """counted rounds"""
    only: str = ""
    """of the optimizers, those whose name contains this"""
    flat: bool = True
    """whether to time packed parameters too"""


def main(config: Config) -> None:
    """Print all tables.

    Raises:
      UsageError: if `rounds` or `only` leaves nothing to time.
    """
    at_least_one(config.rounds)
    names = chosen([*SAME_CALL, *OURS_ONLY], config.only)
    print(versions())
    if same := [name for name in names if name in SAME_CALL]:
        same_call_table(config.rounds, MEDIUM, same)
    if wrappers := [name for name in names if name in WRAPPERS]:
        same_call_table(config.rounds, FEW, wrappers)
    if ours_only := [name for name in names if name in OURS_ONLY]:
        contenders = {name: update_alone(OURS_ONLY[name](), MEDIUM) for name in ours_only}
        report(
            f"Not in Optax, update alone, {MEDIUM}",
            {"optax, adamw": update_alone(optax.adamw(1e-3), MEDIUM), **contenders},
            config.rounds,
        )
    if config.flat:
        flat_tables(config.rounds)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UsageError as error:
        sys.exit(f"error: {error}")
