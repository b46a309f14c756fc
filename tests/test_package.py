"""What holds of the package as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

import jaxnets

ROOT = Path(__file__).parents[1]

HEAVY = ["optax", "flax", "chex", "orbax", "tensorstore", "matplotlib", "sklearn", "tqdm", "tyro"]


def test_importing_jaxnets_imports_nothing_heavy():
    code = (
        "import sys, jax, jax.numpy; before = set(sys.modules); import jaxnets;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = set(done.stdout.split())
    assert "jaxnets" in new
    assert not new & set(HEAVY)


@pytest.mark.parametrize("name", jaxnets.__all__)
def test_every_public_name_is_there_and_documented(name):
    module = getattr(jaxnets, name)
    if name.startswith("__"):
        return
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        member = getattr(module, public)
        if callable(member):
            assert member.__doc__, f"{name}.{public} has no docstring"


LAYERS = {
    "nn": 1, "losses": 1, "optim": 1, "gradients": 1, "models": 2, "train": 3,
}  # fmt: skip


@pytest.mark.parametrize("package", LAYERS)
def test_arrows_run_down_only(package):
    """nn, losses, optim and gradients do not know each other; models and train stand above."""
    for file in (ROOT / "jaxnets" / package).glob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] != ["from"] or not words[1].startswith("jaxnets"):
                continue
            parts = words[1].split(".")
            imported = parts[1:2] if len(parts) > 1 else [w.strip(",") for w in words[3:]]
            for other in imported:
                assert other == package or LAYERS.get(other, 0) < LAYERS[package], f"{file}: {line}"
