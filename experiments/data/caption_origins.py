"""The packages that captioned pictures come in, and how their pairs are read.

`emoji` are a font's bitmaps with the Unicode names, `stamps` are Tux Paint's.
"""

import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.fetching import PIP, download, only, run


class Pair(NamedTuple):
    """A picture as it is found, RGBA, and its captions."""

    image: Any
    captions: tuple[str, ...]


class Origin(NamedTuple):
    """Where a set comes from."""

    packages: str
    """For people."""
    wanted: Mapping[str, str]
    """Files and folders to be found in a folder, and the SHA-256 of what is read of them."""
    fetch: Callable[[Path], None]
    """Puts what is wanted into a folder."""
    read: Callable[[Path], Sequence[Pair]]
    """All pairs, from such a folder."""
    drawing: Callable[[str], str]
    """Of a picture's first caption, what its variants' first captions share."""


FONT, NAMES = "NotoColorEmoji.ttf", "emoji.json"


def _fetch_emoji(folder: Path) -> None:
    download(folder, "apt-get", "download", "fonts-noto-color-emoji")
    run(folder, "dpkg", "-x", only(folder, "*.deb").name, "unpacked")
    (folder / "unpacked/usr/share/fonts/truetype/noto" / FONT).rename(folder / FONT)
    download(folder, sys.executable, *PIP, "--only-binary=:all:", "emoji==2.15.0")
    with zipfile.ZipFile(only(folder, "*.whl")) as wheel:
        (folder / NAMES).write_bytes(wheel.read(f"emoji/unicode_codes/{NAMES}"))


def _read_emoji(folder: Path) -> list[Pair]:
    """Those of one code point, but for the swatches of skin: with them, one of each drawing."""
    from fontTools.ttLib import TTFont
    from PIL import Image

    names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    pairs = []
    with TTFont(folder / FONT) as font:
        glyphs, bitmaps = font.getBestCmap(), font["CBDT"].strikeData[0]
        for characters, entry in names.items():
            character = characters.replace("\N{VARIATION SELECTOR-16}", "")
            # 2: fully qualified, so that none comes twice
            if entry["status"] != 2 or len(character) > 1:
                continue
            bitmap = bitmaps.get(glyphs.get(ord(character)))
            if bitmap is None:
                continue
            captions = tuple(
                dict.fromkeys(
                    " ".join(words_of(name)) for name in [entry["en"], *entry.get("alias", [])]
                )
            )
            image = Image.open(io.BytesIO(bitmap.imageData)).convert("RGBA")
            pairs.append(Pair(image, tuple(filter(None, captions))))
    return pairs


STAMPS = "stamps"


def _fetch_stamps(folder: Path) -> None:
    download(folder, "apt-get", "download", "tuxpaint-stamps-default")
    run(folder, "dpkg", "-x", only(folder, "*.deb").name, "unpacked")
    (folder / "unpacked/usr/share/tuxpaint" / STAMPS).rename(folder / STAMPS)


def _read_stamps(folder: Path) -> list[Pair]:
    """Those that are PNG files with a caption; its English line is the first."""
    from PIL import Image

    pairs = []
    for path, text in _with_texts(folder / STAMPS):
        first = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if caption := " ".join(words_of(first)):
            with Image.open(path) as image:
                pairs.append(Pair(image.convert("RGBA"), (caption,)))
    return pairs


def _with_texts(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The pictures that have a text beside them, and that, in the order of their paths."""
    for path in sorted(folder.rglob("*.png"), key=lambda path: path.parts):
        text = path.with_suffix(".txt")
        if text.is_file():
            yield path, text


def sha256_of(place: Path) -> str:
    """Of a file its content's; of a folder that of the paths and contents that are read of it.

    For each picture with a text, in the order of their paths, and then for its text: the path
    within the folder with `/` between its parts, a zero, and the SHA-256 of the content.
    """
    if place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for pair in _with_texts(place):
        for path in pair:
            digest.update(path.relative_to(place).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def words_of(text: str) -> list[str]:
    """Words in lower case: letters, digits, and what joins them in one word."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


# of people, and of the hours: what distinguishes pictures that are drawn alike
_VARIANTS = re.compile(
    "boys?|girls?|m[ae]n(’s)?|wom[ae]n(’s)?|person|people|prince(ss)?|king|queen|mr|mrs|mx|santa|"
    "mother|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|light|medium|dark|low|"
    "high|without"
)


def _drawing(caption: str) -> str:
    """The name without what tells variants of one drawing apart."""
    words = ["clock" if word in ("o’clock", "thirty") else word for word in words_of(caption)]
    return " ".join(word for word in words if not _VARIANTS.fullmatch(word))


ORIGINS = {
    "emoji": Origin(
        "Debian's fonts-noto-color-emoji and PyPI's emoji 2.15.0 (11 MB)",
        {
            FONT: "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
            NAMES: "22d517783333d56d873e67c2869ed29344e5f775a068320c4a60b4d3b88eb5a5",
        },
        _fetch_emoji,
        _read_emoji,
        _drawing,
    ),
    "stamps": Origin(
        "Debian's tuxpaint-stamps-default (161 MB)",
        {STAMPS: "905e3d65cd7a55158a89d7f18ecd03f305cb4eadc58146835f2a07ff079fdfde"},
        _fetch_stamps,
        _read_stamps,
        lambda caption: caption,
    ),
}
