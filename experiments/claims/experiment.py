"""Each claim of the tutorials, run by several seeds, with a verdict; one page for all of them."""

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments.claims.rates import GridEndError
from experiments.claims.registry import CLAIMS
from experiments.claims.report import Examined, print_verdicts, records, write_report
from experiments.errors import UsageError, did_you_mean
from experiments.flags import require_seed
from experiments.run import Run, append_metrics, open_run


@dataclass(frozen=True)
class Config:
    """Test what is said of training: each sentence on real nets, by several seeds."""

    only: tuple[str, ...] = ()
    """names of claims, as the report has them; by default all"""
    seed: int = 0
    """the first of them"""
    seeds: int = 5
    """how many runs of everything, in one vmap; from two on there are intervals"""
    quick: bool = False
    """smaller nets and fewer steps, for minutes on two CPU cores"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


def settle(config: Config) -> list[str]:
    """The names of the claims to be tested, in the registry's order.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    for name in config.only:
        if name not in CLAIMS:
            raise UsageError(
                f"--only: unknown claim {name!r}{did_you_mean(name, CLAIMS)}; there are "
                f"{', '.join(CLAIMS)}"
            )
    if config.seeds < 2:
        raise UsageError(f"--seeds must be at least 2, for a spread, got {config.seeds}")
    require_seed(config.seed, config.seeds)
    return [name for name in CLAIMS if not config.only or name in config.only]


def main(config: Config) -> int:
    """Test, judge, report; returns the exit code: 1 if a claim's grid was too narrow for it."""
    names = settle(config)
    with open_run(config.runs, "claims", config, folder=config.folder) as run:
        examined, untested = [], {}
        for name in names:
            try:
                examined.append(_examine(run, config, name))
            except GridEndError as error:
                untested[name] = str(error)
                print(f"{name}: not tested: {error}")
            else:
                print_verdicts(examined[-1])
            # anew after each, so that an interrupted run has a page too
            path = write_report(run, config, examined, untested)
        print(f"report: {path}")
    return 1 if untested else 0


def _examine(run: Run, config: Config, name: str) -> Examined:
    claim: Any = importlib.import_module(CLAIMS[name])
    settings = claim.QUICK if config.quick else claim.FULL
    keys = jax.vmap(jax.random.key)(jax.numpy.arange(config.seed, config.seed + config.seeds))
    started, cpu = time.monotonic(), time.process_time()
    outcome = claim.examine(settings, keys)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    examined = Examined(name, claim.TITLE, settings, claim.FULL, outcome, seconds, cpu_seconds)
    append_metrics(run, records(examined))
    # what a later run frees is not held by this one's programs
    jax.clear_caches()
    return examined
