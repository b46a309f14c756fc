"""The command line: `python -m experiments [--debug] [experiment [flags]]`.

Nothing is imported before it is needed: listing the experiments does not load JAX.
"""

import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.errors import UsageError, did_you_mean

PROGRAM = "python -m experiments"

USER_ERROR = 2
FAILURE = 1


class Experiment(NamedTuple):
    """Where an experiment lives: a module with a frozen dataclass `Config` and `main(config)`."""

    module: str
    summary: str


REGISTRY: dict[str, Experiment] = {
    "curvature": Experiment(
        "experiments.curvature.experiment",
        "K-FAC against tuned Adam on an autoencoder, and sharpness along training",
    ),
    "digits": Experiment(
        "experiments.digits",
        "train a convolutional or residual net on images, our Adam beside Optax's",
    ),
    "forgetting": Experiment(
        "experiments.forgetting.experiment",
        "tasks learned one after the other, what is forgotten, and what holds it back",
    ),
    "images": Experiment(
        "experiments.images.experiment",
        "images made by autoencoders, a GAN, diffusion and flow, and how far off they are",
    ),
    "claims": Experiment(
        "experiments.claims.experiment",
        "what is said of training, each sentence tested on real nets, with a verdict",
    ),
    "generate": Experiment(
        "experiments.generate.experiment",
        "continue a text with SmolLM2, a pretrained language model, token by token",
    ),
    "influence": Experiment(
        "experiments.influence.experiment",
        "find wrong labels and influential examples by each example's own gradient",
    ),
    "language": Experiment(
        "experiments.language.experiment",
        "a transformer and an LSTM learn to write as Shakespeare did, byte by byte",
    ),
    "optimizers": Experiment(
        "experiments.optimizers.experiment",
        "optimizers at every learning rate, on test functions and on images",
    ),
    "private": Experiment(
        "experiments.private.experiment",
        "differential privacy: accuracy against epsilon, and an audit of the promise by canaries",
    ),
    "retrieval": Experiment(
        "experiments.retrieval.experiment",
        "pictures found by captions they were not trained on, and captions by pictures",
    ),
    "selection": Experiment(
        "experiments.selection.experiment",
        "cross-validation and its optimism, and five searches at equal cost",
    ),
    "sentiment": Experiment(
        "experiments.sentiment.experiment",
        "whether a film review praises or blames, and by which words",
    ),
    "signals": Experiment(
        "experiments.signals.experiment",
        "tell signals apart by a 1-D convolutional and a recurrent net",
    ),
    "transfer": Experiment(
        "experiments.transfer.experiment",
        "accuracy against labels: from scratch, frozen, fine-tuned and with adapters",
    ),
    "translate": Experiment(
        "experiments.translation.experiment",
        "English to Portuguese, by a transformer or an LSTM with attention",
    ),
}


def main(
    arguments: Sequence[str] | None = None, registry: Mapping[str, Experiment] = REGISTRY
) -> int:
    """Run the command line `arguments` (by default the process's own); returns the exit code.

    Errors that the user can mend, and those of files, are printed as one line; with `--debug` (or
    `JAXNETS_DEBUG=1`) their traceback comes first. Anything else is a fault of the program's own,
    and is printed as such, with its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = os.environ.get("JAXNETS_DEBUG", "") not in ("", "0")
    if words[:1] == ["--debug"]:
        words, debug = words[1:], True
    if not words or words[0] in ("-h", "--help"):
        print(_listing(registry))
        return 0
    try:
        return _run(words[0], words[1:], registry)
    except UsageError as error:
        return _failed(str(error), debug, USER_ERROR)
    except OSError as error:
        return _failed(f"{error} (for a traceback: {PROGRAM} --debug ...)", debug, FAILURE)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("experiments", "jaxnets", ""):
            return _broken()
        return _failed(
            f"{error.name} is not installed; experiments need, in a clone: "
            "pip install '.[experiments]'",
            debug,
            FAILURE,
        )
    except KeyboardInterrupt:
        # the code shells give for SIGINT
        return _failed("interrupted", debug, 130)
    except Exception:
        return _broken()


def _listing(registry: Mapping[str, Experiment]) -> str:
    width = max(map(len, registry), default=0)
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in registry.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} [--debug] EXPERIMENT [flags]",
            "",
            "experiments:",
            *lines,
            "",
            f"flags of one: {PROGRAM} EXPERIMENT --help",
        ]
    )


def _failed(message: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    # one line, whatever was raised
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def _broken() -> int:
    print("internal error:", traceback.format_exc(), file=sys.stderr)
    return FAILURE


def _run(name: str, flags: Sequence[str], registry: Mapping[str, Experiment]) -> int:
    if name not in registry:
        hint = did_you_mean(name, registry)
        kind = "flag" if name.startswith("-") else "experiment"
        raise UsageError(f"unknown {kind} {name!r}{hint}; experiments are {', '.join(registry)}")
    module = importlib.import_module(registry[name].module)
    config = _config(module.Config, name, flags)
    return 0 if config is None else int(module.main(config) or 0)


def _config(kind: type[Any], name: str, flags: Sequence[str]) -> Any | None:
    """`kind` filled from `flags`; `None` if help was asked for, and given."""
    import tyro

    program = f"{PROGRAM} {name}"
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=flags, prog=program)
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UsageError(f"{_unboxed(complaint.getvalue())} (see {program} --help)") from None


def _unboxed(complaint: str) -> str:
    """The first paragraph of the frame that tyro draws around an error, as one line."""
    lines = [line.strip("│ \t") for line in complaint.splitlines()]
    body = [line for line in lines if not line.startswith(("╭", "╰"))]
    words: list[str] = []
    for line in body:
        if line.startswith("───"):
            break
        words.append(line)
    return " ".join(words) or "bad flags"
