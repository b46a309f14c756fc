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
    return jax.jit(gradients.flow(loss))(params, normal(1, (8, 4)))


ROWS = ["w[0]", "w > relu[0]", "w[1]", "w > relu[1]", "w[2]", "w > relu[2]"]


def rows_of(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def test_a_line_along_depth_has_each_turn(one):
    figure = flow_plots.plot_depth(one)
    left, right = figure.axes
    assert rows_of(left) == ROWS
    np.testing.assert_allclose(
        left.lines[0].get_xdata()[1::2], one.sites["w > relu"].activation.std
    )
    drawn = right.lines[0].get_xdata()
    np.testing.assert_allclose(drawn[::2], one.sites["w"].error_norm)
    assert right.get_xscale() == "log"


def test_histograms_are_of_activations_and_of_error_signals_row_by_row(one, tmp_path):
    figure = flow_plots.plot_histograms(one)
    left, right, colors = figure.axes
    assert rows_of(left) == ROWS
    assert left.get_xlabel() == "log10 of |activation|"
    assert right.get_xlabel() == "log10 of |error signal|"
    assert colors.get_ylabel() == "share of values"
    for axis, quantity in ((left, "activation"), (right, "error")):
        (image,) = axis.images
        product, after = (getattr(one.sites[name], quantity) for name in ("w", "w > relu"))
        for turn in range(3):
            for row, spread in ((2 * turn, product), (2 * turn + 1, after)):
                np.testing.assert_array_equal(image.get_array()[row], spread.histogram[turn])
        # the first row at the top, whose name is at 0, and half a decade for each bin
        assert image.get_extent() == [-12, 4, 5.5, -0.5]
        assert list(axis.get_ylim()) == [5.5, -0.5]
        assert image.get_clim() == (0, max(0.5, image.get_array().max()))
    figure.savefig(tmp_path / "picture.png")


def test_a_bar_for_each_product_is_how_unlike_examples_are(one, tmp_path):
    figure = flow_plots.plot_examples(one)
    (axis,) = figure.axes
    assert rows_of(axis) == ["w[0]", "w[1]", "w[2]"]
    assert axis.get_xlabel() == "std / mean of the examples' error norms"
    site = one.sites["w"]
    widths = [bar.get_width() for bar in axis.patches]
    np.testing.assert_allclose(widths, site.error_norm_std / site.error_norm, rtol=1e-6)
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axis.patches]
    np.testing.assert_allclose(middles, [0, 1, 2])
    (line,) = axis.lines
    assert line.get_xdata() == [1, 1]
    figure.savefig(tmp_path / "picture.png")


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
