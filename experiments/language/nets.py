"""The two nets: logits of every next byte, and one byte after the other from a state."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from experiments.language.sizes import Sizes
from jaxnets import models, nn
from jaxnets.models.decode import Advance, generate, sampler
from jaxnets.optim import MuonDimensionNumbers
from jaxnets.types import Array, Key, Params, PyTree

BYTES = 256


class Net(NamedTuple):
    """A model of bytes."""

    name: str
    config: Any
    init: Callable[[Key], Params]
    logits: Callable[..., Array]
    """`logits(params, ids [T], key=None)`, `[T, 256]`: of each next byte."""
    advance: Callable[[Params], Advance]
    """For `jaxnets.models.decode.generate`."""
    start: Callable[[Params, int], PyTree]
    """`start(params, length)`: the state before the first of `length` bytes."""
    matrices: Mapping[str, MuonDimensionNumbers | None]
    """Path rules for what Muon trains; embeddings, the readout, biases and scales are Adam's."""


Make: TypeAlias = Callable[[Sizes], Net]


def transformer(sizes: Sizes) -> Net:
    """In LLaMA's form: rotary positions, RMS norms, a gated MLP, no biases.

    While it writes, it sees as far back as it did in training.
    """
    config = models.TransformerConfig(
        BYTES,
        depth=sizes.depth,
        features=sizes.features,
        heads=sizes.heads,
        hidden=_multiple(8 * sizes.features // 3, 16),
        activation=nn.silu,
        gated=True,
        norm="rms_norm",
        positions="rotary",
        bias=False,
        window=sizes.context,
        dropout_rate=sizes.dropout,
        dtype=jnp.dtype(sizes.dtype),
    )

    def advance(params: Params) -> Advance:
        return lambda ids, caches, start: models.continue_transformer(
            params, config, ids, caches, start
        )

    return Net(
        "transformer",
        config,
        lambda key: models.init_transformer(key, config),
        lambda params, ids, key=None: models.transformer(params, config, ids, key=key),
        advance,
        lambda params, length: models.transformer_caches(config, length),
        {
            "attention/(query|key|value)/kernel$": MuonDimensionNumbers(0, (1, 2)),
            "attention/out/kernel$": MuonDimensionNumbers((0, 1), 2),
            "mlp/.*kernel$": MuonDimensionNumbers(),
            ".*": None,
        },
    )


def lstm(sizes: Sizes) -> Net:
    """An LSTM of one or more layers, with a readout at each byte."""
    config = models.RNNConfig(
        sizes.embedding,
        BYTES,
        hidden=(sizes.hidden,) * sizes.layers,
        readout="each",
        vocabulary=BYTES,
        dropout_rate=sizes.dropout,
        dtype=jnp.dtype(sizes.dtype),
    )

    def advance(params: Params) -> Advance:
        return lambda ids, carry, _: models.rnn_with_carry(params, config, ids, carry)

    return Net(
        "lstm",
        config,
        lambda key: models.init_rnn(key, config),
        lambda params, ids, key=None: models.rnn(params, config, ids, key=key),
        advance,
        lambda params, _: models.zero_rnn_carry(params, config),
        {"^layers/.*kernel$": MuonDimensionNumbers(), ".*": None},
    )


MAKE: dict[str, Make] = {"transformer": transformer, "lstm": lstm}


def write(
    net: Net, params: Params, prompt: Array, steps: int, keys: Key, *, temperature: float, p: float
) -> Array:
    """`[n, steps]` bytes that go on from the prompt, sampled with `n` keys; one scan for all."""

    def one(key: Key) -> Array:
        return generate(
            net.advance(params), net.start(params, len(prompt) + steps), prompt, steps,
            choose=sampler(temperature, p=p), key=key,
        )  # fmt: skip

    written: Array = jax.vmap(one)(keys)
    return written


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of
