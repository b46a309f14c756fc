"""The block of a transformer: attention between positions, then an MLP at each, both residual.

With the norm first (`pre_norm`): `x ← x + f(norm(x))` (GPT-2, LLaMA); else `x ← norm(x + f(x))`
(the original, BERT).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets.models.mlp import layer_key
from jaxnets.nn import (
    attend_to,
    cached_attention,
    dense,
    dropout,
    gelu,
    init_attention,
    init_dense,
    init_norm,
    init_stack,
    layer_norm,
    multi_head_attention,
    rms_norm,
    scan_layers,
)
from jaxnets.nn.attention import Implementation
from jaxnets.nn.initializers import lecun_normal
from jaxnets.nn.stored import stored_gradient
from jaxnets.types import Activation, Array, ArrayLike, DTypeLike, Initializer, Key, Params

Positions = Literal["learned", "rotary", "rotary_interleaved", "sinusoidal", "alibi", "none"]
Norm = Literal["layer_norm", "rms_norm"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class TransformerConfig:
    """A transformer's shape; static, so it crosses `jit` like any argument.

    The defaults are GPT-2's form. LLaMA's is `positions="rotary"`, `norm="rms_norm"`,
    `activation=silu`, `gated=True`, `bias=False`; BERT's `pre_norm=False`, `embedding_norm=True`,
    `norm_eps=1e-12`, `token_types=2`, for `encoder`.

    Attributes:
      vocabulary: number of token ids.
      depth: number of blocks.
      features: size of a position's vector.
      heads: of queries.
      kv_heads: of keys and values, dividing `heads`; `None` is as many.
      head_dim: size of a head's vectors; `None` is `features / heads`.
      hidden: size of the MLP's hidden layer; `None` is `4 features`.
      activation: of the MLP.
      gated: whether the MLP is `(φ(x G) · x U) D` (SwiGLU, with `silu`) and not `φ(x U) D`.
      norm: `"layer_norm"` or `"rms_norm"`.
      norm_eps: what the norms add to the variance.
      pre_norm: whether norms stand before attention and MLP, with one more at the end.
      embedding_norm: whether the sum of the embeddings is normalized.
      positions: `"learned"`, `"rotary"` (pairs half a head apart), `"rotary_interleaved"` (pairs of
        neighbours), `"sinusoidal"`, `"alibi"` or `"none"`.
      theta: of rotary and sinusoidal positions.
      max_length: how many learned positions there are.
      token_types: how many kinds of tokens have embeddings of their own; 0 for none.
      embedding_scale: what token embeddings are multiplied by; `√features` in the original.
      bias: whether linear maps have biases.
      norm_bias: whether layer norms have.
      tied: whether the logits come from the embedding's own table.
      window: how many positions attention reaches back (and, if not causal, forth); `None` is all.
      implementation: of attention without a cache, see `nn.attention`; `None` is its choice.
      dropout_rate: in `[0, 1]`, of the embeddings, and of what attention and MLP add.
      scan: whether the blocks are stacked and run in one `lax.scan`: compiles in the time of one
        block. Unrolled runs faster on the CPU.
      remat: whether a block's inner values are computed again in the backward pass, not stored.
      kernel_init: for every kernel; those that add to the residual stream of a `pre_norm` net are
        divided by `√(2 depth)`, as in GPT-2.
      dtype: of the computation; `None` is the parameters' own.
      param_dtype: of the parameters.
    """

    vocabulary: int
    depth: int = 4
    features: int = 256
    heads: int = 8
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    activation: Activation = gelu
    gated: bool = False
    norm: Norm = "layer_norm"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    embedding_norm: bool = False
    positions: Positions = "learned"
    theta: float = 10_000.0
    max_length: int = 1024
    token_types: int = 0
    embedding_scale: float = 1.0
    bias: bool = True
    norm_bias: bool = True
    tied: bool = True
    window: int | None = None
    implementation: Implementation | None = None
    dropout_rate: float = 0.0
    scan: bool = False
    remat: bool = False
    kernel_init: Initializer = lecun_normal()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.depth, self.features, self.heads, self.max_length)
        optional = (self.kv_heads, self.head_dim, self.hidden, self.window)
        if min(*sizes, *(n for n in optional if n is not None)) < 1 or self.token_types < 0:
            raise ValueError(f"TransformerConfig: every size must be positive, got {self}")
        if self.heads % self.n_kv_heads:
            raise ValueError(
                f"TransformerConfig: kv_heads must divide {self.heads} heads, got {self.kv_heads}"
            )
        if self.head_dim is None and self.features % self.heads:
            raise ValueError(
                f"TransformerConfig: {self.heads} heads must divide {self.features} features, or "
                "head_dim be given"
            )
        for name, allowed in (("positions", Positions), ("norm", Norm)):
            if getattr(self, name) not in allowed.__args__:  # type: ignore[attr-defined]
                raise ValueError(
                    f"TransformerConfig: {name} must be one of {allowed.__args__}, "  # type: ignore[attr-defined]
                    f"got {getattr(self, name)!r}"
                )
        if self.positions.startswith("rotary") and self.size_of_head % 2:
            raise ValueError(
                "TransformerConfig: rotary positions need an even head_dim, got "
                f"{self.size_of_head}"
            )

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def size_of_head(self) -> int:
        """Size of a head's vectors."""
        return self.features // self.heads if self.head_dim is None else self.head_dim


def init_block(key: Key, config: TransformerConfig, cross: int | None = None) -> Params:
    """`{"attention", "attention_norm", "mlp": {"up", "down", ("gate")}, "mlp_norm"}`.

    With `cross`, the features of a context, also `"cross_attention"` and its norm.
    """
    keys = jax.random.split(key, 5)
    features, dtype, init = config.features, config.param_dtype, config.kernel_init
    hidden = 4 * features if config.hidden is None else config.hidden
    residual = (2 * config.depth) ** -0.5 if config.pre_norm else 1.0

    def attend(key: Key, context: int | None = None) -> Params:
        params = init_attention(
            key, features, config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim,
            context_features=context, bias=config.bias, kernel_init=init, dtype=dtype,
        )  # fmt: skip
        params["out"]["kernel"] *= residual
        return params

    def linear(key: Key, n_in: int, n_out: int) -> Params:
        return init_dense(key, n_in, n_out, bias=config.bias, kernel_init=init, dtype=dtype)

    mlp = {"up": linear(keys[1], features, hidden), "down": linear(keys[2], hidden, features)}
    mlp["down"]["kernel"] *= residual
    if config.gated:
        mlp["gate"] = linear(keys[3], features, hidden)
    params = {
        "attention": attend(keys[0]), "attention_norm": init_norm_of(config),
        "mlp": mlp, "mlp_norm": init_norm_of(config),
    }  # fmt: skip
    if cross is not None:
        params["cross_attention"] = attend(keys[4], cross)
        params["cross_attention_norm"] = init_norm_of(config)
    return params


def init_norm_of(config: TransformerConfig) -> Params:
    """Of the config's norm."""
    bias = config.norm_bias and config.norm == "layer_norm"
    return init_norm(config.features, bias=bias, dtype=config.param_dtype)


def normalize(params: Params, config: TransformerConfig, x: Array) -> Array:
    """The config's norm."""
    norm = layer_norm if config.norm == "layer_norm" else rms_norm
    return norm(params, x, eps=config.norm_eps)


def block(
    params: Params,
    config: TransformerConfig,
    x: Array,
    *,
    cache: Params | None = None,
    start: ArrayLike = 0,
    context: Params | None = None,
    context_mask: Array | None = None,
    key: Key | None = None,
    **attention: Any,
) -> tuple[Array, Params | None]:
    """One block.

    Args:
      params: from `init_block`; without `"mlp"`, the block ends before it.
      config: the same as there.
      x: `[..., T, features]`.
      cache: of earlier positions' keys and values; then x starts at position `start`.
      start: the position of x's first vector.
      context: keys and values to cross-attend to, from `keys_and_values`.
      context_mask: `[..., S]`, which of these are there.
      key: randomness for dropout; `None` is evaluation.
      **attention: for `multi_head_attention` or `cached_attention`.

    Returns:
      `(x, cache)`.
    """

    def residual(name: str, x: Array, f: Callable[[Array], Array], index: int) -> Array:
        norm, x = params[f"{name}_norm"], stored_gradient(x)
        y = f(normalize(norm, config, x) if config.pre_norm else x)
        x = x + dropout(y, config.dropout_rate, key=layer_key(key, index))
        return x if config.pre_norm else normalize(norm, config, x)

    def attend(x: Array) -> Array:
        nonlocal cache
        if cache is None:
            return multi_head_attention(
                params["attention"], x, window=config.window,
                implementation=config.implementation, **attention,
            )  # fmt: skip
        attention.pop("causal", None)
        y, cache = cached_attention(
            params["attention"], x, cache, start, window=config.window, **attention
        )
        return y

    def cross_attend(x: Array) -> Array:
        return attend_to(
            params["cross_attention"], x, context, key_mask=context_mask,
            implementation=config.implementation if cache is None else None,
        )  # fmt: skip

    def mlp(x: Array) -> Array:
        up = dense(params["mlp"]["up"], x)
        if config.gated:
            up = config.activation(dense(params["mlp"]["gate"], x)) * up
        else:
            up = config.activation(up)
        return dense(params["mlp"]["down"], up)

    x = residual("attention", x, attend, 0)
    if context is not None:
        x = residual("cross_attention", x, cross_attend, 1)
    if "mlp" in params:
        x = residual("mlp", x, mlp, 2)
    return x, cache


def init_blocks(key: Key, config: TransformerConfig, cross: int | None = None) -> Params:
    """`config.depth` blocks: a list, or stacked along a new first axis for `config.scan`."""
    if config.scan:
        return init_stack(lambda k: init_block(k, config, cross), key, config.depth)
    return [init_block(k, config, cross) for k in jax.random.split(key, config.depth)]


def run_blocks(
    params: Params,
    config: TransformerConfig,
    x: Array,
    *,
    caches: Params = None,
    contexts: Params = None,
    key: Key | None = None,
    **options: Any,
) -> tuple[Array, Params | None]:
    """All blocks in turn; `caches` and `contexts` hold one for each, as `params` does."""

    def layer(params: Params, x: Array, rest: Params) -> tuple[Array, Params | None]:
        return block(
            params, config, x, cache=rest.get("cache"), context=rest.get("context"),
            key=rest.get("key"), **options,
        )  # fmt: skip

    given = {"cache": caches, "context": contexts}
    given = {name: value for name, value in given.items() if value is not None}
    if config.scan:
        if key is not None:
            given["key"] = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(config.depth))
        after: tuple[Array, Params | None] = scan_layers(
            layer, params, x, given, has_aux=True, remat=config.remat
        )
        return after
    if config.remat:
        layer = jax.checkpoint(layer)
    updated = []
    for index, one in enumerate(params):
        rest: Params = {name: value[index] for name, value in given.items()}
        if key is not None:
            rest["key"] = jax.random.fold_in(key, index)
        x, cache = layer(one, x, rest)
        updated.append(cache)
    return x, None if caches is None else updated
