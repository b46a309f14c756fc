"""docs/selection.md: its examples run, and every name is said."""

import re
from pathlib import Path

import pytest

from jaxnets.train import selection

TEXT = (Path(__file__).parents[2] / "docs" / "selection.md").read_text()


@pytest.mark.thorough
def test_examples(capsys):
    names = {"__name__": "example"}
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "docs/selection.md", "exec"), names)
    assert "6 members, the first" in capsys.readouterr().out
    assert names["scores"].shape == (6, 4)
    found = names["found"]
    assert [len(tried) for tried in found.tried] == [9, 3, 1]
    # 9 epochs in all, of 7 steps: those of the rungs below are not done again
    assert found.stacked[1].step.tolist() == [9 * 7]


def test_every_search_and_split_is_said():
    elsewhere = {"Comparison", "Fold", "Halving", "Nested", "Row", "Rung", "StackedFolds"}
    elsewhere |= {"begin", "best", "described", "kfold", "repeated", "stacked"}
    for name in set(selection.__all__) - elsewhere:
        assert f"selection.{name}" in TEXT or f"`{name}`" in TEXT, name
