"""The recipe of `pytorch_recurrent.json`: PyTorch's LSTM and GRU, and all gradients, in float64.

It needs torch, which the tests do not:

    python -m tests.nn.make_pytorch_recurrent
"""

import json
from pathlib import Path

import numpy as np
import torch

N_IN, FEATURES = 2, 3
LENGTHS = [4, 2]


def values(kind, rng):
    """Two layers in both directions over padded sequences, as torch names its weights."""
    net = getattr(torch.nn, kind)(
        N_IN, FEATURES, num_layers=2, bidirectional=True, batch_first=True
    )
    weights = {name: np.round(0.5 * rng.normal(size=p.shape), 3) for name, p in
               net.named_parameters()}  # fmt: skip
    net.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    x = torch.tensor(np.round(rng.normal(size=(2, 4, N_IN)), 3), requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True)
    packed, last = net(packed)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    lasts = last if isinstance(last, tuple) else (last,)
    (torch.sin(3 * y).sum() + sum((z**2).sum() for z in lasts)).backward()
    return {
        "x": x.tolist(),
        "weights": {name: w.tolist() for name, w in weights.items()},
        "y": y.tolist(),
        "last": [z.tolist() for z in lasts],
        "x gradient": x.grad.tolist(),
        "gradients": {name: p.grad.tolist() for name, p in net.named_parameters()},
    }


def main():
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    found = {"torch": torch.__version__.partition("+")[0], "lengths": LENGTHS}
    found |= {kind: values(kind, rng) for kind in ("LSTM", "GRU")}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in found.items())
    Path(__file__).with_name("pytorch_recurrent.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
