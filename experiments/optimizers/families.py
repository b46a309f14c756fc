"""Every optimizer of the experiment, by family, as a function of its learning rate alone.

All else is the default, but for weight decay, which moves the minimum, and is 0 outside its
own family, and for how often Shampoo takes roots.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.errors import UsageError, did_you_mean
from jaxnets import optim
from jaxnets.types import Array, PyTree


def _as_they_are(state: PyTree, params: PyTree) -> PyTree:
    return params


class Contender(NamedTuple):
    """An optimizer under its name."""

    name: str
    make: Callable[[Array], optim.GradientTransformation]
    """`make(learning_rate)`"""
    read: Callable[[PyTree, PyTree], PyTree] = _as_they_are
    """`read(state, params)`: the parameters to be judged, where they are not those trained."""
    noise_free: bool = False
    """Whether it is for losses without noise: it searches along a line."""
    on_images: bool = True
    """False where many nets at once cannot be relied on: JAX's batched QR and eigenvalues, inside a
    loop, may wait for themselves for ever on a CPU with few cores."""
    note: str = ""
    """What a step costs beside one gradient."""


class Family(NamedTuple):
    """Optimizers that share an idea, and a picture."""

    name: str
    title: str
    contenders: tuple[Contender, ...]
    arena: str = "plane"
    """Which functions are drawn: those of `"plane"`, of `"matrix"`, or none (`""`)."""


def _averaged(name: str, make: Callable[[Array], Any]) -> Contender:
    return Contender(name, make, lambda state, p: optim.schedule_free_eval_params(state[0], p))


_SHARPNESS = optim.chain(optim.normalize(), optim.sgd(0.05))

_LONGEST_AXIS = 512

SGD = Contender("sgd", optim.sgd)
MOMENTUM = Contender("momentum", lambda rate: optim.sgd(rate, momentum=0.9))
ADAM = Contender("adam", optim.adam)
LBFGS = Contender("lbfgs", optim.lbfgs, noise_free=True, note="a line search")

FAMILIES = (
    Family(
        "descent",
        "Descent and momentum",
        (
            SGD,
            MOMENTUM,
            Contender("nesterov", lambda rate: optim.sgd(rate, momentum=0.9, nesterov=True)),
            Contender("optimistic_gradient_descent", optim.optimistic_gradient_descent),
            Contender("noisy_sgd", optim.noisy_sgd),
            Contender(
                "sam",
                lambda rate: optim.sam(optim.sgd(rate), _SHARPNESS, opaque_mode=True),
                note="a second gradient",
            ),
        ),
    ),
    Family(
        "adaptive",
        "Rates by the squares of past gradients",
        (
            Contender("adagrad", optim.adagrad),
            Contender("adadelta", optim.adadelta),
            Contender("rmsprop", optim.rmsprop),
            Contender("sm3", optim.sm3),
            Contender("adafactor", optim.adafactor),
            Contender("novograd", optim.novograd),
        ),
    ),
    Family(
        "adam",
        "Adam's family",
        (
            ADAM,
            Contender("amsgrad", optim.amsgrad),
            Contender("nadam", optim.nadam),
            Contender("adamax", optim.adamax),
            Contender("adabelief", optim.adabelief),
            Contender("radam", optim.radam),
            Contender("yogi", optim.yogi),
        ),
    ),
    Family(
        "heirs",
        "Adam with other momenta",
        (
            Contender("adan", optim.adan),
            Contender("ademamix", optim.ademamix),
            Contender("simplified_ademamix", optim.simplified_ademamix),
            Contender("adopt", optim.adopt),
            Contender("optimistic_adam_v2", optim.optimistic_adam_v2),
        ),
    ),
    Family(
        "signs",
        "By signs alone",
        (
            Contender("sign_sgd", optim.sign_sgd),
            Contender("signum", optim.signum),
            Contender("lion", lambda rate: optim.lion(rate, weight_decay=0.0)),
            Contender("rprop", optim.rprop),
        ),
    ),
    Family(
        "norms",
        "Trust ratios and normalized steps",
        (
            Contender("lars", optim.lars),
            Contender("lamb", optim.lamb),
            Contender("fromage", optim.fromage),
            Contender("normalized", lambda rate: optim.chain(optim.normalize(), optim.sgd(rate))),
        ),
    ),
    Family(
        "curvature",
        "Curvature, line searches and known minima",
        (
            LBFGS,
            Contender(
                "backtracking",
                lambda rate: optim.chain(
                    optim.sgd(rate), optim.scale_by_backtracking_linesearch(30)
                ),
                noise_free=True,
                note="a line search",
            ),
            Contender(
                "sophia",
                lambda rate: optim.sophia(rate, weight_decay=0.0),
                note="every tenth, a Hessian-vector product",
            ),
            Contender("polyak_sgd", optim.polyak_sgd, note="the minimum's value, known to be 0"),
        ),
    ),
    Family(
        "tuners",
        "Parameter-free and schedule-free",
        (
            Contender("dog", optim.dog),
            Contender("dowg", optim.dowg),
            Contender("prodigy", optim.prodigy),
            Contender("mechanize", lambda rate: optim.mechanize(optim.sgd(rate), weight_decay=0.0)),
            _averaged("schedule_free_sgd", optim.schedule_free_sgd),
            _averaged("schedule_free_adamw", optim.schedule_free_adamw),
        ),
    ),
    Family(
        "matrices",
        "Preconditioners of matrices",
        (
            Contender("muon", optim.muon),
            # both alike: roots or bases every tenth step, and none for the pixels of large images
            Contender(
                "shampoo",
                lambda rate: optim.shampoo(
                    rate, precondition_frequency=10, max_precond_dim=_LONGEST_AXIS
                ),
                on_images=False,
                note="every tenth, roots of two matrices",
            ),
            Contender(
                "soap",
                lambda rate: optim.soap(rate, weight_decay=0.0, max_precond_dim=_LONGEST_AXIS),
                on_images=False,
                note="every tenth, two QR decompositions",
            ),
        ),
        arena="matrix",
    ),
    Family(
        "decay",
        "With weight decay",
        (
            Contender("adamw", lambda rate: optim.adamw(rate, weight_decay=0.01)),
            Contender("nadamw", lambda rate: optim.nadamw(rate, weight_decay=0.01)),
            Contender("adamaxw", lambda rate: optim.adamaxw(rate, weight_decay=0.01)),
        ),
        arena="",
    ),
)

REFERENCES = {"matrix": (SGD, MOMENTUM, ADAM, LBFGS)}
"""By arena, those of other families that are drawn beside its own."""

NAMES = tuple(contender.name for family in FAMILIES for contender in family.contenders)


def chosen(names: Iterable[str]) -> tuple[Family, ...]:
    """The families with those of `names` only, in the table's order; all of them for none.

    Raises:
      UsageError: for a name that there is not.
    """
    wanted = tuple(names) or NAMES
    for name in wanted:
        if name not in NAMES:
            raise UsageError(
                f"unknown optimizer {name!r}{did_you_mean(name, NAMES)}; there are "
                f"{', '.join(NAMES)}"
            )
    kept = (
        family._replace(contenders=tuple(c for c in family.contenders if c.name in wanted))
        for family in FAMILIES
    )
    return tuple(family for family in kept if family.contenders)
