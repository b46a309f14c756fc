"""A run's report: one HTML file that needs nothing else, now or in ten years.

    report = Report(
        title="Digits",
        summary="A small net reads 98.9 % of the digits it has not seen.",
        facts={"test accuracy": "98.9 %", "seconds": 41.2},
        sections=[Section("Training", [Paragraph("..."), Picture(png(figure), "The loss.")])],
        footer=[versions_line(environment)],
    )
    write_text(run, "report.html", render(report))

All text is escaped; images are inside the file; there are no scripts or fonts, and no links but
those of its contents.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, TypeAlias

from experiments import plots
from experiments.run import Run, write_bytes

_TEMPLATE = Path(__file__).with_name("report.template.html")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Paragraph(NamedTuple):
    """Running text; empty lines separate paragraphs."""

    text: str


class Facts(NamedTuple):
    """A few numbers that matter, each large above its name."""

    items: Mapping[str, Any]


class Table(NamedTuple):
    """Rows under a header; numbers are set right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


class Picture(NamedTuple):
    """A PNG image and what it shows."""

    png: bytes
    caption: str
    alt: str = ""
    """For those who cannot see it; by default the caption."""


def saved_picture(run: Run, name: str, figure: Any, caption: str) -> Picture:
    """A Matplotlib figure, also written into the run's folder as the file `name`."""
    png = plots.png(figure)
    write_bytes(run, name, png)
    return Picture(png, caption)


class Code(NamedTuple):
    """Text kept as it is, in a fixed-width font."""

    text: str


class Contents(NamedTuple):
    """The titles of sections of the same report, each leading there."""

    titles: Sequence[str]


Block: TypeAlias = Paragraph | Facts | Table | Picture | Code | Contents


class Section(NamedTuple):
    """Blocks under a title, by which `Contents` finds it."""

    title: str
    blocks: Sequence[Block]


class Report(NamedTuple):
    """Everything a report says."""

    title: str
    summary: str
    """The result in a sentence or two."""
    sections: Sequence[Section]
    facts: Mapping[str, Any] = {}
    footer: Sequence[str] = ()
    """Its lines."""


def render(report: Report) -> str:
    """The report as a complete HTML document."""
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(report.title),
        summary=_paragraphs(report.summary),
        facts=_facts(Facts(report.facts)) if report.facts else "",
        sections="\n".join(map(_section, report.sections)),
        footer="<br>\n".join(map(html.escape, report.footer)),
    )


def config_table(config: Mapping[str, Any], caption: str = "") -> Table:
    """A config (as in `config.json`) as a table of names and values; nested names get dots."""
    return Table(("setting", "value"), list(_flat(config).items()), caption)


def versions_line(environment: Mapping[str, Any]) -> str:
    """The environment (as in `config.json`) in one line, for the footer."""
    parts = [
        f"{name} {value}"
        for name, value in environment.items()
        if isinstance(value, str) and name != "system"
    ]
    if device := environment.get("device"):
        parts.append(f"{device['count']} × {device['kind']} ({device['platform']})")
    if system := environment.get("system"):
        parts.append(str(system))
    if git := environment.get("git"):
        changed = " with changes" if git["dirty"] else ""
        parts.append(f"revision {(git['revision'] or 'none')[:12]}{changed}")
    return " · ".join(parts)


def resumption_lines(described: Mapping[str, Any]) -> list[str]:
    """When a run was resumed (as in `config.json`), and on what, for the footer."""
    return [
        f"resumed {note['at']} · {versions_line(note['environment'])}"
        for note in described.get("resumed", [])
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            items |= _flat(value, f"{prefix}{name}.")
        else:
            items[f"{prefix}{name}"] = value
    return items


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(_cell, value))
        case _ if hasattr(value, "item"):
            return _cell(value.item())
        case _:
            return str(value)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool | str) and (
        isinstance(value, int | float) or hasattr(value, "item")
    )


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    title = html.escape(section.title)
    return f'<section>\n<h2 id="{_anchor(section.title)}">{title}</h2>\n{blocks}\n</section>'


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title).strip("-").lower()


def _contents(contents: Contents) -> str:
    lines = (
        f'<li><a href="#{_anchor(title)}">{html.escape(title)}</a></li>'
        for title in contents.titles
    )
    return f"<nav><ul>{''.join(lines)}</ul></nav>"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _paragraphs(text)
        case Facts():
            return _facts(block)
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"
        case Contents():
            return _contents(block)


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{html.escape(part.strip())}</p>" for part in text.split("\n\n"))


def _facts(facts: Facts) -> str:
    cards = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(_cell(value))}</dd></div>"
        for name, value in facts.items.items()
    )
    return f'<dl class="facts">{"".join(cards)}</dl>'


def _table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    body = "\n".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _td(value: Any) -> str:
    kind = ' class="number"' if _is_number(value) else ""
    return f"<td{kind}>{html.escape(_cell(value))}</td>"


def _picture(picture: Picture) -> str:
    if not picture.png.startswith(_PNG_SIGNATURE):
        raise ValueError(f"the picture captioned {picture.caption!r} is not a PNG file")
    data = base64.b64encode(picture.png).decode()
    alt = html.escape(picture.alt or picture.caption)
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )
