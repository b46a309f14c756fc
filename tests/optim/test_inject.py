"""Hyper-parameters in the state: to set, and to read."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import optim
from tests.catalogue import thorough_beyond
from tests.numerics import assert_trees_equal

PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}


def updated(optimizer, steps=1, params=PARAMS, **extra):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = jax.jit(optimizer.update)(params, state, params, **extra)
    return updates, state


def test_setting_a_hyperparameter_between_compiled_steps():
    optimizer = optim.inject_hyperparams(optim.sgd)(0.1)
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for rate in (0.5, jnp.float32(0.25)):
        state.hyperparams["learning_rate"] = rate
        updates, state = update(PARAMS, state, PARAMS)
        np.testing.assert_array_equal(updates["bias"], -rate)
        assert state.hyperparams["learning_rate"].dtype == jnp.float32


@pytest.mark.parametrize("lib", [optim, optax], ids=["ours", "optax"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_hyperparameters_are_not_cast_to_half_precision(lib, dtype):
    """`b2=0.999` is 1 in bfloat16: Optax's first step is NaN."""
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    optimizer = optim.inject_hyperparams(lib.adamw)(0.1, eps=1e-4, mask=None)
    updates, state = updated(optimizer, 3, params)
    assert {x.dtype for x in state.hyperparams.values()} == {jnp.dtype("float32")}
    assert all(np.isfinite(np.float32(u)).all() for u in jax.tree.leaves(updates))
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, optimizer.init(params))


def test_dtype_on_request():
    inject = partial(optim.inject_hyperparams, hyperparam_dtype=jnp.bfloat16)
    state = inject(optim.sgd)(0.1).init(PARAMS)
    assert state.hyperparams["learning_rate"].dtype == jnp.bfloat16


class Falling:
    """A schedule that halves when it is told to."""

    def init(self):
        return jnp.float32(1)

    def update(self, state, *, halve, **extra):
        return jnp.where(halve, state / 2, state)

    def __call__(self, state, **extra):
        return 0.1 * state


def test_stateful_schedule():
    optimizer = optim.inject_hyperparams(optim.sgd)(Falling())
    state, rates = optimizer.init(PARAMS), []
    for halve in (False, True, True, False):
        updates, state = optimizer.update(PARAMS, state, PARAMS, halve=halve)
        rates.append(float(-updates["bias"][0]))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def test_any_factory():
    def factory(rate, mask, *, flip=True, **rest):
        return optim.masked(optim.scale(rate if flip else rest["other"]), mask)

    make = optim.inject_hyperparams(factory, static_args="mask")
    optimizer = make(2.0, lambda params: {"kernel": True, "bias": False}, other=3.0)
    updates, state = updated(optimizer)
    assert_trees_equal(updates, PARAMS | {"kernel": 2 * PARAMS["kernel"]})
    assert set(state.hyperparams) == {"rate", "other"}
    assert inspect.signature(make) == inspect.signature(factory)


def test_equal_calls_are_equal():
    make = optim.inject_hyperparams(optim.adamw)
    schedule = optim.cosine_decay_schedule
    assert make(schedule(0.1, 10)) == make(schedule(0.1, 10))
    assert hash(make(0.1)) == hash(make(0.1))
    assert make(0.1) != make(0.2)
    assert make(0.1) != optim.inject_hyperparams(optim.adam)(0.1)


def test_unknown_static_argument():
    with pytest.raises(ValueError, match=r"static_args \['lr'\] must be arguments of sgd"):
        optim.inject_hyperparams(optim.sgd, static_args="lr")


def rate(step):
    return 0.1 * (step + 1)


def test_learning_rate_is_read_at_the_next_step():
    optimizer = optim.adamw(rate, b1=jnp.float32(0.8), weight_decay=optim.linear_schedule(0, 1, 10))
    assert {"b1", "b2", "eps", "eps_root", "learning_rate", "weight_decay"} == set(
        optim.hyperparams(optimizer, optimizer.init(PARAMS))
    )
    _, state = updated(optimizer, 2)
    for read in (optim.hyperparams, jax.jit(optim.hyperparams, static_argnums=0)):
        found = read(optimizer, state)
        np.testing.assert_allclose(found["learning_rate"], 0.3, rtol=1e-6)
        np.testing.assert_allclose(found["weight_decay"], 0.2, rtol=1e-6)
        np.testing.assert_allclose((found["b1"], found["b2"]), (0.8, 0.999), rtol=1e-6)


def named_optimizers():
    """By name, those that take a learning rate: one that makes each from it alone."""
    taking = {
        name: member
        for name, member in vars(optim).items()
        if name in optim.__all__
        and not name.startswith("scale_by_")
        and inspect.isfunction(member)
        and "learning_rate" in inspect.signature(member).parameters
    }
    return taking | {
        "schedule_free": lambda x: optim.schedule_free(optim.sgd(x), x),
        "mechanize": lambda x: optim.mechanize(optim.adam(x)),
        "sam": lambda x: optim.sam(optim.adam(x), optim.normalize(), opaque_mode=True),
        "optimistic_adam optimism": lambda x: optim.optimistic_adam(x, 0.3),
        "prodigy scheduled": lambda x: optim.prodigy(x, (rate, 0.9)),
    }


OPTIMIZERS = named_optimizers()


def reads_rate(optimizer, steps):
    """The learning rates found after `steps` steps, but for the one that weighs an average."""
    extra = {
        "value": jnp.float32(1.0),
        "grad": PARAMS,
        "value_fn": lambda params, **_: squares(params),
        "obj_fn": squares,
        "grad_fn": lambda params, _: params,
    }
    state = optimizer.init(PARAMS)
    for _ in range(steps):
        _, state = optimizer.update(PARAMS, state, PARAMS, **extra)
    found = optim.hyperparams(optimizer, state)
    return [
        value
        for name, value in found.items()
        if name.rpartition("/")[2] == "learning_rate" and name != "schedule_free/learning_rate"
    ]


def squares(params):
    return sum(jnp.sum(x * x) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rate_of_every_optimizer_is_read(name):
    found = reads_rate(OPTIMIZERS[name](0.25), 0)
    assert found
    assert set(found) == {0.25}


@pytest.mark.parametrize(
    "name",
    thorough_beyond(
        {"sgd", "adamw", "fromage", "schedule_free_adamw", "sam"},
        {name: (name,) for name in OPTIMIZERS if name != "rprop"},
        pytest.mark.exhaustive,
    ),
)
def test_scheduled_learning_rate_of_every_optimizer_is_read_at_step_3(name):
    found = reads_rate(OPTIMIZERS[name](rate), 3)
    assert found
    assert {float(x) for x in found} == {float(rate(jnp.int32(3)))}


def test_the_rate_that_schedule_free_averages_with_is_read_beside_the_step_s():
    _, state = updated(optimizer := optim.schedule_free(optim.sgd(rate), rate), 3)
    found = optim.hyperparams(optimizer, state)
    np.testing.assert_allclose(found["learning_rate"], 0.4, rtol=1e-6)
    np.testing.assert_allclose(found["schedule_free/learning_rate"], 0.5, rtol=1e-6)
    foreign = optim.schedule_free(optax.sgd(0.1), 0.1)
    assert optim.hyperparams(foreign, foreign.init(PARAMS))["learning_rate"] == 0.1


def test_no_other_number_is_read_as_a_learning_rate():
    polyak = optim.polyak_sgd(0.1, scaling=rate)
    _, state = updated(polyak, 2, value=1.0)
    found = optim.hyperparams(polyak, state)
    assert (found["max_learning_rate"], float(found["scaling"])) == (0.1, float(rate(jnp.int32(2))))
    assert "learning_rate" not in found
    both = optim.sam(optim.sgd(0.1), optim.chain(optim.normalize(), optim.sgd(0.2)))
    found = optim.hyperparams(both, both.init(PARAMS))
    assert found == {"learning_rate": 0.1, "adv_optimizer/learning_rate": 0.2}


def test_averages_of_ademamix_are_read_at_the_next_step():
    for optimizer in (
        optim.ademamix(0.1, b3=0.99, alpha=rate),
        optim.simplified_ademamix(0.1, alpha=rate),
    ):
        _, state = updated(optimizer, 2)
        found = optim.hyperparams(optimizer, state)
        np.testing.assert_allclose(found["alpha"], 0.3, rtol=1e-6)
        assert found.get("b3", 0.99) == 0.99


WRAPPERS = {
    "chain": lambda tx: optim.chain(optim.clip(1.0), tx),
    "named_chain": lambda tx: optim.named_chain(("clip", optim.clip(1.0)), ("sgd", tx)),
    "masked": lambda tx: optim.masked(tx, "kernel"),
    "partition": lambda tx: optim.partition({"kernel": tx, ".*": optim.trace(0.9)}),
    "freeze": lambda tx: optim.freeze("bias", tx),
    "MultiSteps": lambda tx: optim.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: optim.apply_if_finite(tx, 3),
    "scheduled": lambda tx: optim.apply_if_finite(tx, lambda step: 3),
    "conditionally_mask": lambda tx: optim.conditionally_mask(tx, lambda step: step < 9),
    "conditionally_transform": lambda tx: optim.conditionally_transform(tx, lambda step: step < 9),
    "flatten": optim.flatten,
    "dynamic_loss_scale": optim.dynamic_loss_scale,
    "inject_hyperparams": lambda tx: optim.chain(optax.inject_hyperparams(optim.sgd)(0.3)),
    "both": lambda tx: optim.MultiSteps(optim.chain(optim.clip(1.0), optim.freeze("bias", tx)), 1),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_learning_rate_is_read_through(wrap):
    optimizer = wrap(optim.sgd(rate))
    _, state = updated(optimizer, 2)
    found = optim.hyperparams(optimizer, state)["learning_rate"]
    np.testing.assert_allclose(found, 0.3, rtol=1e-6)


def test_read_through_lookahead():
    optimizer = optim.lookahead(optim.sgd(rate), 2, 0.5)
    state = optimizer.init(optim.LookaheadParams.init_synced(PARAMS))
    found = optim.hyperparams(optimizer, state)
    assert found["sync_period"] == 2
    np.testing.assert_allclose(found["learning_rate"], 0.1, rtol=1e-6)


def test_names_that_occur_twice_get_their_place():
    inner = optim.chain(optim.sgd(0.1), optim.sgd(0.2, momentum=0.9))
    optimizer = optim.named_chain(("x", inner), ("y", optim.sgd(0.3)), ("z", optim.clip(1.0)))
    assert optim.hyperparams(optimizer, optimizer.init(PARAMS)) == {
        "x/0/learning_rate": 0.1,
        "x/1/learning_rate": 0.2,
        "decay": 0.9,
        "y/learning_rate": 0.3,
        "max_delta": 1.0,
    }
    optimizer = optim.partition({"bias": optim.adam(0.1), ".*": optim.sgd(rate)})
    _, state = updated(optimizer, 1)
    found = optim.hyperparams(optimizer, state)
    assert (found["bias/learning_rate"], found["b1"]) == (0.1, 0.9)
    np.testing.assert_allclose(found[".*/learning_rate"], 0.2, rtol=1e-6)


def test_nothing_is_known_of_other_transformations():
    assert optim.hyperparams(optax.adam(0.1), optax.adam(0.1).init(PARAMS)) == {}
    optimizer = optim.chain(optax.scale(2.0), optim.identity())
    assert optim.hyperparams(optimizer, optimizer.init(PARAMS)) == {}
    up = optim.scale_by_learning_rate(0.5, flip_sign=False)
    assert optim.hyperparams(up, up.init(PARAMS)) == {"learning_rate": 0.5}
    by_schedule = optim.scale_by_schedule(rate)
    assert set(optim.hyperparams(by_schedule, by_schedule.init(PARAMS))) == {"step_size"}
