"""Makes soap.json: parameters after steps of the authors' SOAP, in float64.

Needs PyTorch (2.13 was used) and soap.py of github.com/nikhilvyas/SOAP at commit a1e5535, which
takes eigenvectors in float32 whatever the parameters; here in float64.

    python tests/optim/values/make_soap.py path/to/soap.py
"""

import json
import sys
from pathlib import Path

import numpy as np

STEPS = 12

# the Gram matrix of each axis has full rank, so that its eigenvectors are unique but for signs
SHAPES = {"square": (4, 4), "cube": (2, 3, 4), "wide": (3, 5), "vector": (5,), "window": (2, 2, 4)}

RUNS = {
    "soap": {"b1": 0.95, "b2": 0.95, "precondition_frequency": 3, "max_precond_dim": 4},
    "soap merged": {
        "b1": 0.9,
        "b2": 0.98,
        "shampoo_beta": 0.8,
        "eps": 1e-2,
        "precondition_frequency": 2,
        "max_precond_dim": 4,
        "merge_dims": True,
    },
}


def start():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).round(6) for name, shape in SHAPES.items()}


def gradient(x, step):
    return np.sin(3 + 7 * x + 0.7 * step) + 0.3 * x


def final(source, options):
    import torch

    torch.set_default_dtype(torch.float64)
    module = {}
    exec(source.replace(".float()", ".double()"), module)
    options = dict(options)
    betas = options.pop("b1"), options.pop("b2")
    first = start()
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in first.items()}
    optimizer = module["SOAP"](params.values(), lr=0.1, betas=betas, weight_decay=0.0, **options)
    for step in range(STEPS):
        for name, p in params.items():
            p.grad = torch.tensor(gradient(first[name], step))
        optimizer.step()
    return {name: p.detach().numpy().tolist() for name, p in params.items()}


if __name__ == "__main__":
    program = Path(sys.argv[1]).read_text()
    values = {name: final(program, options) for name, options in RUNS.items()}
    Path(__file__).with_name("soap.json").write_text(json.dumps(values, indent=None) + "\n")
