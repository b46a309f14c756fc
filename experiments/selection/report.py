"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.claims.verdict import CONFIDENCE, effect_text
from experiments.data import Dataset
from experiments.report import (
    Block,
    Paragraph,
    Report,
    Section,
    Table,
    config_table,
    render,
    saved_picture,
    versions_line,
)
from experiments.run import Run, read_config, write_text
from experiments.selection import pictures
from experiments.selection.cost import IN_TURN, TOGETHER, Cost
from experiments.selection.estimates import FOLDS
from experiments.selection.judging import (
    BASELINE,
    MARGIN_ERROR,
    MARGIN_LOSS,
    Results,
    column,
    compared,
    direction,
    gaps,
    interval,
    said,
    told_apart,
)
from experiments.selection.searches import HELD_OUT_PARTS, Result
from experiments.selection.task import SPACE
from jaxnets.train.selection import described
from jaxnets.train.selection import pictures as library


def _summary(results: Results) -> str:
    judged = compared(results, "test_loss", MARGIN_LOSS)
    loss = column(results, "test_loss")
    words: dict[str, list[str]] = {}
    for name, each in judged.items():
        words.setdefault(said(each), []).append(name)
    searches = "; ".join(f"{word}: {', '.join(names)}" for word, names in words.items())
    off = {name: interval(values) for name, values in gaps(results).items()}
    estimates = "; ".join(f"{name} {j.effect:+.3f} ({direction(j)})" for name, j in off.items())
    best = results.costs[f"{FOLDS} folds"]
    return (
        f"At equal cost, over {len(results.seeds)} seeds and beside random search (test loss "
        f"{loss[BASELINE].mean():.3f}), {searches}. Estimates less the true loss, in nats: "
        f"{estimates}. Cross-validation of {best.nets} nets takes {_seconds(best, TOGETHER)} s as "
        f"one program and {_seconds(best, IN_TURN)} s one net after the other."
    )


def _seconds(cost: Cost, form: str) -> str:
    return f"{cost.seconds[form].median:.2f}"


def _mean(values: NDArray[np.float64], scale: float = 1.0, digits: int = 3) -> str:
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return f"{scale * values.mean():.{digits}f} ± {scale * error:.{digits}f}"


def print_results(results: Results) -> None:
    """The same in a few lines."""
    print(_summary(results))
    loss, error = column(results, "test_loss"), column(results, "test_error")
    for name in loss:
        print(f"{name}: test loss {_mean(loss[name])}, errors {_mean(error[name], 100, 2)} %")


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """`report.html` in the run's folder, and its pictures beside it."""
    content = read_config(run)
    config = content["config"]
    report = Report(
        title="Selection",
        summary=_summary(results),
        sections=[
            _crossed(run, data, results, config),
            _nested(run, results),
            _searches(run, results, config),
            _costs(results),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(content["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _crossed(run: Run, data: Dataset, results: Results, config: Mapping[str, Any]) -> Section:
    first = results.estimated[0]
    n = len(data.train_y) + len(data.test_y)
    text = (
        f"An MLP with {config['hidden']} hidden units learns {config['examples']} of {n:,} "
        f"examples of {data.name}, drawn anew for each seed, by SGD with momentum for "
        f"{config['epochs']} epochs. A grid of learning rate × L2 penalty, the middles of equal "
        "parts of the ranges in which all searches look, is judged by "
        f"{FOLDS}-fold stratified cross-validation of the cross-entropy: {len(first.rows)} × "
        f"{FOLDS} nets in one compiled program. Shown is seed {results.seeds[0]}. Errors are "
        f"s / √{FOLDS}, too small rather than too large, since folds share training data.\n\n"
        f"The best two differ by {first.two.difference:.4f} ± {first.two.standard_error:.4f} nats "
        f"(Nadeau and Bengio's corrected error), t = {first.two.t:.2f} of {FOLDS - 1} degrees. Of "
        f"{len(results.seeds)} seeds, the best two are told apart at 5 % in "
        f"{told_apart(results)}; being the best two, they are no two that were named before."
    )
    rows = [
        (f"{row.config['learning_rate']:.3g}", f"{row.config['l2']:.3g}", f"{row.mean:.4f}",
         f"{row.standard_error:.4f}", f"{first.true_losses[row.number]:.4f}")
        for row in first.rows
    ]  # fmt: skip
    table = Table(
        ("learning rate", "L2", "mean of folds", "standard error", "untouched data"),
        rows,
        "Cross-entropy in nats. The last column took no part in any choice: the loss on untouched "
        "data of nets trained on the whole development set.",
    )
    score = "cross-validated loss (nats)"
    return Section(
        "Cross-validation",
        [
            Paragraph(text),
            saved_picture(
                run, "ranking.png", library.plot_ranking(first.rows, most=12, score=score),
                "The best of the grid, mean ± standard error over folds.",
            ),
            saved_picture(
                run, "grid.png", pictures.on_log_axis(
                    library.plot_search(first.rows, SPACE, score=score)
                ), "The grid against each hyper-parameter; circled, the best.",
            ),
            table,
        ],
    )  # fmt: skip


def _nested(run: Run, results: Results) -> Section:
    found = gaps(results)
    best, whole = found.values()
    cost = np.array([e.truth - e.least for e in results.estimated])
    optimism = np.array([e.nested.optimism for e in results.estimated])
    text = (
        "The best of many configurations was chosen by the estimate that is then reported of it, "
        "which makes that too good. Nested cross-validation chooses anew within each outer fold's "
        "training part, and judges by the fold. The truth is the loss on untouched data of the "
        "configuration that plain cross-validation chose, trained on the whole development set. "
        "On the same folds, the nested estimate is above the best by what choosing makes too good, "
        "and by a little more, since it chooses by fewer examples. Two things pull apart: choosing "
        "makes estimates too low, training on "
        f"{FOLDS - 1} of {FOLDS} parts makes them too high. The `optimism` that "
        "`selection.nested` reports compares its outer folds with its inner estimates, whose nets "
        "see fewer data still, and so is pulled down by that."
    )
    rows: list[tuple[Any, ...]] = []
    for name, values in found.items():
        judged = interval(values)
        rows.append(
            (f"{name}, less the truth", effect_text(judged), direction(judged),
             f"{values.std(ddof=1):.3f}")
        )  # fmt: skip
    for name, values in {
        "nested less the best, on the same folds": whole - best,
        "optimism, as nested reports it": optimism,
    }.items():
        judged = interval(values)
        word = "above 0" if judged.low > 0 else "below 0" if judged.high < 0 else "undecided"
        rows.append((name, effect_text(judged), word, f"{values.std(ddof=1):.3f}"))
    # a difference to the least is never negative, so there is nothing to decide
    rows.append(("true loss of the chosen, less that of the best of the grid",
                 effect_text(interval(cost)), "–", f"{cost.std(ddof=1):.3f}"))  # fmt: skip
    table = Table(
        ("nats", f"mean ({CONFIDENCE:.0%} interval)", "by the interval", "deviation over seeds"),
        rows,
        f"Over {len(results.seeds)} seeds, Student's t. Seeds draw their examples from the same "
        "data, so that they are less than independent.",
    )
    return Section(
        "How good the chosen is said to be",
        [
            Paragraph(text),
            saved_picture(
                run, "estimates.png",
                pictures.by_seed(found, "estimate less the true loss (nats)", zero=True),
                "A dot for each seed; the mean and its 95 % interval below.",
            ),
            table,
        ],
    )  # fmt: skip


def _searches(run: Run, results: Results, config: Mapping[str, Any]) -> Section:
    loss, error = column(results, "test_loss"), column(results, "test_error")
    by_loss = compared(results, "test_loss", MARGIN_LOSS)
    by_error = compared(results, "test_error", MARGIN_ERROR)
    first = results.searched[0]
    ranges = " and ".join(
        f"{low:g} to {high:g}" for low, high in (SPACE["learning_rate"], SPACE["l2"])
    )
    budget = first[BASELINE].chosen.epochs
    text = (
        f"Learning rates and penalties from {ranges}, uniform in the logarithm. Every search may "
        f"spend {budget:,} epochs in all, on {HELD_OUT_PARTS - 1} of {HELD_OUT_PARTS} parts of the "
        "development set, and chooses by the loss on the last part alone; what it chose is judged "
        "by untouched data, as it was trained. The grid, the random search and Optuna train each "
        "configuration to the end; successive halving and Hyperband begin with many and go on with "
        "the best third. Hyperband runs all of its brackets; where whole ones do not fill the "
        "budget, it spends less. Optuna's estimator draws its first ten at random, as is its "
        "default. All nets of a seed start from the same weights."
    )
    rows = []
    for name in loss:
        seconds = [found[name].seconds for found in results.searched]
        rows.append(
            (name, first[name].chosen.tried, first[name].chosen.epochs,
             _mean(np.array([f[name].chosen.held_out for f in results.searched])),
             _mean(loss[name]), _mean(error[name], 100, 2),
             f"{seconds[0]:.1f}", f"{np.median(seconds[1:]):.2f}")
        )  # fmt: skip
    table = Table(
        ("", "configurations", "epochs spent", "held-out loss of the chosen", "test loss",
         "test errors, %", "seconds, first seed", "seconds, others"),
        rows,
        f"Mean ± standard error over {len(results.seeds)} seeds. The first seed's seconds include "
        "compilation (of what an earlier row did not compile), the others' median does not.",
    )  # fmt: skip
    verdicts = Table(
        ("beside the random search", "test loss", "", "test errors", ""),
        [
            (name, effect_text(by_loss[name]), said(by_loss[name]),
             effect_text(by_error[name]), said(by_error[name]))
            for name in by_loss
        ],
        f"Differences by seed with their {CONFIDENCE:.0%} intervals. Better or worse: the interval "
        f"excludes 0 and the mean is at least {MARGIN_LOSS:g} nats, or {100 * MARGIN_ERROR:g} "
        "points of errors; undecided: more seeds would be needed. The intervals are not corrected "
        "for being eight.",
    )  # fmt: skip
    blocks: list[Block] = [
        Paragraph(text),
        saved_picture(
            run, "searches.png", pictures.by_seed(loss, "test loss of the chosen (nats)"),
            "A dot for each seed; the mean and its 95 % interval below.",
        ),
        table,
        verdicts,
    ]  # fmt: skip
    return Section("Searches at equal cost", [*blocks, *_courses(run, results.seeds[0], first)])


def _courses(run: Run, seed: int, first: Mapping[str, Result]) -> Sequence[Block]:
    """How the first seed's searches went."""
    blocks: list[Block] = []
    for name, file in (("successive halving", "halving.png"), ("Hyperband", "hyperband.png")):
        figure = pictures.halvings(*first[name].chosen.shown)
        caption = (
            f"{name}, seed {seed}: held-out loss against epochs; in orange, the best of each. "
            f"Crosses diverged; losses above {pictures.HIGHEST:g} are not shown."
        )
        blocks.append(saved_picture(run, file, figure, caption[0].upper() + caption[1:]))
    rows = first["Optuna (TPE)"].chosen.shown
    figure = pictures.on_log_axis(library.plot_search(rows, SPACE, score="held-out loss (nats)"))
    best = described(first["Optuna (TPE)"].chosen.config)
    caption = f"What Optuna tried, seed {seed}; circled, the best ({best}); crosses diverged."
    return [*blocks, saved_picture(run, "optuna.png", figure, caption)]


def _costs(results: Results) -> Section:
    rows = []
    for name, cost in results.costs.items():
        together, alone = (cost.seconds[form] for form in (TOGETHER, IN_TURN))
        rows.append(
            (f"the grid by {name}", cost.nets, cost.steps,
             *(f"{t.median:.2f} ({t.low:.2f} to {t.high:.2f})" for t in (together, alone)),
             f"{alone.median / together.median:.2f}",
             *(f"{cost.first[form]:.1f}" for form in (TOGETHER, IN_TURN)))
        )  # fmt: skip
    table = Table(
        ("", "nets", "steps of each", "one program, s", "one after the other, s", "times as fast",
         "first call, one program, s", "first call, one after the other, s"),
        rows,
        "Medians, least and greatest of turns taken side by side, compiled; a first call compiles. "
        "One after the other is a program compiled once for one net, called for each.",
    )  # fmt: skip
    return Section("Seconds", [table])
