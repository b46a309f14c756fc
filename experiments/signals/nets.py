"""The nets that classify signals, and how each is trained on each data set."""

from typing import Literal, NamedTuple

from experiments.data.signals import Signals
from experiments.sequences import Classifier
from jaxnets import models
from jaxnets.types import Array, Key, Params

MODELS = ("cnn", "gru", "lstm", "rnn")

CELLS: dict[str, Literal["gru", "lstm", "vanilla"]] = {
    "gru": "gru",
    "lstm": "lstm",
    "rnn": "vanilla",
}

NAMES = {
    "cnn": "1-D CNN",
    "gru": "bidirectional GRU",
    "lstm": "bidirectional LSTM",
    "rnn": "bidirectional vanilla RNN",
}


class Recipe(NamedTuple):
    """How a net is trained on a data set."""

    width: int
    """Channels of each convolution, or features of each direction."""
    learning_rate: float
    batch_size: int
    epochs: int


RECIPES = {
    "JapaneseVowels": {"cnn": Recipe(64, 3e-3, 32, 100), "gru": Recipe(64, 3e-3, 32, 100)},
    "ElectricDevices": {"cnn": Recipe(64, 3e-3, 64, 20), "gru": Recipe(64, 3e-3, 64, 20)},
    "FordA": {"cnn": Recipe(64, 1e-3, 32, 40), "gru": Recipe(64, 1e-3, 32, 40)},
}
QUICK = {
    "JapaneseVowels": {"cnn": Recipe(32, 3e-3, 32, 100), "gru": Recipe(32, 3e-3, 32, 100)},
    "ElectricDevices": {"cnn": Recipe(32, 3e-3, 64, 8), "gru": Recipe(32, 3e-3, 64, 8)},
    "FordA": {"cnn": Recipe(32, 3e-3, 64, 10), "gru": Recipe(32, 3e-3, 64, 10)},
}
OTHERS = Recipe(32, 3e-3, 16, 100)


def recipe_for(data: str, model: str, *, quick: bool) -> Recipe:
    """The recipe of a net for the data set called `data`; recurrent nets share one."""
    known = (QUICK if quick else RECIPES).get(data, {})
    return known.get("cnn" if model == "cnn" else "gru", OTHERS)


def make_classifier(model: str, signals: Signals, *, width: int, dropout: float) -> Classifier:
    """The net called `model` for `signals`."""
    channels, classes = signals.train.x.shape[-1], len(signals.classes)
    # lengths that are all T need no masks
    steps = signals.train.x.shape[1]
    padded = any((part.lengths < steps).any() for part in (signals.train, signals.test))
    if model == "cnn":
        cnn = models.SignalCNNConfig(
            channels, classes, (width, 2 * width, width), dropout_rate=dropout
        )

        def cnn_logits(params: Params, x: Array, lengths: Array, key: Key | None = None) -> Array:
            return models.signal_cnn(params, cnn, x, lengths=lengths if padded else None, key=key)

        return Classifier(NAMES[model], lambda key: models.init_signal_cnn(key, cnn), cnn_logits)
    rnn = models.RNNConfig(
        channels, classes, CELLS[model], (width,),
        bidirectional=True, readout="mean", dropout_rate=dropout,
    )  # fmt: skip

    def rnn_logits(params: Params, x: Array, lengths: Array, key: Key | None = None) -> Array:
        return models.rnn(params, rnn, x, lengths=lengths if padded else None, key=key)

    return Classifier(NAMES[model], lambda key: models.init_rnn(key, rnn), rnn_logits)
