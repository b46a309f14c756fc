"""Optax's tests with our names in place: what is run, and how it is counted."""

import functools
import sys
import types
from pathlib import Path

import optax
import pytest

from experiments import conformance
from experiments.conformance import (
    UNTOUCHED,
    compared,
    files_matching,
    not_ours,
    outcomes,
    replace_in,
    run_tests,
)
from experiments.errors import UsageError
from jaxnets import optim

PACKAGE = Path(optax.__path__[0])


def test_every_pattern_matches_a_file_of_the_installed_optax():
    for place in conformance.TESTED:
        assert list(PACKAGE.glob(place)), place
    for name in conformance.NOT_OURS:
        assert list(PACKAGE.glob(f"contrib/{name}")), name
    names = [Path(file).name for file in files_matching(PACKAGE, "")]
    assert {"base_test.py", "numerics_test.py", "alias_test.py"} < set(names)
    assert not set(conformance.NOT_OURS) & set(names)
    assert [Path(file).name for file in files_matching(PACKAGE, "_src/base")] == ["base_test.py"]


def test_no_match_is_an_error_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(conformance, "run_tests", None)
    with pytest.raises(UsageError, match="--only 'optax' matches none of: _src/alias"):
        # the folder it is installed in does not count
        conformance.main(conformance.Config(only="optax"))


def test_optimizers_that_we_do_not_have_are_left_out():
    assert not_ours("(opt_name='galore', opt_kwargs={'rank': 8})")
    assert not not_ours("(opt_name='muon', opt_kwargs={})")
    assert not not_ours("(dtype='bfloat16')")
    # a name of the test's own
    assert not not_ours("(params_dtype='float32', opt_name='sgd_mom')")


def test_partial_functions_are_replaced_too():
    """Optax's `nadam` is a partial `adam`."""
    module = types.ModuleType("optax.made_up")
    module.nadam, module.adam, module.sgd = optax.nadam, optax.adam, optim.sgd
    module.chain, module.partial = functools, functools.partial(print)
    assert sorted(replace_in(module)) == ["adam", "nadam"]
    assert module.nadam is optim.nadam


REPORT = """
<testsuites><testsuite>
  <testcase classname=".A" name="passes"/>
  <testcase classname=".A" name="fails"><failure message="no"/></testcase>
  <testcase classname=".A" name="skips"><skipped/></testcase>
  <testcase classname=".A" name="idle">
    <properties><property name="without a call of ours" value="True"/></properties>
  </testcase>
  <testcase classname=".A" name="idle and fails">
    <properties><property name="without a call of ours" value="True"/></properties><failure/>
  </testcase>
</testsuite></testsuites>
"""


def test_outcomes_of_a_report(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert list(outcomes(report).values()) == [
        "passed", "failure", "skipped", UNTOUCHED, "failure"
    ]  # fmt: skip


def test_what_calls_nothing_of_ours_is_counted_apart_and_what_fails_is_listed():
    theirs = dict.fromkeys("abcde", UNTOUCHED) | {"f": "failure", "g": "skipped"}
    ours = {"a": "passed", "b": UNTOUCHED, "c": "failure", "d": "skipped", "f": "passed"}
    lines, failing = compared(theirs, ours)
    assert failing == {"c": "failure", "d": "skipped", "e": "not run"}
    assert lines[0].startswith("7 tests, of which 5 pass with Optax; 1 of these also pass without")
    assert lines[1].startswith("1 of the other 4 pass")
    assert len(lines) == 5


@pytest.mark.thorough
def test_a_run_that_breaks_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)pytest ended with status 4: .*not found"):
        run_tests(tmp_path / "report.xml", [str(tmp_path / "no_test.py")], ours=True, workers=0)


@pytest.mark.thorough
def test_a_file_of_optax_is_run_with_our_names_in_place(tmp_path):
    found = run_tests(
        tmp_path / "report.xml", files_matching(PACKAGE, "base_test"), ours=True, workers=0
    )
    # one class for both is what we want
    assert [name for name, outcome in found.items() if outcome == "failure"] == [
        ".ExtraArgsTest::test_isinstance"
    ]
    assert found[".StatelessTest::test_stateless"] == "passed"
    assert found[".BaseTest::test_typing"] == UNTOUCHED
    assert "optax" in sys.modules, "this process's own names are as they were"
    assert optax.adam.__module__.startswith("optax")
