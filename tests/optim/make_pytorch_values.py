"""The recipe of `pytorch.json`: where PyTorch's optimizers arrive after 12 steps, in float64.

It needs torch, which the tests do not:

    python -m tests.optim.make_pytorch_values
"""

import json
from pathlib import Path

import numpy as np
import torch

STEPS = 12
# no default is relied on, so that a new one cannot change what the names below mean
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd L2": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.999), eps=1e-8),
    "adam L2": lambda p: torch.optim.Adam(
        p, lr=0.1, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.01
    ),
    "adamw": lambda p: torch.optim.AdamW(
        p, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01
    ),
    "amsgrad": lambda p: torch.optim.Adam(
        p, lr=0.1, betas=(0.9, 0.9), eps=1e-3, weight_decay=0, amsgrad=True
    ),
    "amsgradw": lambda p: torch.optim.AdamW(
        p, lr=0.1, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.01, amsgrad=True
    ),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1, betas=(0.9, 0.9), eps=1e-8),
    "nadam": lambda p: torch.optim.NAdam(
        p, lr=0.1, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3
    ),
    "nadam L2": lambda p: torch.optim.NAdam(
        p, lr=0.1, betas=(0.8, 0.9), eps=1e-3, momentum_decay=0.5, weight_decay=0.01
    ),
    "nadamw": lambda p: torch.optim.NAdam(
        p,
        lr=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
        momentum_decay=4e-3,
        weight_decay=0.01,
        decoupled_weight_decay=True,
    ),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1, betas=(0.9, 0.999), eps=1e-8),
    "radam eps": lambda p: torch.optim.RAdam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(
        p, lr=0.1, lr_decay=0, initial_accumulator_value=0, eps=1e-10
    ),
    "adagrad lr_decay": lambda p: torch.optim.Adagrad(
        p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.5, eps=1e-2
    ),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, rho=0.9, eps=1e-6),
    "adadelta L2": lambda p: torch.optim.Adadelta(p, lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.99, eps=1e-8),
    "rmsprop eps": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-2),
    "rmsprop centered": lambda p: torch.optim.RMSprop(
        p, lr=0.01, alpha=0.9, eps=1e-3, centered=True
    ),
    "rmsprop momentum": lambda p: torch.optim.RMSprop(
        p, lr=0.01, alpha=0.9, eps=1e-8, momentum=0.5
    ),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1, etas=(0.5, 1.2), step_sizes=(1e-6, 50)),
    "rprop bounds": lambda p: torch.optim.Rprop(p, lr=0.1, etas=(0.4, 1.5), step_sizes=(0.07, 0.2)),
}


def final(make, start, gradients):
    """The parameters after one step for each of `gradients`."""
    params = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in start]
    optimizer = make(params)
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    return [p.detach().numpy().tolist() for p in params]


def entries(values):
    """The inside of a JSON object, an entry a line."""
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in values.items())


def main():
    # or NAdam would keep its running product in float32, whatever the parameters are
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (3,), ()]

    def draw(scale):
        # rounded, so that the file can be read; of magnitudes down to where eps matters
        return [
            np.round(scale * rng.normal(size=shape) * 10.0 ** rng.integers(-2, 1, shape), 4)
            for shape in shapes
        ]

    start, gradients = draw(1.0), [draw(0.5) for _ in range(STEPS)]
    gradients[4][1][:] = 0.0
    inputs = {
        "torch": torch.__version__.partition("+")[0],
        "start": [x.tolist() for x in start],
        "gradients": [[g.tolist() for g in grads] for grads in gradients],
    }
    finals = {name: final(make, start, gradients) for name, make in OPTIMIZERS.items()}
    path = Path(__file__).with_name("pytorch.json")
    path.write_text(f'{{\n{entries(inputs)},\n"final": {{\n{entries(finals)}\n}}}}\n')


if __name__ == "__main__":
    main()
