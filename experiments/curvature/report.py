"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.verdict import Arm, Comparison, effect_text, judge
from experiments.curvature import autoencoder, pictures
from experiments.curvature.autoencoder import (
    TUNING_SEED,
    Curve,
    lowest,
    steps_of_each,
    steps_to,
)
from experiments.curvature.cost import Cost
from experiments.curvature.stability import EXAMPLES, Descent, Spectrum, settled
from experiments.data import Dataset
from experiments.report import (
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

SHOWN = 10
"""Test images whose reconstructions are pictured."""


class Results(NamedTuple):
    """All that was measured."""

    curves: dict[str, list[Curve]]
    """By optimizer: every run of every setting."""
    target: float
    """The loss of the headline, set by runs of Adam that are not compared (`target_of`)."""
    costs: dict[str, Cost]
    descents: list[Descent]
    spectra: dict[str, Spectrum]


class Race(NamedTuple):
    """How soon a loss is reached."""

    target: float
    steps: dict[str, float]
    settings: dict[str, Mapping[str, float]]


def race(results: Results, target: float) -> Race:
    """To one target, each optimizer with the settings that are the fastest there."""
    found = {name: steps_to(curves, target) for name, curves in results.curves.items()}
    return Race(
        target,
        {name: steps for name, (steps, _) in found.items()},
        {name: settings for name, (_, settings) in found.items()},
    )


def headline(results: Results) -> Race:
    """To the target that was set before these runs."""
    return race(results, results.target)


def times_fewer(results: Results, to: Race) -> str:
    """Adam's steps by K-FAC's: the mean over seeds of the factor, and its 95 % interval."""
    adam, kfac = (
        Arm(name, steps_of_each(results.curves[name], to.settings[name], to.target))
        for name in ("Adam", "K-FAC")
    )
    return effect_text(judge(Comparison("", "steps", adam, kfac, "more", 1.0, ratio=True)))


def described(settings: Mapping[str, float]) -> str:
    """`learning_rate 0.01, b1 0.9`"""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())


def _steps(value: float) -> Any:
    return round(value, 1) if np.isfinite(value) else "not reached"


def _summary(results: Results) -> str:
    best, costs = headline(results), results.costs
    adam, kfac = best.steps["Adam"], best.steps["K-FAC"]
    if not np.isfinite(adam) or not np.isfinite(kfac):
        return f"Not both of Adam and K-FAC reach a loss of {best.target:g} with every seed."
    seconds = {name: best.steps[name] * costs[name].cpu for name in ("Adam", "K-FAC")}
    return (
        f"A loss of {best.target:g} nats an image takes tuned Adam {adam:.0f} steps and K-FAC "
        f"{kfac:.0f}, {times_fewer(results, best)} fewer (in brackets the 95 % interval by seed); "
        f"in CPU time {seconds['Adam']:.2f} and {seconds['K-FAC']:.2f} s. {_edge(results)}"
    )


def _edge(results: Results) -> str:
    """Which runs have their sharpness at 2/η."""
    full = max(d.batch_size for d in results.descents)
    shares = {d.learning_rate: settled(d) for d in results.descents if d.batch_size == full}
    there = {rate: share for rate, share in shares.items() if 0.9 <= share <= 1.1}
    if not there:
        return "No run of gradient descent has come to a sharpness of 2/η."
    rates = ", ".join(f"{rate:g}" for rate in there)
    return (
        f"Gradient descent on all examples comes to a sharpness of {min(there.values()):.2f} to "
        f"{max(there.values()):.2f} times 2/η at {len(there)} of {len(shares)} rates ({rates})."
    )


def print_results(results: Results) -> None:
    """The same in a few lines."""
    print(_summary(results))
    for descent in results.descents:
        print(
            f"η = {descent.learning_rate:g}, batches of {descent.batch_size}: sharpness settles "
            f"at {settled(descent):.2f} of 2/η, loss {descent.losses[-1]:.4f}"
        )


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """`report.html` in the run's folder, and its pictures beside it."""
    content = read_config(run)
    config = content["config"]
    report = Report(
        title="Curvature",
        summary=_summary(results),
        sections=[
            _autoencoder(run, data, results, config),
            _sharpness(run, results),
            _spectra(run, results),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(content["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _autoencoder(run: Run, data: Dataset, results: Results, config: Mapping[str, Any]) -> Section:
    curves, costs = results.curves, results.costs
    shape = "-".join(map(str, autoencoder.SIZES))
    tried = {name: len(found) // config["seeds"] for name, found in curves.items()}
    text = (
        f"An autoencoder of {len(data.train_x):,} digits, {shape}, tanh but for the middle and "
        "the last layer, cross-entropy of the pixels. Adam and momentum are tuned over "
        f"{tried['Adam']} and {tried['momentum']} settings; for each loss they are credited with "
        f"the settings that reach it first, as a mean over {config['seeds']} seeds. K-FAC chooses "
        "its own rate and momentum, and its damping from where it begins, which was looked for on "
        f"seed {TUNING_SEED}; with fixed rates it has one setting, found by some trials on that "
        f"seed. The loss of the headline, {results.target:g}, is the lowest of those in the table "
        f"that Adam reaches on seed {TUNING_SEED} within half of its steps; that seed is not among "
        f"those compared, {config['seed']} to {config['seed'] + config['seeds'] - 1}. Every step "
        f"sees {config['batch_size']} images. No optimizer is given a schedule, and none is "
        "stopped before it overfits."
        "\n\nK-FAC's step costs more: it goes back twice, multiplies with the Fisher matrix, and "
        "inverts two matrices for each layer every five steps. The right picture and the last "
        "column count that."
    )
    order = [headline(results).target, *autoencoder.TARGETS]
    races = [race(results, target) for target in sorted(set(order), reverse=True)]
    names = list(curves)
    rows = []
    for each in races:
        if not any(np.isfinite(s) for s in each.steps.values()):
            continue
        adam, kfac = each.steps["Adam"], each.steps["K-FAC"]
        both = np.isfinite(adam) and np.isfinite(kfac)
        time = adam * costs["Adam"].cpu / (kfac * costs["K-FAC"].cpu) if both else np.nan
        rows.append(
            (
                f"{each.target:g}",
                *(_steps(each.steps[name]) for name in names),
                f"{adam / kfac:.1f}" if both else "–",
                f"{time:.1f}" if both else "–",
            )
        )
    steps = Table(
        ("loss", *names, "Adam's steps / K-FAC's", "Adam's CPU time / K-FAC's"),
        rows,
        "Steps to each loss on all training images, looked at every "
        f"{autoencoder.EVERY}; mean of {config['seeds']} seeds. K-FAC was given a quarter of the "
        "steps.",
    )
    ends = [
        (
            name,
            described(lowest(found)[0].settings),
            int(found[0].steps[-1]),
            *(
                f"{np.mean(x):.2f} ({min(x):.2f} to {max(x):.2f})"
                for x in (
                    [c.losses[-1] for c in lowest(found)],
                    [c.test_losses[-1] for c in lowest(found)],
                    [np.min(c.test_losses) for c in lowest(found)],
                )
            ),
            f"{1e3 * costs[name].wall:.1f}",
            f"{1e3 * costs[name].cpu:.1f}",
        )
        for name, found in curves.items()
    ]
    end = Table(
        ("", "best settings at the end", "steps", "training loss", "test loss",
         "lowest test loss on the way", "ms a step", "CPU ms a step"),
        ends,
        "At the end of each run: mean, and lowest to highest seed. Times are medians of turns "
        "taken side by side.",
    )  # fmt: skip
    return Section(
        "An autoencoder",
        [
            Paragraph(text),
            saved_picture(
                run, "losses.png", pictures.losses(curves, costs),
                "The loss on all training images, of the settings that end lowest; thin lines are "
                "single seeds.",
            ),
            steps,
            saved_picture(
                run, "steps.png", pictures.steps_needed(curves),
                "The fewest steps of any settings to each loss.",
            ),
            end,
            _reconstructions(run, data, curves),
        ],
    )  # fmt: skip


def _reconstructions(run: Run, data: Dataset, curves: Mapping[str, Sequence[Curve]]) -> Any:
    images = data.test_x[:SHOWN, :, :, 0]
    flat = jnp.asarray(images.reshape(SHOWN, -1))

    def made(params: Any) -> np.ndarray[Any, Any]:
        logits = jax.vmap(autoencoder.reconstruct, (None, 0))(params, flat)
        return np.asarray(jax.nn.sigmoid(logits)).reshape(images.shape)

    rows = {
        f"{name}\n{found[0].steps[-1]} steps": made(lowest(found)[0].params)
        for name, found in curves.items()
    }
    return saved_picture(
        run, "reconstructions.png", pictures.reconstructions(images, rows),
        "Test images and what the six numbers in the middle leave of them, at the end of the first "
        "seed's run.",
    )  # fmt: skip


def _sharpness(run: Run, results: Results) -> Section:
    text = (
        f"An MLP learns {EXAMPLES} digits by gradient descent on all of them, with the squared "
        "loss; every ten steps the largest eigenvalue of the Hessian is found by six products "
        "with it, from the last eigenvector on. As long as it is below 2/η it grows (progressive "
        "sharpening). Once there, the loss no longer falls at every step but falls on, and the "
        "sharpness stays at about 2/η (the edge of stability; Cohen et al., 2021). The table says "
        "which runs have come that far. Dotted, small batches at one of the rates."
    )
    rows = [
        (
            f"{d.learning_rate:g}",
            d.batch_size,
            f"{2 / d.learning_rate:.1f}",
            f"{d.sharpness[0]:.1f}",
            f"{np.max(d.sharpness):.1f}",
            f"{settled(d) * 2 / d.learning_rate:.1f}",
            f"{settled(d):.2f}",
            f"{d.losses[-1]:.4f}",
            f"{np.median(d.residuals / d.sharpness):.1e}",
        )
        for d in results.descents
    ]
    table = Table(
        ("η", "batch", "2/η", "sharpness at first", "at most", "last quarter", "as a share of 2/η",
         "loss at the end", "residual"),
        rows,
        "The last quarter's median; the residual is ‖Hu - λu‖ / λ, its median over the run.",
    )  # fmt: skip
    return Section(
        "Sharpness along training",
        [
            Paragraph(text),
            saved_picture(
                run, "sharpness.png", pictures.sharpness(results.descents),
                "Left, the sharpness, with 2/η dashed; right, the loss.",
            ),
            table,
        ],
    )  # fmt: skip


def _spectra(run: Run, results: Results) -> Section:
    text = (
        "The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature, smoothed, "
        "and the largest of them by Lanczos's process. The trace is Hutchinson's estimate and its "
        "standard error."
    )
    rows = [
        (
            name,
            ", ".join(f"{value:.1f}" for value in s.top[:10]),
            f"{s.residuals[0]:.1e}",
            f"{s.grid[0] + 0.06 / 1.12 * (s.grid[-1] - s.grid[0]):.2f}",
            f"{s.trace:.0f} ± {s.trace_error:.1f}",
        )
        for name, s in results.spectra.items()
    ]
    table = Table(("", "the ten largest", "residual", "smallest", "trace"), rows)
    return Section(
        "The Hessian's spectrum",
        [
            Paragraph(text),
            saved_picture(
                run, "spectra.png", pictures.spectra(results.spectra),
                "Density of eigenvalues, as a share of all, per unit.",
            ),
            table,
        ],
    )  # fmt: skip
