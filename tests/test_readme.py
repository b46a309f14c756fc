"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def names():
    return {"__name__": "example"}


@pytest.mark.parametrize(
    ("number", "printed"),
    [(0, "loss"), (1, "examples clipped"), (2, "after 20 steps"), (3, "nothing is wrong")],
)
def test_example(number, printed, names, capsys):
    """One after the other: the third and the fourth take the second's model."""
    assert len(EXAMPLES) == 4
    if number > 1 and "model" not in names:
        exec(compile(EXAMPLES[1], "README example 1", "exec"), names)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), names)
    assert printed in capsys.readouterr().out


def test_ten_lines_are_ten_and_imports():
    assert "## Ten lines, after the imports\n\n```python\n" + EXAMPLES[0] in README.read_text()
    lines = [line for line in EXAMPLES[0].splitlines() if line]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) == 10


def test_the_files_it_shows_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
