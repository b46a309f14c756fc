"""All claims, in the order in which a course tells them."""

CLAIMS: dict[str, str] = {
    "initialization": "experiments.claims.initialization",
    "vanishing": "experiments.claims.vanishing",
    "dying_relu": "experiments.claims.dying_relu",
    "bptt": "experiments.claims.bptt",
    "momentum": "experiments.claims.momentum",
    "learning_rate": "experiments.claims.learning_rate",
    "adaptive": "experiments.claims.adaptive",
    "batch_size": "experiments.claims.batch_size",
    "overfitting": "experiments.claims.overfitting",
}
"""Name on the command line -> module."""
