import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim

STEPS = [0, 1, 2, 4, 5, 6, 9, 10, 11, 19, 20, 21, 39, 40, 41, 99, 100, 101, 1000, 2**31 - 1]

SCHEDULES = {
    "constant": lambda lib: lib.constant_schedule(0.3),
    "linear": lambda lib: lib.linear_schedule(0.1, 0.7, 20),
    "linear later": lambda lib: lib.linear_schedule(0.1, -0.7, 20, transition_begin=5),
    "linear never": lambda lib: lib.linear_schedule(0.1, 0.7, 0),
    "linear negative begin": lambda lib: lib.linear_schedule(0.1, 0.7, 20, -3),
    "polynomial": lambda lib: lib.polynomial_schedule(1.0, 0.01, 2, 40),
    "polynomial root": lambda lib: lib.polynomial_schedule(1.0, 0.01, 0.5, 40, 10),
    "cosine": lambda lib: lib.cosine_decay_schedule(0.5, 40),
    "cosine floor": lambda lib: lib.cosine_decay_schedule(0.5, 100, alpha=0.1, exponent=2.0),
    "exponential": lambda lib: lib.exponential_decay(0.5, 20, 0.9),
    "exponential stairs": lambda lib: lib.exponential_decay(0.5, 10, 0.5, 5, True, 0.01),
    "exponential growth": lambda lib: lib.exponential_decay(0.5, 10, 1.5, end_value=2.0),
    "exponential never": lambda lib: lib.exponential_decay(0.5, 0, 0.9),
    "exponential zero": lambda lib: lib.exponential_decay(0.5, 10, 0.0),
    "exponential negative begin": lambda lib: lib.exponential_decay(0.5, 10, 0.9, -3),
    "piecewise": lambda lib: lib.piecewise_constant_schedule(1.0, {40: 0.5, 10: 0.1}),
    "piecewise none": lambda lib: lib.piecewise_constant_schedule(1.0),
    "warmup constant": lambda lib: lib.warmup_constant_schedule(0.0, 0.5, 10),
    "warmup cosine": lambda lib: lib.warmup_cosine_decay_schedule(0.01, 0.5, 10, 100, 0.02, 1.5),
    "warmup cosine none": lambda lib: lib.warmup_cosine_decay_schedule(0.0, 0.5, 0, 40),
    "warmup cosine zero": lambda lib: lib.warmup_cosine_decay_schedule(0.1, 0.0, 5, 40, 0.1),
    "join": lambda lib: lib.join_schedules(
        [
            lib.linear_schedule(0.0, 1.0, 5),
            lib.constant_schedule(1.0),
            lib.cosine_decay_schedule(1.0, 20),
        ],
        [5, 20],
    ),
}


@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
def test_optax(build):
    ours, theirs = build(optim), build(optax)
    for step in STEPS:
        np.testing.assert_array_max_ulp(
            np.float32(ours(jnp.int32(step))), np.float32(theirs(jnp.int32(step))), 1
        )
        np.testing.assert_allclose(ours(step), ours(jnp.int32(step)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
def test_all_steps_at_once(build):
    steps = jnp.arange(101)
    together = jax.jit(jax.vmap(build(optim)))(steps)
    np.testing.assert_allclose(
        together, [build(optim)(int(s)) for s in range(101)], rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
def test_equal_calls_make_equal_schedules(build):
    assert build(optim) == build(optim)
    assert hash(build(optim)) == hash(build(optim))
    assert optim.sgd(build(optim)) == optim.sgd(build(optim))
    assert build(optim) != optim.constant_schedule(0.25)


def test_float64(x64):
    step = jnp.arange(41)
    want = 0.5 * (0.9 * (0.5 + 0.5 * np.cos(np.pi * np.arange(41) / 40)) + 0.1)
    np.testing.assert_allclose(optim.cosine_decay_schedule(0.5, 40, 0.1)(step), want, rtol=1e-14)
    np.testing.assert_allclose(
        optim.exponential_decay(0.5, 7, 0.9)(step), 0.5 * 0.9 ** (np.arange(41) / 7), rtol=1e-14
    )


def test_boundaries():
    warmup = optim.warmup_cosine_decay_schedule(0.0, 1.0, 4, 8)
    np.testing.assert_allclose(
        [warmup(s) for s in (0, 2, 4, 6, 8, 9)], [0, 0.5, 1, 0.5, 0, 0], atol=1e-7
    )
    stairs = optim.piecewise_constant_schedule(1.0, {3: 0.1})
    np.testing.assert_allclose([stairs(s) for s in (2, 3)], [1.0, 0.1])


@pytest.mark.parametrize(
    "build",
    [
        lambda peak: optim.warmup_cosine_decay_schedule(0.0, peak, 3, 10, 0.01),
        lambda peak: optim.exponential_decay(1.0, 5, peak, end_value=0.3),
        lambda peak: optim.linear_schedule(0.0, peak, 5),
        lambda peak: optim.piecewise_constant_schedule(peak, {3: peak}),
        lambda peak: optim.cosine_decay_schedule(peak, 7, alpha=peak),
    ],
)
def test_values_may_be_traced(build):
    peaks = jnp.array([0.0, 0.5, 1.5])
    steps = jnp.arange(12)
    swept = jax.jit(jax.vmap(lambda peak: build(peak)(steps)))(peaks)
    # Optax's exponential decay of rate 0, known beforehand, is constant
    for peak, row in list(zip(peaks.tolist(), swept, strict=True))[1:]:
        np.testing.assert_allclose(row, build(peak)(steps), rtol=1e-6, atol=1e-7)
    assert np.isfinite(swept).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.cosine_decay_schedule(1.0, 0), "decay_steps must be > 0, got 0"),
        (
            lambda: optim.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10),
            "decay_steps=10, warmup_steps=10",
        ),
        (lambda: optim.piecewise_constant_schedule(1.0, {5: -0.1}), "got -0.1 at 5"),
        (lambda: optim.join_schedules([optim.constant_schedule(1.0)], [5]), "one less"),
        (lambda: optim.join_schedules([abs, abs, abs], [5, 2]), "must rise"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


NAN = float("nan")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: optim.constant_schedule(x), "constant_schedule: value"),
        (lambda x: optim.polynomial_schedule(x, 0.0, 2, 5), "polynomial_schedule: init_value"),
        (lambda x: optim.polynomial_schedule(1.0, x, 2, 5), "polynomial_schedule: end_value"),
        (lambda x: optim.polynomial_schedule(1.0, 0.0, x, 5), "polynomial_schedule: power"),
        (lambda x: optim.linear_schedule(x, 0.0, 5), "linear_schedule: init_value"),
        (lambda x: optim.linear_schedule(1.0, x, 5), "linear_schedule: end_value"),
        (lambda x: optim.warmup_constant_schedule(x, 1.0, 5), "warmup_constant_.*: init_value"),
        (lambda x: optim.warmup_constant_schedule(0.0, x, 5), "warmup_constant_.*: peak_value"),
        (lambda x: optim.cosine_decay_schedule(x, 5), "cosine_decay_schedule: init_value"),
        (lambda x: optim.cosine_decay_schedule(1.0, 5, x), "cosine_decay_schedule: alpha"),
        (lambda x: optim.cosine_decay_schedule(1.0, 5, 0.0, x), "cosine_decay_.*: exponent"),
        (lambda x: optim.exponential_decay(x, 5, 0.9), "exponential_decay: init_value"),
        (lambda x: optim.exponential_decay(1.0, 5, x), "exponential_decay: decay_rate"),
        (lambda x: optim.exponential_decay(1.0, 5, 0.9, end_value=x), "exponential_.*: end_value"),
        (lambda x: optim.piecewise_constant_schedule(x), "piecewise_.*: init_value"),
    ],
)
@pytest.mark.parametrize("x", [NAN, np.float32(NAN), jnp.float32(NAN)], ids=["float", "np", "jnp"])
def test_nan_is_refused_by_name(build, message, x):
    with pytest.raises(ValueError, match=f"{message} must be a number, got .*nan"):
        build(x)


def test_nan_among_scales_is_refused():
    with pytest.raises(ValueError, match=r"scales must be >= 0, got nan at 5"):
        optim.piecewise_constant_schedule(1.0, {5: NAN})
