"""Populations: many runs, seeds times hyper-parameters, as one compiled program.

A run is a function of its member; a population is that function under `vmap`. Members that are
handed one order of the data (`train.epoch(..., order=key)`) share their batches, which are then
gathered once a step for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding

from jaxnets.types import Array, ArrayLike, PyTree


class Member(NamedTuple):
    """What tells one run from another; stacked along a first axis, a population's members."""

    seed: Array
    """For `jax.random.key`: initial weights, dropout, and own batches."""
    hyper: dict[str, Array]
    """Hyper-parameters by name, as arrays (traced ones, inside the program)."""


def members(seeds: Sequence[int], hyper: Mapping[str, ArrayLike] | None = None) -> Member:
    """Every seed with every combination of hyper-parameters, the last named turning fastest.

    Args:
      seeds: of the runs, at least one.
      hyper: for each name its values, at least one: numbers, `[values]`.

    Returns:
      A `Member` of `[seeds · values · values …]` arrays; `table` tells which is which.

    Raises:
      ValueError: for an axis without values, one that is no list of numbers, or one that is named
        as the seeds are.

    Example:
      >>> grid = members(range(8), {"learning_rate": [1e-3, 1e-2], "l2": [0.0, 1e-4]})
      >>> grid.seed.shape
      (32,)
    """
    _require_other_names("members", hyper or {})
    axes = {"seeds": jnp.asarray(list(seeds), jnp.int32)}
    for name, values in (hyper or {}).items():
        axes[name] = jnp.asarray(values)
    for name, values in axes.items():
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"members: {name} must be a list of at least one number, got shape {values.shape}"
            )
    crossed = jnp.meshgrid(*axes.values(), indexing="ij")
    seed, *others = (values.reshape(-1) for values in crossed)
    return Member(seed, dict(zip(list(axes)[1:], others, strict=True)))


def _require_other_names(function: str, hyper: Mapping[str, Any]) -> None:
    for name in ("seed", "seeds"):
        if name in hyper:
            raise ValueError(f"{function}: hyper must not have the name {name!r}, the seeds' own")


def paired(seeds: Sequence[int], hyper: Mapping[str, ArrayLike]) -> Member:
    """Members listed one by one, as a random search draws them: `seeds[i]` with `values[i]`.

    Raises:
      ValueError: where the lists differ in length, or one is named as the seeds are.
    """
    _require_other_names("paired", hyper)
    member = Member(
        jnp.asarray(list(seeds), jnp.int32), {k: jnp.asarray(v) for k, v in hyper.items()}
    )
    size("paired", member)
    return member


def table(population: Member) -> list[dict[str, Any]]:
    """A row for each member: its seed and its hyper-parameters, as Python's numbers.

    Raises:
      ValueError: if a hyper-parameter has the name of the seed.
    """
    _require_other_names("table", population.hyper)
    columns = {"seed": population.seed, **population.hyper}
    rows = zip(*(jax.device_get(column).tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def size(function: str, stacked: PyTree) -> int:
    """How many members: the first axis that all leaves share.

    Raises:
      ValueError: naming `function` and the leaves that disagree.
    """
    shapes = {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(stacked)
    }
    first = {shape[:1] for shape in shapes.values()}
    if len(first) != 1 or not all(axis and axis[0] for axis in first):
        raise ValueError(
            f"{function}: every leaf needs the same, non-zero first axis of members, got {shapes}"
        )
    return int(next(iter(first))[0])


def member(stacked: PyTree, index: ArrayLike) -> PyTree:
    """One member's part of whatever is stacked: its state, its history, its hyper-parameters."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def over_devices(stacked: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """`stacked` with its members spread evenly over devices; a jitted population of it runs on all.

    Members need nothing of one another, and so do their devices. On a CPU too this is faster than
    one device with as many threads, which work on each operation together, however small:
    `jax.config.update("jax_num_cpu_devices", cores)`, before anything is computed, makes them.

    Args:
      stacked: a `Member`, states, or whatever else has a first axis of members.
      devices: all of `jax.devices()` if not given.

    Raises:
      ValueError: if the devices do not divide the members.

    Example:
      >>> grid = over_devices(members(range(64)))
      >>> states = jax.jit(population(train))(grid, data)
    """
    among = list(jax.devices() if devices is None else devices)
    count = size("over_devices", stacked)
    if not among or count % len(among):
        raise ValueError(
            f"over_devices: members must be a multiple of the {len(among)} devices, got {count}"
        )
    mesh = jax.make_mesh((len(among),), ("members",), axis_types=(AxisType.Auto,), devices=among)
    placed: PyTree = jax.device_put(stacked, NamedSharding(mesh, jax.P("members")))
    return placed


def population(run: Callable[..., Any], *, chunk: int | None = None) -> Callable[..., Any]:
    """`(stacked, *shared) -> stacked results`: `run(one, *shared)` for every member at once.

    Args:
      run: any function of one member and of what all share: a whole training from a `Member`,
        `train.epoch` or `train.run` of a state, a step of a state and its hyper-parameters. It is
        traced once. Data in `shared` is not copied for the members.
      chunk: so many members at a time, one chunk after the other (`lax.map`), where all at once
        need too much memory; by default all. A last, smaller chunk is compiled on its own.

    Returns:
      The population's function, to be jitted (with `donate_argnums=0` for states) by the caller.
      Member `i` of its results is `run` of member `i`, to rounding.

    Raises:
      ValueError: for a `chunk` below 1; when traced, if leaves of `stacked` disagree about the
        number of members.

    Example:
      >>> def train(member, data):
      ...     optimizer = optim.adam(member.hyper["learning_rate"])
      ...     key = jax.random.key(member.seed)
      ...     state = init_state(init(key), optimizer, key)
      ...     return epoch(step(loss, optimizer), 32, order=jax.random.key(0))(state, data)
      >>> grid = members(range(8), {"learning_rate": [1e-3, 1e-2]})
      >>> states, metrics = jax.jit(population(train))(grid, data)
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"population: chunk must be at least 1, got {chunk}")

    def run_all(stacked: PyTree, *shared: Any) -> Any:
        count = size("population", stacked)
        # `vmap`'s own axes cannot say "the first argument only" for any number of others
        together: Callable[[PyTree], Any] = jax.vmap(lambda one: run(one, *shared))
        if chunk is None or chunk >= count:
            return together(stacked)
        whole = count // chunk * chunk
        parts = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), stacked)
        done = lax.map(together, parts)
        done = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), done)
        if whole == count:
            return done
        rest = together(jax.tree.map(lambda x: x[whole:], stacked))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, rest)

    return run_all
