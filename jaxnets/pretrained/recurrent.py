"""Recurrent cells of other libraries: PyTorch's have two biases, Linen's a kernel for each gate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.pretrained.names import Rules
from jaxnets.types import PyTree

_IN, _OUT = "bias_ih_l", "bias_hh_l"

LSTM_GATES, GRU_GATES = "ifgo", "rzn"
"""In the order of our blocks, and PyTorch's."""


def _names(direction: str, suffix: str) -> Rules:
    layer = rf"layers/(\d+)/{direction}"
    return {
        rf"{layer}/input/kernel": rf"weight_ih_l\1{suffix}",
        rf"{layer}/hidden/kernel": rf"weight_hh_l\1{suffix}",
        rf"{layer}/input/bias": rf"{_IN}\1{suffix}",
        rf"{layer}/hidden/bias": rf"{_OUT}\1{suffix}",
    }


LSTM_NAMES: Rules = {**_names("forward", ""), **_names("backward", "_reverse")}
"""Of the layers of `models.rnn` as a `torch.nn.LSTM`, its biases joined."""

GRU_NAMES = LSTM_NAMES
"""The same of a `torch.nn.GRU`; of the hidden side's biases only the candidate's is left."""


def _blocks(state_dict: Mapping[str, Any], bias: str) -> int:
    """How many gates the cell has whose bias has this name."""
    rows, features = np.shape(state_dict[bias.replace(_OUT, "weight_hh_l")])
    return int(rows // features)


def join_biases(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict that `from_state_dict` takes with `LSTM_NAMES` or `GRU_NAMES`.

    An LSTM's `W x + b + U h + c` has one bias, `b + c`. So have a GRU's gates; its candidate keeps
    that of the hidden side, which the reset gate multiplies.

    Raises:
      ValueError: if a bias has no partner.
    """
    joined = {name: np.asarray(x) for name, x in state_dict.items()}
    for name in (name for name in state_dict if _OUT in name):
        if (partner := name.replace(_OUT, _IN)) not in joined:
            raise ValueError(f"join_biases: {name!r} has no {partner!r}")
        b, c = joined[partner], joined.pop(name)
        if _blocks(state_dict, name) == len(GRU_GATES):
            gates, joined[name] = np.split(c, [2 * len(c) // 3])
            c = np.concatenate([gates, np.zeros_like(joined[name])])
        joined[partner] = b + c
    return joined


def split_biases(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse: the state dict of `to_state_dict` as PyTorch takes it, with 0 as gates' `c`."""
    split = {name: np.asarray(x) for name, x in state_dict.items()}
    for name in (name for name in state_dict if _IN in name):
        c = np.zeros_like(split[name])
        if (partner := name.replace(_IN, _OUT)) in state_dict:
            c[-len(split[partner]) :] = split[partner]
        split[partner] = c
    return split


def _gates_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Of one of our cells; of anything else none."""
    if set(params) != {"input", "hidden"}:
        return ()
    shapes = [
        {name: np.shape(x) for name, x in side.items()} if isinstance(side, Mapping) else {}
        for side in (params["input"], params["hidden"])
    ]
    for gates in (("",), tuple(GRU_GATES), tuple(LSTM_GATES)):
        n_in, features = (shape.get("kernel", (0,))[0] for shape in shapes)
        columns = len(gates) * features
        hidden: dict[str, tuple[int, ...]] = {"kernel": (features, columns)}
        if len(gates) == len(GRU_GATES):
            hidden["bias"] = (features,)
        if shapes == [{"kernel": (n_in, columns), "bias": (columns,)}, hidden]:
            return gates
    return ()


def split_gates(params: PyTree) -> PyTree:
    """Each of our cells in a tree as Linen has it: a kernel for each gate.

    `{"input", "hidden"}` becomes `{"ii", …, "ho"}` of Linen's LSTM cells, `{"ir", …, "hn"}` of
    `linen.GRUCell` or `{"i", "h"}` of `linen.SimpleCell`. All else is left.
    """
    if isinstance(params, list | tuple):
        again = map(split_gates, params)
        return type(params)(*again) if hasattr(params, "_fields") else type(params)(again)
    if not isinstance(params, Mapping):
        return params
    gates = _gates_of(params)
    if not gates:
        return {name: split_gates(x) for name, x in params.items()}
    given, hidden = params["input"], params["hidden"]
    found: dict[str, dict[str, Any]] = {}
    for side, letter in ((given, "i"), (hidden, "h")):
        kernels = np.split(np.asarray(side["kernel"]), len(gates), -1)
        found |= {letter + g: {"kernel": k} for g, k in zip(gates, kernels, strict=True)}
    biases = np.split(np.asarray(given["bias"]), len(gates))
    for gate, bias in zip(gates, biases, strict=True):
        found[("h" if len(gates) == len(LSTM_GATES) else "i") + gate]["bias"] = bias
    if "bias" in hidden:
        found["hn"]["bias"] = np.asarray(hidden["bias"])
    return found


def join_gates(params: PyTree) -> PyTree:
    """The inverse of `split_gates`: Linen's cells in a tree as ours."""
    if isinstance(params, list | tuple):
        again = map(join_gates, params)
        return type(params)(*again) if hasattr(params, "_fields") else type(params)(again)
    if not isinstance(params, Mapping):
        return params
    for gates in (("",), tuple(GRU_GATES), tuple(LSTM_GATES)):
        if set(params) == {side + gate for side in "ih" for gate in gates}:
            return _joined(params, gates)
    return {name: join_gates(x) for name, x in params.items()}


def _joined(cell: Mapping[str, Any], gates: tuple[str, ...]) -> dict[str, Any]:
    def whole(side: str, leaf: str) -> np.ndarray:
        return np.concatenate([np.asarray(cell[side + gate][leaf]) for gate in gates], -1)

    biased = "h" if len(gates) == len(LSTM_GATES) else "i"
    given = {"kernel": whole("i", "kernel"), "bias": whole(biased, "bias")}
    hidden = {"kernel": whole("h", "kernel")}
    if len(gates) == len(GRU_GATES):
        hidden["bias"] = np.asarray(cell["hn"]["bias"])
    return {"input": given, "hidden": hidden}
