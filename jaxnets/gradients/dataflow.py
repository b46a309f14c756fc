"""Which sites a site's result is made of, and where the examples are in it, told from the program
that a run of a loss is.

Sets of sites are the bits of an integer: they are passed on from each equation's inputs to its
results, and into and around loops until nothing is added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from jaxnets.equations import programs_inside
from jaxnets.gradients.example_axes import inside, states_of_results
from jaxnets.gradients.mixing_rules import State
from jaxnets.gradients.program import NO_PROBES, Traced, shapes_of_one
from jaxnets.gradients.site_record import Place, Record
from jaxnets.gradients.sites import scanned
from jaxnets.gradients.uses import uses


class Origin(NamedTuple):
    """What a site's result is made of."""

    places: tuple[Place, ...]
    """The sites whose results it is made of, in their order; itself, if turns of a loop follow
    from each other there."""
    carried: tuple[bool, ...]
    """For each loop around it, whether it is made of its own result in the turn before."""
    examples: State
    """What has become of the examples in it, their axis counted without those of turns; None in a
    program of one."""


def find_with_origins(
    traced: Traced, examples: int | None = None
) -> tuple[Record, Mapping[Place, Origin]]:  # fmt: skip
    """The sites of a watched program, by a run without numbers, and what each is made of.

    Args:
      traced: the program.
      examples: how many are in what it was traced for, if that is a whole batch.
    """
    found: list[Record] = []

    def trial(example: tuple[Any, ...]) -> list[Any]:
        watch = lambda record, site, results, given: results[0]  # noqa: E731
        found.append(traced.one(traced.leaves, None, example, NO_PROBES, watch)[2])
        return found[-1].saved

    closed = jax.make_jaxpr(trial)(shapes_of_one(traced.batch))
    record = found[-1]
    order = [use for use, _ in uses(tuple(record.sites), record.saved)]
    follow = _Follow(len(order))
    marks = [1 << i for i in range(len(order))]
    made_of = follow.program(closed.jaxpr, [0] * len(closed.jaxpr.invars), marks)
    states = states_of_results(closed, examples) if examples else [None] * len(order)
    places = [use.site.place for use in order]
    origins = {}
    for i, use in enumerate(order):
        own = tuple(place for j, place in enumerate(places) if made_of[i] >> j & 1)
        carried = tuple(
            bool(made_of[i] >> (follow.sites * number) & 1 << i) for number in follow.around[i]
        )
        # what no turn changes may have been moved out of its loop
        carried = carried or (False,) * len(use.loops)
        origins[use.site.place] = Origin(own, carried, inside(states[i], len(use.loops)))
    return record, origins


@dataclass
class _Follow:
    """Bits of sites; and again, shifted by `sites * number`, of those whose results have come
    around the loop of that number."""

    sites: int
    loops: dict[int, int] = field(default_factory=dict)
    """Numbers, from 1 on, by identity of a loop's equation."""
    around: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """The numbers of the loops around a site, the outermost first."""

    def program(
        self, jaxpr: Any, inputs: Sequence[int], marks: Sequence[int], loops: tuple[int, ...] = ()
    ) -> list[int]:
        """What results are made of; those that are a site's own, with its bit as mark, without
        itself."""
        own: dict[Any, int] = {}
        for v, mark in zip(jaxpr.outvars, marks, strict=True):
            if mark:
                own[v] = own.get(v, 0) | mark
                self.around.update((i, loops) for i in range(self.sites) if mark >> i & 1)
        before: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        known = dict(before)

        def read(values: Mapping[Any, int], v: Any) -> int:
            return 0 if isinstance(v, Literal) else values.get(v, 0)

        for equation in jaxpr.eqns:
            given = [read(known, v) for v in equation.invars]
            results = self._equation(
                equation, given, [own.get(v, 0) for v in equation.outvars], loops
            )
            for v, made_of in zip(equation.outvars, results, strict=True):
                before[v], known[v] = made_of, made_of | own.get(v, 0)
        return [
            read(before if mark else known, v) for v, mark in zip(jaxpr.outvars, marks, strict=True)
        ]

    def _equation(
        self, equation: Any, given: list[int], marks: list[int], loops: tuple[int, ...]
    ) -> list[int]:
        if equation.primitive.name == "scan":
            return self._scan(equation, given, marks, loops)
        bodies = list(programs_inside(equation))
        sizes = [(len(body.invars), len(body.outvars)) for body in bodies]
        if sizes == [(len(given), len(marks))]:
            return self.program(bodies[0], given, marks, loops)
        together = 0
        for made_of in given:
            together |= made_of
        return [together] * len(marks)

    def _scan(
        self, equation: Any, given: list[int], marks: list[int], loops: tuple[int, ...]
    ) -> list[int]:
        number = self.loops.setdefault(id(equation), len(self.loops) + 1)
        n_whole, n_carry = scanned(equation)
        body = equation.params["jaxpr"].jaxpr

        def around(given: list[int], carry: list[int], shift: int) -> tuple[list[int], list[int]]:
            while True:
                inputs = [*given[:n_whole], *carry, *given[n_whole + n_carry :]]
                results = self.program(body, inputs, marks, (*loops, number))
                turned = [
                    c | y | self._sites_in(y) << shift
                    for c, y in zip(carry, results[:n_carry], strict=True)
                ]
                if turned == carry:
                    return carry, results[n_carry:]
                carry = turned

        # what comes from outside has not come around this loop
        own, _ = around([0] * len(given), [0] * n_carry, self.sites * number)
        outside = given[n_whole : n_whole + n_carry]
        carry, stacked = around(given, [c | x for c, x in zip(own, outside, strict=True)], 0)
        return [*carry, *stacked]

    def _sites_in(self, made_of: int) -> int:
        return made_of & ((1 << self.sites) - 1)
