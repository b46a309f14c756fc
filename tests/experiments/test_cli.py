import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import cli
from experiments.errors import UsageError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    """Do a thing."""

    times: int = 1
    """how often"""
    fail: str = ""
    """with what"""


def run(config):
    failures = {
        "usage": UsageError,
        "file": FileNotFoundError,
        "value": ValueError,
        "type": TypeError,
        "module": lambda text: ModuleNotFoundError(text, name="matplotlib"),
    }
    if config.fail:
        raise failures[config.fail]("something\nis wrong")
    print(f"done {config.times} times")
    return 0


@pytest.fixture
def registry(monkeypatch):
    module = types.ModuleType("a_fake_experiment")
    module.Config, module.main = Config, run
    monkeypatch.setitem(sys.modules, "a_fake_experiment", module)
    return {"thing": cli.Experiment("a_fake_experiment", "does a thing")}


def test_it_lists_what_there_is(registry, capsys):
    assert cli.main([], registry) == 0
    assert "thing  does a thing" in capsys.readouterr().out


def test_flags_are_typed_and_described(registry, capsys):
    assert cli.main(["thing", "--times", "3"], registry) == 0
    assert "done 3 times" in capsys.readouterr().out
    assert cli.main(["thing", "--help"], registry) == 0
    text = capsys.readouterr().out
    assert "--times INT" in text
    assert "how often" in text
    assert cli.main(["thing", "--times", "often"], registry) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["thin"], "unknown experiment 'thin' (did you mean thing?)"),
        (["--verbose"], "unknown flag '--verbose'"),
        (["thing", "--fail", "usage"], "error: something is wrong"),
        (["thing", "--fail", "file"], "error: something is wrong"),
        (["thing", "--time-out", "3"], "--time-out"),
    ],
)
def test_errors_are_one_line_and_a_code(registry, capsys, arguments, message):
    assert cli.main(arguments, registry) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["value", "type"])
def test_faults_of_the_program_are_told_from_the_users(registry, capsys, kind):
    assert cli.main(["thing", "--fail", kind], registry) == 1
    error = capsys.readouterr().err
    assert error.startswith("internal error: Traceback")
    assert "is wrong" in error


def test_a_missing_package_is_named_with_its_remedy(registry, capsys):
    assert cli.main(["thing", "--fail", "module"], registry) == 1
    expected = "matplotlib is not installed; experiments need, in a clone: pip install '.[exp"
    assert expected in capsys.readouterr().err


def test_debug_shows_the_traceback(registry, capsys):
    assert cli.main(["--debug", "thing", "--fail", "usage"], registry) == 2
    assert "Traceback" in capsys.readouterr().err


def test_listing_is_instantaneous():
    code = "import sys; from experiments import cli; cli.main([]); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout


def test_the_module_runs_and_gives_its_code():
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown experiment 'nothing'")
