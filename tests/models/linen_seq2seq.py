"""Encoder-decoders composed of Flax Linen's modules and plain sums, from jaxnets' parameters."""

import flax.linen as linen
import jax
import jax.numpy as jnp


def _norm(params, config, x):
    layer = linen.LayerNorm(epsilon=config.norm_eps, use_fast_variance=False)
    return layer.apply({"params": params}, x)


def _linear(params, x):
    n = params["kernel"].shape[-1]
    return linen.Dense(n, use_bias="bias" in params).apply({"params": params}, x)


def _table(params, ids):
    return linen.Embed(*params["embedding"].shape).apply({"params": params}, ids)


def _attend(params, config, x, context, mask):
    bias = jnp.zeros_like(params["query"]["bias"])
    params = params | {"key": {"bias": bias} | params["key"]}
    module = linen.MultiHeadDotProductAttention(config.heads, out_features=x.shape[-1])
    return module.apply({"params": params}, x, context, mask=mask)


def _body(params, config, ids, mask, context=None, context_mask=None):
    positions = jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)
    x = _table(params["embedding"], ids) + _table(params["positions"], positions)
    for p in params["blocks"]:

        def own(x, p=p):
            return _attend(p["attention"], config, x, x, mask)

        def cross(x, p=p):
            return _attend(p["cross_attention"], config, x, context, context_mask)

        def mlp(x, p=p):
            hidden = linen.gelu(_linear(p["mlp"]["up"], x), approximate=False)
            return _linear(p["mlp"]["down"], hidden)

        parts = {"attention": own, "cross_attention": cross, "mlp": mlp}
        if context is None:
            del parts["cross_attention"]
        for name, part in parts.items():
            norm = p[f"{name}_norm"]
            if config.pre_norm:
                x += part(_norm(norm, config, x))
            else:
                x = _norm(norm, config, x + part(x))
    return _norm(params["norm"], config, x) if config.pre_norm else x


def transformer(params, config, source, target, lengths):
    positions = jnp.arange(source.shape[-1]).reshape((1,) * (lengths.ndim + 2) + (-1,))
    there = positions < lengths[..., None, None, None]
    memory = _body(params["encoder"], config.encoder, source, there)
    decoder = params["decoder"]
    if config.shared:
        decoder = decoder | {"embedding": params["encoder"]["embedding"]}
    causal = linen.make_causal_mask(target)
    x = _body(decoder, config.decoder, target, causal, memory, there)
    if config.decoder.tied:
        return x @ decoder["embedding"]["embedding"].T
    return _linear(decoder["head"], x)


def recurrent(params, config, source, target, lengths):
    from tests.catalogue import RECURRENT, linen_cell, linen_unroll

    # Linen's loop takes one leading axis
    lead, n = source.shape[:-1], target.shape[-1]
    source, target = source.reshape(-1, source.shape[-1]), target.reshape(-1, n)
    lengths = lengths.reshape(-1)
    states, x = [], _table(params["source"], source)
    for layer in params["encoder"]:
        there, last = linen_unroll(config.cell, layer["forward"], x, lengths=lengths)
        back, first = linen_unroll(config.cell, layer["backward"], x, lengths=lengths, reverse=True)
        states.append(jax.tree.map(lambda a, b: jnp.concatenate([a, b], -1), last, first))
        x = jnp.concatenate([there, back], -1)
    memory, p = x, params["attention"]
    outside = jnp.arange(source.shape[-1])[None] >= lengths[:, None]

    def look(h):
        query = _linear(p["query"], h)
        if config.attention == "luong":
            scores = jnp.einsum("bd,bsd->bs", query, memory)
        else:
            keys = _linear(p["key"], memory)
            scores = _linear(p["score"], jnp.tanh(query[:, None] + keys))[..., 0]
        weights = jax.nn.softmax(jnp.where(outside, -jnp.inf, scores))
        return jnp.einsum("bs,bsd->bd", weights, memory)

    table = params["source" if config.shared else "target"]
    cells = [
        RECURRENT[config.cell].module(config.hidden, param_dtype=x.dtype)
        for _ in params["decoder"]
    ]  # fmt: skip
    logits = []
    for t in range(n):
        x = _table(table, target[:, t])
        for i, (cell, layer) in enumerate(zip(cells, params["decoder"], strict=True)):
            if i == 0 and config.attention == "bahdanau":
                context = look(states[0][-1] if isinstance(states[0], tuple) else states[0])
                x = jnp.concatenate([x, context], -1)
            variables = {"params": linen_cell(config.cell, layer)}
            states[i], x = cell.apply(variables, states[i], x)
        if config.attention == "luong":
            context = look(x)
        x = jnp.tanh(_linear(params["combine"], jnp.concatenate([context, x], -1)))
        logits.append(x @ table["embedding"].T if config.tied else _linear(params["head"], x))
    return jnp.stack(logits, -2).reshape(*lead, n, -1)
