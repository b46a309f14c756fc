"""docs/gradients.md: its example runs, and its table has every function of factors."""

import re
from pathlib import Path

import pytest

from jaxnets import gradients

TEXT = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text()


@pytest.mark.thorough
def test_examples(capsys):
    names = {"__name__": "example"}
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "docs/gradients.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "rank one" in printed
    assert re.search(r"noise scale \d+ examples", printed)
    assert "epsilon 2." in printed
    assert "known up to" in printed
    before = names["batch_loss"](names["params"], names["x"], names["y"])
    assert names["metrics"]["loss"] < 0.8 * before
    assert abs(names["again"].value - names["top"].values[0]) < 1e-4 * names["top"].values[0]
    assert names["similar"].shape == names["moved"].shape == (64, 64)


def test_every_name_is_said():
    returned = {"ClippedGradMetrics", "Diversity", "LeafCheck", "Moments", "NoiseScale"}
    returned |= {"Operation", "Rule", "SignalToNoise", "Tape"}
    returned |= {"DiagonalBlock", "Eigenpairs", "Estimate", "KroneckerBlock", "Sharpness"}
    returned |= {"Spectrum", "Tridiagonal"}
    returned |= {
        "Operation",
        "Rule",
        "SignalToNoise",
        "Tape",
        "Finding",
        "Flow",
        "SiteFlow",
        "SiteFlows",
    }
    elsewhere = returned | {"Factors", "ParameterPlan", "plan"}
    for name in set(gradients.__all__) - elsewhere:
        assert f"`{name}" in TEXT or f"gradients.{name}" in TEXT, name
