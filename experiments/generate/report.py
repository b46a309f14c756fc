"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.generate import pictures
from experiments.generate.generation import Generated, Language, Scores, pieces
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


class Results(NamedTuple):
    """All that the experiment found."""

    language: Language
    generated: Generated
    continuations: Sequence[NDArray[Any]]
    """Of each sample, up to the stop."""
    scores: Sequence[Scores]

    def text(self, sample: int) -> str:
        """A continuation as text, without the tokens that stand for none."""
        return str(self.language.tokenizer.decode(self.continuations[sample].tolist()))

    def bits(self, sample: int) -> float:
        """The mean surprise of a continuation's tokens."""
        return float(-np.log2(self.scores[sample].probabilities).mean())

    def records(self) -> list[dict[str, Any]]:
        """For the run's metrics: a line for each sample."""
        return [
            {
                "step": len(ids),
                "sample": index,
                "text": self.text(index),
                "ids": ids,
                "probabilities": self.scores[index].probabilities,
                "bits_per_token": self.bits(index),
                "tokens_per_second": self.generated.tokens_per_second,
            }
            for index, ids in enumerate(self.continuations)
        ]


def speed_line(generated: Generated) -> str:
    """Tokens a second, and of what."""
    samples, steps = generated.ids.shape
    times = "" if samples == 1 else f"{samples} × "
    return (
        f"{generated.tokens_per_second:.1f} tokens/s: {times}{steps} after a prompt of "
        f"{len(generated.prompt)} in {generated.seconds:.2f} s (the first run, with compiling, "
        f"{generated.first_seconds:.1f} s)"
    )


def print_results(prompt: str, results: Results) -> None:
    """The texts and their tokens' probabilities on the terminal."""
    for index, ids in enumerate(results.continuations):
        print(f"\n{prompt}{results.text(index)}\n")
        for row in token_rows(results.language, ids, results.scores[index]):
            token, probability, _, others = row
            print(f"  {probability:6.1%}  {token:<16} {others}")
        print(f"  {results.bits(index):.2f} bits a token")
    print(speed_line(results.generated))


def token_rows(
    language: Language, ids: NDArray[Any], scores: Scores
) -> list[tuple[str, float, float, str]]:
    """Of each token: its text, its probability, the entropy, and what was expected most."""
    rows = []
    for index, piece in enumerate(pieces(language, ids)):
        names = pieces(language, scores.likeliest[index])
        shares = scores.likeliest_probabilities[index]
        expected = ", ".join(f"{n} {p:.0%}" for n, p in zip(names, shares, strict=True))
        row = (float(scores.probabilities[index]), float(scores.entropy[index]))
        rows.append((piece, *row, expected))
    return rows


def write_report(run: Run, prompt: str, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    generated = results.generated
    report = Report(
        title="Text by SmolLM2-135M",
        summary=f"{prompt}{results.text(0)}",
        facts={
            "tokens a second": round(generated.tokens_per_second, 1),
            "bits a token": round(
                float(np.mean([*map(results.bits, range(len(results.scores)))])), 3
            ),
            "tokens of the prompt": len(generated.prompt),
        },
        sections=[
            *(_sample(run, prompt, results, index) for index in range(len(results.continuations))),
            Section("Speed", [Paragraph(f"{speed_line(generated)}.")]),
            Section("Settings", [config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _sample(run: Run, prompt: str, results: Results, index: int) -> Section:
    ids, scores = results.continuations[index], results.scores[index]
    many = len(results.continuations) > 1
    name = f"certainty_{index}.png" if many else "certainty.png"
    blocks: list[Block] = [
        Code(f"{prompt}{results.text(index)}"),
        saved_picture(
            run,
            name,
            pictures.certainty(pieces(results.language, ids), scores),
            "The probability of each token after all before it, as the model has it before "
            "temperature and cuts; a dash, that of the likeliest. Orange: another was likelier.",
        ),
        Table(
            ("token", "probability", "entropy (bits)", "expected most"),
            token_rows(results.language, ids, scores),
        ),
    ]
    return Section(f"Sample {index + 1}" if many else "The text", blocks)
