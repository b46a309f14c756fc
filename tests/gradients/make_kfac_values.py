"""The recipe of `kfac.json`: Kronecker factors and damped inverses by kfac-jax, in float64.

It needs kfac-jax 0.0.8 and jax 0.6, which the tests do not:

    python tests/gradients/make_kfac_values.py
"""

import importlib.metadata
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

jax.config.update("jax_enable_x64", True)

BATCH = 5
DAMPING = 0.03


def dense(p, x):
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def conv(p, x, strides, padding):
    y = jax.lax.conv_general_dilated(
        x, p["kernel"], strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + p["bias"] if "bias" in p else y


def mlp(params, x):
    return dense(params["last"], jnp.tanh(dense(params["first"], x)))


def cnn(strides, padding):
    def apply(params, x):
        x = jnp.tanh(conv(params["first"], x, strides, padding))
        return dense(params["last"], x.reshape(x.shape[0], -1))

    return apply


# net, shape of an example, shapes of the parameters
CASES = {
    "mlp": (
        mlp,
        (4,),
        {"first": {"kernel": (4, 6), "bias": (6,)}, "last": {"kernel": (6, 3), "bias": (3,)}},
    ),
    "without biases": (mlp, (4,), {"first": {"kernel": (4, 6)}, "last": {"kernel": (6, 3)}}),
    "convolution": (
        cnn((1, 1), "SAME"),
        (3, 3, 2),
        {
            "first": {"kernel": (3, 3, 2, 3), "bias": (3,)},
            "last": {"kernel": (27, 3), "bias": (3,)},
        },
    ),
    "convolution with strides": (
        cnn((2, 2), "VALID"),
        (5, 5, 2),
        {
            "first": {"kernel": (3, 3, 2, 3), "bias": (3,)},
            "last": {"kernel": (12, 3), "bias": (3,)},
        },
    ),
    "convolution without bias": (
        cnn((1, 1), "VALID"),
        (4, 4, 2),
        {"first": {"kernel": (2, 3, 2, 3)}, "last": {"kernel": (18, 3)}},
    ),
}


def main():
    rng = np.random.default_rng(0)
    cases = {}
    for name, (net, shape, shapes) in CASES.items():
        params = jax.tree.map(
            lambda s: rng.normal(0, 0.4, s), shapes, is_leaf=lambda s: isinstance(s, tuple)
        )
        x, y = rng.normal(size=(BATCH, *shape)), rng.integers(0, 3, BATCH)

        def loss(params, batch, net=net):
            logits = net(params, batch[0])
            kfac_jax.register_softmax_cross_entropy_loss(logits, batch[1])
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], 1))

        estimator = kfac_jax.BlockDiagonalCurvature(loss, default_estimation_mode="fisher_exact")
        args = params, (x, y)
        state = estimator.init(
            jax.random.key(0), args, exact_powers_to_cache=set(), approx_powers_to_cache={-1},
            cache_eigenvalues=False,
        )  # fmt: skip
        state = estimator.update_curvature_matrix_estimate(
            state, 0.0, 1.0, 0.0, BATCH, jax.random.key(0), args
        )
        state = estimator.update_cache(
            state, identity_weight=DAMPING, exact_powers=set(), approx_powers={-1},
            eigenvalues=False, pmap_axis_name=None,
        )  # fmt: skip
        gradient = jax.grad(loss)(*args)
        natural = estimator.multiply_inverse(
            state, gradient, identity_weight=DAMPING, exact_power=False, use_cached=True,
            pmap_axis_name=None,
        )  # fmt: skip
        blocks = []
        for block, block_state in zip(estimator.blocks, state.blocks_states, strict=True):
            first, second = (np.asarray(f.value) for f in block_state.factors)
            blocks.append(
                {
                    "inputs": first.tolist(),
                    "signals": second.tolist(),
                    "scale": float(block.scale(block_state, False)),
                }
            )
        cases[name] = {
            "params": jax.tree.map(np.ndarray.tolist, params),
            "x": x.tolist(),
            "y": y.tolist(),
            "blocks": blocks,
            "natural": jax.tree.map(lambda a: np.asarray(a).tolist(), natural),
        }
    values = {
        "kfac-jax": importlib.metadata.version("kfac-jax"),
        "damping": DAMPING,
        "cases": cases,
    }
    Path(__file__).with_name("kfac.json").write_text(
        json.dumps(values, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    main()
