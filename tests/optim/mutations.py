"""Whether the tests notice wrong optimizers: each mutant is made, and its tests must fail.

    python -m tests.optim.mutations [--only adam] [--jobs 2]

The tables in `mutants/` say what is replaced and which tests are to notice. Mutants live in a
temporary copy of the tree; the working tree is never touched. Many of them run one after another in
one process, where jax and all that it has compiled stay, and the project is imported anew each
time; at the end the copy is mended, and all tests that have failed must pass.

Equivalent mutants, which nothing can tell from the original, are run too: should a test fail for
one, it is not equivalent.
"""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.optim.mutants import adam, adaptive_rates, core, matrices, norms_and_signs
from tests.optim.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
MUTANTS: list[Mutant] = [
    *core.MUTANTS,
    *adam.MUTANTS,
    *norms_and_signs.MUTANTS,
    *matrices.MUTANTS,
    *adaptive_rates.MUTANTS,
]
AT_A_TIME = 20

# such a program is broken, not wrong: any test would fail for it
BROKEN = (NameError, SyntaxError, ImportError)


def mutated(mutant: Mutant, root: Path = ROOT) -> str:
    """The text of the mutant's file, wrong.

    Raises:
      ValueError: unless the old text occurs exactly once.
    """
    text = (root / "jaxnets" / "optim" / mutant.file).read_text()
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.file}: {mutant.old!r} occurs {count} times, not once")
    return text.replace(mutant.old, mutant.new)


class _Failure:
    """The plugin that notes the first test that fails, and by what."""

    test = ""
    error: type[BaseException] = AssertionError

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        self.test, self.error = node.nodeid.removeprefix("tests/optim/"), call.excinfo.type


def _run(tests: str, folder: Path) -> tuple[int, _Failure]:
    """The exit status of pytest in a copy of the tree, freshly imported."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("jaxnets", "tests")]:
        del sys.modules[name]
    first, *rest = shlex.split(tests)
    failure = _Failure()
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main(
            [f"tests/optim/{first}", *rest, "-x", "-q", "-p", "no:cacheprovider", "-m", ""],
            plugins=[failure],
        )
    file = getattr(sys.modules.get("jaxnets"), "__file__", None)
    if file is not None and not Path(file).is_relative_to(folder):
        raise RuntimeError(f"{file} was tested in place of the copy")
    return int(status), failure


def _verdict(mutant: Mutant, folder: Path) -> tuple[bool, str]:
    file = folder / "jaxnets" / "optim" / mutant.file
    right = file.read_text()
    file.write_text(mutated(mutant, folder))
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    status, failure = _run(mutant.tests, folder)
    file.write_text(right)
    if status > 1 or issubclass(failure.error, BROKEN):
        return False, f"BROKEN: status {status}, {failure.error.__name__} in {failure.test}"
    if mutant.equivalent:
        return status == 0, f"{'NOT ' * status}equivalent: {mutant.equivalent}"
    if not status:
        return False, "SURVIVED"
    # other errors than an assertion's may be of a program that is broken rather than wrong
    by = "" if issubclass(failure.error, AssertionError) else f" ({failure.error.__name__})"
    return True, f"killed by {failure.test}{by}"


def verdicts(mutants: Sequence[Mutant]) -> list[tuple[bool, str]]:
    """For each mutant whether all is as it should be, and what happened; in a process of its own.

    Raises:
      RuntimeError: if tests also fail where nothing is wrong.
    """
    sys.dont_write_bytecode = True
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for part in ("jaxnets", "tests"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        found = [_verdict(mutant, folder) for mutant in mutants]
        for tests in {mutant.tests for mutant in mutants}:
            status, failure = _run(tests, folder)
            if status:
                raise RuntimeError(f"{tests}: {failure.test} fails where nothing is wrong")
        os.chdir(ROOT)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants, print a row for each, and return 1 if the tests do not notice one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="optimizers with this name, or file")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if options.only in ("", m.optimizer, m.file)]
    if not chosen:
        parser.error(f"--only {options.only!r} is no optimizer or file with mutants")
    # those of the same tests together, for what these have compiled
    chosen.sort(key=lambda mutant: mutant.tests)
    batches = [chosen[i : i + AT_A_TIME] for i in range(0, len(chosen), AT_A_TIME)]
    wrong = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        for batch, found in zip(batches, pool.map(verdicts, batches), strict=True):
            for mutant, (fine, what) in zip(batch, found, strict=True):
                wrong += not fine
                print(f"{' ' if fine else '!'} {mutant.optimizer:28} {mutant.mutation:36} {what}")
            sys.stdout.flush()
    print(f"{len(chosen)} mutants, {wrong} not as they should be")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
