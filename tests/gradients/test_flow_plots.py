"""Pictures of flows: what they show, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients
from jaxnets.gradients import flow_plots
from tests.numerics import normal


def loss(params, x):
    def block(x, w):
        return jax.nn.relu(x @ w), None

    return jnp.sum(jnp.square(jax.lax.scan(block, x, params["w"])[0]))


@pytest.fixture(scope="module")
def one():
    params = {"w": normal(0, (3, 4, 4))}
    return gradients.flow(loss)(params, normal(1, (8, 4)))


def test_a_line_along_depth_has_each_turn(one, tmp_path):
    figure = flow_plots.plot_depth(one)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "w[0]", "w > relu[0]", "w[1]", "w > relu[1]", "w[2]", "w > relu[2]",
    ]  # fmt: skip
    drawn = right.lines[0].get_xdata()
    np.testing.assert_allclose(drawn[::2], one.sites["w"].error_norm)
    assert right.get_xscale() == "log"
    for plot in (flow_plots.plot_histograms, flow_plots.plot_examples):
        plot(one).savefig(tmp_path / "picture.png")


def test_a_heat_map_is_sites_by_steps(one, tmp_path):
    history = jax.tree.map(lambda x: jnp.stack([x, 10 * x]), one)
    figure = flow_plots.plot_history(history)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (6, 2)
    np.testing.assert_allclose(shown[:, 1] - shown[:, 0], 1, rtol=1e-5)
    figure.savefig(tmp_path / "picture.png")


def test_bad_input(one):
    constant = gradients.flow(lambda p, x: jnp.sum(x))(jnp.ones(4), normal(1, (8, 4)))
    with pytest.raises(ValueError, match="plot_depth: the flow has no site"):
        flow_plots.plot_depth(constant)
    with pytest.raises(ValueError, match="wants a history"):
        flow_plots.plot_history(one)
    history = jax.tree.map(lambda x: x[None], one)
    with pytest.raises(ValueError, match="wants the flow of one step"):
        flow_plots.plot_depth(history)
    with pytest.raises(ValueError, match="quantity must be one of"):
        flow_plots.plot_history(history, quantity="error")
