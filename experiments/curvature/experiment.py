"""K-FAC against tuned Adam on an autoencoder, sharpness along training, spectra."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.curvature import autoencoder, cost, stability
from experiments.curvature.report import Results, print_results, write_report
from experiments.data import Dataset, fingerprint, load
from experiments.errors import UsageError, diverged
from experiments.flags import filled, require_batch, require_positive, require_seed
from experiments.run import Run, append_metrics, open_run
from jaxnets import models


@dataclass(frozen=True)
class Config:
    """Train an autoencoder of digits by K-FAC and without, and watch a net's curvature."""

    steps: int | None = None
    """steps of Adam and of momentum (2000; quick: 500); K-FAC gets a quarter"""
    batch_size: int | None = None
    """images per step of the autoencoder (all 1437)"""
    descent_steps: int | None = None
    """steps of gradient descent whose sharpness is watched (3000; quick: 1000)"""
    learning_rates: tuple[float, ...] = (0.04, 0.08, 0.12, 0.16)
    """of gradient descent on all examples; the second is also that of small batches"""
    small_batch: int = 16
    """examples per step of the stochastic run"""
    seed: int = 1
    """of the first run's initial weights and batches, 1 at least: by seed 0 K-FAC's damping and the
    loss to be reached are chosen"""
    seeds: int = 3
    """how many runs of the autoencoder with each setting, with seeds one after the other"""
    quick: bool = False
    """fewer steps and a smaller grid, unless other flags say how many"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


class Amounts(NamedTuple):
    """The config's fields with defaults that depend on others."""

    steps: int
    batch_size: int
    descent_steps: int


def settle(config: Config, n: int) -> Amounts:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    defaults = Amounts(500, n, 1000) if config.quick else Amounts(2000, n, 3000)
    amounts = filled(config, defaults)
    require_positive(amounts._asdict() | {"seeds": config.seeds})
    require_batch(amounts.batch_size, n)
    least = 4 * autoencoder.EVERY
    if amounts.steps < least:
        raise UsageError(f"--steps must be at least {least}, got {amounts.steps}")
    if amounts.descent_steps < 8 * stability.EVERY:
        raise UsageError(
            f"--descent-steps must be at least {8 * stability.EVERY}, got {amounts.descent_steps}"
        )
    if len(config.learning_rates) < 2:
        raise UsageError(f"--learning-rates must be at least two, got {len(config.learning_rates)}")
    for rate in config.learning_rates:
        require_positive({"learning_rates": rate})
    require_positive({"small_batch": config.small_batch})
    if config.small_batch > stability.EXAMPLES:
        raise UsageError(
            f"--small-batch must be at most {stability.EXAMPLES}, got {config.small_batch}"
        )
    require_seed(config.seed, config.seeds)
    if config.seed <= autoencoder.TUNING_SEED:
        raise UsageError(
            f"--seed must be above {autoencoder.TUNING_SEED}, whose runs set what the others are "
            f"compared by, got {config.seed}"
        )
    return amounts


def main(config: Config) -> int:
    """Train, watch, draw, report; returns the exit code."""
    data = load("digits")
    config = replace(config, **settle(config, len(data.train_x))._asdict())
    opened = open_run(
        config.runs, "curvature", config, data=fingerprint(data), folder=config.folder
    )
    with opened as folder:
        results = _results(folder, config, data)
        print_results(results)
        print(f"report: {write_report(folder, data, results)}")
    return 0


def _results(folder: Run, config: Config, data: Dataset) -> Results:
    assert config.steps is not None
    assert config.batch_size is not None
    images, test = (
        jnp.asarray(x.reshape(len(x), -1), jnp.float32) for x in (data.train_x, data.test_x)
    )
    curves: dict[str, list[autoencoder.Curve]] = {}
    tuning: list[autoencoder.Curve] = []
    families = autoencoder.families(config.quick)
    for name, family in families.items():
        run = autoencoder.runner(
            family, images, test, steps=config.steps, batch_size=config.batch_size
        )
        curves[name] = []
        if name == "Adam":
            tuning = [run(settings, autoencoder.TUNING_SEED) for settings in family.grid]
        for settings in family.grid:
            for i in range(config.seeds):
                curves[name].append(run(settings, config.seed + i))
                append_metrics(folder, [_curve_record(name, curves[name][-1])])
        ends = [c.losses[-1] for c in autoencoder.lowest(curves[name])]
        print(f"{name}: loss {np.mean(ends):.2f} after {curves[name][0].steps[-1]} steps")
    costs = cost.measure(families, images, config.batch_size, rounds=3 if config.quick else 9)
    descents, spectra = _stability(folder, config, data)
    return Results(curves, autoencoder.target_of(tuning), costs, descents, spectra)


def _stability(
    folder: Run, config: Config, data: Dataset
) -> tuple[list[stability.Descent], dict[str, stability.Spectrum]]:
    assert config.descent_steps is not None
    images = data.train_x[: stability.EXAMPLES].reshape(stability.EXAMPLES, -1)
    x = jnp.asarray(images - images.mean(), jnp.float32)
    y = jax.nn.one_hot(data.train_y[: stability.EXAMPLES], len(data.classes))
    run = stability.runner(x, y, steps=config.descent_steps, batch_size=len(x))
    descents = [run(rate, config.seed) for rate in config.learning_rates]
    small = stability.runner(x, y, steps=config.descent_steps, batch_size=config.small_batch)
    descents.append(small(config.learning_rates[1], config.seed))
    for descent in descents:
        append_metrics(folder, _descent_records(descent))
        if not np.isfinite(descent.losses[-1]):
            what = f"gradient descent of rate {descent.learning_rate:g} has no finite loss"
            raise diverged(what, "--learning-rates")
    start, _ = jax.random.split(jax.random.key(config.seed))
    params = {
        "at the start": models.init_mlp(start, stability.NET),
        f"after {config.descent_steps} steps of rate {config.learning_rates[1]:g}": descents[
            1
        ].params,
    }
    spectra = {
        name: stability.spectrum(p, x, y, config.seed, quick=config.quick)
        for name, p in params.items()
    }
    append_metrics(
        folder,
        [
            {"step": 0, "spectrum": name, "top": s.top, "trace": s.trace}
            for name, s in spectra.items()
        ],
    )
    return descents, spectra


def _curve_record(name: str, curve: autoencoder.Curve) -> dict[str, Any]:
    return {
        "step": int(curve.steps[-1]),
        "optimizer": name,
        "settings": dict(curve.settings),
        "seed": curve.seed,
        "every": autoencoder.EVERY,
        "losses": curve.losses,
        "test_losses": curve.test_losses,
    }


def _descent_records(descent: stability.Descent) -> list[dict[str, Any]]:
    columns = zip(descent.steps, descent.losses, descent.sharpness, descent.residuals, strict=True)
    return [
        {
            "step": int(step),
            "learning_rate": descent.learning_rate,
            "batch_size": descent.batch_size,
            "loss": loss,
            "sharpness": sharpness,
            "residual": residual,
        }
        for step, loss, sharpness, residual in columns
    ]
