"""docs/gradients.md: its example runs, and its table has every function of factors."""

import re
from pathlib import Path

from jaxnets import gradients

TEXT = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text()


def test_example(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(example, "docs/gradients.md", "exec"), names)
    assert "rank one" in capsys.readouterr().out
    assert names["similar"].shape == (64, 64)


def test_every_name_is_said():
    asked_first = {"ClippedGradMetrics", "Factors", "ParameterPlan", "plan"}
    for name in set(gradients.__all__) - asked_first:
        assert f"`{name}" in TEXT or f"gradients.{name}(" in TEXT, name
