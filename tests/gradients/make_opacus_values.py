"""The recipe of `opacus.json`: per-sample gradients and clipped sums by Opacus, in float64.

It needs opacus and torch, which the tests do not:

    python -m tests.gradients.make_opacus_values
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention
from opacus.optimizers import DPOptimizer
from torch import nn

BATCH = 3


class Recurrent(nn.Module):
    """The outputs of a recurrent layer, without its last state."""

    def __init__(self, kind, *sizes, **options):
        super().__init__()
        self.layer = kind(*sizes, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x)[0]


class Attention(nn.Module):
    """With the batch as the second axis inside: with `batch_first` Opacus's mixes the heads up."""

    batch_first = False

    def __init__(self, width, heads, **options):
        super().__init__()
        self.layer = DPMultiheadAttention(width, heads, **options)

    def forward(self, *inputs):
        return self.layer(*(x.swapaxes(0, 1) for x in inputs))[0].swapaxes(0, 1)


class Bag(nn.Module):
    """An `EmbeddingBag` over bags of one size, for which Opacus wants offsets."""

    def __init__(self, *sizes, mode):
        super().__init__()
        self.layer = nn.EmbeddingBag(*sizes, mode=mode)

    def forward(self, ids):
        return self.layer(ids.ravel(), torch.arange(0, ids.numel(), ids.shape[1]))


def convolutional_net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 2, 3, stride=2),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def real(rng, shape):
    # rounded, so that the file can be read
    return np.round(rng.normal(size=shape), 3)


ROWS = 7


def some_rows(rng, shape):
    return rng.integers(0, ROWS, shape)


def distinct_rows(rng, shape):
    # Opacus counts a row once that is several times in one bag
    return np.stack([rng.permutation(ROWS)[: shape[1]] for _ in range(shape[0])])


# name: the layer, the shape of each input for one example, and how it is drawn; our own side of
# each is in `test_opacus.py`
LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), [(5,)], real),
    "linear over a sequence": (lambda: nn.Linear(4, 3), [(6, 4)], real),
    "conv 1-D": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), [(3, 9)], real),
    "conv 2-D": (
        lambda: nn.Conv2d(2, 3, (3, 2), padding=(1, 0), dilation=(1, 2)),
        [(2, 5, 6)],
        real,
    ),
    "conv 3-D": (lambda: nn.Conv3d(2, 2, 2, stride=(1, 2, 1), padding=1), [(2, 3, 4, 3)], real),
    "conv grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), [(4, 4, 5)], real),
    "conv depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3), [(3, 5, 4)], real),
    "embedding": (lambda: nn.Embedding(ROWS, 3), [(5,)], some_rows),
    "embedding bag, sum": (lambda: Bag(ROWS, 3, mode="sum"), [(4,)], distinct_rows),
    "embedding bag, mean": (lambda: Bag(ROWS, 3, mode="mean"), [(4,)], distinct_rows),
    "layer norm": (lambda: nn.LayerNorm(6), [(4, 6)], real),
    "rms norm": (lambda: nn.RMSNorm(6, eps=1e-5), [(4, 6)], real),
    "group norm": (lambda: nn.GroupNorm(2, 4), [(4, 3, 2)], real),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), [(3, 4, 3)], real),
    "rnn": (lambda: Recurrent(DPRNN, 3, 4), [(5, 3)], real),
    "gru": (lambda: Recurrent(DPGRU, 3, 2), [(5, 3)], real),
    "lstm": (lambda: Recurrent(DPLSTM, 3, 2), [(5, 3)], real),
    "lstm, two layers": (lambda: Recurrent(DPLSTM, 2, 2, num_layers=2), [(4, 2)], real),
    "attention": (lambda: Attention(4, 2), [(2, 4), (5, 4), (5, 4)], real),
    "attention, key and value biases": (
        lambda: Attention(4, 2, add_bias_kv=True),
        [(2, 4), (4, 4), (4, 4)],
        real,
    ),
    "convolutional net": (convolutional_net, [(1, 6, 6)], real),
}


def values(make, shapes, draw, seed):
    """The layer's parameters, a batch, and what Opacus finds for it."""
    rng = np.random.default_rng(seed)
    layer = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.tensor(real(rng, parameter.shape)))
    inputs = [draw(rng, (BATCH, *shape)) for shape in shapes]
    batch_first = getattr(layer, "batch_first", True)
    model = GradSampleModule(layer, batch_first=batch_first, loss_reduction="sum")
    outputs = model(*map(torch.tensor, inputs))
    targets = real(rng, outputs.shape)
    (0.5 * torch.sum((outputs - torch.tensor(targets)) ** 2)).backward()
    own = {name: p.grad_sample for name, p in layer.named_parameters()}
    norms = torch.stack([g.reshape(BATCH, -1).norm(dim=1) for g in own.values()]).norm(dim=0)
    # some examples above it, some below
    clip = round(norms.median().item(), 3)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=clip,
        expected_batch_size=BATCH, loss_reduction="sum",
    )  # fmt: skip
    optimizer.clip_and_accumulate()
    return {
        "params": {name: p.tolist() for name, p in layer.named_parameters()},
        "inputs": [x.tolist() for x in inputs],
        "targets": targets.tolist(),
        "gradients": {name: g.tolist() for name, g in own.items()},
        "clip": clip,
        "clipped sum": {name: p.summed_grad.tolist() for name, p in layer.named_parameters()},
    }


def main():
    torch.set_default_dtype(torch.float64)
    found = {
        name: values(make, shapes, draw, seed)
        for seed, (name, (make, shapes, draw)) in enumerate(LAYERS.items())
    }
    versions = {p: importlib.metadata.version(p).partition("+")[0] for p in ("opacus", "torch")}
    lines = [f'"versions": {json.dumps(versions)}']
    lines += [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    path = Path(__file__).with_name("opacus.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
