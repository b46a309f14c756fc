import dataclasses
import json
import re

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


def test_a_new_run_has_a_folder_of_its_own_with_its_config(tmp_path):
    one, two = (open_run(tmp_path, "digits", Config()) for _ in range(2))
    assert one.folder != two.folder
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", one.folder.name)
    content = json.loads((one.folder / "config.json").read_text())
    assert content["experiment"] == "digits"
    assert content["config"]["rate"] == 0.1
    assert {"python", "jax", "jaxlib", "numpy", "optax", "device", "git"} <= set(
        content["environment"]
    )
    assert read_config(one)["config"]["limit"] == float("inf")


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="is not empty"):
        open_run("runs", "digits", Config(), folder=tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        open_run("runs", "digits", Config(), folder=tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_metrics_survive_a_crash(tmp_path):
    run = open_run(tmp_path, "digits", Config())
    append_metrics(run, 1, loss=np.float32(0.5))
    append_metrics(run, 2, loss=float("nan"))
    with (run.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    first, second = read_metrics(run)
    assert first == {"step": 1, "loss": 0.5}
    assert np.isnan(second["loss"])


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    run = open_run(tmp_path, "digits", Config())
    (run.folder / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UsageError, match="line 2, is not a JSON object"):
        read_metrics(run)


def test_resuming_drops_later_metrics_and_notes_itself(tmp_path):
    folder = tmp_path / "run"
    run = open_run(tmp_path, "digits", Config(), folder=folder)
    for step in range(1, 6):
        append_metrics(run, step, curve="a")
        append_metrics(run, step, curve="b")
    resumed = open_run(tmp_path, "digits", Config(), folder=folder, resume=True)
    rewind(resumed, 2, Config(), curve="b")
    records = read_metrics(resumed)
    assert [r["step"] for r in records if r["curve"] == "a"] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in records if r["curve"] == "b"] == [1, 2]
    assert read_config(resumed)["resumed"][0]["at_step"] == 2


def test_resuming_needs_the_same_run(tmp_path):
    folder = tmp_path / "run"
    open_run(tmp_path, "digits", Config(), folder=folder)

    def resume(experiment="digits", config=None, **keywords):
        config = Config() if config is None else config
        return open_run(tmp_path, experiment, config, resume=True, **keywords)

    assert resume(folder=folder).folder == folder
    resume(folder=folder, config=Config(folder="elsewhere"), may_differ={"folder"})
    with pytest.raises(UsageError, match=r"rate was 0.1 and is now 0.2"):
        resume(folder=folder, config=Config(rate=0.2))
    with pytest.raises(UsageError, match="holds a run of digits, not other"):
        resume("other", folder=folder)
    with pytest.raises(UsageError, match="name its folder"):
        resume()
    with pytest.raises(UsageError, match="is not a run folder"):
        resume(folder=tmp_path / "none")


def test_files_are_replaced_as_a_whole(tmp_path, monkeypatch):
    run = open_run(tmp_path, "digits", Config())
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
