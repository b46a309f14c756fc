"""How large the nets are and how long they are trained: two forms, and flags over them."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """All that differs between the quick form and the full one."""

    context: int
    """Bytes in a window."""
    batch_size: int
    """Windows in a step."""
    steps: int
    learning_rate: float
    """Of matrices, by Muon, at its peak."""
    adam_learning_rate: float
    """Of all other parameters, by Adam."""
    depth: int
    """Blocks of the transformer."""
    features: int
    """Of its positions."""
    heads: int
    layers: int
    """Of the LSTM."""
    hidden: int
    """Features of each."""
    embedding: int
    """Features of a byte, in the LSTM."""
    dropout: float
    dtype: str
    """Of the computation; parameters are float32."""


QUICK = Sizes(
    context=128, batch_size=16, steps=1800, learning_rate=0.02,
    adam_learning_rate=3e-3,
    depth=4, features=128, heads=4, layers=1, hidden=256, embedding=64,
    dropout=0.0, dtype="float32",
)  # fmt: skip
"""Minutes on two CPU cores."""

FULL = Sizes(
    context=256, batch_size=64, steps=8000, learning_rate=0.02,
    adam_learning_rate=3e-3,
    depth=8, features=384, heads=6, layers=2, hidden=1024, embedding=128,
    dropout=0.2, dtype="bfloat16",
)  # fmt: skip
"""For an accelerator."""
