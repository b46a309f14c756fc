"""What sites are made of: ways beside each other, around loops, and inside of other programs."""

import jax
import jax.numpy as jnp

from jaxnets import gradients

X = jnp.ones((4, 3))
EYE = jnp.eye(3)


def made_of(loss, params, *batch):
    """By name, of which products, and whether of itself in the turn before."""
    # which tracing alone tells
    found = jax.eval_shape(gradients.flow(loss), params, *batch).sites.found
    names = {about.place: name for name, about, *_ in found}
    return {
        name: ("".join(names[place] for place in about.made_of), about.carried)
        for name, about, *_ in found
        if about.kind in ("dot", "conv", "gather")
    }


def named(names):
    return {name: (1 + i) * EYE for i, name in enumerate(names)}


def test_ways_beside_each_other():
    def loss(p, x):
        trunk = jnp.tanh(x @ p["a"])
        one = jnp.tanh(trunk @ p["b"]) @ p["c"]
        other = jax.jit(lambda x: jnp.sin(x) @ p["d"])(trunk) + x @ p["e"]
        return jnp.sum(one) + jnp.sum(other * jax.lax.stop_gradient(one) @ p["f"])

    assert made_of(loss, named("abcdef"), X) == {
        "a": ("", ()), "b": ("a", ()), "c": ("ab", ()), "d": ("a", ()), "e": ("", ()),
        "f": ("abcde", ()),
    }  # fmt: skip


def test_around_loops():
    def loss(p, x):
        def turn(carry, a):
            h, total = carry
            z = jnp.tanh(a @ p["a"] + h @ p["b"])
            return (z, total + jnp.sum(z @ p["c"])), z @ p["d"]

        (h, total), ys = jax.lax.scan(turn, (jnp.zeros(3), 0.0), jnp.stack([x, x]))
        return total + jnp.sum(ys @ p["e"]) + jnp.sum(h @ p["f"])

    assert made_of(loss, named("abcdef"), X) == {
        "a": ("", (False,)), "b": ("ab", (True,)), "c": ("ab", (False,)), "d": ("ab", (False,)),
        "e": ("abd", ()), "f": ("ab", ()),
    }  # fmt: skip


def test_loops_in_loops_and_checkpoints():
    def loss(p, x):
        def outer(h, a):
            @jax.checkpoint
            def inner(g, b):
                g = jnp.tanh(g @ p["a"] + b)
                return g, g @ p["b"]

            _, ys = jax.lax.scan(inner, a, jnp.stack([h, h]))
            return h + ys[-1] @ p["c"], None

        return jnp.sum(jax.lax.scan(outer, x, jnp.stack([x, x]))[0])

    assert made_of(loss, named("abc"), X) == {
        "a": ("abc", (True, True)), "b": ("abc", (True, False)), "c": ("abc", (True,)),
    }  # fmt: skip


def test_what_is_carried_two_turns_on():
    def loss(p, x):
        def turn(carry, a):
            last, one_before = carry
            return (one_before @ p["a"] + a, jnp.sin(last)), None

        (h, _), _ = jax.lax.scan(turn, (x, x), jnp.stack([x] * 4))
        return jnp.sum(h @ p["b"])

    assert made_of(loss, named("ab"), X) == {"a": ("a", (True,)), "b": ("a", ())}
