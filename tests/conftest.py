import os
from itertools import count
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# most of the time goes to compiling, much of that to LLVM making small programs faster: what XLA
# does to a program is the same without. JAX_DISABLE_MOST_OPTIMIZATIONS=0 makes them as users do
UNOPTIMIZED = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)

MAPS = Path("/proc/self/maps")
TESTS = count()


@pytest.fixture(autouse=True)
def _few_enough_executables():
    """Each maps memory of its own, and Linux allows a process 65,530 maps."""
    yield
    if next(TESTS) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def optimized():
    """Programs as users have them, where a test is of rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)


@pytest.fixture
def x64():
    """Float64 inside the test."""
    with jax.enable_x64(True):
        yield
