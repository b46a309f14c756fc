"""The equations of schedule-free, parameter-free and mixed-momentum optimizers, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jaxnets import optim

START = np.array([1.0, -2.0, 3.0])


def gradient(theta, t):
    """Of a quadratic, with something besides at each step."""
    return np.array([1.0, 4.0, 0.5]) * theta + np.array([0.3, -0.2, 0.1]) * (-1) ** t


def trajectory(optimizer, steps=6):
    params = jnp.asarray(START)
    state = optimizer.init(params)
    for t in range(steps):
        updates, state = optimizer.update(jnp.asarray(gradient(params, t)), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def schedule_free(rates, beta, power, steps=6, decay=0.0, b2=None, eps=0.0):
    """With x, y and z apart, as in the paper; returns y and x."""
    x = z = START
    total, largest, v = 0.0, 0.0, 0.0
    for t in range(steps):
        y = (1 - beta) * z + beta * x
        g = gradient(y, t)
        if b2 is not None:
            v = b2 * v + (1 - b2) * g * g
            g = g / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        z = z - rates[t] * (g + decay * y)
        largest = max(largest, rates[t + 1])
        total += largest**power
        c = largest**power / total
        x = (1 - c) * x + c * z
    return (1 - beta) * z + beta * x, x


def prodigy(rates, b1, b2, b3, eps, d0, coef, decay, steps=6, safeguard=False):
    theta, d = START, d0
    m = v = s = r = 0.0
    for t in range(steps):
        g = gradient(theta, t)
        rate = rates[t] * d * np.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * (d * g) ** 2
        r = b3 * r + d / d0 * rate * g @ (START - theta)
        s = b3 * s + d / d0 * (d if safeguard else rate) * g
        d = max(d, coef * r / np.abs(s).sum())
        theta = theta - rate * m / (np.sqrt(v) + d * eps) - rate * decay * theta
    return theta


def dog(first, eps, scale=1.0, steps=6):
    theta, squares = START, 0.0
    for t in range(steps):
        g = gradient(theta, t)
        first = max(first, np.linalg.norm(theta - START))
        squares += g @ g
        theta = theta - scale * first / np.sqrt(squares + eps) * g
    return theta


def dowg(r2, eps, decay=0.0, steps=6):
    theta, v = START, 0.0
    for t in range(steps):
        g = gradient(theta, t) + decay * theta
        r2 = max(r2, ((theta - START) ** 2).sum())
        v += r2 * g @ g
        theta = theta - r2 / (np.sqrt(v) + eps) * g
    return theta


def mechanic(rate, decay, eps, s0, n, steps=6):
    theta, delta = START, 0.0 * START
    betas = 1 - 0.1 ** np.arange(1, n + 1)
    r, m, v, s = np.zeros(n), np.zeros(n), np.zeros(n), np.full(n, s0)
    for t in range(steps):
        g = gradient(theta, t)
        size = np.linalg.norm(g) / (np.linalg.norm(theta) + eps)
        h = (g + decay * s.sum() * size * theta) @ ((START - theta) / (s.sum() + eps))
        delta = (START - theta) / (s.sum() + eps) + rate * g
        r = betas * r + s * np.clip(h, -m, m)
        m = np.maximum(betas * m, abs(h) + eps)
        v = betas**2 * v + h * h
        s = (s0 / n * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        theta = START - s.sum() * delta
    return theta


def ademamix(b1, b2, b3, alpha, eps, eps_root, decay, rate=0.1, steps=6):
    theta, m1, m2, v = START, 0.0, 0.0, 0.0
    for t in range(steps):
        g = gradient(theta, t)
        m1, m2 = b1 * m1 + (1 - b1) * g, b3[t] * m2 + (1 - b3[t]) * g
        v = b2 * v + (1 - b2) * g * g
        m = m1 / (1 - b1 ** (t + 1)) + alpha[t] * m2
        root = np.sqrt(v / (1 - b2 ** (t + 1)) + eps_root) + eps
        theta = theta - rate * (m / root + decay * theta)
    return theta


def simplified_ademamix(b1, b2, alpha, eps, eps_root, decay, rate=0.1, steps=6):
    theta, m, v = START, 0.0, 0.0
    for t in range(steps):
        g = gradient(theta, t)
        m, v = b1 * m + g, b2 * v + (1 - b2) * g * g
        root = np.sqrt(v / (1 - b2 ** (t + 1)) + eps_root) + eps
        theta = theta - rate * ((m + alpha * g) / root + decay * theta)
    return theta


def adopt(b1, b2, eps, clip=lambda t: t**0.25, nesterov=False, rate=0.1, steps=6):
    theta, m, v = START, 0.0, gradient(START, 0) ** 2
    for t in range(1, steps):
        g = gradient(theta, t)
        u = np.clip(g / np.maximum(np.sqrt(v), eps), -clip(t), clip(t))
        m = b1 * m + (1 - b1) * u
        theta = theta - rate * (b1 * m + (1 - b1) * u if nesterov else m)
        v = b2 * v + (1 - b2) * g * g
    return theta


def tight(count):
    """So that some values are clipped, and some are not."""
    return 0.3 * count**0.5


def sam(rate, rho, steps=3):
    theta = START
    for t in range(steps):
        g = gradient(theta, 2 * t)
        theta = theta - rate * gradient(theta + rho * g / np.linalg.norm(g), 2 * t + 1)
    return theta


# a schedule of a 32-bit step is in float32
RISING = np.array([0.0, 0.0625, 0.125, 0.125, 0.125, 0.125, 0.125])


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (
            lambda: optim.schedule_free_sgd(0.1, b1=0.8, weight_decay=0.1),
            schedule_free(np.full(7, 0.1), 0.8, 2.0, decay=0.1)[0],
        ),
        (
            lambda: optim.schedule_free_sgd(0.125, 2, 0.8, weight_lr_power=1.5),
            schedule_free(RISING, 0.8, 1.5)[0],
        ),
        (
            lambda: optim.schedule_free_adamw(0.125, 2, 0.8, 0.9, 1e-3, 0.1),
            schedule_free(RISING, 0.8, 2.0, decay=0.1, b2=0.9, eps=1e-3)[0],
        ),
        (
            lambda: optim.prodigy(0.5, (0.8, 0.9), 0.7, 1e-2, 0.1, 2.0, 0.1),
            prodigy(np.full(6, 0.5), 0.8, 0.9, 0.7, 1e-2, 0.1, 2.0, 0.1),
        ),
        (
            lambda: optim.prodigy(
                optim.linear_schedule(0.0, 1.0, 4),
                (0.8, 0.9),
                estim_lr0=0.1,
                estim_lr_coef=5.0,
                safeguard_warmup=True,
            ),
            prodigy(
                np.array([0, 0.25, 0.5, 0.75, 1, 1]),
                0.8,
                0.9,
                0.9**0.5,
                1e-8,
                0.1,
                5.0,
                0.0,
                safeguard=True,
            ),
        ),
        (lambda: optim.dog(0.5, ("distance", 0.1), eps=0.1), dog(0.1, 0.1, 0.5)),
        (lambda: optim.dog(init_step=("heuristic", 0.01)), dog(0.01 * (1 + 14**0.5), 1e-8)),
        (lambda: optim.dowg(eps=0.01), dowg(0.01, 0.01)),
        (lambda: optim.dowg(1.0, 0.1, 0.01, 0.2), dowg(0.1, 0.01, 0.2)),
        (
            lambda: optim.mechanize(optim.sgd(0.1), 0.1, 1e-3, 0.1, 3),
            mechanic(0.1, 0.1, 1e-3, 0.1, 3),
        ),
        (
            lambda: optim.ademamix(0.1, 0.8, 0.9, 0.95, 2.0, 1e-2, 1e-2, weight_decay=0.1),
            ademamix(0.8, 0.9, [0.95] * 6, [2.0] * 6, 1e-2, 1e-2, 0.1),
        ),
        (
            lambda: optim.ademamix(
                0.1,
                b3=optim.linear_schedule(0.5, 0.75, 4),
                alpha=optim.linear_schedule(0.0, 4.0, 4),
            ),
            ademamix(
                0.9,
                0.999,
                [0.5, 0.5625, 0.625, 0.6875, 0.75, 0.75],
                [0, 1, 2, 3, 4, 4],
                1e-8,
                0.0,
                0.0,
            ),
        ),
        (
            lambda: optim.simplified_ademamix(0.1, 0.8, 0.9, 2.0, 1e-2, 1e-2, 0.1),
            simplified_ademamix(0.8, 0.9, 2.0, 1e-2, 1e-2, 0.1),
        ),
        (lambda: optim.adopt(0.1, 0.8, 0.9), adopt(0.8, 0.9, 1e-6)),
        (
            lambda: optim.adopt(0.1, 0.8, 0.9, 2.0, nesterov=True, clip_value_fn=tight),
            adopt(0.8, 0.9, 2.0, tight, nesterov=True),
        ),
        (
            lambda: optim.adopt(0.1, 0.8, 0.9, use_clipping=False, clip_value_fn=tight),
            adopt(0.8, 0.9, 1e-6, lambda t: np.inf),
        ),
        (
            lambda: optim.sam(optim.sgd(0.1), optim.chain(optim.normalize(), optim.sgd(0.05))),
            sam(0.1, 0.05),
        ),
    ],
)
def test_numpy(optimizer, want, x64):
    np.testing.assert_allclose(trajectory(optimizer())[0], want, rtol=1e-12)


def test_schedule_free_is_evaluated_at_the_average(x64):
    _, average = schedule_free(RISING, 0.8, 2.0)
    for optimizer in (
        optim.schedule_free_sgd(0.125, 2, 0.8),
        optim.schedule_free_sgd(0.125, 2, optim.constant_schedule(0.8)),
        optim.chain(optim.clip(1e9), optim.schedule_free_sgd(0.125, 2, 0.8)),
    ):
        params, state = trajectory(optimizer)
        got = optim.schedule_free_eval_params(state, params)
        np.testing.assert_allclose(got, average, rtol=1e-12)
    with pytest.raises(ValueError, match="must hold one of schedule_free's, got 0"):
        optim.schedule_free_eval_params(optim.adam(0.1).init(params), params)
    narrow = jnp.ones(2, jnp.bfloat16)
    state = optim.schedule_free_sgd(0.1).init(narrow)
    assert optim.schedule_free_eval_params(state, narrow).dtype == jnp.bfloat16


def test_schedule_free_is_closer_to_float64_than_optax():
    """Optax finds `x` from `y` and `z`, and the update from the new `y`: differences all."""
    with jax.enable_x64(True):
        want = np.asarray(trajectory(optim.schedule_free_adamw(0.01), 60)[0])
    errors = []
    for optimizer in (optim.schedule_free_adamw(0.01), contrib.schedule_free_adamw(0.01)):
        params, state = jnp.asarray(START), optimizer.init(jnp.asarray(START))
        step = jax.jit(optimizer.update)
        for t in range(60):
            g = jnp.asarray(gradient(params, t), jnp.float32)
            updates, state = step(g, state, params)
            params = optim.apply_updates(params, updates)
        errors.append(np.abs(np.asarray(params, np.float64) - want).max())
    assert errors[0] < 1e-5
    assert errors[0] <= errors[1]


def test_schedule_free_stands_still_at_a_rate_of_0():
    """Where nothing has weight yet, the average is not `0 / 0`."""
    params, state = trajectory(optim.schedule_free_sgd(0.0))
    np.testing.assert_array_equal(params, jnp.asarray(START))
    np.testing.assert_array_equal(state.z, params)


def test_state_dtype_is_that_of_z():
    optimizer = optim.schedule_free_sgd(0.1, state_dtype=jnp.bfloat16)
    params, state = trajectory(optimizer)
    assert state.z.dtype == jnp.bfloat16
    exact, _ = trajectory(optim.schedule_free_sgd(0.1))
    np.testing.assert_allclose(params, exact, rtol=3e-2)


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        (lambda: optim.scale_by_ademamix(mu_dtype=jnp.bfloat16), ["m1", "m2"]),
        (lambda: optim.scale_by_adopt(mu_dtype=jnp.bfloat16), ["mu"]),
    ],
)
def test_mu_dtype(optimizer, moments):
    """The averages of gradients are stored rounded, that of squares is not."""
    g = jnp.array([1.001, 0.1])
    tx = optimizer()
    state = tx.init(g)
    for _ in range(2):
        update, state = tx.update(g, state, g)
        assert {getattr(state, name).dtype for name in moments} == {jnp.dtype("bfloat16")}
        assert state.nu.dtype == jnp.float32
    exact = tx.init(g)
    exact = exact._replace(**{name: getattr(exact, name).astype(g.dtype) for name in moments})
    for _ in range(2):
        want, exact = tx.update(g, exact, g)
    np.testing.assert_allclose(update, want, rtol=1e-2)


def test_prodigy_does_not_move_for_gradients_of_0():
    """Optax's estimate is `0 / 0` when the first gradients are 0."""
    optimizer = optim.prodigy()
    zeros = jnp.zeros(3)
    state = optimizer.init(zeros)
    updates, state = optimizer.update(zeros, state, zeros)
    np.testing.assert_array_equal(updates, 0)
    assert state.estim_lr == np.float32(1e-6)
    updates, state = optimizer.update(jnp.ones(3), state, zeros)
    assert np.isfinite(updates).all()
    assert (updates < 0).all()


def test_prodigy_finds_the_distance():
    """From an estimate of 1e-6, the distance of 5 to the solution is found to its order."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(distance)(params), state, params)
        return (optim.apply_updates(params, updates), state), None

    def distance(x):
        return jnp.sum(jnp.abs(x - 5.0))

    optimizer = optim.prodigy()
    start = jnp.zeros(())
    (params, state), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=300)
    assert 0.5 < state.estim_lr < 10
    assert abs(params - 5) < 1


def test_dog_begins_with_the_given_rate():
    optimizer = optim.dog(init_step=("learning_rate", 0.25))
    g = jnp.array([4.0, -8.0])
    updates, state = optimizer.update(g, optimizer.init(g), g)
    np.testing.assert_allclose(updates, -0.25 * g)
    moved = optim.apply_updates(g, updates)
    updates, _ = optimizer.update(g, state, moved)
    distance, squares = np.linalg.norm(0.25 * g), 2 * 80
    np.testing.assert_allclose(updates, -g * distance / np.sqrt(squares), rtol=1e-6)


def test_mechanic_begins_where_training_begins():
    """Not at what `init` has seen: weights may have been loaded since."""
    optimizer = optim.mechanize(optim.sgd(0.1))
    loaded = jnp.asarray(START)
    _, state = optimizer.update(loaded, optimizer.init(jnp.zeros(3)), loaded)
    np.testing.assert_array_equal(state.x0, loaded)


def test_adopt_clips_magnitudes_of_complex_parameters():
    optimizer = optim.scale_by_adopt(b1=0.0)
    g = jnp.array([3 + 4j, 0.0])
    _, state = optimizer.update(g, optimizer.init(g), g)
    assert jnp.isrealobj(state.nu)
    updates, _ = optimizer.update(2 * g, state, g)
    np.testing.assert_allclose(updates, [0.6 + 0.8j, 0.0], rtol=1e-6)


def test_opaque_sam(x64):
    """A whole cycle in each update, by the gradients that it asks for."""
    climb = optim.chain(optim.normalize(), optim.sgd(0.05))
    optimizer = optim.sam(optim.sgd(0.1), climb, opaque_mode=True)
    theirs = contrib.sam(optim.sgd(0.1), climb, opaque_mode=True)
    params, state = jnp.asarray(START), optimizer.init(jnp.asarray(START))
    other, other_state = params, theirs.init(params)
    for t in range(3):

        def grad_fn(theta, i, t=t):
            return jnp.asarray(gradient(theta, 2 * t + 1 + i))

        g = jnp.asarray(gradient(params, 2 * t))
        updates, state = optimizer.update(g, state, params, grad_fn=grad_fn)
        params = optim.apply_updates(params, updates)
        g = jnp.asarray(gradient(other, 2 * t))
        updates, other_state = theirs.update(g, other_state, other, grad_fn=grad_fn)
        other = other + updates
    np.testing.assert_allclose(params, sam(0.1, 0.05), rtol=1e-13)
    np.testing.assert_allclose(params, other, rtol=1e-13)
    assert state.cache is None
    with pytest.raises(ValueError, match="grad_fn=grad_fn"):
        optimizer.update(g, state, params)


def test_opaque_sam_averages_over_the_batch_axis():
    optimizer = optim.sam(optim.sgd(1.0), optim.sgd(0.0), opaque_mode=True, batch_axis_name="i")
    params = jnp.zeros(())

    def update(target):
        def grad_fn(theta, i):
            return theta - target

        return optimizer.update(params, optimizer.init(params), params, grad_fn=grad_fn)[0]

    np.testing.assert_allclose(jax.vmap(update, axis_name="i")(jnp.array([1.0, 3.0])), 2.0)


def test_sam_of_one_step_is_its_outer_optimizer():
    """Optax's takes each step from the point before the last."""
    got, _ = trajectory(optim.sam(optim.sgd(0.1), optim.sgd(0.05), sync_period=1))
    want, _ = trajectory(optim.sgd(0.1))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_normalize():
    tree = {"a": jnp.array([3.0]), "b": jnp.array([0.0, -4.0])}
    updates, _ = optim.normalize().update(tree, optim.EmptyState())
    np.testing.assert_allclose(updates["a"], 0.6, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [0, -0.8], rtol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, tree)
    updates, _ = optim.normalize().update(zeros, optim.EmptyState())
    np.testing.assert_array_equal(updates["b"], 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.schedule_free(optim.sgd(0.1), -0.1), "schedule_free: learning_rate"),
        (lambda: optim.schedule_free_sgd(0.1, b1=0.0), r"schedule_free_sgd: b1 must be in \(0, 1"),
        (
            lambda: optim.schedule_free_sgd(optim.constant_schedule(0.1), warmup_steps=5),
            "learning_rate that is a number",
        ),
        (lambda: optim.prodigy(-1.0), "prodigy: learning_rate"),
        (lambda: optim.prodigy(betas=(1.0, 0.9)), r"prodigy: betas\[0\] must be in .* got 1.0"),
        (lambda: optim.prodigy(betas=(0.9, 1.5)), r"prodigy: betas\[1\] must be in .* got 1.5"),
        (lambda: optim.prodigy(betas=(0.9, None)), r"prodigy: betas\[1\] must be a number"),
        (lambda: optim.prodigy(betas=(0.9,)), r"prodigy: betas must be two .* got \(0.9,\)"),
        (lambda: optim.prodigy(betas=(0.9,) * 3), r"prodigy: betas must be two"),
        (lambda: optim.prodigy(betas=0.9), r"prodigy: betas must be two .* got 0.9"),
        (lambda: optim.prodigy(estim_lr0=0.0), "prodigy: estim_lr0 must be > 0"),
        (lambda: optim.dog(init_step=("rate", 0.1)), r"got \('rate', 0.1\)"),
        (lambda: optim.dog(init_step=("learning_rate", -1.0)), "dog: .* in init_step must be > 0"),
        (lambda: optim.dog(init_step=("distance", np.nan)), "dog: .* init_step .* > 0, got nan"),
        (lambda: optim.dog(init_step=("heuristic", jnp.float32(0))), "in init_step must be > 0"),
        (lambda: optim.dog(init_step=("distance", abs)), "init_step is .* so no schedule"),
        (lambda: optim.scale_by_dog(("distance", "1")), "scale_by_dog: .* init_step must be a num"),
        (lambda: optim.dowg(init_estim_sq_dist=0.0), "dowg: init_estim_sq_dist must be > 0"),
        (lambda: optim.mechanize(optim.sgd(1.0), num_betas=0), "num_betas must be >= 1, got 0"),
        (lambda: optim.mechanize(optim.sgd(1.0), s_init=0.0), "s_init must be > 0"),
        (lambda: optim.ademamix(0.1, b3=1.0), "ademamix: b3"),
        (lambda: optim.simplified_ademamix(0.1, alpha=-1.0), "simplified_ademamix: alpha"),
        (lambda: optim.adopt(0.1, eps=0.0), "adopt: eps must be > 0"),
        (lambda: optim.sam(optim.sgd(0.1), optim.sgd(0.1), 0), "sync_period must be >= 1, got 0"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.schedule_free_sgd(0.1),
        optim.prodigy(),
        optim.dog(),
        optim.dowg(),
        optim.mechanize(optim.sgd(1.0)),
        optim.sam(optim.sgd(0.1), optim.sgd(0.1)),
    ],
)
def test_parameters_are_needed(optimizer):
    g = jnp.ones(2)
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params"):
        optimizer.update(g, optimizer.init(g))


def layerwise_dog(a, eps, scale, steps=6):
    """Both leaves on their own."""
    ends = []
    for start, shift in ((START, 0.0), (START[:2] * 2, 0.5)):
        theta, r, total = start, a * (1 + np.linalg.norm(start)), 0.0
        for _ in range(steps):
            g = np.array([1.0, 4.0, 0.5])[: len(start)] * theta + shift
            r = max(r, np.linalg.norm(theta - start))
            total += g @ g
            theta = theta + scale * g * r / np.sqrt(total + eps)
        ends.append(theta)
    return ends


def test_layerwise_dog(x64):
    def run(optimizer, params, steps=6):
        state = optimizer.init(params)
        for _ in range(steps):
            g = [np.array([1.0, 4.0, 0.5]) * params[0], np.array([1.0, 4.0]) * params[1] + 0.5]
            updates, state = optimizer.update(g, state, params)
            params = optim.apply_updates(params, updates)
        return params, state

    params = [jnp.asarray(START), jnp.asarray(START[:2] * 2)]
    for arguments in ({}, {"reps_rel": 1e-2, "eps": 0.5, "global_scale": -0.5}):
        arguments = {"param_dtype": jnp.float64, "global_scale": -1.0} | arguments
        ours, state = run(optim.scale_by_distance_over_gradients(**arguments), params)
        want = layerwise_dog(
            arguments.get("reps_rel", 1e-6), arguments.get("eps", 1e-8), arguments["global_scale"]
        )
        for got, wanted in zip(ours, want, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        # its rates have an axis, which scalars and matrices do not
        with jax.numpy_rank_promotion("allow"):
            theirs, their_state = run(optax.scale_by_distance_over_gradients(**arguments), params)
        pairs = zip(*map(jax.tree.leaves, ((ours, state), (theirs, their_state))), strict=True)
        for got, wanted in pairs:
            assert got.shape == wanted.shape
            assert got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_layerwise_dog_stores_the_start_as_asked():
    optimizer = optim.scale_by_distance_over_gradients(param_dtype=jnp.bfloat16)
    params = {"x": jnp.ones(()), "z": jnp.ones(2, jnp.complex64)}
    state = optimizer.init(params)
    assert state.init_params["x"].dtype == jnp.bfloat16
    assert state.init_params["z"].dtype == jnp.complex64
    updates, _ = optimizer.update(params, state, params)
    assert jax.tree.map(jnp.shape, updates) == {"x": (), "z": (2,)}
