"""All claims, in the order in which a course tells them."""

CLAIMS: dict[str, str] = {
    "initialization": "experiments.claims.initialization",
    "vanishing": "experiments.claims.vanishing",
    "dying_relu": "experiments.claims.dying_relu",
    "exploding": "experiments.claims.exploding",
    "bptt": "experiments.claims.bptt",
    "momentum": "experiments.claims.momentum",
    "learning_rate": "experiments.claims.learning_rate",
    "adaptive": "experiments.claims.adaptive",
    "batch_size": "experiments.claims.batch_size",
    "overfitting": "experiments.claims.overfitting",
    "batch_norm": "experiments.claims.batch_norm",
    "double_descent": "experiments.claims.double_descent",
    "plateaus": "experiments.claims.plateaus",
    "modes": "experiments.claims.modes",
    "selection": "experiments.claims.selection",
}
"""Name on the command line -> module."""
