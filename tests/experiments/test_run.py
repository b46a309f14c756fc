import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments.errors import UsageError
from experiments.files import plain, revive
from experiments.run import (
    append_metrics,
    open_run,
    read_config,
    read_metrics,
    rewind,
    write_text,
)


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    limit: float = float("inf")
    folder: str | None = None


def made(*arguments, **keywords):
    """A run's folder that nobody holds any more."""
    with open_run(*arguments, **keywords) as run:
        return run


def test_a_new_run_has_a_folder_of_its_own_with_its_config(tmp_path):
    one, two = (made(tmp_path, "digits", Config(), data="ab" * 32) for _ in range(2))
    assert one.folder != two.folder
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", one.folder.name)
    content = json.loads((one.folder / "config.json").read_text())
    assert content["experiment"] == "digits"
    assert content["data"] == "ab" * 32
    assert content["config"]["rate"] == 0.1
    assert {"python", "jax", "jaxlib", "numpy", "optax", "device", "git"} <= set(
        content["environment"]
    )
    assert read_config(one)["config"]["limit"] == float("inf")


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        made("runs", "digits", Config(), folder=tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        made("runs", "digits", Config(), folder=tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_one_process_at_a_time_writes_to_a_folder(tmp_path):
    hold = (
        "import sys; from experiments.run import open_run\n"
        "with open_run('runs', 'digits', {}, folder=sys.argv[1]):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(UsageError, match=r"another process is writing to .*run$"):
                made("runs", "digits", {}, folder=folder, resume=resume)
        other.kill()
    # a process that is gone holds nothing
    assert made("runs", "digits", {}, folder=folder, resume=True).folder == folder


def test_metrics_survive_a_crash(tmp_path, monkeypatch):
    run = made(tmp_path, "digits", Config())
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(descriptor))
    append_metrics(run, [{"step": 1, "loss": np.float32(0.5)}, {"step": 2, "loss": float("nan")}])
    assert len(synced) == 1
    with (run.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    first, second = read_metrics(run)
    assert first == {"step": 1, "loss": 0.5}
    assert np.isnan(second["loss"])


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    run = made(tmp_path, "digits", Config())
    (run.folder / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UsageError, match="line 2, is not a JSON object"):
        read_metrics(run)


def test_resuming_drops_later_metrics_and_notes_itself(tmp_path):
    folder = tmp_path / "run"
    run = made(tmp_path, "digits", Config(), folder=folder)
    append_metrics(run, ({"step": step, "curve": c} for step in range(1, 6) for c in "abc"))
    with open_run(tmp_path, "digits", Config(), folder=folder, resume=True) as resumed:
        rewind(resumed, {"a": 5, "b": 2, "c": 0}, Config())
    records = read_metrics(resumed)
    for curve, steps in {"a": [1, 2, 3, 4, 5], "b": [1, 2], "c": []}.items():
        assert [r["step"] for r in records if r["curve"] == curve] == steps
    (note,) = read_config(resumed)["resumed"]
    assert note["steps"] == {"a": 5, "b": 2, "c": 0}


def test_resuming_needs_the_same_run(tmp_path):
    folder = tmp_path / "run"
    made(tmp_path, "digits", Config(), folder=folder, data="a" * 64)

    def resume(experiment="digits", config=None, data="a" * 64, **keywords):
        config = Config() if config is None else config
        return made(tmp_path, experiment, config, data=data, resume=True, **keywords)

    assert resume(folder=folder).folder == folder
    resume(folder=folder, config=Config(folder="elsewhere"), may_differ={"folder"})
    with pytest.raises(UsageError, match=r"rate was 0.1 and is now 0.2"):
        resume(folder=folder, config=Config(rate=0.2))
    with pytest.raises(UsageError, match="SHA-256 was aaaaaaaaaaaa and is now bbbbbbbbbbbb"):
        resume(folder=folder, data="b" * 64)
    with pytest.raises(UsageError, match="holds a run of digits, not other"):
        resume("other", folder=folder)
    with pytest.raises(UsageError, match="name its folder"):
        resume()
    with pytest.raises(UsageError, match="is not a run folder"):
        resume(folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_resuming_elsewhere_says_what_changed(tmp_path, capsys):
    folder = tmp_path / "run"
    run = made(tmp_path, "digits", Config(), folder=folder)

    def resume():
        made(tmp_path, "digits", Config(), folder=folder, resume=True)
        return capsys.readouterr().err.splitlines()

    assert resume() == []
    content = json.loads((run.folder / "config.json").read_text())
    now = content["environment"]["jax"]
    content["environment"] |= {"jax": "0.9", "git": {"revision": "e" * 40, "dirty": False}}
    (run.folder / "config.json").write_text(json.dumps(content))
    (line,) = resume()
    assert line.startswith(f"note: jax was 0.9 and is now {now}; the source was at revision eeeeee")


def test_files_are_replaced_as_a_whole(tmp_path, monkeypatch):
    run = made(tmp_path, "digits", Config())
    path = write_text(run, "report.html", "old")

    def broken(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_text(run, "report.html", "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert not list(run.folder.glob(".*.tmp"))


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, "text", [1, [2]], {"a": {"b": 1}}, float("inf"), np.float64(1.5)],
)
def test_plain_values_survive_json(value):
    assert revive(json.loads(json.dumps(plain(value), allow_nan=False))) == value
