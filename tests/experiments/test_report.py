import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import image

from experiments import plots
from experiments.report import (
    Code,
    Facts,
    Paragraph,
    Picture,
    Report,
    Section,
    Table,
    config_table,
    render,
    resumption_lines,
    versions_line,
)

RNG = np.random.default_rng(0)
CLASSES = ("zero", "one", "two")
LABELS = np.arange(30) % 3
NORMS = RNG.lognormal(size=30)
IMAGES = RNG.uniform(size=(30, 8, 8, 1)).astype(np.float32)
LINES = [
    plots.Line("ours", np.arange(20), np.linspace(2, 0.1, 20)),
    plots.Line("ours", [10, 20], [0.5, 0.3], "test"),
    plots.Line("theirs", np.arange(20), np.linspace(2, 0.1, 20)),
]

FIGURES = {
    "loss": lambda: plots.loss_curves(LINES),
    "accuracy": lambda: plots.accuracy_curves(LINES),
    "norms": lambda: plots.gradient_norms(NORMS, LABELS, CLASSES),
    "norms with zeros": lambda: plots.gradient_norms(NORMS * (NORMS > 1), LABELS, CLASSES),
    "hardest": lambda: plots.hardest_examples(IMAGES, LABELS, LABELS[::-1], NORMS, CLASSES),
    "two channels": lambda: plots.hardest_examples(
        np.repeat(IMAGES, 2, -1), LABELS, LABELS[::-1], NORMS, CLASSES
    ),
    "four channels": lambda: plots.hardest_examples(
        np.repeat(IMAGES, 4, -1), LABELS, LABELS[::-1], NORMS, CLASSES
    ),
    "confusion": lambda: plots.confusion_matrix(LABELS, LABELS[::-1], CLASSES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_plots_are_pictures_with_something_on_them(name):
    pixels = image.imread(io.BytesIO(plots.png(FIGURES[name]())))
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


@pytest.mark.parametrize("name", ["$^$", "$x", "a$b$", r"\$"])
def test_class_names_are_no_formulas(name):
    classes = (name, "one", "two")
    for figure in (
        plots.hardest_examples(IMAGES, LABELS, LABELS[::-1], NORMS, classes),
        plots.gradient_norms(NORMS, LABELS, classes),
        plots.confusion_matrix(LABELS, LABELS[::-1], classes),
    ):
        assert plots.png(figure)
    # as Matplotlib draws it
    label = figure.axes[0].get_yticklabels()[0]
    assert label._preprocess_math(label.get_text()) == (name, False)


def test_plots_leave_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.png(plots.loss_curves(LINES))
    assert dict(matplotlib.rcParams) == before


def test_the_hardest_come_first():
    figure = plots.hardest_examples(IMAGES, LABELS, LABELS, NORMS, CLASSES, count=5)
    shown = [float(axes.get_xlabel()) for axes in figure.axes[:5]]
    np.testing.assert_allclose(shown, np.sort(NORMS)[::-1][:5], rtol=5e-3)


def test_no_example_is_left_out_of_the_histograms():
    for seed in range(20):
        norms = np.random.default_rng(seed).lognormal(size=30)
        figure = plots.gradient_norms(norms, LABELS, CLASSES)
        written = {text.get_text() for text in figure.axes[0].texts}
        assert written == {"n = 10"}


def test_plots_refuse_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="one norm and one label per example"):
        plots.gradient_norms(NORMS, LABELS[:5], CLASSES)
    with pytest.raises(ValueError, match="must be finite"):
        plots.gradient_norms(NORMS * np.nan, LABELS, CLASSES)
    with pytest.raises(ValueError, match="no lines"):
        plots.loss_curves([])


def report(**changes):
    sections = [
        Section(
            "Part <1>",
            [
                Paragraph("one & two\n\nthree"),
                Facts({"a": 1.5}),
                Table(("name", "value"), [("x", 0.25), ("<y>", None), ("z", True)], "caption"),
                Picture(plots.png(plots.loss_curves(LINES)), 'a "picture"'),
                Code("a < b"),
            ],
        )
    ]
    return render(Report("T <t>", "S", sections, **changes))


class Checker(HTMLParser):
    """Collects text and attributes, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img", "link", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_is_well_formed_escaped_and_needs_nothing_else():
    checker = Checker()
    html = report(facts={"k": 3}, footer=["jax <1>", "resumed & on"])
    checker.feed(html)
    assert checker.open == []
    for expected in ("T <t>", "Part <1>", "one & two", "<y>", "a < b", "jax <1>", "resumed & on"):
        assert expected in checker.text
    addresses = [value for _, name, value in checker.attributes if name in ("src", "href")]
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert base64.b64decode(addresses[0].split(",")[1]).startswith(b"\x89PNG")
    assert "<script" not in html
    assert not re.search(r"url\(|@import|https?://", html)


def test_only_pngs_are_pictures():
    with pytest.raises(ValueError, match="captioned 'x' is not a PNG"):
        render(Report("T", "S", [Section("s", [Picture(b"GIF89a", "x")])]))


def test_config_and_versions():
    table = config_table({"a": 1, "b": {"c": 2}})
    assert table.rows == [("a", 1), ("b.c", 2)]
    environment = {
        "python": "3.11",
        "optax": None,
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "git": {"revision": "a" * 40, "dirty": True},
    }
    line = versions_line(environment)
    assert line == "python 3.11 · 1 × cpu (cpu) · revision aaaaaaaaaaaa with changes"


def test_resumptions_are_lines_of_the_footer():
    assert resumption_lines({}) == []
    note = {"at": "2026-01-01", "steps": {}, "environment": {"jax": "0.10.2"}}
    assert resumption_lines({"resumed": [note]}) == ["resumed 2026-01-01 · jax 0.10.2"]
