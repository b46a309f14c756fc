"""docs/compare_optimizers.py as a command."""

import pytest

from docs import compare_optimizers
from experiments.errors import UsageError


def test_unknown_names_are_an_error_before_anything_is_printed(capsys):
    with pytest.raises(UsageError, match=r"unknown optimizer 'adm' \(did you mean adam\?\); there"):
        compare_optimizers.main(compare_optimizers.Config(("sgd", "adm")))
    assert not capsys.readouterr().out


def test_rows_are_those_asked_for_or_all(monkeypatch, capsys):
    monkeypatch.setattr(compare_optimizers, "row", lambda name: f"| {name} |")
    compare_optimizers.main(compare_optimizers.Config(("soap", "sgd")))
    assert capsys.readouterr().out.splitlines()[2:] == ["| soap |", "| sgd |"]
    compare_optimizers.main(compare_optimizers.Config())
    known = [*compare_optimizers.SAME, *compare_optimizers.OURS_ONLY]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(known)
