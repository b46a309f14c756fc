"""What the experiment shows: on the terminal, and in its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import Dataset
from experiments.data.dataset import Images
from experiments.images import pictures
from experiments.images.task import SHOWN, Grid, Outcome
from experiments.report import (
    Block,
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

TITLES = {
    "autoencoder": "Autoencoder",
    "denoising": "Denoising autoencoder",
    "vae": "Variational autoencoder",
    "gan": "Generative adversarial net",
    "diffusion": "Diffusion",
    "flow": "Flow matching",
}

TEXTS = {
    "autoencoder": "An encoder to a few numbers and a decoder back, by the squared error. It makes "
    "no images of its own: what is measured is its reconstructions of the test images.",
    "denoising": "The same nets, the input with noise and the output compared with the image "
    "without. Here too, the reconstructions of the test images are measured.",
    "vae": "The encoder puts out a normal distribution, held near the standard one; samples decode "
    "draws from that. Shown are the decoder's means, not draws of each pixel.",
    "gan": "A generator and a discriminator in alternating steps of the non-saturating game; "
    "samples are of a moving average of the generator's parameters.",
    "diffusion": "A U-Net learns to undo noise of every strength, and is told the class nine times "
    "in ten; samples are of a moving average of its parameters, by ancestral steps or by fewer of "
    "DDIM, following the class by classifier-free guidance.",
    "flow": "The same U-Net learns the velocity from noise to images along straight lines; samples "
    "solve its differential equation by Heun's method.",
}


class Score(NamedTuple):
    """How far some images are from the training images."""

    model: str
    """Empty for what no model made."""
    how: str
    distance: float
    """Fréchet's, of the classifier's features."""
    as_asked: float | None
    """The share that the classifier reads as the class that was asked for, if any was."""


class Results(NamedTuple):
    """All that the experiment found."""

    accuracy: float
    """The classifier's, on all test images."""
    test: Images
    """The test images that samples are beside."""
    scores: Sequence[Score]
    outcomes: Mapping[str, Outcome]


def print_results(results: Results) -> None:
    """The results on the terminal."""
    print(f"the classifier's test accuracy: {100 * results.accuracy:.2f} %")
    print(f"Fréchet distance of {len(results.test)} images to the training images:")
    for score in results.scores:
        asked = "" if score.as_asked is None else f"  {100 * score.as_asked:.1f} % as asked"
        print(f"  {_name(score):<60} {score.distance:8.2f}{asked}")
    for model, outcome in results.outcomes.items():
        facts = "".join(f", {name} {value:.4g}" for name, value in outcome.facts.items())
        print(f"{TITLES[model]}: {outcome.seconds:.0f} s of training{facts}")


def _name(score: Score) -> str:
    return f"{TITLES[score.model]}, {score.how}" if score.model else score.how


def write_report(run: Run, data: Dataset, results: Results) -> Path:
    """The pictures as PNG files and `report.html`; returns the report's path."""
    described = read_config(run)
    report = Report(
        title=f"Images made by models of {data.name}",
        summary=_summary(data, results),
        sections=[
            _samples(run, results),
            *(_model(run, name, outcome, results) for name, outcome in results.outcomes.items()),
            _losses(run, results),
            Section("Settings", [config_table(described["config"])]),
        ],
        footer=[versions_line(described["environment"])],
    )
    return write_text(run, "report.html", render(report))


def _made(results: Results) -> list[Score]:
    """The scores of samples; reconstructions are not any."""
    return [s for s in results.scores if s.model and s.how != "reconstructions"]


def _summary(data: Dataset, results: Results) -> str:
    floor, *_, pixels = [score for score in results.scores if not score.model]
    text = (
        f"The Fréchet distance to the {len(data.train_y):,} training images of {data.name} is "
        f"{floor.distance:.3g} for {len(results.test):,} test images and {pixels.distance:.3g} for "
        "independent normal pixels."
    )
    if made := _made(results):
        best = min(made, key=lambda score: score.distance)
        text += (
            f" The nearest samples have {best.distance:.3g} ({_name(best)}), the least of "
            f"{len(made)}: chosen by that distance itself, not beforehand."
        )
    return text


def _samples(run: Run, results: Results) -> Section:
    shown: dict[str, Images] = {"test images": results.test}
    for name, outcome in results.outcomes.items():
        made = {how: s for how, s in outcome.samples.items() if how != "reconstructions"}
        if made:
            how, first = next(iter(made.items()))
            shown[TITLES[name] if how == "samples" else f"{TITLES[name]},\n{how}"] = first.images
    columns = min(SHOWN, len(results.test) // 2)
    grid = Grid(
        np.stack([x[i : i + columns] for x in shown.values() for i in (0, columns)]),
        [label if first else "" for label in shown for first in (True, False)],
        f"Two rows of each, the first {2 * columns} drawn; none are chosen.",
    )
    text = (
        "A classifier trained on the training images looks at the test images and at what each "
        "model makes; compared are the mean and the covariance of its last hidden layer's "
        f"activations with those of the training images. It reads {100 * results.accuracy:.2f} % "
        f"of the test images rightly. All distances are of {len(results.test):,} images, so that "
        "the error of the estimate is alike: that of the test images is what perfect samples would "
        "have."
    )
    distances = [
        (
            _name(score),
            score.distance,
            None if score.as_asked is None else f"{100 * score.as_asked:.1f} %",
        )
        for score in results.scores
    ]
    header = ("images", "Fréchet distance", "read as asked")
    return Section(
        "Samples",
        [
            saved_picture(run, "samples.png", pictures.images(grid), grid.caption),
            Paragraph(text),
            Table(header, distances, "To the training images; the lower the nearer."),
        ],
    )


def _model(run: Run, name: str, outcome: Outcome, results: Results) -> Section:
    blocks: list[Block] = [Paragraph(TEXTS[name])]
    for picture, grid in outcome.grids.items():
        figure = pictures.images(grid)
        blocks.append(saved_picture(run, f"{name}_{picture}.png", figure, grid.caption))
    facts = {
        **outcome.facts,
        "parameters": outcome.parameters,
        "steps": len(next(iter(outcome.losses.values()))),
        "seconds of training": round(outcome.seconds, 1),
    }
    caption = f"On the {len(results.test):,} test images, and of training."
    blocks.append(Table(("", "value"), list(facts.items()), caption))
    return Section(TITLES[name], blocks)


def _losses(run: Run, results: Results) -> Section:
    found = {TITLES[name]: outcome.losses for name, outcome in results.outcomes.items()}
    caption = f"Losses of the training batches, in means of at most {pictures.POINTS} parts of all."
    picture = saved_picture(run, "losses.png", pictures.losses(found), caption)
    return Section("Training", [picture])
