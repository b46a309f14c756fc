"""One folder per run: what was asked, on what it ran, and what was measured.

    runs/digits/20250131-184502-1f3a9c/
        config.json      the config's fields, and the environment (versions, device, revision)
        metrics.jsonl    one JSON object per line, appended as the run goes
        report.html, *.png, checkpoints, ...

A crash leaves every file readable: metrics are appended line by line, and a line cut short is
ignored by the reader; every other file is replaced as a whole.
"""

import json
import secrets
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files
from experiments.environment import environment
from experiments.errors import UsageError

CONFIG = "config.json"
METRICS = "metrics.jsonl"


class Run(NamedTuple):
    """A run's folder."""

    folder: Path


def open_run(
    root: Path | str,
    experiment: str,
    config: Any,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    may_differ: Collection[str] = (),
) -> Run:
    """Make a run folder and write its `config.json`; or, resuming, check one and touch nothing.

    Args:
      root: where run folders live; the new one is `root/experiment/<time>-<id>`.
      experiment: the experiment's name.
      config: the frozen dataclass the run is a function of.
      folder: the folder to use instead; it must be empty or missing, unless resuming.
      resume: continue the run in `folder`; call `rewind` once its checkpoint is restored.
      may_differ: names of config fields that need not equal the earlier run's, when resuming.

    Raises:
      UsageError: if `folder` is in use, or (resuming) is not a run of `experiment` and `config`.
    """
    if resume:
        if folder is None:
            raise UsageError("to resume a run, name its folder")
        run = Run(Path(folder))
        _require_same(run, experiment, files.plain(config), may_differ)
        return run
    now = datetime.now(UTC)
    if folder is None:
        folder = Path(root) / experiment / f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"run folder {folder} is a file; name a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"run folder {folder} is not empty; name another one, or resume this one")
    files.write_json(
        folder / CONFIG,
        {
            "experiment": experiment,
            "started": now.isoformat(timespec="seconds"),
            "config": config,
            "environment": environment(),
        },
    )
    return Run(folder)


def read_config(run: Run) -> dict[str, Any]:
    """The run's `config.json`: `experiment`, `started`, `config`, `environment`, `resumed`."""
    path = run.folder / CONFIG
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{run.folder} is not a run folder: it has no {CONFIG}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UsageError(f"{path} does not describe a run: it has no config")
    return dict(files.revive(content))


def _require_same(run: Run, experiment: str, config: Any, may_differ: Collection[str]) -> None:
    earlier = read_config(run)
    if earlier.get("experiment") != experiment:
        raise UsageError(
            f"{run.folder} holds a run of {earlier.get('experiment')}, not {experiment}"
        )
    # before reviving, so that NaN equals NaN
    before, after = files.plain(earlier["config"]), config
    different = [
        f"{name} was {before.get(name)!r} and is now {after.get(name)!r}"
        for name in sorted((before.keys() | after.keys()) - set(may_differ))
        if before.get(name) != after.get(name)
    ]
    if different:
        raise UsageError(f"cannot resume {run.folder}: {'; '.join(different)}")


def append_metrics(run: Run, step: int, **values: Any) -> None:
    """Append `{"step": step, **values}` to the metrics, as one line that a crash cannot undo."""
    record = json.dumps(files.plain({"step": int(step), **values}), allow_nan=False)
    # opened anew each time: a closed file has nothing left in a buffer
    with (run.folder / METRICS).open("a", encoding="utf-8") as stream:
        stream.write(record + "\n")


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """All metrics in the order they were written; a last line cut short by a crash is left out.

    Raises:
      UsageError: if an earlier line is not a JSON object.
    """
    path = run.folder / METRICS
    if not path.exists():
        return []
    return list(_records(path))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                return
            raise UsageError(f"{path}, line {number}, is not a JSON object: {error}") from None
        yield files.revive(record)


def rewind(run: Run, step: int, config: Any, **only: Any) -> None:
    """Prepare a run for going on after `step`: drop later metrics, and note the resumption.

    Args:
      run: the run to continue, its checkpoint already restored: nothing is written before that.
      step: the last step that the checkpoint includes.
      config: the config that the run goes on with.
      only: drop only records with these values, for a folder that holds several curves.
    """
    kept = [
        record
        for record in read_metrics(run)
        if record.get("step", 0) <= step
        or any(record.get(name) != value for name, value in only.items())
    ]
    lines = (json.dumps(files.plain(record), allow_nan=False) + "\n" for record in kept)
    files.write_text(run.folder / METRICS, "".join(lines))
    content = read_config(run)
    note = {
        "at_step": step,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "environment": environment(),
    }
    files.write_json(
        run.folder / CONFIG, content | {"resumed": [*content.get("resumed", []), note]}
    )


def write_bytes(run: Run, name: str, content: bytes) -> Path:
    """Write a file of the run, atomically; `name` may have folders. Returns its path."""
    return files.write_bytes(run.folder / name, content)


def write_text(run: Run, name: str, text: str) -> Path:
    """Write a text file of the run, atomically. Returns its path."""
    return files.write_text(run.folder / name, text)


def write_json(run: Run, name: str, value: Any) -> Path:
    """Write a JSON file of the run, atomically. Returns its path."""
    return files.write_json(run.folder / name, value)
