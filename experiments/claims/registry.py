"""All claims, in the order in which a course tells them."""

CLAIMS: dict[str, str] = {
    "momentum": "experiments.claims.momentum",
    "learning_rate": "experiments.claims.learning_rate",
    "adaptive": "experiments.claims.adaptive",
    "batch_size": "experiments.claims.batch_size",
}
"""Name on the command line -> module."""
