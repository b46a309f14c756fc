"""What a trained net makes of passages: where it looks, how sure it is, which are hardest."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.language.nets import Net
from experiments.language.training import Bytes, bits
from jaxnets import gradients, models, nn
from jaxnets.models.transformer import embed, position_options
from jaxnets.models.transformer_block import normalize, run_blocks
from jaxnets.types import Array, Params

PASSAGES = 256
"""Held-out windows, evenly spaced, whose gradients are looked at."""

SHOWN = 3

_CHUNK = 16
"""Passages at a time."""


def attention_maps(params: Params, config: models.TransformerConfig, ids: Array) -> Array:
    """`[depth, heads, T, T]`: with what weight each position looks at each of those before it.

    The weights are attention's output where the values are the identity.
    """
    maps = []
    for depth, block in enumerate(params["blocks"]):
        x = embed(params, config, ids)
        options = position_options(config, x)
        x, _ = run_blocks(params["blocks"][:depth], config, x, causal=True, **options)
        x = normalize(block["attention_norm"], config, x)
        query, key = (
            options["rotate"](jnp.einsum("tf,fhd->thd", x, block["attention"][name]["kernel"]))
            for name in ("query", "key")
        )
        identity = jnp.broadcast_to(
            jnp.eye(len(ids))[:, None], (len(ids), *key.shape[1:2], len(ids))
        )
        maps.append(jnp.moveaxis(nn.attention(query, key, identity, causal=True), 0, 1))
    return jnp.stack(maps)


def farthest_looking(maps: NDArray[np.float64]) -> tuple[int, int]:
    """The block and the head that look back farthest, on average, first positions left out."""
    *_, t, _ = maps.shape
    distance = np.abs(np.arange(t)[:, None] - np.arange(t))
    mean = (maps * distance)[:, :, t // 2 :].sum(-1).mean(-1)
    block, head = np.unravel_index(mean.argmax(), mean.shape)
    return int(block), int(head)


class Passage(NamedTuple):
    """A held-out window, as a net sees it."""

    content: bytes
    bits: float
    """Per byte."""
    norm: float
    """Of the gradient of its mean loss."""


def passages(net: Net, params: Params, windows: Bytes) -> list[Passage]:
    """Of evenly spaced windows, the hardest first, by the norm of each one's own gradient."""
    chosen = windows[:: max(1, len(windows) // PASSAGES)][:PASSAGES]

    def loss(params: Params, window: Array) -> Array:
        return jnp.mean(bits(net, params, window))

    @jax.jit
    def look(params: Params, windows: Array) -> tuple[Array, Array]:
        losses, factors = gradients.per_example_grad(loss)(params, windows)
        return losses, gradients.norms(factors)

    seen = [
        look(params, jnp.asarray(chosen[i : i + _CHUNK])) for i in range(0, len(chosen), _CHUNK)
    ]
    losses, norms = (np.concatenate(values) for values in zip(*seen, strict=True))
    order = np.argsort(-norms, kind="stable")
    return [Passage(chosen[i].tobytes(), float(losses[i]), float(norms[i])) for i in order]


def text_of(content: bytes | NDArray[np.uint8] | Sequence[int]) -> str:
    """Bytes as people read them; what is no UTF-8 becomes `�`."""
    return bytes(np.asarray(list(content), np.uint8)).decode("utf-8", errors="replace")
