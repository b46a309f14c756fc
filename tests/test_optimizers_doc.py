"""docs/optimizers.md: its examples run, and its tables leave nothing out."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

from docs import compare_optimizers
from jaxnets import optim

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "optimizers.md").read_text()


@pytest.mark.thorough
def test_examples_run_one_after_the_other(capsys):
    names = {"__name__": "example"}
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    for number, example in enumerate(examples):
        with jax.numpy_rank_promotion("allow"):
            exec(compile(example, f"docs/optimizers.md example {number}", "exec"), names)
    rate, scale = capsys.readouterr().out.split()
    assert 0 < float(rate) < 0.1
    assert float(scale) == 2**15
    assert len(examples) == 8


def test_every_function_is_in_its_tables():
    """Types and states apart."""
    first = TEXT[: TEXT.index("## How to combine them")]
    named = set(re.findall(r"`(\w+)`", first))
    functions = {name for name in optim.__all__ if name[0].islower()} - {"safe_int32_increment"}
    assert functions - named == set()
    assert named - set(optim.__all__) == set()


def test_the_comparison_has_a_row_for_every_optimizer():
    rows = re.findall(r"^\| ([\w ()]+) \| [\d–]", TEXT, re.MULTILINE)
    assert rows == [*compare_optimizers.SAME, *compare_optimizers.OURS_ONLY]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["sophia", "soap"])
def test_a_row(name, monkeypatch):
    """With one that needs more than gradients, and one that Optax does not have."""
    monkeypatch.setattr(compare_optimizers, "STEPS", 3)
    monkeypatch.setattr(compare_optimizers, "ROUNDS", 1)
    with jax.numpy_rank_promotion("allow"):
        _, first, float32, float64, _, ours, theirs, _ = compare_optimizers.row(name).split("|")
    assert first.strip() == name
    assert float(ours) < 3
    if name == "sophia":
        assert float(float32) < 2e-6
        assert float(float64) < 1e-12
        assert theirs == ours
    else:
        assert (float32, float64, theirs) == (" – ",) * 3


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Specifying a key will be required")
@pytest.mark.parametrize("name", compare_optimizers.SAME)
def test_differences_in_float64(name):
    """What the table says, to an order of magnitude; below 1e-13 all is rounding."""
    (cell,) = re.findall(rf"^\| {re.escape(name)} \| \S+ \| (\S+) \|", TEXT, re.MULTILINE)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        given = compare_optimizers.problem(name, jnp.float64)
        build = compare_optimizers.SAME[name]
        ours, theirs = (
            compare_optimizers.trainer(optimizer)(*given)[0]
            for optimizer in (build(optim, optim), build(optax, optax.contrib))
        )
        found = compare_optimizers.difference(ours, theirs)
    assert 0.1 <= max(found, 1e-13) / max(float(cell), 1e-13) <= 10


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (ROOT / "docs" / target).exists(), target
