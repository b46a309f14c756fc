"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.data.texts import Text, split
from experiments.language import pictures
from experiments.language.looks import SHOWN, Passage, text_of
from experiments.language.training import Bytes, Trained
from experiments.report import (
    Block,
    Code,
    Paragraph,
    Report,
    Section,
    Table,
    config_table,
    render,
    saved_picture,
    versions_line,
)
from experiments.run import Run, read_config, write_text
from jaxnets import tree


class Looks(NamedTuple):
    """What trained nets make of passages."""

    judge: str
    """The net whose gradients rank them."""
    passages: Sequence[Passage]
    """The hardest first."""
    line: bytes
    """The passage that is looked at byte by byte."""
    surprises: Sequence[NDArray[np.float64]]
    """Bits of each of its bytes, by each net."""
    attention: NDArray[np.float64] | None
    """Of one of the transformer's heads on the line; `None` without a transformer."""
    head: tuple[int, int]
    """Which: the block, and the head in it."""


def print_results(
    text: Text, trained: Sequence[Trained], written: Sequence[Sequence[str]], prompt: str
) -> None:
    """The results on the terminal."""
    for run, samples in zip(trained, written, strict=True):
        print(
            f"{run.net.name}: {run.bits:.3f} bits per byte of what was held out of {text.name} "
            f"({run.seconds:.0f} s, {run.cpu_seconds:.0f} CPU seconds)"
        )
        print(f"it writes:\n{prompt}{samples[0]}\n")


def write_report(
    run: Run,
    text: Text,
    trained: Sequence[Trained],
    written: Sequence[Sequence[str]],
    found: Looks,
) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    config = described["config"]
    train_text, held_out = split(text, config["held_out"])
    unseen = not np.isin(held_out, train_text).all()
    reached = "; ".join(f"{one.net.name} {one.bits:.3f}" for one in trained)
    report = Report(
        title=f"Language models of {text.name}",
        summary=(
            f"Bits that a byte costs, on the {len(held_out):,} bytes at the end of the text that "
            f"were not trained on: {reached}. Without a model it would be 8; by the frequencies of "
            f"the bytes that were trained on, {by_frequencies(train_text, held_out):.2f}"
            f"{', each counted once more, as some were never seen' if unseen else ''}."
        ),
        facts={f"bits per byte, {one.net.name}": f"{one.bits:.3f}" for one in trained},
        sections=[
            _training(run, trained),
            _samples(trained, written, config),
            _byte_by_byte(run, trained, found),
            _passages(found),
            Section("Settings", [config_table(config)]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def by_frequencies(train_text: Bytes, held_out: Bytes) -> float:
    """Bits per byte of what was held out, by the frequencies in what was trained on.

    If a byte was never seen there, all 256 are counted once more than they were.
    """
    counts = np.bincount(train_text, minlength=256)
    if not counts[held_out].all():
        counts = counts + 1
    return float(np.mean(-np.log2(counts[held_out] / counts.sum())))


def _training(run: Run, trained: Sequence[Trained]) -> Section:
    caption = (
        "Bits per byte of the windows of each step (running mean), and of an evenly spaced part of "
        "the windows of what was held out."
    )
    header = ("net", "parameters", "steps", "bits per byte, held out", "seconds", "CPU seconds")
    rows = [
        (
            one.net.name, tree.size(one.params), len(one.train_bits), f"{one.bits:.3f}",
            round(one.seconds), round(one.cpu_seconds),
        )
        for one in trained
    ]  # fmt: skip
    table = Table(
        header,
        rows,
        "At the end, on all that was held out: windows half a context apart, of each its second "
        "half. Seconds include compilation and measurements.",
    )
    picture = saved_picture(run, "curves.png", pictures.curves(trained), caption)
    return Section("Training", [picture, table])


def _samples(
    trained: Sequence[Trained], written: Sequence[Sequence[str]], config: dict[str, object]
) -> Section:
    blocks: list[Block] = [
        Paragraph(
            f"Sampled byte by byte after {config['prompt']!r}, at temperature "
            f"{config['temperature']}, from the likeliest bytes that make up {config['top_p']} of "
            "the probability: one compiled scan for all samples."
        )
    ]
    for one, samples in zip(trained, written, strict=True):
        blocks.append(Paragraph(f"The {one.net.name}:"))
        blocks += [Code(f"{config['prompt']}{sample}".strip("\n")) for sample in samples]
    return Section("What they write", blocks)


def _byte_by_byte(run: Run, trained: Sequence[Trained], found: Looks) -> Section:
    names = [one.net.name for one in trained]
    blocks: list[Block] = [
        Paragraph(
            "A passage from the middle of what was held out, and how many bits each byte cost."
        ),
        saved_picture(
            run,
            "surprise.png",
            pictures.surprise(found.surprises, names, found.line),
            "Bits of each byte; those above 6 are red.",
        ),
    ]
    if found.attention is not None:
        block, head = found.head
        blocks.append(
            saved_picture(
                run,
                "attention.png",
                pictures.attention(found.attention, found.line),
                f"Where the transformer looks: head {head + 1} of block {block + 1}, which of all "
                "heads looks back farthest on this passage.",
            )
        )
    return Section("Byte by byte", blocks)


def _passages(found: Looks) -> Section:
    blocks: list[Block] = [
        Paragraph(
            f"Passages that were held out, by the norm of each one's own gradient in the "
            f"{found.judge}: how much it would have to change for that passage alone."
        )
    ]
    n = min(SHOWN, len(found.passages))
    for title, shown in (
        ("The hardest", found.passages[:n]),
        ("The easiest", found.passages[::-1][:n]),
    ):
        blocks.append(Paragraph(f"{title}:"))
        for one in shown:
            blocks.append(Paragraph(f"norm {one.norm:.3g}, {one.bits:.2f} bits per byte"))
            blocks.append(Code(text_of(one.content)))
    return Section("The hardest passages", blocks)
