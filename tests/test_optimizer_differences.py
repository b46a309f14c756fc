"""The table "Where they differ from Optax" in docs/optimizers.md: what it says of Optax is true."""

import re
from pathlib import Path

import jax
import optax
import optax.contrib
import pytest

from jaxnets import optim
from tests.optim.differences import interface, optimizers
from tests.optim.test_names import LEFT_OUT

TEXT = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
TABLE = TEXT[TEXT.index("## Where they differ") : TEXT.index("## Optax's own tests")]
ROWS = [line[2:].split(" | ")[0] for line in TABLE.splitlines() if line.startswith("| ")][2:]

CHECKS = interface.CHECKS | optimizers.CHECKS
UNTESTED = {
    "`schedule_free`": "a matter of rounding",
    "`muon`": "more is accepted",
    "`lbfgs`": "the same numbers",
}


def not_in_optax():
    names = re.findall(r"`(\w+)`", next(row for row in ROWS if row.startswith("`clip_per_leaf`")))
    assert len(names) == 7
    for name in (*names, "gauss_newton_bartlett_estimator_diag_hessian"):
        assert hasattr(optim, name)
        assert not any(hasattr(lib, name) for lib in (optax, optax.contrib, optax.schedules))


def test_every_row_is_checked():
    first = [row for row in ROWS if row.startswith("`clip_per_leaf`")]
    assert {*ROWS} == {*CHECKS, *UNTESTED, *first}
    assert len(ROWS) == len(set(ROWS))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", [*CHECKS, "not there"])
def test_what_a_row_says(row):
    with jax.numpy_rank_promotion("allow"):
        CHECKS.get(row, not_in_optax)()


# those of all optimizers are said where they belong: `hyper`, `masking`, `adam`
SAID_ELSEWHERE = {"nu_dtype", "update"}


@pytest.mark.parametrize("name", sorted({n for row in ROWS for n in re.findall(r"`(\w+)", row)}))
def test_a_docstring_names_the_difference(name):
    if name not in SAID_ELSEWHERE:
        assert "Optax" in getattr(optim, name).__doc__


def test_what_is_left_out_is_listed():
    section = TEXT[TEXT.index("## Left out") : TEXT.index("## PyTorch's forms")]
    listed = set(re.findall(r"`(\w+)`", section))
    for reason, names in LEFT_OUT.items():
        if "losses" not in reason:
            assert {name for name in names.split() if name[0].islower()} <= listed
    assert not listed & set(optim.__all__)


def test_scale_by_forms_name_it_too():
    for name in ("scale_by_ademamix", "orthogonalize_via_newton_schulz", "scale_by_factored_rms"):
        assert "Optax" in getattr(optim, name).__doc__, name
