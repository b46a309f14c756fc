"""PyTorch's LSTMs, which have two biases where one is enough: `W x + b + U h + c`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.pretrained.names import Rules

_IN, _OUT = "bias_ih_l", "bias_hh_l"


def _names(direction: str, suffix: str) -> Rules:
    layer = rf"layers/(\d+)/{direction}"
    return {
        rf"{layer}/input/kernel": rf"weight_ih_l\1{suffix}",
        rf"{layer}/hidden/kernel": rf"weight_hh_l\1{suffix}",
        rf"{layer}/input/bias": rf"{_IN}\1{suffix}",
    }


LSTM_NAMES: Rules = {**_names("forward", ""), **_names("backward", "_reverse")}
"""Of the layers of `models.rnn` as a `torch.nn.LSTM`, its biases joined."""


def join_biases(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`b + c` as `b`, and no `c`: the state dict that `from_state_dict` takes with `LSTM_NAMES`.

    Raises:
      ValueError: if a bias has no partner.
    """
    joined = {name: np.asarray(x) for name, x in state_dict.items() if _OUT not in name}
    for name in (name for name in state_dict if _OUT in name):
        if (partner := name.replace(_OUT, _IN)) not in joined:
            raise ValueError(f"join_biases: {name!r} has no {partner!r}")
        joined[partner] = joined[partner] + np.asarray(state_dict[name])
    return joined


def split_biases(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`b` as it is and zeros as `c`: the state dict of `to_state_dict` as PyTorch takes it."""
    split = {name: np.asarray(x) for name, x in state_dict.items()}
    return split | {
        name.replace(_IN, _OUT): np.zeros_like(x) for name, x in split.items() if _IN in name
    }
