"""What `overfitting` measures, in pictures: what each remedy does, and when to stop."""

from collections.abc import Mapping

import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.few_digits import Config, Trained
from experiments.claims.pictures import draw_lines, draw_seeds, panels

_BAND = "Median of seeds; the band is from the least to the greatest."
_POINTS = "A point for each seed, and their mean."


def stop(trained: Trained) -> np.ndarray:
    """Each seed's record of the least validation loss."""
    return np.asarray(np.argmin(trained.validation_loss, 1))


def errors(found: Mapping[str, Trained]) -> Seen:
    """On unseen digits, of every remedy, and on those that were learnt."""
    short = {"augmentation": "augmented", "label smoothing": "smoothed"}
    plain = found["nothing"]
    with panels(["error in the end"]) as (figure, (axes,)):
        groups = {"nothing,\ntraining": 100 * plain.train_error}
        groups |= {short.get(n, n): 100 * each.test_error[:, -1] for n, each in found.items()}
        draw_seeds(axes, groups, y_label="%")
        axes.tick_params(axis="x", labelsize=8)
    return Seen(figure, f"On the training digits, then on unseen ones. {_POINTS}")


def smoothing_and_dropout(found: Mapping[str, Trained]) -> Seen:
    """Loss and calibration on unseen digits; and the error that is added by half the units."""
    titles = ["test loss, nats", "calibration error, %", "added by half the units, %"]
    smoothed = {"nothing": found["nothing"], "smoothed": found["label smoothing"]}
    dropped = {"nothing": found["nothing"], "dropout": found["dropout"]}
    with panels(titles, share_y=False) as (figure, (left, middle, right)):
        draw_seeds(left, {n: each.test_loss[:, -1] for n, each in smoothed.items()})
        draw_seeds(middle, {n: 100 * each.calibration_error for n, each in smoothed.items()})
        draw_seeds(
            right,
            {n: 100 * (each.halved_error - each.test_error[:, -1]) for n, each in dropped.items()},
        )
    return Seen(
        figure,
        "Label smoothing: the loss on unseen digits, and how far its probabilities are from the "
        "shares that are right. Dropout: the test error that is added where a random half of the "
        f"units is gone. {_POINTS}",
    )


def penalties(found: Mapping[str, Trained], strongest: Trained) -> Seen:
    """Sizes of weights, and what too strong a penalty does to training."""
    titles = ["tiny weights, %", "norm of the kernels", "training error, %"]
    names = ("nothing", "L1", "L2")
    with panels(titles, share_y=False) as (figure, (left, middle, right)):
        draw_seeds(left, {name: 100 * found[name].tiny for name in names})
        draw_seeds(middle, {name: found[name].size for name in names}, log_y=True)
        under = {"nothing": found["nothing"], "L2": found["L2"], "strongest L2": strongest}
        draw_seeds(right, {name: 100 * each.train_error for name, each in under.items()})
    return Seen(
        figure,
        "The share of weights below a thousandth of the largest, how large the weights are, and "
        f"the error on the training digits. {_POINTS}",
    )


def courses(config: Config, plain: Trained, noisy: Trained) -> Seen:
    """Of losses with true labels and with wrong ones, and of how many of these are learnt."""
    every = config.steps // config.records
    steps = every * (1 + np.arange(config.records))
    titles = ["loss, true labels", f"loss, {config.noise:.0%} wrong", "wrong labels learnt"]
    with panels(titles, share_y=False) as (figure, row):
        for axes, trained in zip(row, (plain, noisy), strict=False):
            lines = {"validation": trained.validation_loss, "test": trained.test_loss}
            draw_lines(axes, steps, lines, x_label="step", marked=False)
        row[0].set_ylabel("nats")
        learnt = {"wrong labels": 100 * noisy.wrong_learnt}
        draw_lines(row[2], steps, learnt, x_label="step", y_label="%", marked=False)
        for axes, trained in zip(row, (plain, noisy, noisy), strict=True):
            for at in stop(trained):
                axes.axvline(steps[at], color="#888888", linestyle=":", linewidth=1)
        row[1].legend()
    return Seen(figure, f"Dotted: where the validation loss is least, for each seed. {_BAND}")


def stopped_errors(config: Config, plain: Trained, noisy: Trained) -> Seen:
    """On the way, with true labels and with wrong ones."""
    every = config.steps // config.records
    steps = every * (1 + np.arange(config.records))
    titles = ["test error, true labels", f"test error, {config.noise:.0%} wrong"]
    with panels(titles) as (figure, row):
        for axes, trained in zip(row, (plain, noisy), strict=True):
            lines = {"test error": 100 * trained.test_error}
            draw_lines(axes, steps, lines, x_label="step", log_y=True, marked=False)
            for at in stop(trained):
                axes.axvline(steps[at], color="#888888", linestyle=":", linewidth=1)
        row[0].set_ylabel("%")
    return Seen(figure, f"Dotted as above. {_BAND}")
