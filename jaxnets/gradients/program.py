"""One example's loss as a program with sites, and a batch's run through it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.gradients.graph import Input
from jaxnets.gradients.sites import Record, Sites, as_example, run
from jaxnets.types import Array, Params, PyTree


@dataclass(frozen=True, eq=False)
class Program:
    """What is known of a loss before it meets numbers."""

    text: str
    """Of the traced loss: programs of the same text have the same sites."""
    sites: Sites
    paths: tuple[str, ...]
    """Of the parameters, whose keys are their places in this order."""
    structure: Any
    """The parameters' tree."""
    examples: int

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Program)
            and (self.text, self.structure, self.examples)
            == (other.text, other.structure, other.examples)
        )

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


def factorize(
    loss: Callable[..., tuple[Array, PyTree]], params: Params, batch: tuple[PyTree, ...]
) -> tuple[Array, PyTree, Factors]:
    """Run a batch forward and backward.

    Args:
      loss: `loss(params, *example) -> (scalar, aux)`.
      params: a pytree of arrays.
      batch: the example's arguments, with a leading axis each.

    Returns:
      The losses `[B]`, what `loss` returned beside them, stacked, and the factors.
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    first = jax.tree.map(lambda x: jax.eval_shape(lambda x: x[0], x), batch)
    examples = jax.tree.leaves(batch)[0].shape[0]

    def flat(leaves: list[Array], example: tuple[PyTree, ...]) -> Any:
        return loss(jax.tree.unflatten(structure, leaves), *example)

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(leaves, first)
    inputs = [Input(i, jax.typeof(leaf), trained=True) for i, leaf in enumerate(leaves)]
    constants = [
        Input(("constant", i), jax.typeof(c), trained=False) for i, c in enumerate(closed.consts)
    ]
    values = dict(enumerate(leaves)) | {
        node.key: c for node, c in zip(constants, closed.consts, strict=True)
    }

    def one(taps: list[Any] | None, example: tuple[PyTree, ...]) -> Any:
        record = Record(values, taps)
        arguments = [*inputs, *jax.tree.leaves(example)]
        results = run(record, closed.jaxpr, constants, arguments)
        results = [as_example(record, y) for y in results[:1]] + [
            record.value(y) for y in results[1:]
        ]
        return results, record

    found: list[Record] = []

    def trial(example: tuple[PyTree, ...]) -> None:
        found.append(one(None, example)[1])

    jax.eval_shape(trial, first)
    (record,) = found
    zeros = jax.tree.map(lambda s: jnp.zeros((examples, *s.shape), s.dtype), record.shapes)

    def batched(taps: list[Any]) -> Any:
        def each(taps: list[Any], example: tuple[PyTree, ...]) -> Any:
            (value, *aux), now = one(taps, example)
            return value, (aux, now.saved)

        return jax.vmap(each)(taps, batch)

    losses, backward, (aux, saved) = jax.vjp(batched, zeros, has_aux=True)
    (errors,) = backward(jnp.ones_like(losses))
    paths = tuple(tree.flatten_with_paths(params))
    program = Program(str(closed.jaxpr), tuple(record.sites), paths, structure, examples)
    _, aux_structure = jax.tree.flatten(shapes[1])
    factors = Factors(leaves, list(closed.consts), saved, errors, program)
    return losses, jax.tree.unflatten(aux_structure, aux), factors
