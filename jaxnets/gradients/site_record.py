"""What a site is, and what a run of a program leaves behind of its sites."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jaxnets.gradients.graph import Key, Node, evaluate


@dataclass(frozen=True, eq=False)
class Site:
    """An equation with operands of both kinds."""

    kind: str
    """`dot`, `conv` or `gather`, whose gradients are outer products; `elementwise`; or `other`.
    Without a parameter, and only where a record is watched: `tag`, or a nonlinearity's name."""
    equation: Any
    """None: a value of parameters alone that takes an example's place, as a loop's first carry."""
    inner: Any
    """For the three kinds, the equation that says which products: `equation`, or the one that it
    wraps in a rule of its own."""
    operands: tuple[Node | None, ...]
    """None for those of the example."""
    operand: int
    """For the three kinds, which of the operands is made of a parameter."""
    tapped: tuple[int, ...]
    """Which results have taps: those that have derivatives."""
    place: "Place"
    after: "Place | None" = None
    """Of a sum, and of whatever is watched: the site whose result, rearranged at most, enters."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A scan with sites in its body, and what the body's inputs are outside of it."""

    sites: tuple["Site | Loop", ...]
    whole: Mapping[Key, Node]
    sliced: Mapping[Key, Node]
    reverse: bool
    """Whether the last turn comes first."""


Sites: TypeAlias = tuple[Site | Loop, ...]
Place: TypeAlias = tuple[int, ...]
"""Which of all sites of a program one is, with the loops that it stands in."""
Probe: TypeAlias = Callable[["Record", Site, list[Any], list[Any]], list[Any]]
"""What becomes of a site's results, given its operands from the example."""
Watch: TypeAlias = Callable[["Record", Site, list[Any], list[Any]], Any]
"""What is saved of a site, given its results and its operands from the example."""


@dataclass
class Record:
    """What a run of the program leaves behind: its sites and, for each, what it needs."""

    values: Mapping[Key, Any]
    """Of the inputs of graphs."""
    taps: list[Any] | None
    """One for each site; None in a first run, which finds out their shapes."""
    probes: Mapping[Place, Probe] = field(default_factory=dict)
    """Of sites that have these instead of taps; if there are any, `checkpoint` is kept."""
    watch: Watch | None = None
    """If given, activations are sites too, `checkpoint` is kept, and not operands are saved."""
    loop: Place = ()
    met: int = 0
    """How many sites there were so far, and loops."""
    remat: bool = False
    """Whether a site was in a `checkpoint`."""
    memo: dict[Any, Any] = field(default_factory=dict)
    origins: dict[int, tuple[Any, Place]] = field(default_factory=dict)
    """By identity, results of sites (and rearrangements of them) and where they came from."""
    sites: list[Site | Loop] = field(default_factory=list)
    saved: list[Any] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)

    def value(self, x: Any) -> Any:
        """The value of a node, or a value as it is."""
        return evaluate(x, self.values, self.memo) if isinstance(x, Node) else x
