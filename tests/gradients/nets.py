"""Random small nets for property tests: chains of layers, drawn by hypothesis."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from jaxnets import nn
from tests.numerics import integers, normal

ROWS = 6


class Layer(NamedTuple):
    name: str
    """What was drawn, for the message of a test that fails."""
    params: dict[str, tuple[int, ...]]
    """Shapes."""
    apply: Callable[[Any, Any], Any]
    """Of the parameters and one example's activations."""


class Net(NamedTuple):
    layers: list[Layer]
    shape: tuple[int, ...]
    """Of one example."""
    ids: bool
    """Whether examples are numbers of rows."""
    penalty: bool
    """Whether the loss has a term without the example."""

    def __repr__(self):
        start = f"{'ids ' if self.ids else ''}{list(self.shape)}"
        return " -> ".join([start, *(layer.name for layer in self.layers)]) + (
            " with a penalty" if self.penalty else ""
        )

    def loss(self, params, x):
        for p, layer in zip(params, self.layers, strict=True):
            x = layer.apply(p, x)
        loss = jnp.sum(jnp.sin(x + 0.5) * jnp.linspace(0.5, 1.0, x.size).reshape(x.shape))
        return loss + (0.1 * sum(jnp.sum(w**2) for w in params[0].values()) if self.penalty else 0)

    def drawn(self, examples, seed, dtype):
        """Parameters and a batch."""
        params = [
            {
                name: normal((seed, i, j), shape, scale=_scale(shape))
                for j, (name, shape) in enumerate(layer.params.items())
            }
            for i, layer in enumerate(self.layers)
        ]
        shape = (examples, *self.shape)
        if self.ids:
            return _cast(params, dtype), integers(seed, ROWS, shape)
        return _cast((params, normal(seed, shape)), dtype)


def _scale(shape):
    return 1 / math.sqrt(max(1, math.prod(shape[:-1])))


def _cast(values, dtype):
    return jax.tree.map(lambda x: jnp.asarray(np.float32(x), dtype), values)


SIZES = st.integers(1, 4)


def flag(draw):
    return draw(st.booleans())


def dense(draw, shape):
    """Along the last axis; the kernel as it is, transposed, on the left, sliced or normalized."""
    d, k = shape[-1], draw(SIZES)
    way = draw(st.sampled_from(["plain", "transposed", "left", "sliced", "normalized", "adapted"]))
    extra = {"bias": (k,)} if flag(draw) else {}
    kernels = {"transposed": (k, d), "left": (k, d), "sliced": (d + 1, k)}

    def apply(p, x):
        w = p["w"]
        if way == "left":
            y = jnp.moveaxis(jnp.tensordot(w, x, (1, x.ndim - 1)), 0, -1)
        else:
            if way == "transposed":
                w = w.T
            if way == "sliced":
                w = w[1:]
            if way == "normalized":
                w = w / (1 + jnp.linalg.norm(w, axis=0, keepdims=True))
            if way == "adapted":
                w = w + p["a"] @ p["b"]
            y = x @ w
        return y + jnp.broadcast_to(p["bias"], y.shape) if extra else y

    adapters = {"a": (d, 1), "b": (1, k)} if way == "adapted" else {}
    params = {"w": kernels.get(way, (d, k))} | adapters | extra
    return Layer(f"dense {way} {d}->{k}{' + bias' if extra else ''}", params, apply)


def einsum(draw, shape):
    """Any axes summed, shared or new, in any order, the parameter on either side."""
    letters = "abcd"[: len(shape)]
    roles = {a: draw(st.sampled_from(["free", "summed", "shared"])) for a in letters}
    new = "xy"[: draw(st.integers(0, 2))]
    mine = [a for a in letters if roles[a] != "free"] + list(new)
    kept = [a for a in letters if roles[a] != "summed"] + list(new)
    order = draw(st.permutations(mine))
    result = "".join(draw(st.permutations(kept)))
    # beyond four axes nets grow
    while len(result) > 4:
        result = result[1:]
    sizes = dict(zip(letters, shape, strict=True)) | {a: draw(SIZES) for a in new}
    first = flag(draw)
    operands = [letters, "".join(order)]
    equation = f"{','.join(operands[::-1] if first else operands)}->{result}"

    def apply(p, x):
        return jnp.einsum(equation, *((p["w"], x) if first else (x, p["w"])))

    return Layer(f"einsum {equation}", {"w": tuple(sizes[a] for a in order)}, apply)


def conv(draw, shape):
    """One to three axes; strides, dilations, groups, padding of either sign, or transposed."""
    *space, channels = shape
    n = len(space)
    letters = "XYZ"[:n]
    kernel = "".join(draw(st.permutations([*letters, "I", "O"])))
    # strides and the like are in the order of the kernel's axes
    space = [space[letters.index(a)] for a in kernel if a in letters]
    window = [draw(st.integers(1, 3)) for _ in space]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    out = groups * draw(st.integers(1, 2))
    strides, dilation, gaps = ([draw(st.integers(1, 2)) for _ in space] for _ in range(3))
    if not flag(draw):
        gaps = [1] * n
    padding = []
    for size, w, d, gap in zip(space, window, dilation, gaps, strict=True):
        low, high = draw(st.integers(-1, 2)), draw(st.integers(0, 2))
        short = (w - 1) * d + 1 - ((size - 1) * gap + 1 + low + high)
        padding.append((low, high + max(0, short)))
    channels_last = flag(draw)
    image = f"N{letters}C" if channels_last else f"NC{letters}"
    sizes = dict(zip((a for a in kernel if a in letters), window, strict=True))
    sizes |= {"I": channels // groups, "O": out}

    def apply(p, x):
        y = lax.conv_general_dilated(
            (x if channels_last else jnp.moveaxis(x, -1, 0))[None], p["w"], strides, padding,
            gaps, dilation, (image, kernel, image), groups,
        )[0]  # fmt: skip
        return y if channels_last else jnp.moveaxis(y, 0, -1)

    name = f"conv {kernel}{window} strides {strides} padding {padding} gaps {gaps} "
    name += f"dilation {dilation} groups {groups}"
    return Layer(name, {"w": tuple(sizes[a] for a in kernel)}, apply)


def jaxnets_conv(draw, shape):
    """With the rule of its own that `nn.conv` has."""
    *space, channels = shape
    groups = draw(st.sampled_from([1, channels]))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.sampled_from(["SAME", "CAUSAL", (2, 3)]))

    def apply(p, x):
        sides = padding if isinstance(padding, str) else [padding] * len(space)
        return nn.conv(
            {"kernel": p["w"]}, x, stride=stride, padding=sides, dilation=dilation, groups=groups
        )

    kernel = (*[draw(st.integers(1, 2)) for _ in space], channels // groups, 2 * groups)
    name = f"nn.conv {kernel} stride {stride} padding {padding} dilation {dilation}"
    return Layer(f"{name} groups {groups}", {"w": kernel}, apply)


def norm(draw, shape):
    kind = draw(st.sampled_from(["layer_norm", "rms_norm"]))
    return Layer(
        kind,
        {"scale": shape[-1:], "bias": shape[-1:]},
        lambda p, x: getattr(nn, kind)(p, x, eps=0.1),
    )


def elementwise(draw, shape):
    """A parameter along some of the axes."""
    along = tuple(size if flag(draw) else 1 for size in shape)
    name, operation = draw(
        st.sampled_from(
            [
                ("add", jnp.add),
                ("multiply", jnp.multiply),
                ("divide by", lambda x, w: x / (2 + w**2)),
                ("maximum", jnp.maximum),
                ("where", lambda x, w: jnp.where(x > 0, x, w)),
                ("arctan2", jnp.arctan2),
            ]
        )
    )
    return Layer(
        f"{name} {along}", {"s": along}, lambda p, x: operation(x, jnp.broadcast_to(p["s"], shape))
    )


def recurrence(draw, shape):
    """Along the first axis; the same kernel at each step."""
    d, reverse = math.prod(shape[1:]), flag(draw)

    def apply(p, x):
        def step(h, x):
            h = jnp.tanh(p["w"] @ h + x.reshape(-1) * p["s"])
            return h, h

        h, y = lax.scan(step, p["h"], x, reverse=reverse)
        return (y + h[None]).reshape(x.shape)

    params = {"w": (d, d), "s": (d,), "h": (d,)}
    return Layer(f"recurrence of {d}{' reversed' if reverse else ''}", params, apply)


def stack(draw, shape):
    """A scan over layers, of any depth, with a kernel that all turns share, or inside of remat."""
    d, depth = shape[-1], draw(st.integers(0, 3))
    shared, remat, nested = flag(draw), flag(draw), flag(draw)

    def apply(p, x):
        def layer(x, w):
            y = jnp.tanh(x @ w)
            return (y @ p["u"].T if shared else y) + x, None

        def layers(x):
            return lax.scan(jax.checkpoint(layer) if remat else layer, x, p["w"])[0]

        if nested:
            return lax.fori_loop(0, 2, lambda i, x: layers(x), x)
        return layers(x)

    params = {"w": (depth, d, d)} | ({"u": (d, d)} if shared else {})
    name = f"stack of {depth}{' shared' * shared}{' remat' * remat}{' nested' * nested}"
    return Layer(name, params, apply)


def tied(draw, shape):
    """One matrix several times: as it is, transposed, elementwise, or as a table."""
    d = shape[-1]
    uses = draw(st.lists(st.sampled_from(["plain", "transposed", "scale", "rows"]), min_size=2,
                         max_size=3))  # fmt: skip

    def apply(p, x):
        w = p["w"]
        for use in uses:
            if use == "plain":
                x = jnp.sin(x @ w)
            if use == "transposed":
                x = jnp.sin(x @ w.T)
            if use == "scale":
                x = x * jnp.broadcast_to(jnp.diagonal(w), x.shape)
            if use == "rows":
                x = x + w[lax.stop_gradient(x * 3).astype(int) % d].sum(-2)
        return x

    return Layer(f"tied {uses} of {d}", {"w": (d, d)}, apply)


def branch(draw, shape):
    d = shape[-1]

    def apply(p, x):
        return lax.cond(
            jnp.sum(x) > 0, lambda x: jnp.tanh(x @ p["w"]), lambda x: jax.nn.silu(x @ p["w"].T), x
        )

    return Layer(f"branch of {d}", {"w": (d, d)}, apply)


def reordered(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    how = draw(st.sampled_from(["tanh", "softmax", "cumsum", "sort", "jit"]))
    functions = {
        "tanh": jnp.tanh, "softmax": jax.nn.softmax, "sort": jnp.sort, "jit": jax.jit(jnp.sin),
        "cumsum": lambda x: jnp.cumsum(x, 0),
    }  # fmt: skip
    return Layer(f"{how} {order}", {}, lambda p, x: functions[how](x.transpose(order)))


def embedding(draw, shape):
    d, back = draw(SIZES), flag(draw)
    mode = draw(st.sampled_from([None, "clip", "fill"]))

    def apply(p, ids):
        x = jnp.take(p["w"], ids if mode is None else 2 * ids - 3, 0, mode=mode, fill_value=1.0)
        return jnp.sin(x) @ p["w"].T if back else x

    return Layer(f"embedding {d} mode {mode}{' tied' * back}", {"w": (ROWS, d)}, apply)


def residual(draw, shape):
    """`x + f(x)`, where f is drawn too and returns the shape."""
    inner = draw(st.sampled_from(SAME_SHAPE))(draw, shape)
    return inner._replace(
        name=f"x + {inner.name}", apply=lambda p, x: x + inner.apply(p, x) * jnp.cos(x)
    )


SAME_SHAPE = [norm, elementwise, recurrence, stack, tied, branch]
LAYERS = [*SAME_SHAPE, dense, dense, einsum, einsum, conv, conv, jaxnets_conv, residual, reordered]


@st.composite
def nets(draw, ids=True):
    """A net of one to four layers."""
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    starts_with_ids = ids and draw(st.integers(0, 4)) == 0
    if starts_with_ids:
        shape = shape[:3]
    now, layers = shape, []
    for i in range(draw(st.integers(1, 4))):
        if starts_with_ids and i == 0:
            make = embedding
        else:
            possible = LAYERS if len(now) > 1 else [m for m in LAYERS if "conv" not in m.__name__]
            make = draw(st.sampled_from(possible if now else [einsum, elementwise]))
        layer = make(draw, now)
        kind = int if starts_with_ids and i == 0 else float
        params = {name: jax.ShapeDtypeStruct(s, float) for name, s in layer.params.items()}
        now = jax.eval_shape(layer.apply, params, jax.ShapeDtypeStruct(now, kind)).shape
        layers.append(layer)
        if math.prod(now) > 200:
            break
    if not any(layer.params for layer in layers):
        layers.append(elementwise(draw, now))
    return Net(layers, shape, starts_with_ids, flag(draw))
