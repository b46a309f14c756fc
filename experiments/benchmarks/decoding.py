"""Greedy decoding of one transformer with a cache: by one program, by a loop, and by PyTorch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import models
from jaxnets.models.decode import generate

Decoder = Callable[[], Any]
"""`[n]` ids, when they are there."""


def _advance(model: models.TransformerConfig) -> Callable[..., Any]:
    def advance(params: Any, ids: Any, caches: Any, start: Any) -> Any:
        return models.continue_transformer(params, model, ids, caches, start)

    return advance


def scanned(model: models.TransformerConfig, params: Any, prompt: Any, n: int) -> Decoder:
    """All tokens in one program."""
    advance = _advance(model)

    @jax.jit
    def run(params: Any, prompt: Any) -> Any:
        caches = models.transformer_caches(model, prompt.size + n)
        return generate(lambda *arguments: advance(params, *arguments), caches, prompt, n)

    return lambda: jax.block_until_ready(run(params, prompt))


def looped(model: models.TransformerConfig, params: Any, prompt: Any, n: int) -> Decoder:
    """A compiled call for each token: all that is between two stays on the device."""
    advance = _advance(model)

    def likeliest(logits: Any) -> Any:
        return jnp.argmax(logits[-1:], -1).astype(jnp.int32)

    @jax.jit
    def first(params: Any, prompt: Any) -> Any:
        caches = models.transformer_caches(model, prompt.size + n)
        logits, caches = advance(params, prompt, caches, 0)
        return likeliest(logits), caches, jnp.asarray(prompt.size, jnp.int32)

    def following(params: Any, last: Any, caches: Any, start: Any) -> Any:
        logits, caches = advance(params, last, caches, start)
        return likeliest(logits), caches, start + 1

    one = jax.jit(following, donate_argnums=(2, 3))

    def run() -> Any:
        last, caches, start = first(params, prompt)
        found = [last]
        for _ in range(n - 1):
            last, caches, start = one(params, last, caches, start)
            found.append(last)
        return np.concatenate(jax.device_get(found))

    return run


def in_torch(model: models.TransformerConfig, params: Any, prompt: Any, n: int) -> Decoder:
    """The same in PyTorch, eagerly: each block's keys and values are written in place.

    Of the form that `transformer.model_config` makes, and on the processor that PyTorch has.
    """
    import torch
    from torch.nn import functional as f

    device = "cuda" if torch.cuda.is_available() else "cpu"
    features, length = model.features, prompt.size + n

    def tensor(leaf: Any, *shape: int) -> Any:
        return torch.tensor(np.asarray(leaf).reshape(shape or leaf.shape), device=device)

    def dense(p: Any, n_in: int, n_out: int) -> Any:
        """As `torch.nn.Linear` has it."""
        return tensor(p["kernel"], n_in, n_out).T.contiguous(), tensor(p["bias"], n_out)

    weights = []
    for p in params["blocks"]:
        attention, mlp = p["attention"], p["mlp"]
        # the three in one product
        qkv = [dense(attention[name], features, features) for name in ("query", "key", "value")]
        norms = [
            (tensor(p[n]["scale"]), tensor(p[n]["bias"])) for n in ("attention_norm", "mlp_norm")
        ]
        weights.append((
            *norms, tuple(map(torch.cat, zip(*qkv, strict=True))),
            dense(attention["out"], features, features),
            dense(mlp["up"], features, 4 * features), dense(mlp["down"], 4 * features, features),
        ))  # fmt: skip
    embedding, positions = (tensor(params[k]["embedding"]) for k in ("embedding", "positions"))
    last_norm = tensor(params["norm"]["scale"]), tensor(params["norm"]["bias"])
    head = tensor(params["head"]["kernel"]).T.contiguous()
    given = tensor(prompt).long()
    caches = torch.zeros(
        model.depth, 2, model.heads, length, features // model.heads, device=device
    )

    def norm(x: Any, p: Any) -> Any:
        return f.layer_norm(x, (features,), *p, eps=model.norm_eps)

    def step(ids: Any, start: int) -> Any:
        end = start + len(ids)
        x = embedding[ids] + positions[start:end]
        for (norm_1, norm_2, qkv, out, up, down), cache in zip(weights, caches, strict=True):
            split = f.linear(norm(x, norm_1), *qkv).view(len(ids), 3, model.heads, -1)
            q, *key_value = split.permute(1, 2, 0, 3)
            for kept, new in zip(cache, key_value, strict=True):
                kept[:, start:end] = new
            k, v = cache[:, :, :end]
            # one query sees all that is in the cache
            y = f.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=len(ids) > 1)
            x = x + f.linear(y[0].transpose(0, 1).reshape(len(ids), features), *out)
            x = x + f.linear(f.gelu(f.linear(norm(x, norm_2), *up), approximate="tanh"), *down)
        return f.linear(norm(x[-1:], last_norm), head).argmax(-1)

    def run() -> Any:
        with torch.inference_mode():
            found = [step(given, 0)]
            for t in range(n - 1):
                found.append(step(found[-1], prompt.size + t))
            return torch.cat(found).cpu().numpy()

    return run
