"""What holds of the package as a whole."""

import ast
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import jaxnets

ROOT = Path(__file__).parents[1]


def test_importing_jaxnets_imports_nothing_but_jax_and_numpy():
    code = (
        "import sys, jax, jax.numpy; before = set(sys.modules); import jaxnets;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert "jaxnets" in new
    assert new <= {"jaxnets", "jax", "jaxlib", "numpy"}


@pytest.mark.parametrize("name", jaxnets.__all__)
def test_every_public_name_is_there_and_documented(name):
    module = getattr(jaxnets, name)
    if name.startswith("__"):
        return
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        member = getattr(module, public)
        # types such as unions have none
        if callable(member) and typing.get_origin(member) is None:
            assert member.__doc__, f"{name}.{public} has no docstring"


LAYERS = {
    "nn": 1, "losses": 1, "optim": 1, "gradients": 1, "models": 2, "train": 3, "pretrained": 3,
}  # fmt: skip


def imported(source, package):
    """The parts of jaxnets that a module of `jaxnets.package` imports, wherever in it that is."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                paths = [alias.name for alias in names]
            case ast.ImportFrom(module, names, level):
                above = ["jaxnets", package][: 3 - level] if level else []
                start = [*above, *([module] if module else [])]
                paths = [".".join([*start, alias.name]) for alias in names]
            case _:
                continue
        for path in paths:
            match path.split("."):
                case ["jaxnets", part, *_]:
                    yield part


@pytest.mark.parametrize("package", LAYERS)
def test_arrows_run_down_only(package):
    """nn, losses, optim and gradients do not know each other; models and train stand above."""
    for file in (ROOT / "jaxnets" / package).rglob("*.py"):
        for other in imported(file.read_text(), package):
            assert other == package or LAYERS.get(other, 0) < LAYERS[package], f"{file}: {other}"


@pytest.mark.parametrize(
    "source",
    [
        "import jaxnets.losses",
        "import numpy, jaxnets.losses.softmax as s",
        "from jaxnets import (\n    tree,\n    losses,\n)",
        "from jaxnets.losses import softmax",
        "from .. import losses",
        "from ..losses import softmax",
        "def f():\n    from jaxnets.losses import softmax",
    ],
)
def test_every_form_of_import_is_seen(source):
    assert "losses" in set(imported(source, "nn"))
    assert set(imported("from .conv import conv\nfrom . import pool", "nn")) == {"nn"}
