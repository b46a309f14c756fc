"""Optax's own tests with our names in Optax's place: what passes there should pass here.

`python -m experiments.conformance` runs the tests that come with the installed Optax twice, once as
they are and once with every public name that `jaxnets.optim` has put in place of Optax's, and
prints the tests whose outcome differs. Tests of optimizers that `jaxnets.optim` does not have are
left out, and tests that pass without a call of ours are counted apart: they say nothing about it.
"""

import inspect
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import tyro

from experiments.errors import UsageError
from jaxnets import optim, types

ROOT = Path(__file__).parent.parent
OURS = str(Path(optim.__file__).parent)
TESTED = (
    "_src/alias_test.py", "_src/base_test.py", "_src/combine_test.py", "_src/factorized_test.py",
    "_src/float64_test.py", "_src/linesearch_test.py",
    "_src/lookahead_test.py", "_src/numerics_test.py", "_src/sharding_test.py",
    "_src/transform_test.py", "_src/update_test.py", "contrib/*_test.py", "schedules/*_test.py",
    "transforms/*_test.py", "tree_utils/_state_utils_test.py",
)  # fmt: skip
"""Of Optax's tests, those of what `jaxnets.optim` has."""

NOT_OURS = ("_galore_test.py", "_privacy_test.py")
"""Files among them that test what it does not have."""

SAME_IN_TREE = {
    "bias_correction": optim.bias_correction,
    "map_params": optim.tree_map_params,
    "update_infinity_moment": optim.update_infinity_moment,
    "update_moment": optim.update_moment,
    "update_moment_per_elem_norm": optim.update_moment_per_elem_norm,
}
"""What `optax.tree` has of ours; its `scale` and `clip` are other functions."""

UNTOUCHED = "without a call of ours"


def replace_in(module: ModuleType) -> list[str]:
    """Put our names in place of those of `module` that Optax defines; returns which."""
    replaced = []
    for name, theirs in vars(module).copy().items():
        ours = getattr(optim, name, None) if name in optim.__all__ else None
        # such as `nadam`, a partial `adam`
        function = theirs.func if isinstance(theirs, partial) else theirs
        from_optax = getattr(function, "__module__", "").startswith("optax")
        if ours is not None and from_optax and not inspect.ismodule(theirs):
            setattr(module, name, ours)
            replaced.append(name)
    return replaced


def put_in_place() -> list[str]:
    """Replace Optax's public names throughout Optax."""
    import optax.contrib
    from optax._src import base

    # some tests look for these in annotations
    base.ScalarOrSchedule, base.Schedule = types.ScalarOrSchedule, types.Schedule
    # `optax._src` is no package, so it has to be looked for among the modules
    modules = [
        module
        for name, module in sys.modules.items()
        if name.split(".")[0] == "optax" and name != "optax.tree"
    ]
    replaced = {name for module in modules for name in replace_in(module)}
    for name, ours in SAME_IN_TREE.items():
        setattr(optax.tree, name, ours)
    return sorted(replaced | {f"tree.{name}" for name in SAME_IN_TREE})


def pytest_addoption(parser: pytest.Parser) -> None:
    """As a plugin: the flag of the second run."""
    parser.addoption("--ours", action="store_true", help="put our names in place of Optax's")


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin: before any test is imported."""
    if config.getoption("--ours"):
        print(f"in Optax's place: {', '.join(put_in_place())}")


def not_ours(parameters: str) -> bool:
    """Whether a test with these parameters is of an optimizer of Optax that we do not have."""
    import optax.contrib

    named = re.search(r"\bopt_name='(\w+)'", parameters)
    return (
        named is not None
        and any(hasattr(library, named[1]) for library in (optax, optax.contrib))
        and named[1] not in optim.__all__
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """As a plugin: leave out what tests optimizers that we do not have."""
    # where absl's `parameterized` keeps what its test names leave out
    left_out = [
        item
        for item in items
        if not_ours(getattr(item.cls, "_test_params_reprs", {}).get(item.name, ""))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """As a plugin: note the tests that call nothing of ours."""
    called = False

    def watch(frame: FrameType, event: str, argument: object) -> None:
        nonlocal called
        if frame.f_code.co_filename.startswith(OURS):
            called = True
            # the rest at full speed
            sys.setprofile(None)

    sys.setprofile(watch)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        if not called:
            item.user_properties.append((UNTOUCHED, True))


def outcomes(report: Path) -> dict[str, str]:
    """Test -> passed, failure, error, skipped, or passed without a call of ours."""
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        untouched = any(p.get("name") == UNTOUCHED for p in case.iter("property"))
        outcome = kinds.pop() if kinds else UNTOUCHED if untouched else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def files_matching(package: Path, only: str) -> list[str]:
    """The test files in an installed Optax whose path there contains `only`.

    Raises:
      UsageError: if none does.
    """
    files = [f for place in TESTED for f in sorted(package.glob(place)) if f.name not in NOT_OURS]
    found = [str(f) for f in files if only in str(f.relative_to(package))]
    if not found:
        names = "; ".join(str(f.relative_to(package)) for f in files)
        raise UsageError(f"--only {only!r} matches none of: {names}")
    return found


def run_tests(report: Path, tests: list[str], *, ours: bool, workers: int) -> dict[str, str]:
    """Run Optax's tests in a process of their own.

    Raises:
      RuntimeError: if pytest stops before it has run them.
    """
    flags = ["--ours"] if ours else []
    output = report.with_suffix(".txt")
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-c", os.devnull,
        "--rootdir", str(report.parent), "-p", "no:cacheprovider", "-n", str(workers),
        f"--junitxml={report}", "-p", "experiments.conformance", *flags, *tests,
    ]  # fmt: skip
    with output.open("w") as file:
        ended = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    if ended.returncode > 1:
        raise RuntimeError(f"pytest ended with status {ended.returncode}: {output.read_text()}")
    return outcomes(report)


@dataclass(frozen=True)
class Config:
    """Run Optax's tests as they are and with our names in place."""

    only: str = ""
    """test files whose path in Optax contains this"""
    workers: int = 2
    """processes"""
    folder: str = ""
    """where to leave pytest's output; by default nowhere"""


def compared(theirs: dict[str, str], ours: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The lines to print, and the tests that pass with Optax but not here, with their outcomes."""
    # without our names in place, no test calls ours
    passed = [name for name, outcome in theirs.items() if outcome in ("passed", UNTOUCHED)]
    found = {name: ours.get(name, "not run") for name in passed}
    count = Counter(found.values())
    about_us = len(passed) - count[UNTOUCHED]
    failing = {name: o for name, o in sorted(found.items()) if o not in ("passed", UNTOUCHED)}
    lines = [
        f"{len(theirs)} tests, of which {len(passed)} pass with Optax; "
        f"{count[UNTOUCHED]} of these also pass without a call of ours",
        f"{count['passed']} of the other {about_us} pass with jaxnets in its place",
        *(f"  {outcome}: {name}" for name, outcome in failing.items()),
    ]
    return lines, failing


def main(config: Config) -> int:
    """Print the tests whose outcome differs; returns 1 if there are any.

    Raises:
      UsageError: if `only` matches no test file.
    """
    import optax

    tests = files_matching(Path(optax.__path__[0]), config.only)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(config.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        theirs = run_tests(folder / "optax.xml", tests, ours=False, workers=config.workers)
        ours = run_tests(folder / "jaxnets.xml", tests, ours=True, workers=config.workers)
    lines, failing = compared(theirs, ours)
    print("\n".join([f"optax {optax.__version__}", *lines]))
    return int(bool(failing))


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Config, description=__doc__)))
    except UsageError as error:
        sys.exit(f"error: {error}")
