"""All claims, in the order in which a course tells them."""

CLAIMS: dict[str, str] = {
    "momentum": "experiments.claims.momentum",
    "adaptive": "experiments.claims.adaptive",
}
"""Name on the command line -> module."""
