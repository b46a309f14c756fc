"""Where parameters meet an example: the sites at which backpropagation makes outer products.

The loss of one example is traced and run equation by equation. Values that no example enters stay
a graph (see `graph`). An equation at which one of them, made of parameters, meets a value of the
example is a site: a zero is added to its result, the tap, and its operands from the example are
saved. The derivative of the loss by the tap is the site's error signal, and with the saved operands
it gives everything about the gradient of the parameters there.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from jaxnets.convolution import convolve, geometry_of
from jaxnets.equations import bind, is_enterable
from jaxnets.gradients.activations import activations_in, holds_activation
from jaxnets.gradients.graph import (
    Fixed,
    Input,
    Node,
    body_of,
    compute,
)
from jaxnets.gradients.site_kinds import CUSTOM, ENTERED, REMAT, kind_of
from jaxnets.gradients.site_record import Loop, Place, Record, Site


def _next_place(record: Record) -> Place:
    record.met += 1
    return (*record.loop, record.met)


def _has_derivative(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _record(record: Record, site: Site | Loop, saved: Any, shapes: Any) -> None:
    record.sites.append(site)
    record.saved.append(saved)
    record.shapes.append(shapes)


def _next_tap(record: Record, shapes: Any) -> Any:
    if record.taps is None:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return record.taps[len(record.sites)]


def apply(equation: Any, values: Sequence[Any]) -> list[Any]:
    """`bind`, but convolutions have derivatives that are fast inside loops too."""
    geometry = geometry_of(equation)
    return bind(equation, values) if geometry is None else [convolve(*values, geometry)]


def _meet(record: Record, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """A site."""
    operands = tuple(x if isinstance(x, Node) else None for x in inputs)
    results = apply(equation, [record.value(x) for x in inputs])
    tapped = tuple(i for i, y in enumerate(results) if _has_derivative(y))
    if not tapped:
        return results
    kind, inner, operand = kind_of(equation, operands)
    given = [x for x in inputs if not isinstance(x, Node)]
    place = _next_place(record)
    asked = bool(given) and (equation.primitive.name == "add" or record.watch is not None)
    after = _origin(record, given[0]) if asked else None
    site = Site(kind, equation, inner, operands, operand, tapped, place, after)
    seen = _seen(record, site, [results[i] for i in tapped], given)
    for i, y in zip(tapped, seen, strict=True):
        results[i] = y
        record.origins[id(y)] = y, place
    return results


_SAME_ORDER = {"convert_element_type", "copy", "expand_dims", "reshape", "squeeze"}


def _origin(record: Record, x: Any) -> Place | None:
    # the value is kept beside the place, so that its identity is nobody else's
    return record.origins[id(x)][1] if id(x) in record.origins else None


def _follow(record: Record, equation: Any, inputs: Sequence[Any], results: Sequence[Any]) -> None:
    """A rearrangement of a site's result still comes from that site."""
    rounded = record.watch is not None and equation.primitive.name == "convert_element_type"
    if equation.primitive.name in _SAME_ORDER and len(inputs) == 1 and not rounded:
        place = _origin(record, inputs[0])
        if place is not None:
            record.origins[id(results[0])] = results[0], place


def _seen(record: Record, site: Site, results: list[Any], given: list[Any]) -> list[Any]:
    """A site's results with its taps, or what its probe makes of them."""
    if site.place in record.probes:
        return record.probes[site.place](record, site, results, given)
    shapes = [jax.ShapeDtypeStruct(jnp.shape(y), jnp.result_type(y)) for y in results]
    taps = _next_tap(record, shapes)
    saved = given if record.watch is None else record.watch(record, site, results, given)
    _record(record, site, saved, shapes)
    return [y + tap for y, tap in zip(results, taps, strict=True)]


def _activation(record: Record, equation: Any, kind: str, inputs: Sequence[Any]) -> list[Any]:
    """A tagged value, or a nonlinearity's, of the example alone."""
    values = [record.value(x) for x in inputs]
    results = apply(equation, values)
    if not all(map(_has_derivative, results)):
        return results
    operands = tuple(x if isinstance(x, Node) else None for x in inputs)
    place = _next_place(record)
    given = [x for x in inputs if not isinstance(x, Node)]
    site = Site(kind, equation, None, operands, 0, (0,), place, _origin(record, given[0]))
    (y,) = _seen(record, site, results, given)
    record.origins[id(y)] = y, place
    return [y]


def as_example(record: Record, x: Any) -> Any:
    """A value of parameters alone that takes the place of an example's: a site without equation."""
    if not isinstance(x, Node):
        return x
    value = record.value(x)
    if not x.trained or not _has_derivative(value):
        return value
    site = Site("elementwise", None, None, (x,), 0, (0,), _next_place(record))
    (value,) = _seen(record, site, [value], [])
    return value


def scanned(equation: Any) -> tuple[int, int]:
    """How many of a scan's inputs every turn sees whole, and how many are carried on.

    By their shapes: the equation's parameters have other names in each version of JAX.
    """
    body = equation.params["jaxpr"].jaxpr

    def sliced(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(len(x.aval.shape) > len(y.aval.shape) for x, y in pairs)

    n_carry = len(equation.outvars) - sliced(equation.outvars, body.outvars)
    n_sliced = sliced(equation.invars, body.invars)
    return len(equation.invars) - n_sliced - n_carry, n_carry


def _scan(record: Record, equation: Any, inputs: Sequence[Any]) -> list[Any]:
    params = equation.params
    body, length = params["jaxpr"], params["length"]
    n_whole, n_carry = scanned(equation)
    whole, carry, sliced = (
        inputs[:n_whole], inputs[n_whole : n_whole + n_carry], inputs[n_whole + n_carry :]
    )  # fmt: skip
    carry = [as_example(record, x) for x in carry]
    place = _next_place(record)

    def inside(x: Any, variable: Any, name: str, i: int) -> Any:
        if not isinstance(x, Node):
            return None
        return Input((name, place, i), variable.aval, x.trained)

    variables = body.jaxpr.invars
    whole_inside = [inside(x, variables[i], "whole", i) for i, x in enumerate(whole)]
    sliced_inside = [
        inside(x, variables[n_whole + n_carry + i], "sliced", i) for i, x in enumerate(sliced)
    ]
    whole_values = [record.value(x) for x in whole]
    found: list[Record] = []

    def step(carry: Any, given: Any) -> Any:
        slices, taps = given
        values = {
            node.key: value
            for nodes, now in ((whole_inside, whole_values), (sliced_inside, slices))
            for node, value in zip(nodes, now, strict=True)
            if node is not None
        }
        inner = Record(values, taps, record.probes, record.watch, place)
        arguments = [
            *(v if n is None else n for n, v in zip(whole_inside, whole_values, strict=True)),
            *carry,
            *(v if n is None else n for n, v in zip(sliced_inside, slices, strict=True)),
        ]
        results = run(inner, body.jaxpr, _constants(body), arguments)
        results = [as_example(inner, y) for y in results]
        found.append(inner)
        return results[:n_carry], (results[n_carry:], inner.saved)

    slices = [record.value(x) for x in sliced]
    # by shape, since there may be no turn
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), slices)
    jax.eval_shape(lambda c, s: step(c, (s, None))[0], carry, first)
    inner = found[0]
    record.remat |= inner.remat
    shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct((length, *s.shape), s.dtype), inner.shapes)
    carry, (stacked, saved) = lax.scan(
        step, carry, (slices, _next_tap(record, shapes)),
        length=length, reverse=params["reverse"], unroll=params["unroll"],
    )  # fmt: skip
    pairs = ((whole_inside, whole), (sliced_inside, sliced))
    whole_outside, sliced_outside = (
        {n.key: x for n, x in zip(nodes, values, strict=True) if n is not None}
        for nodes, values in pairs
    )
    loop = Loop(tuple(inner.sites), whole_outside, sliced_outside, params["reverse"])
    _record(record, loop, saved, shapes)
    return [*carry, *stacked]


def _again(record: Record, equation: Any, body: Any, inputs: Sequence[Any]) -> list[Any]:
    """A `checkpoint` that stays one: what its sites save are results of it."""
    taps = None if record.taps is None else record.taps[len(record.sites) :]
    found: list[tuple[Record, list[Any]]] = []

    def forward(given: list[Any]) -> Any:
        inner = Record(record.values, taps, record.probes, record.watch, record.loop, record.met)
        values = iter(given)
        arguments = [x if isinstance(x, Node) else next(values) for x in inputs]
        results = run(inner, body.jaxpr, _constants(body), arguments)
        found.append((inner, results))
        return [y for y in results if not isinstance(y, Node)], inner.saved

    options = {name: equation.params[name] for name in ("prevent_cse", "policy")}
    given, saved = jax.checkpoint(forward, **options)(
        [x for x in inputs if not isinstance(x, Node)]
    )
    inner, results = found[-1]
    record.met = inner.met
    record.sites += inner.sites
    record.saved += saved
    record.shapes += inner.shapes
    values = iter(given)
    return [y if isinstance(y, Node) else next(values) for y in results]


def _constants(body: Any) -> list[Fixed]:
    return [Fixed(c, printed=False) for c in body.consts]


def run(record: Record, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The results of a program, each a node or a value of the example, as its inputs are."""
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> Any:
        return Fixed(variable.val) if isinstance(variable, Literal) else known[variable]

    activations = {} if record.watch is None else activations_in(jaxpr)
    for i, equation in enumerate(jaxpr.eqns):
        operands = [read(v) for v in equation.invars]
        name = equation.primitive.name
        body = body_of(equation) if name in ENTERED | CUSTOM else None
        if name in CUSTOM and body is not None and not is_enterable(body.jaxpr):
            body = None
        alone = all(isinstance(x, Node) for x in operands)
        met = any(_is_trained(x) for x in operands)
        if name in REMAT and met and not alone:
            record.remat = True
        kind = None
        if record.watch is not None and not alone and not met:
            kind = activations.get(i)
            # what no parameter enters has no site but these
            met = (body is not None or name == "scan") and holds_activation(equation)
        keeps = bool(record.probes) or record.watch is not None
        if kind is not None:
            results = _activation(record, equation, kind, operands)
        elif body is not None and keeps and met and not alone and name in REMAT:
            results = _again(record, equation, body, operands)
        elif body is not None and (alone or met):
            results = run(record, body.jaxpr, _constants(body), operands)
        elif alone:
            results = compute(equation, operands)
        elif not met:
            results = apply(equation, [record.value(x) for x in operands])
            _follow(record, equation, operands, results)
        elif name == "scan":
            results = _scan(record, equation, operands)
        else:
            results = _meet(record, equation, operands)
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _is_trained(x: Any) -> bool:
    return isinstance(x, Node) and x.trained
