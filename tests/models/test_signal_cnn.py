"""The convolutional net of signals: what padding does, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, models
from tests.catalogue import SIGNAL_CNN
from tests.numerics import assert_trees_close, relative_error

PARAMS = models.init_signal_cnn(jax.random.key(0), SIGNAL_CNN)
X = jax.random.normal(jax.random.key(1), (4, 9, 3))
LENGTHS = jnp.array([9, 5, 1, 0])


def padded(with_what):
    inside = np.arange(9) < np.asarray(LENGTHS)[:, None]
    return jnp.where(inside[..., None], X, with_what)


def test_a_padded_signal_has_the_logits_of_the_signal_alone():
    got = models.signal_cnn(PARAMS, SIGNAL_CNN, padded(jnp.nan), lengths=LENGTHS)
    for row, x, length in zip(got, X, LENGTHS[:3], strict=False):
        assert relative_error(row, models.signal_cnn(PARAMS, SIGNAL_CNN, x[:length])) < 1e-6
    np.testing.assert_array_equal(got[3], PARAMS["head"]["bias"])


def test_what_padding_holds_does_not_reach_gradients():
    def loss(params, x):
        return jnp.sum(models.signal_cnn(params, SIGNAL_CNN, x, lengths=LENGTHS) ** 2)

    got, want = (jax.grad(loss, (0, 1))(PARAMS, padded(value)) for value in (jnp.nan, 0.0))
    assert_trees_close(got, want, 1e-6)


def test_norms_of_padded_signals_are_those_of_the_signals_alone():
    def loss(params, x, length):
        return models.signal_cnn(params, SIGNAL_CNN, x, lengths=length)[0] ** 2

    def alone(params, x):
        return models.signal_cnn(params, SIGNAL_CNN, x)[0] ** 2

    norms = gradients.per_example_norms(loss)(PARAMS, padded(7.0), LENGTHS)
    for norm, x, length in zip(norms, X, LENGTHS[:3], strict=False):
        leaves = jax.tree.leaves(jax.grad(alone)(PARAMS, x[:length]))
        assert relative_error(norm, jnp.sqrt(sum(jnp.sum(g**2) for g in leaves))) < 1e-5


def test_dropout_acts_with_a_key_only():
    config = models.SignalCNNConfig(3, 2, (8,), (3,), dropout_rate=0.5)
    params = models.init_signal_cnn(jax.random.key(0), config)
    evaluated = models.signal_cnn(params, config, X)
    one, two = (models.signal_cnn(params, config, X, key=jax.random.key(k)) for k in (1, 2))
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
