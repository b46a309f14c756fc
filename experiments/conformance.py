"""Optax's own tests with our names in Optax's place: what passes there should pass here.

`python -m experiments.conformance` runs the tests that come with the installed Optax twice, once as
they are and once with every public name that `jaxnets.optim` has put in place of Optax's, and
prints the tests whose outcome differs.
"""

import inspect
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tyro

from jaxnets import optim, types

ROOT = Path(__file__).parent.parent
TESTED = (
    "_src/alias_test.py", "_src/combine_test.py", "_src/factorized_test.py",
    "_src/float64_test.py", "_src/linesearch_test.py", "_src/lookahead_test.py",
    "_src/sharding_test.py", "_src/transform_test.py", "_src/update_test.py", "contrib/*_test.py",
    "schedules/*_test.py", "transforms/*_test.py", "tree_utils/_state_utils_test.py",
)  # fmt: skip
"""Of Optax's tests, those of what `jaxnets.optim` has."""


def replace_in(module: ModuleType) -> list[str]:
    """Put our names in place of those of `module` that Optax defines; returns which."""
    replaced = []
    for name, theirs in vars(module).copy().items():
        ours = getattr(optim, name, None) if name in optim.__all__ else None
        from_optax = getattr(theirs, "__module__", "").startswith("optax")
        if ours is not None and from_optax and not inspect.ismodule(theirs):
            setattr(module, name, ours)
            replaced.append(name)
    return replaced


def put_in_place() -> list[str]:
    """Replace Optax's public names throughout Optax."""
    import optax.contrib  # noqa: F401
    from optax._src import base

    # some tests look for these in annotations
    base.ScalarOrSchedule, base.Schedule = types.ScalarOrSchedule, types.Schedule
    # `optax._src` is no package, so it has to be looked for among the modules
    modules = [
        module
        for name, module in sys.modules.items()
        # `optax.tree.scale` is another function than `optax.scale`
        if name.split(".")[0] == "optax" and not name.startswith("optax.tree")
    ]
    replaced = {name for module in modules for name in replace_in(module)}
    return sorted(replaced)


def pytest_configure() -> None:
    """As a plugin: before any test is imported."""
    print(f"in Optax's place: {', '.join(put_in_place())}")


def outcomes(report: Path) -> dict[str, str]:
    """Test -> passed, failed, error or skipped."""
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[f"{case.get('classname')}::{case.get('name')}"] = kinds.pop() if kinds else "passed"
    return found


def run_tests(report: Path, tests: list[str], *, ours: bool, workers: int) -> dict[str, str]:
    """Run Optax's tests in a process of their own."""
    plugin = ["-p", "experiments.conformance"] if ours else []
    subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-c", os.devnull,
            "--rootdir", str(report.parent), "-p", "no:cacheprovider", "-n", str(workers),
            f"--junitxml={report}", *plugin, *tests,
        ],
        stdout=(report.with_suffix(".txt")).open("w"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    return outcomes(report)


@dataclass(frozen=True)
class Config:
    """Run Optax's tests as they are and with our names in place."""

    only: str = ""
    """test files whose path contains this"""
    workers: int = 2
    """processes"""
    folder: str = ""
    """where to leave pytest's output; by default nowhere"""


def main(config: Config) -> None:
    """Print the tests whose outcome differs."""
    import optax

    package = Path(optax.__path__[0])
    files = [f for place in TESTED for f in sorted(package.glob(place))]
    tests = [str(f) for f in files if config.only in str(f)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(config.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        theirs = run_tests(folder / "optax.xml", tests, ours=False, workers=config.workers)
        ours = run_tests(folder / "jaxnets.xml", tests, ours=True, workers=config.workers)
    passed = {name for name, outcome in theirs.items() if outcome == "passed"}
    failing = sorted(name for name in passed if ours.get(name) != "passed")
    print(f"{len(theirs)} tests of optax {optax.__version__}, of which {len(passed)} pass with it")
    print(f"{len(passed) - len(failing)} of these pass with jaxnets in its place")
    for name in failing:
        print(f"  {ours.get(name, 'not run')}: {name}")
    sys.exit(bool(failing))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
