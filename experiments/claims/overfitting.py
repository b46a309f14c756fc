"""Few digits and a net that can learn them by heart: what helps with those it has not seen."""

from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from experiments.claims import overfitting_pictures as pictures_of
from experiments.claims.arms import between, taken
from experiments.claims.claim import Outcome, Tested
from experiments.claims.few_digits import Config, Setting, Trained, chosen, runs
from experiments.claims.strengths import inside, tried
from experiments.claims.verdict import Comparison, Expected
from jaxnets.types import Array, Key

TITLE = "Overfitting with few data"

FULL = Config()
QUICK = Config(steps=1200, records=60)


def examine(config: Config, keys: Key) -> Outcome:
    """Each remedy at the strength that validation digits choose, beside none."""
    by_strength = tried(config, keys)
    alone = {
        "nothing": Setting(), "augmentation": Setting(shift=1.0), "batch norm": Setting(norm=1.0)
    }  # fmt: skip
    found = {name: chosen(runs(config, keys, [setting])) for name, setting in alone.items()}
    found |= {name: chosen(each.runs) for name, each in by_strength.items()}
    strongest = jax.tree.map(lambda x: x[:, -1], by_strength["L2"].runs)
    noisy = chosen(runs(config, keys, [Setting(noise=config.noise)]))
    return Outcome(
        setting=_setting(config),
        tested=[
            inside(tested, by_strength)
            for tested in (
                _overfits(config, found["nothing"]),
                *_remedies(config, found),
                *_smoothing(found),
                *_weights(found, strongest),
                _redundant(found),
                *_stopping(config, found["nothing"], noisy),
            )
        ],
        seen=[
            pictures_of.errors(found),
            pictures_of.smoothing_and_dropout(found),
            pictures_of.penalties(found, strongest),
            pictures_of.courses(config, found["nothing"], noisy),
            pictures_of.stopped_errors(config, found["nothing"], noisy),
        ],
        notes=(
            "Every remedy is trained at the same rate and for as many steps; the rate was not "
            "searched for any. The strength that is chosen is never 0, so a remedy can hurt; where "
            "an end of its grid is the best, by the mean validation error, its sentences are "
            "untested. (That was not looked at before: with label smoothing it was least at the "
            "weakest strength, 0.05, and with dropout at the strongest, 0.8, so that two weaker "
            "ones and a stronger one were added.) A wrong label counts as learnt if the net, given "
            "the training digit, gives it."
        ),
    )


def _setting(config: Config) -> str:
    return (
        f"{config.examples} digits to train on and {config.validation} to choose by, drawn by "
        f"seed, 360 to test on; an MLP with {config.width} relu units, SGD at a rate of "
        f"{config.rate:g} for all, batches of {config.batch_size}, {config.steps} steps. Penalties "
        "are on kernels: l2 ‖W‖²/2, and l1 ‖W‖₁ by a proximal step. Strengths are chosen for each "
        "seed by the validation error in the end. Augmentation moves images by up to a pixel. "
        "Batch norm is of the hidden units before their relu, without scale and shift, and in "
        "evaluation by the moments of the training digits. Early stopping takes the step of the "
        f"least validation loss, looked at {config.records} times, with true labels and with "
        f"{config.noise:.0%} of the training labels replaced by wrong ones."
    )


def _overfits(config: Config, plain: Trained) -> Tested:
    errors = {"unseen digits": plain.test_error[:, -1], "training digits": plain.train_error}
    return Tested(
        "With few data a net errs more on unseen data than on those it learnt.",
        [
            between(
                errors, "unseen digits", "training digits", where=f"with {config.examples} digits",
                quantity="error", expected="more", margin=0.02,
            )
        ],
    )  # fmt: skip


def _remedies(config: Config, found: Mapping[str, Trained]) -> list[Tested]:
    errors = {name: trained.test_error[:, -1] for name, trained in found.items()}

    def errs_less(name: str) -> list[Comparison]:
        return [
            between(
                errors, name, "nothing", where=f"with {config.examples} digits",
                quantity="test error", expected="less", margin=0.005,
            )
        ]  # fmt: skip

    return [
        Tested("An L2 penalty lowers the error on unseen data.", errs_less("L2")),
        Tested("An L1 penalty does.", errs_less("L1")),
        Tested("Dropout does.", errs_less("dropout")),
        Tested("Augmentation does.", errs_less("augmentation")),
        Tested("Label smoothing does.", errs_less("label smoothing")),
        Tested("Batch norm does.", errs_less("batch norm")),
    ]


def _smoothing(found: Mapping[str, Trained]) -> list[Tested]:
    loss = {name: trained.test_loss[:, -1] for name, trained in found.items()}
    calibration = {name: trained.calibration_error for name, trained in found.items()}
    arms, where = ("label smoothing", "nothing"), "at the chosen strength"
    return [
        Tested(
            "Label smoothing lowers the loss on unseen data.",
            [
                between(
                    loss, *arms, where=where, quantity="test loss, nats", expected="less",
                    margin=1.1, ratio=True,
                )
            ],
        ),
        Tested(
            "Its probabilities are better calibrated.",
            [
                between(
                    calibration, *arms, where=where, quantity="calibration error on unseen data",
                    expected="less", margin=0.01,
                )
            ],
        ),
    ]  # fmt: skip


def _weights(found: Mapping[str, Trained], strongest: Trained) -> list[Tested]:
    tiny = {name: trained.tiny for name, trained in found.items()}
    size = {name: trained.size for name, trained in found.items()}
    error = {"too strong": strongest.train_error, "nothing": found["nothing"].train_error}

    def share(treated: str, control: str, expected: Expected, margin: float) -> Comparison:
        return between(
            tiny, treated, control, where=f"with {treated}, beside {control}", expected=expected,
            quantity="share of weights below 1/1000 of the largest", margin=margin,
        )  # fmt: skip

    return [
        Tested(
            "L1 brings many weights to 0.",
            [share("L1", "nothing", "more", 0.2), share("L1", "L2", "more", 0.2)],
        ),
        Tested("L2 brings none to 0.", [share("L2", "nothing", "not more", 0.01)]),
        Tested(
            "L2 makes weights small.",
            [
                between(
                    size, "L2", "nothing", where="at the chosen strength",
                    quantity="norm of the kernels", expected="less", margin=1.2, ratio=True,
                )
            ],
        ),
        Tested(
            "Too strong a penalty underfits: even the training data are not learnt.",
            [
                between(
                    error, "too strong", "nothing", where="at the strongest L2",
                    quantity="training error", expected="more", margin=0.05,
                )
            ],
        ),
    ]  # fmt: skip


def _redundant(found: Mapping[str, Trained]) -> Tested:
    added = {
        name: trained.halved_error - trained.test_error[:, -1] for name, trained in found.items()
    }
    return Tested(
        "Dropout makes units redundant: the net misses half of them less.",
        [
            between(
                added, "dropout", "nothing", where="with a random half of the units gone",
                quantity="added test error", expected="less", margin=0.01,
            )
        ],
    )  # fmt: skip


def _stopping(config: Config, plain: Trained, noisy: Trained) -> list[Tested]:
    labels = {"with true labels": plain, f"with {config.noise:.0%} wrong labels": noisy}
    *_, wrong = labels

    def lower(what: Literal["loss", "error"]) -> list[Comparison]:
        margin = {"loss": 1.1, "error": 0.005}[what]
        return [
            between(
                _stopped(trained, trained.test_loss if what == "loss" else trained.test_error),
                "stopped", "in the end", where=where, quantity=f"test {what}", expected="less",
                margin=margin, ratio=what == "loss",
            )
            for where, trained in labels.items()
        ]  # fmt: skip

    return [
        Tested("Early stopping lowers the loss on unseen data.", lower("loss")),
        Tested("It lowers the error.", lower("error")),
        Tested(
            "It ends before most wrong labels are learnt.",
            [
                between(
                    _stopped(noisy, noisy.wrong_learnt), "stopped", "in the end", where=wrong,
                    quantity="share of wrong labels learnt", expected="less", margin=0.5,
                )
            ],
        ),
    ]  # fmt: skip


def _stopped(trained: Trained, values: Array) -> dict[str, np.ndarray]:
    """Of `values [seeds, records]`."""
    stop = pictures_of.stop(trained)
    return {"stopped": taken(values, stop), "in the end": np.asarray(values[:, -1])}
