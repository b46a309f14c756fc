"""The packages that captioned pictures come in, and how their pairs are read.

`emoji` are a font's bitmaps with the Unicode names, `stamps` are Tux Paint's.
"""

import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.sources import _call, _only


class Pair(NamedTuple):
    """A picture as it is found: RGBA, its captions, and a name that its variants share."""

    image: Any
    captions: tuple[str, ...]
    family: str


class Origin(NamedTuple):
    """Where a set comes from."""

    packages: str
    """For people."""
    wanted: Mapping[str, str | None]
    """Files to be found in a folder, and the SHA-256 of their content (none: a folder)."""
    fetch: Callable[[Path], None]
    """Puts what is wanted into a folder."""
    read: Callable[[Path], Sequence[Pair]]
    """All pairs, from such a folder."""


FONT, NAMES = "NotoColorEmoji.ttf", "emoji.json"


def _fetch_emoji(folder: Path) -> None:
    _call(folder, "apt-get", "download", "fonts-noto-color-emoji")
    _call(folder, "dpkg", "-x", _only(folder, "*.deb").name, "unpacked")
    (folder / "unpacked/usr/share/fonts/truetype/noto" / FONT).rename(folder / FONT)
    pip = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
    _call(folder, sys.executable, *pip, "emoji==2.15.0")
    with zipfile.ZipFile(_only(folder, "*.whl")) as wheel:
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
            pairs.append(Pair(image, tuple(filter(None, captions)), _drawing(captions[0])))
    return pairs


STAMPS = "stamps"


def _fetch_stamps(folder: Path) -> None:
    _call(folder, "apt-get", "download", "tuxpaint-stamps-default")
    _call(folder, "dpkg", "-x", _only(folder, "*.deb").name, "unpacked")
    (folder / "unpacked/usr/share/tuxpaint" / STAMPS).rename(folder / STAMPS)


def _read_stamps(folder: Path) -> list[Pair]:
    """Those that are PNG files with a caption; its English line is the first."""
    from PIL import Image

    pairs = []
    for path in sorted((folder / STAMPS).rglob("*.png")):
        text = path.with_suffix(".txt")
        if not text.is_file():
            continue
        first = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        if caption := " ".join(words_of(first)):
            with Image.open(path) as image:
                pairs.append(Pair(image.convert("RGBA"), (caption,), caption))
    return pairs


ORIGINS = {
    "emoji": Origin(
        "Debian's fonts-noto-color-emoji and PyPI's emoji 2.15.0 (11 MB)",
        {
            FONT: "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec",
            NAMES: "22d517783333d56d873e67c2869ed29344e5f775a068320c4a60b4d3b88eb5a5",
        },
        _fetch_emoji,
        _read_emoji,
    ),
    "stamps": Origin(
        "Debian's tuxpaint-stamps-default (161 MB)", {STAMPS: None}, _fetch_stamps, _read_stamps
    ),
}


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
