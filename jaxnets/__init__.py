"""jaxnets: deep learning as pure functions in JAX, with the factors of backpropagation kept.

from jaxnets import gradients, losses, models, nn, optim, train
"""

from jaxnets import gradients, losses, models, nn, optim, pretrained, train, tree

__all__ = [
    "__version__",
    "gradients",
    "losses",
    "models",
    "nn",
    "optim",
    "pretrained",
    "train",
    "tree",
]

__version__ = "0.1.0"
