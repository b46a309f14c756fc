"""What a run ran on: versions, device, source revision."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("jaxnets", "jax", "jaxlib", "numpy", "optax")

_SOURCE = Path(__file__).resolve().parent


def environment() -> dict[str, Any]:
    """Versions, device and git revision as plain values, `None` for what is not known."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": _device(),
        "git": revision(_SOURCE),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "float64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
    }


def revision(folder: Path) -> dict[str, Any] | None:
    """`{"revision", "dirty"}` of the git checkout that holds `folder`, or `None` without one.

    `revision` is `None` before the first commit; `dirty` counts untracked files too, since those
    may be code.
    """
    changes = _git(folder, "status", "--porcelain")
    if changes is None:
        return None
    return {"revision": _git(folder, "rev-parse", "--verify", "HEAD"), "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
