"""One example's loss as a program with sites, and a batch's run through it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.equations import programs_inside, what_mixes_examples
from jaxnets.gradients.graph import Computed, Fixed, Input, Key, all_nodes, body_of
from jaxnets.gradients.site_kinds import CUSTOM
from jaxnets.gradients.site_record import Loop, Place, Probe, Record, Sites, Watch
from jaxnets.gradients.sites import as_example, run
from jaxnets.types import Array, Params, PyTree


@dataclass(frozen=True, eq=False)
class Program:
    """What is known of a loss before it meets numbers."""

    text: str
    """Of the traced loss: programs of the same text have the same sites, unless these hold what is
    not printed."""
    sites: Sites
    paths: tuple[str, ...]
    """Of the parameters, whose keys are their places in this order."""
    structure: Any
    """The parameters' tree."""
    examples: int

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Program)
            and self.same_sites(other)
            and self.examples == other.examples
        )

    def same_sites(self, other: "Program") -> bool:
        """Whether both are of the same loss, perhaps for batches of other sizes."""
        if self.sites is other.sites:
            return True
        known = not (_hides_something(self.sites) or _hides_something(other.sites))
        return known and (self.text, self.structure) == (other.text, other.structure)

    def __hash__(self) -> int:
        return hash((self.structure, self.examples))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factors:
    """The factors of one batch's per-example gradients (opaque; a pytree).

    At every site, what the example brought and its error signal; no array has the size of batch
    times parameters.
    """

    params: list[Array]
    constants: list[Any]
    saved: list[Any]
    """For each site its operands from the example, `[B, ...]`."""
    errors: list[Any]
    """For each site the derivative of the loss by its results, `[B, ...]`."""
    program: Program = field(metadata={"static": True})


class Traced(NamedTuple):
    """A loss traced for one example of a batch."""

    text: str
    leaves: list[Array]
    constants: list[Any]
    paths: tuple[str, ...]
    structure: Any
    batch: tuple[PyTree, ...]
    examples: int
    loss: Callable[[Sequence[Array], tuple[PyTree, ...]], Array]
    """`(leaves, example) -> loss`, as it was given."""
    one: Callable[..., tuple[Array, PyTree, Record]]
    """`(leaves, taps, example, probes, watch=None) -> (loss, aux, record)`"""


NO_PROBES: Mapping[Place, Probe] = MappingProxyType({})


def trace(
    loss: Callable[..., tuple[Array, PyTree]], params: Params, batch: tuple[PyTree, ...],
    *, may_mix: bool = False,
) -> Traced:  # fmt: skip
    """A loss as a program with sites.

    Args:
      loss: `loss(params, *example) -> (scalar, aux)`.
      params: a pytree of arrays.
      batch: the example's arguments, with a leading axis each.
      may_mix: whether what is marked as mixing examples is let pass.

    Raises:
      ValueError: if something in the loss is marked as mixing examples, and must not.
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]

    def flat(leaves: Sequence[Array], example: tuple[PyTree, ...]) -> Any:
        return loss(jax.tree.unflatten(structure, leaves), *example)

    def alone(leaves: Sequence[Array], example: tuple[PyTree, ...]) -> Array:
        value: Array = flat(leaves, example)[0]
        return value

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(leaves, shapes_of_one(batch))
    mixer = what_mixes_examples(closed.jaxpr)
    if mixer and not may_mix:
        raise ValueError(
            f"per_example_grad: {mixer} in training mixes the examples of a batch, so that none "
            "has a gradient of its own; use its running moments (train=False), or a norm of "
            "single examples"
        )
    inputs = [Input(i, jax.typeof(leaf), trained=True) for i, leaf in enumerate(leaves)]
    constants = [
        Input(("constant", i), jax.typeof(c), trained=False) for i, c in enumerate(closed.consts)
    ]
    _, aux_structure = jax.tree.flatten(shapes[1])

    def one(
        leaves: Sequence[Array], taps: list[Any] | None, example: tuple[PyTree, ...],
        probes: Mapping[Place, Probe], watch: Watch | None = None,
    ) -> tuple[Array, PyTree, Record]:  # fmt: skip
        values = values_of(leaves, closed.consts)
        record = Record(values, taps, probes, watch)
        arguments = [*inputs, *jax.tree.leaves(example)]
        value, *aux = run(record, closed.jaxpr, constants, arguments)
        value, aux = as_example(record, value), [record.value(y) for y in aux]
        return value, jax.tree.unflatten(aux_structure, aux), record

    return Traced(
        str(closed.jaxpr), leaves, list(closed.consts), tuple(tree.flatten_with_paths(params)),
        structure, batch, jax.tree.leaves(batch)[0].shape[0], alone, one,
    )  # fmt: skip


def values_of(leaves: Sequence[Any], constants: Sequence[Any]) -> dict[Key, Any]:
    """Of parameters and constants, by key."""
    values: dict[Key, Any] = dict(enumerate(leaves))
    values.update({("constant", i): c for i, c in enumerate(constants)})
    return values


def shapes_of_one(batch: tuple[PyTree, ...]) -> Any:
    """Of an example's arguments, without the batch's axis."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)


def find(traced: Traced, probes: Mapping[Place, Probe] = NO_PROBES) -> Record:
    """The sites of a program, by a run without numbers."""
    found: list[Record] = []

    def trial(example: tuple[PyTree, ...]) -> None:
        found.append(traced.one(traced.leaves, None, example, probes)[2])

    jax.eval_shape(trial, shapes_of_one(traced.batch))
    return found[0]


def no_taps(traced: Traced, record: Record) -> list[Any]:
    """A zero for every tap of a batch."""
    taps: list[Any] = jax.tree.map(
        lambda s: jnp.zeros((traced.examples, *s.shape), s.dtype), record.shapes
    )
    return taps


def factorize(traced: Traced) -> tuple[Array, PyTree, Factors]:
    """Run a batch forward and backward.

    Returns:
      The losses `[B]`, what the loss returned beside them, stacked, and the factors.
    """
    record = find(traced)

    def batched(taps: list[Any]) -> Any:
        def each(taps: list[Any], example: tuple[PyTree, ...]) -> Any:
            value, aux, now = traced.one(traced.leaves, taps, example, NO_PROBES)
            return value, (aux, now.saved)

        return jax.vmap(each)(taps, traced.batch)

    losses, backward, (aux, saved) = jax.vjp(batched, no_taps(traced, record), has_aux=True)
    (errors,) = backward(jnp.ones_like(losses))
    return losses, aux, factors_of_run(traced, record, saved, errors)


def factors_of_run(traced: Traced, record: Record, saved: list[Any], errors: list[Any]) -> Factors:
    """What a run saved, with the error signals at its taps."""
    program = Program(
        traced.text, tuple(record.sites), traced.paths, traced.structure, traced.examples
    )
    return Factors(traced.leaves, traced.constants, saved, errors, program)


def _hides_something(sites: Sites) -> bool:
    """Whether sites are made of what the text of a program does not show.

    That is, constants of a program inside another, or rules for derivatives.
    """
    for site in sites:
        if isinstance(site, Loop):
            nodes = [*site.whole.values(), *site.sliced.values()]
            if _hides_something(site.sites):
                return True
        else:
            nodes = [node for node in site.operands if node is not None]
            if site.equation is not None and _hides(site.equation):
                return True
        for node in all_nodes(nodes):
            if isinstance(node, Computed) and _hides(node.equation):
                return True
            if isinstance(node, Fixed) and not node.printed:
                return True
    return False


def _hides(equation: Any) -> bool:
    if equation.primitive.name in CUSTOM:
        return True
    body = body_of(equation)
    if body is not None and len(body.consts) > 0:
        return True
    return any(_hides(e) for inner in programs_inside(equation) for e in inner.eqns)
