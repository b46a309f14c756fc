"""Losses of one example, in which parameters meet it in every way that the engine knows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets import nn
from tests.numerics import integers, normal


class Case(NamedTuple):
    name: str
    params: dict[str, tuple[int, ...]]
    """Shapes."""
    example: tuple[int, ...]
    loss: Callable[[Any, Any], Any]
    ids: int = 0
    """If not 0, the example is integers below it."""
    way: str = ""
    """How the norms of the first parameter should be computed."""


def drawn(case, examples, dtype=jnp.float32, scale=0.7):
    """Parameters and a batch."""
    params = {
        name: normal((0, i), shape, dtype, scale)
        for i, (name, shape) in enumerate(case.params.items())
    }
    shape = (examples, *case.example)
    return params, integers(1, case.ids, shape) if case.ids else normal(1, shape, dtype)


def _square(y):
    return jnp.sum(jnp.tanh(y) ** 2)


def _einsum(equation, parameter_first=False):
    def loss(p, x):
        return _square(jnp.einsum(equation, *((p["w"], x) if parameter_first else (x, p["w"]))))

    return loss


def _conv(layout=("NHWC", "HWIO", "NHWC"), strides=None, **options):
    def loss(p, x):
        strides_ = strides or (1,) * (x.ndim - 1)
        y = lax.conv_general_dilated(
            x[None], p["w"], strides_, dimension_numbers=layout, **{"padding": "SAME"} | options
        )
        return _square(y)

    return loss


def _row(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _rnn(p, x):
    def step(h, x):
        return jnp.tanh(p["w"] @ h + p["s"] * x), None

    h, _ = lax.scan(step, p["h"], jnp.outer(jnp.arange(1, 5) / 3.0, x))
    return _square(h)


def _layers(p, x):
    return _square(lax.scan(lambda x, p: (jnp.tanh(x @ p["w"] + _row(p["b"], x)), None), x, p)[0])


def _one_by_one(p, x):
    for i in range(len(p["w"])):
        x = jnp.tanh(x @ p["w"][i] + _row(p["b"][i], x))
    return _square(x)


def _layers_twice(p, x):
    """A loop inside a loop: the inner one's matrices are seen by each turn of the outer one."""

    def outer(x, s):
        y, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])
        return y * s[None], None

    return _square(lax.scan(outer, x, p["s"])[0])


def _cond(p, x):
    return _square(
        lax.cond(x[0] > 0, lambda x: jnp.exp(p["s"]) * x, lambda x: p["h"] - x, p["w"] @ x)
    )


def _normalized(p, x):
    kernel = p["w"] / jnp.linalg.norm(p["w"], axis=0, keepdims=True) * p["s"][None]
    return _square(x @ kernel) + 0.1 * jnp.sum(p["w"] ** 2)


@jax.custom_vjp
def _straight_through(w, x):
    return jnp.round(w * x)


_straight_through.defvjp(
    lambda w, x: (_straight_through(w, x), (w, x)), lambda r, g: (2 * g * r[1], g * r[0])
)

SQUARE = {"w": (5, 5), "s": (5,), "h": (5,)}
CASES = [
    Case("vector", {"w": (5, 3)}, (5,), lambda p, x: _square(x @ p["w"]), way="rank one"),
    Case("short sequence", {"w": (9, 8)}, (2, 9), lambda p, x: _square(x @ p["w"])),
    Case("long sequence", {"w": (3, 2)}, (40, 3), lambda p, x: _square(x @ p["w"]), way="direct"),
    Case("wide", {"w": (40, 50)}, (2, 40), lambda p, x: _square(x @ p["w"]), way="gram"),
    Case("parameter on the left", {"w": (5, 4)}, (3, 4), _einsum("ij,kj->ki", True)),
    Case("leading axes", {"w": (4, 3)}, (2, 5, 4), _einsum("ijk,kl->ijl")),
    Case("shared axis", {"w": (3, 4, 5)}, (3, 2, 4), _einsum("bij,bjk->bik")),
    Case(
        "shared axis, parameter on the left",
        {"w": (4, 3, 5)},
        (2, 3, 4),
        _einsum("kbi,jbk->jib", True),
    ),
    Case("two sums", {"w": (3, 4, 5)}, (2, 3, 4), _einsum("ijk,jkl->il")),
    Case("everything summed", {"w": (3, 4)}, (3, 4), _einsum("ij,ij->")),
    Case("nothing summed", {"w": (4,)}, (3,), _einsum("i,j->ij")),
    Case("transposed", {"w": (3, 5)}, (2, 5), lambda p, x: _square(x @ p["w"].T)),
    Case("reshaped", {"w": (3, 10)}, (2, 5), lambda p, x: _square(x @ p["w"].reshape(5, 6))),
    Case(
        "sliced",
        {"w": (5, 9)},
        (2, 5),
        lambda p, x: sum(map(_square, (x @ w for w in jnp.split(p["w"], 3, 1)))),
        way="parts",
    ),
    Case(
        "sliced, one slice alone",
        {"w": (5, 9)},
        (12, 5),
        lambda p, x: _square(x @ p["w"][:, 2:4]),
        way="folded",
    ),
    Case(
        "sliced, overlapping",
        {"w": (5, 9)},
        (2, 5),
        lambda p, x: _square(x @ p["w"][:, :5]) + _square(x @ p["w"][:, 4:]),
        way="local",
    ),
    Case(
        "sliced, with gaps",
        {"w": (5, 9)},
        (2, 5),
        lambda p, x: _square(x @ p["w"][:, ::2]),
        way="local",
    ),
    Case(
        "sliced, and whole",
        {"w": (5, 5)},
        (2, 5),
        lambda p, x: _square(x @ p["w"][:, :2]) + _square(x @ p["w"]),
        way="local",
    ),
    Case(
        "slices of slices",
        {"w": (5, 9)},
        (2, 5),
        lambda p, x: _square(x @ p["w"][:, 3:][:, 1:4]) + _square(x[:, 1:] @ p["w"][1:, :4][:, :3]),
        way="parts",
    ),
    Case(
        "stacked layers, one by one",
        {"w": (3, 4, 4), "b": (3, 4)},
        (2, 4),
        _one_by_one,
        way="parts",
    ),
    Case(
        "slices in a loop",
        {"w": (4, 8), "s": (3, 4)},
        (2, 4),
        lambda p, x: _square(
            lax.scan(
                lambda x, s: (jnp.tanh(x @ p["w"][:, :4]) * s[None] + x @ p["w"][:, 4:], None),
                x,
                p["s"],
            )[0]
        ),
        way="parts",
    ),
    Case(
        "a loop over some layers",
        {"w": (4, 4, 4)},
        (2, 4),
        lambda p, x: _square(
            lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x @ p["w"][3], p["w"][:3])[0]
        ),
        way="parts",
    ),
    Case("weight normalization and penalty", SQUARE, (5,), _normalized, way="local"),
    Case(
        "adapter",
        {"a": (5, 2), "b": (2, 5)},
        (5,),
        lambda p, x: _square(x + x @ (jnp.eye(5, dtype=x.dtype) + p["a"] @ p["b"])),
    ),
    Case(
        "adapter, one after the other",
        {"a": (5, 2), "b": (2, 5)},
        (5,),
        lambda p, x: _square(x + (x @ p["a"]) @ p["b"]),
        way="rank one",
    ),
    Case(
        "bias and scale",
        {"s": (5,), "h": (5,)},
        (3, 5),
        lambda p, x: _square(x * p["s"][None] + p["h"][None]),
        way="sum",
    ),
    Case("positions", {"w": (3, 5)}, (3, 5), lambda p, x: _square(x + p["w"]), way="sum"),
    Case("scalar", {"s": ()}, (3,), lambda p, x: _square(x * p["s"]), way="sum"),
    Case("not used", {"h": (3,), "s": (3,)}, (3,), lambda p, x: _square(x * p["s"]), way="unused"),
    Case(
        "no example in it",
        SQUARE,
        (3,),
        lambda p, x: jnp.sum(p["w"] ** 2) + jnp.sum(p["s"] * p["h"]),
    ),
    Case("embedding", {"w": (6, 9)}, (4,), lambda p, i: _square(p["w"][i]), ids=6, way="rows"),
    Case(
        "embedding, clipped",
        {"w": (6, 9)},
        (4,),
        lambda p, i: _square(jnp.take(p["w"], i, 0, mode="clip")),
        ids=9,
    ),
    Case(
        "embedding, filled",
        {"w": (6, 9)},
        (4,),
        lambda p, i: _square(jnp.take(p["w"], i, 0, mode="fill", fill_value=0.0)),
        ids=9,
    ),
    Case("embedding of vectors", {"w": (6,)}, (4,), lambda p, i: _square(p["w"][i]), ids=6),
    Case(
        "tied to the embedding",
        {"w": (30, 20)},
        (3,),
        lambda p, i: _square(p["w"][i] @ p["w"].T),
        ids=30,
        way="tied",
    ),
    Case(
        "tied to the embedding twice",
        {"w": (30, 20)},
        (3,),
        lambda p, i: _square(p["w"][i] @ p["w"].T) + _square(p["w"][i[:1]]),
        ids=30,
        way="tied",
    ),
    Case(
        "one embedding for two languages",
        {"w": (30, 20)},
        (5,),
        lambda p, i: _square(p["w"][i[:2]].sum(0) * p["w"][i[2:]].sum(0)),
        ids=30,
        way="tied",
    ),
    Case(
        "twice the same way",
        {"w": (9, 9)},
        (9,),
        lambda p, x: _square(p["w"] @ jnp.tanh(p["w"] @ x)),
        way="tied",
    ),
    Case(
        "and transposed",
        {"w": (9, 12)},
        (12,),
        lambda p, x: _square(p["w"].T @ jnp.tanh(p["w"] @ x)),
        way="tied",
    ),
    Case(
        "as matrix and as bias",
        {"w": (4, 4)},
        (4, 4),
        lambda p, x: _square(x @ p["w"] + p["w"]),
        way="local",
    ),
    Case("in a recurrence", SQUARE, (5,), _rnn),
    Case("in stacked layers", {"w": (3, 4, 4), "b": (3, 4)}, (4,), _layers, way="rank one"),
    Case("in stacked layers over a sequence", {"w": (3, 4, 4), "b": (3, 4)}, (2, 4), _layers),
    Case("in loops within loops", {"w": (3, 4, 4), "s": (2, 4)}, (2, 4), _layers_twice),
    Case(
        "in a remat",
        {"w": (4, 4)},
        (4,),
        lambda p, x: _square(jax.checkpoint(lambda w, x: jnp.tanh(x @ w))(p["w"], x)),
        way="rank one",
    ),
    Case(
        "in a fori_loop",
        SQUARE,
        (5,),
        lambda p, x: _square(
            lax.fori_loop(0, 3, lambda i, x: jnp.tanh(p["w"] @ x) + p["h"], x * p["s"])
        ),
    ),
    Case("in a cond", SQUARE, (5,), _cond),
    Case(
        "in a jit",
        {"w": (4, 3)},
        (4,),
        lambda p, x: _square(jax.jit(jnp.matmul)(x, p["w"])),
        way="rank one",
    ),
    Case(
        "in a custom_jvp",
        {"s": (5,)},
        (5,),
        lambda p, x: _square(jax.nn.softplus(p["s"] * x) + jax.nn.silu(p["s"]) * x),
    ),
    Case(
        "in a custom_vjp of another derivative",
        {"w": (5,)},
        (5,),
        lambda p, x: _square(_straight_through(p["w"], x)),
        way="local",
    ),
    Case(
        "in a transform",
        {"w": (5, 5), "s": (5,)},
        (5,),
        lambda p, x: jnp.sum(jnp.abs(jnp.fft.fft(p["w"] @ x) * p["s"]) ** 2),
    ),
    Case("sorted", {"h": (5,)}, (5,), lambda p, x: jnp.sort(p["h"] * x)[0] * 2.0),
    Case("conv", {"w": (3, 3, 2, 4)}, (6, 5, 2), _conv(), way="direct"),
    Case(
        "conv, strided and dilated",
        {"w": (3, 2, 2, 4)},
        (7, 6, 2),
        _conv(strides=(2, 1), rhs_dilation=(1, 2), padding=((1, 2), (0, 1))),
    ),
    Case("conv, grouped", {"w": (3, 3, 2, 6)}, (5, 5, 4), _conv(feature_group_count=2)),
    Case("conv, depthwise", {"w": (3, 3, 1, 8)}, (5, 5, 4), _conv(feature_group_count=4)),
    Case(
        "conv, transposed",
        {"w": (3, 3, 2, 3)},
        (4, 4, 2),
        _conv(lhs_dilation=(2, 2), padding=((2, 1), (2, 1))),
    ),
    Case("conv, channels first", {"w": (4, 2, 3, 3)}, (2, 6, 5), _conv(("NCHW", "OIHW", "NCHW"))),
    Case("conv, one axis", {"w": (5, 3, 4)}, (9, 3), _conv(("NWC", "WIO", "NWC"), strides=(2,))),
    Case(
        "conv, three axes", {"w": (2, 3, 2, 2, 3)}, (4, 5, 4, 2), _conv(("NDHWC", "DHWIO", "NDHWC"))
    ),
    Case(
        "conv, twice",
        {"w": (3, 3, 2, 2)},
        (5, 5, 2),
        lambda p, x: _square(nn.conv({"kernel": p["w"]}, jnp.tanh(nn.conv({"kernel": p["w"]}, x)))),
        way="local",
    ),
    Case(
        "conv, sliced",
        {"w": (3, 3, 2, 6)},
        (5, 5, 2),
        lambda p, x: sum(
            _square(nn.conv({"kernel": k}, x)) for k in (p["w"][..., :2], p["w"][..., 2:])
        ),
        way="parts",
    ),
    Case(
        "conv, in stacked layers",
        {"w": (3, 3, 3, 2, 2)},
        (5, 5, 2),
        lambda p, x: _square(
            lax.scan(lambda x, w: (jnp.tanh(nn.conv({"kernel": w}, x)), None), x, p["w"])[0]
        ),
    ),
]
