"""One folder per run: what was asked, on what it ran, and what was measured.

    runs/digits/20250131-184502-1f3a9c/
        config.json      the config's fields, and the environment (versions, device, revision)
        metrics.jsonl    one JSON object per line, appended as the run goes
        report.html, *.png, checkpoints, ...

A crash leaves every file readable: metrics are appended, and a line cut short is ignored by the
reader; every other file is replaced as a whole. One process at a time writes to a run's folder.
"""

import json
import os
import secrets
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def open_run(
    root: Path | str,
    experiment: str,
    config: Any,
    *,
    data: str = "",
    folder: Path | str | None = None,
    resume: bool = False,
    may_differ: Collection[str] = (),
) -> Iterator[Run]:
    """A run's folder, this process's alone in the `with` block.

    A new one gets its `config.json`; one to be resumed is checked, and nothing in it is touched.

    Args:
      root: where run folders live; the new one is `root/experiment/<time>-<id>`.
      experiment: the experiment's name.
      config: the frozen dataclass the run is a function of.
      data: the fingerprint of the data, which the run is a function of too.
      folder: the folder to use instead; it must be empty or missing, unless resuming.
      resume: continue the run in `folder`; call `rewind` once its checkpoints are restored.
      may_differ: names of config fields that need not equal the earlier run's, when resuming.

    Raises:
      UsageError: if `folder` is in use, or (resuming) is not a run of `experiment`, `config` and
        `data`.
    """
    now = datetime.now(UTC)
    if resume and folder is None:
        raise UsageError("to resume a run, name its folder")
    if folder is None:
        folder = Path(root) / experiment / f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    run = Run(Path(folder))
    if resume:
        read_config(run)
    else:
        _make_folder(run.folder)
    with files.exclusive(run.folder):
        if resume:
            _require_same(run, experiment, files.plain(config), data, may_differ)
        else:
            _require_empty(run.folder)
            files.write_json(
                run.folder / CONFIG,
                {
                    "experiment": experiment,
                    "started": now.isoformat(timespec="seconds"),
                    "config": config,
                    "data": data,
                    "environment": environment(),
                },
            )
        yield run


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"run folder {folder} is a file; name a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)


def _require_empty(folder: Path) -> None:
    if any(folder.iterdir()):
        raise UsageError(f"run folder {folder} is not empty; name another one, or resume this one")


def read_config(run: Run) -> dict[str, Any]:
    """The run's `config.json`: what `open_run` wrote, and in `resumed` what `rewind` noted.

    Raises:
      UsageError: if there is none, or it does not describe a run.
    """
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


def _require_same(
    run: Run, experiment: str, config: Any, data: str, may_differ: Collection[str]
) -> None:
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
    if earlier.get("data") != data:
        raise UsageError(
            f"cannot resume {run.folder}: the data are not the same: their SHA-256 was "
            f"{str(earlier.get('data'))[:12]} and is now {data[:12]}"
        )
    if changed := _changes(_last_environment(earlier), environment()):
        print(
            f"note: {'; '.join(changed)}: the run may not go on bit for bit as it would have",
            file=sys.stderr,
        )


def _last_environment(content: Mapping[str, Any]) -> Mapping[str, Any]:
    described: Mapping[str, Any] = [content, *content.get("resumed", [])][-1]
    return described.get("environment") or {}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What a run's numbers may depend on beside its config."""
    changed = [
        f"{name} was {before.get(name)} and is now {after.get(name)}"
        for name in ("jax", "jaxlib", "device")
        if before.get(name) != after.get(name)
    ]
    revisions = [(e.get("git") or {}).get("revision") for e in (before, after)]
    if revisions[0] != revisions[1]:
        was, now = (str(revision)[:12] for revision in revisions)
        changed.append(f"the source was at revision {was} and is now at {now}")
    return changed


def append_metrics(run: Run, records: Iterable[Mapping[str, Any]]) -> None:
    """Append a line for each record, a dict with its `"step"`; what was appended stays.

    Once this returns, neither a crash of the process nor one of the machine takes them back.
    """
    # opened anew each time: a closed file has nothing left in a buffer
    with (run.folder / METRICS).open("a", encoding="utf-8") as stream:
        stream.writelines(map(_line, records))
        stream.flush()
        os.fsync(stream.fileno())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(files.plain(record), allow_nan=False) + "\n"


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


def rewind(run: Run, steps: Mapping[str, int], config: Any) -> None:
    """Prepare a run for going on: drop later metrics, and note the resumption.

    Args:
      run: the run to continue, all its checkpoints already restored: nothing is written before.
      steps: for each curve, the last step that its checkpoint includes; records name theirs as
        `"curve"`.
      config: the config that the run goes on with.
    """
    kept = [
        record
        for record in read_metrics(run)
        if record.get("step", 0) <= steps.get(record.get("curve", ""), 0)
    ]
    files.write_text(run.folder / METRICS, "".join(map(_line, kept)))
    content = read_config(run)
    note = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps": steps,
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
