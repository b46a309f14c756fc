"""One cycle, warm restarts, and what follows a warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim

STEPS = np.array([0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 29, 30, 31, 84, 85, 86, 99, 100, 101, 5000])
CYCLE = {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 10}

OF_OPTAX = {
    "interpolate linear": lambda lib: lib.piecewise_interpolate_schedule(
        "linear", 0.5, {30: 0.1, 10: 2.0, 85: 0.0}
    ),
    "interpolate cosine": lambda lib: lib.piecewise_interpolate_schedule(
        "cosine", 0.5, {10: 3.0, 100: 0.1}
    ),
    "interpolate from 0": lambda lib: lib.piecewise_interpolate_schedule(
        "linear", 0.5, {0: 2.0, 10: 0.5}
    ),
    "interpolate nothing": lambda lib: lib.piecewise_interpolate_schedule("linear", 0.5),
    "linear cycle": lambda lib: lib.linear_onecycle_schedule(100, 0.3),
    "linear cycle shaped": lambda lib: lib.linear_onecycle_schedule(101, 2.0, 0.1, 0.3, 5.0, 10.0),
    "cosine cycle": lambda lib: lib.cosine_onecycle_schedule(100, 0.3),
    "cosine cycle shaped": lambda lib: lib.cosine_onecycle_schedule(99, 2.0, 0.1, 5.0, 10.0),
    "sgdr": lambda lib: lib.sgdr_schedule(
        [CYCLE, CYCLE | {"peak_value": 0.5, "decay_steps": 20, "end_value": 0.02}]
    ),
    "warmup exponential": lambda lib: lib.warmup_exponential_decay_schedule(0.1, 0.5, 10, 20, 0.5),
    "warmup exponential stairs": lambda lib: lib.warmup_exponential_decay_schedule(
        0.1, 0.5, 5, 10, 0.5, 5, True, 0.01
    ),
}
OURS = {
    "inverse sqrt": lambda lib: lib.inverse_sqrt_schedule(0.5, 10, 0.1),
    "stable linear": lambda lib: lib.warmup_stable_decay_schedule(0.1, 0.5, 5, 5, 90, 0.01),
    "stable sqrt": lambda lib: lib.warmup_stable_decay_schedule(
        0.1, 0.5, 0, 5, 90, 0.01, decay_type="sqrt"
    ),
    "stable cosine": lambda lib: lib.warmup_stable_decay_schedule(
        0.1, 0.5, 5, 0, 90, decay_type="cosine"
    ),
}
of_optax = pytest.mark.parametrize("build", OF_OPTAX.values(), ids=OF_OPTAX)
schedules = pytest.mark.parametrize("build", (OF_OPTAX | OURS).values(), ids=OF_OPTAX | OURS)


@of_optax
def test_optax(build):
    ours, theirs = build(optim), build(optax)
    got = [ours(jnp.int32(step)) for step in STEPS]
    want = [theirs(jnp.int32(step)) for step in STEPS]
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


@of_optax
def test_optax_in_float64(build, x64):
    ours, theirs = build(optim), build(optax)
    got = [ours(step) for step in STEPS]
    want = [theirs(step) for step in STEPS]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@schedules
def test_all_steps_at_once(build):
    """Array steps, mapped ones and numbers, compiled or not."""
    schedule = build(optim)
    steps = jnp.asarray(STEPS)
    one_by_one = [schedule(int(step)) for step in STEPS]
    for together in (schedule(steps), jax.jit(jax.vmap(schedule))(steps)):
        np.testing.assert_allclose(together, one_by_one, rtol=2e-6, atol=1e-7)


@schedules
def test_equal_calls_make_equal_schedules(build):
    assert build(optim) == build(optim)
    assert hash(build(optim)) == hash(build(optim))
    assert optim.sgd(build(optim)) == optim.sgd(build(optim))
    assert build(optim) != optim.constant_schedule(0.25)


def test_inverse_sqrt(x64):
    schedule = optim.inverse_sqrt_schedule(0.5, 4, 0.1)
    steps = [0, 1, 2, 3, 4, 5, 16, 400]
    want = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5 * np.sqrt(4 / 5), 0.25, 0.05]
    np.testing.assert_allclose(schedule(jnp.array(steps)), want, rtol=1e-15)


@pytest.mark.parametrize(
    ("decay_type", "remaining"), [("linear", 0.75), ("cosine", 0.5 + 0.5**1.5), ("sqrt", 0.5)]
)
def test_stable_then_decay(decay_type, remaining, x64):
    schedule = optim.warmup_stable_decay_schedule(0.1, 0.5, 2, 3, 4, 0.02, decay_type)
    want = [0.1, 0.3, 0.5, 0.5, 0.5, 0.5, 0.02 + 0.48 * remaining]
    np.testing.assert_allclose(schedule(jnp.arange(7)), want, rtol=1e-14)
    np.testing.assert_allclose(schedule(jnp.array([9, 10, 10**6])), 0.02, rtol=1e-14)


@pytest.mark.parametrize(
    "build",
    [
        lambda peak: optim.linear_onecycle_schedule(10, peak),
        lambda peak: optim.cosine_onecycle_schedule(10, peak),
        lambda peak: optim.piecewise_interpolate_schedule("cosine", peak, {5: peak}),
        lambda peak: optim.sgdr_schedule([CYCLE | {"peak_value": peak}]),
        lambda peak: optim.warmup_exponential_decay_schedule(0.1, peak, 5, 5, 0.5, end_value=peak),
        lambda peak: optim.inverse_sqrt_schedule(peak, 5),
        lambda peak: optim.warmup_stable_decay_schedule(0.1, peak, 2, 3, 4, 0.02),
    ],
)
def test_values_may_be_traced(build):
    peaks = jnp.array([0.0, 0.5, 1.5])
    steps = jnp.arange(12)
    swept = jax.jit(jax.vmap(lambda peak: build(peak)(steps)))(peaks)
    for peak, row in zip(peaks.tolist(), swept, strict=True):
        np.testing.assert_allclose(row, build(peak)(steps), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.piecewise_interpolate_schedule("cubic", 1.0), "got 'cubic'"),
        (lambda: optim.piecewise_interpolate_schedule("linear", 1.0, {5: -0.1}), "-0.1 at 5"),
        (lambda: optim.piecewise_interpolate_schedule("linear", 1.0, {-5: 0.1}), "0.1 at -5"),
        (lambda: optim.piecewise_interpolate_schedule("linear", np.nan), "init_value"),
        (lambda: optim.linear_onecycle_schedule(0, 1.0), "transition_steps must be > 0, got 0"),
        (lambda: optim.cosine_onecycle_schedule(0, 1.0), "transition_steps must be > 0, got 0"),
        (lambda: optim.linear_onecycle_schedule(9, 1.0, 0.9, 0.3), "got 0.9, 0.3"),
        (lambda: optim.cosine_onecycle_schedule(9, 1.0, 30.0), "got 30.0"),
        (lambda: optim.cosine_onecycle_schedule(9, 1.0, div_factor=0.0), "div_factor must be > 0"),
        (lambda: optim.sgdr_schedule([]), "one cycle at least"),
        (lambda: optim.inverse_sqrt_schedule(1.0, 0), "warmup_steps must be > 0, got 0"),
        (lambda: optim.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, 0), "got 1, 1 and 0"),
        (lambda: optim.warmup_stable_decay_schedule(0.0, 1.0, 1, -1, 5), "got 1, -1 and 5"),
        (
            lambda: optim.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, 5, decay_type="cubic"),
            "one of linear, cosine, sqrt, got 'cubic'",
        ),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()
