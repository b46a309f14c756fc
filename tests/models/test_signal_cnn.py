"""The convolutional net of signals: what padding does, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, models
from tests.numerics import assert_trees_close, normal, relative_error

SIGNAL_CNN = models.SignalCNNConfig(3, 2, (4, 5), (4, 3))
PARAMS = jax.jit(models.init_signal_cnn)(jax.random.key(0), SIGNAL_CNN)
X = normal(1, (4, 9, 3))
LENGTHS = jnp.array([9, 5, 5, 0])

net = jax.jit(models.signal_cnn, static_argnames="config")


def padded(value):
    inside = np.arange(9) < np.asarray(LENGTHS)[:, None]
    return np.where(inside[..., None], X, np.float32(value))


def test_a_padded_signal_has_the_logits_of_the_signal_alone():
    got = net(PARAMS, config=SIGNAL_CNN, x=padded(np.nan), lengths=LENGTHS)
    assert relative_error(got[1:3], net(PARAMS, config=SIGNAL_CNN, x=X[1:3, :5])) < 1e-6
    np.testing.assert_array_equal(got[3], PARAMS["head"]["bias"])


def test_what_padding_holds_does_not_reach_gradients():
    @jax.jit
    def gradient(params, x):
        def loss(params, x):
            return jnp.sum(models.signal_cnn(params, SIGNAL_CNN, x, lengths=LENGTHS) ** 2)

        return jax.grad(loss, (0, 1))(params, x)

    assert_trees_close(gradient(PARAMS, padded(np.nan)), gradient(PARAMS, padded(0)), 1e-6)


@pytest.mark.thorough
def test_norms_of_padded_signals_are_those_of_the_signals_alone():
    def loss(params, x, length=None):
        return models.signal_cnn(params, SIGNAL_CNN, x, lengths=length)[0] ** 2

    norms = jax.jit(gradients.per_example_norms(loss))
    got = norms(PARAMS, padded(7.0), LENGTHS)[1:3]
    alone = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(PARAMS, X[1:3, :5])
    want = jnp.sqrt(sum(jnp.sum(g.reshape(2, -1) ** 2, 1) for g in jax.tree.leaves(alone)))
    assert relative_error(got, want) < 1e-5


def test_dropout_acts_with_a_key_only():
    config = models.SignalCNNConfig(3, 2, (4, 5), (4, 3), dropout_rate=0.5)
    evaluated = net(PARAMS, config=config, x=X)
    one, two = (net(PARAMS, config=config, x=X, key=jax.random.key(k)) for k in (1, 2))
    np.testing.assert_array_equal(evaluated, net(PARAMS, config=SIGNAL_CNN, x=X))
    assert jnp.any(one != evaluated)
    assert jnp.any(one != two)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"signal_cnn: x must be \[..., T, 3\], got \[4, 9, 2\]"):
        models.signal_cnn(PARAMS, SIGNAL_CNN, X[..., :2])
    with pytest.raises(ValueError, match=r"signal_cnn: lengths must be in \[0, 9\], got 0 to 10"):
        models.signal_cnn(PARAMS, SIGNAL_CNN, X, lengths=jnp.array([10, 5, 1, 0]))
    with pytest.raises(ValueError, match=r"a window for each of the 2 layers, got \(3,\)"):
        models.SignalCNNConfig(3, 2, (4, 5), (3,))
    with pytest.raises(ValueError, match="there must be a layer, and every size be positive"):
        models.SignalCNNConfig(3, 2, (), ())
