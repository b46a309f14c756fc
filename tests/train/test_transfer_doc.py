"""docs/transfer.md: its example runs, and its table has every function."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text()


@pytest.mark.thorough
def test_examples(capsys):
    names = {"__name__": "example"}
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "docs/transfer.md", "exec"), names)
    printed = capsys.readouterr().out
    for name in ("fine-tuned", "adapted"):
        assert float(re.search(rf"{name}: loss ([\d.]+)", printed)[1]) < 1.0
    assert re.search(r"probe: 0\.[5-9]\d right|probe: 1\.00 right", printed)
    assert "rank one" in printed
    assert "local" not in printed
    assert "on the anchor, 0.0 is added" in printed
    assert "forgotten: 0.30" in printed


def test_every_name_is_said():
    for module in ("forgetting", "lora", "transfer", "probe"):
        source = (Path(__file__).parents[2] / "jaxnets" / "train" / f"{module}.py").read_text()
        for name in re.findall(r"^def ([a-z]\w+)", source, re.MULTILINE):
            assert f"`{name}`" in TEXT, name
