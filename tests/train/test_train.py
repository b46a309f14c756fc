import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import losses, models, nn, optim, train
from tests.numerics import assert_trees_close, assert_trees_equal, relative_error

N, BATCH = 22, 4
KEY = jax.random.key(0)
CONFIG = models.MLPConfig(n_in=3, n_out=1, hidden=(8,), dropout_rate=0.2)


def regression_data(key=KEY):
    x = jax.random.normal(key, (N, 3))
    return {"x": x, "y": jnp.sin(x.sum(1))}


DATA = regression_data()
HELD_OUT = regression_data(jax.random.key(1))


def predict(params, x, key=None):
    return models.mlp(params, CONFIG, x, key=key)[..., 0]


def batch_loss(params, batch, key):
    return jnp.mean(losses.squared_error(predict(params, batch["x"], key), batch["y"]))


def measure(params, model_state, batch):
    return {"loss": losses.squared_error(predict(params, batch["x"]), batch["y"])}


def fresh(optimizer, seed=0):
    params = jax.jit(models.init_mlp)(jax.random.key(7), CONFIG)
    return train.init_state(params, optimizer, jax.random.key(seed))


def test_a_step_is_gradient_update_apply():
    optimizer = optim.adam(1e-2)
    state = fresh(optimizer)

    def plain(params, batch):
        return batch_loss(params, batch, None)

    step = train.step(plain, optimizer)
    after, metrics = step(state, DATA)
    value, grads = jax.value_and_grad(plain)(state.params, DATA)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    assert metrics.keys() == {"loss"}
    assert metrics["loss"] == value
    assert_trees_equal(after.params, optax.apply_updates(state.params, updates))
    assert_trees_equal(after.opt_state, opt_state)
    assert after.step == 1
    assert jnp.all(jax.random.key_data(after.key) == jax.random.key_data(state.key))


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("has_key", [False, True])
def test_every_form_of_loss(has_aux, has_state, has_key):
    def loss(*args):
        params, *rest = args
        if has_state:
            count, *rest = rest
        batch, *rest = rest
        assert len(rest) == has_key
        value = jnp.mean(params * batch)
        extra = [count + 1] if has_state else []
        extra += [{"mean": batch.mean()}] if has_aux else []
        if not extra:
            return value
        return value, (extra[0] if len(extra) == 1 else tuple(extra))

    optimizer = optim.sgd(1.0)
    initial = train.init_state(jnp.ones(2), optimizer, KEY, model_state=jnp.int32(3))
    step = train.step(loss, optimizer, has_aux=has_aux, has_state=has_state, has_key=has_key)
    state, metrics = jax.jit(step)(initial, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(state.params, [0.5, -0.5])
    assert state.model_state == (4 if has_state else 3)
    assert metrics == ({"loss": 2.0, "mean": 2.0} if has_aux else {"loss": 2.0})


def test_batched_turns_an_examples_loss_into_a_batchs():
    def example_loss(params, example):
        x, y = example["x"], example["y"]
        return losses.squared_error(predict(params, x), y), {"x": x[0]}

    params = jax.jit(models.init_mlp)(KEY, CONFIG)
    value, aux = train.batched(example_loss)(params, DATA)
    assert relative_error(value, batch_loss(params, DATA, None)) <= 1e-6
    assert relative_error(aux["x"], DATA["x"][:, 0].mean()) <= 1e-6


def test_batched_gives_each_example_a_key_of_its_own():
    def example_loss(params, example, key):
        return jax.random.uniform(key) * params, {"key": jax.random.uniform(key)}

    optimizer = optim.sgd(0.1)
    state = train.init_state(jnp.ones(()), optimizer, KEY)
    step = train.step(
        train.batched(example_loss, has_key=True), optimizer, has_key=True, has_aux=True
    )
    _, metrics = step(state, jnp.zeros(1000))
    assert abs(float(metrics["key"]) - 0.5) < 5 / np.sqrt(12 * 1000)


def test_an_epoch_sees_every_example_at_most_once_and_others_each_epoch():
    epochs = [train.epoch_indices(KEY, e, N, BATCH) for e in range(6)]
    for indices in epochs:
        assert indices.shape == (5, BATCH)
        assert len(np.unique(indices)) == 20
    left_out = {tuple(sorted(set(range(N)) - set(np.ravel(e).tolist()))) for e in epochs}
    assert len(left_out) > 1
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[3], train.epoch_indices(KEY, 3, N, BATCH))


def test_batches_are_a_function_of_key_and_step_from_anywhere():
    optimizer = optim.sgd(0.0)
    seen = []

    def loss(params, batch):
        jax.debug.callback(lambda y: seen.append(np.array(y)), batch["y"], ordered=True)
        return jnp.mean(params * batch["y"])

    epoch = jax.jit(train.epoch(train.step(loss, optimizer), BATCH))
    state = train.init_state(jnp.ones(()), optimizer, KEY)._replace(step=jnp.int32(3))
    state, _ = epoch(state, DATA)
    epoch(state, DATA)
    jax.effects_barrier()
    key = jax.random.fold_in(KEY, 0)
    want = [DATA["y"][train.batch_indices(key, step, N, BATCH)] for step in range(3, 13)]
    np.testing.assert_array_equal(seen, want)
    whole = np.concatenate([train.epoch_indices(key, e, N, BATCH) for e in range(3)])
    each = [train.batch_indices(key, step, N, BATCH) for step in range(15)]
    np.testing.assert_array_equal(each, whole)


def test_an_epoch_in_a_scan_is_its_steps_one_by_one():
    optimizer = optim.adam(1e-2)
    step = train.step(batch_loss, optimizer, has_key=True)
    state, metrics = jax.jit(train.epoch(step, BATCH))(fresh(optimizer), DATA)

    want = fresh(optimizer)
    indices = train.epoch_indices(jax.random.fold_in(want.key, 0), 0, N, BATCH)
    one = jax.jit(step)
    for number, index in enumerate(indices):
        want, one_metrics = one(want, jax.tree.map(lambda leaf, i=index: leaf[i], DATA))
        assert relative_error(metrics["loss"][number], one_metrics["loss"]) <= 1e-6
    assert_trees_close(state.params, want.params, 1e-6)
    assert state.step == 5


def test_an_unrolled_epoch_is_the_epoch():
    optimizer = optim.adam(1e-2)
    step = train.step(batch_loss, optimizer, has_key=True)
    want, _ = jax.jit(train.epoch(step, BATCH))(fresh(optimizer), DATA)
    got, metrics = jax.jit(train.epoch(step, BATCH, unroll=2))(fresh(optimizer), DATA)
    assert metrics["loss"].shape == (5,)
    assert_trees_close(got.params, want.params, 1e-5)


def test_dropout_differs_by_step_and_seed_and_repeats_with_the_same():
    optimizer = optim.sgd(0.0)
    epoch = jax.jit(train.epoch(train.step(batch_loss, optimizer, has_key=True), N))
    first, metrics = epoch(fresh(optimizer), DATA)
    _, again = epoch(fresh(optimizer), DATA)
    _, next_step = epoch(first, DATA)
    _, other_seed = epoch(fresh(optimizer, seed=1), DATA)
    assert metrics["loss"] == again["loss"]
    assert metrics["loss"] != next_step["loss"]
    assert metrics["loss"] != other_seed["loss"]


@pytest.mark.parametrize("batch_size", [1, 4, 22, 100])
def test_evaluation_is_the_mean_over_all_examples_whatever_the_batch(batch_size):
    state = fresh(optim.sgd(0.1))
    got = jax.jit(train.evaluate(measure, batch_size))(state, DATA)
    want = jnp.mean(measure(state.params, (), DATA)["loss"])
    assert relative_error(got["loss"], want) <= 1e-6


def make_run(epochs, patience=None, learning_rate=3e-2):
    optimizer = optim.adam(learning_rate)
    epoch = train.epoch(train.step(batch_loss, optimizer, has_key=True), BATCH)
    run = train.run(epoch, train.evaluate(measure, 8), epochs, patience=patience)
    return run, fresh(optimizer)


def test_a_run_in_two_parts_is_the_run_bit_for_bit():
    whole, initial = make_run(6)
    state, stopping, history = jax.jit(whole)(initial, train.init_stopping(initial), DATA, HELD_OUT)
    part = jax.jit(make_run(3)[0])
    middle, middle_stopping, first = part(initial, train.init_stopping(initial), DATA, HELD_OUT)
    end, end_stopping, second = part(middle, middle_stopping, DATA, HELD_OUT)
    assert_trees_equal(jax.random.key_data(end.key), jax.random.key_data(state.key))
    assert_trees_equal(end._replace(key=0), state._replace(key=0))
    assert_trees_equal(end_stopping, stopping)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    assert_trees_equal(joined, history)


def test_a_run_over_seeds_by_vmap_is_each_alone():
    run, _ = make_run(2)
    optimizer = optim.adam(3e-2)
    states = jax.vmap(lambda seed: fresh(optimizer, seed))(jnp.arange(3))
    mapped = jax.jit(jax.vmap(run, (0, 0, None, None)))
    together, _, history = mapped(states, jax.vmap(train.init_stopping)(states), DATA, HELD_OUT)
    assert history.held_out["loss"].shape == (3, 2)
    for seed in range(3):
        initial = fresh(optimizer, seed)
        alone, _, _ = jax.jit(run)(initial, train.init_stopping(initial), DATA, HELD_OUT)
        got = jax.tree.map(lambda leaf, i=seed: leaf[i], together.params)
        assert_trees_close(got, alone.params, 1e-5)


def test_early_stopping_restores_the_best_and_skips_the_rest():
    run, initial = make_run(40, patience=2, learning_rate=0.5)
    state, stopping, history = jax.jit(run)(initial, train.init_stopping(initial), DATA, HELD_OUT)
    ran = int(history.ran.sum())
    assert 2 < ran < 40
    assert train.should_stop(stopping, 2)
    test_loss = np.asarray(history.held_out["loss"])
    best = int(np.argmin(test_loss[:ran]))
    assert best == ran - 1 - 2
    assert np.isnan(test_loss[ran:]).all()
    assert stopping.best_value == test_loss[best]
    assert int(stopping.best_step) == (best + 1) * 5
    restored = train.best(state, stopping)
    again = train.evaluate(measure, 8)(restored, HELD_OUT)["loss"]
    assert relative_error(again, test_loss[best]) <= 1e-6
    assert int(state.step) == ran * 5


def test_nan_is_never_better():
    state = fresh(optim.sgd(0.1))
    stopping = train.init_stopping(state)
    for value in (1.0, jnp.nan, jnp.nan):
        stopping = train.update_stopping(stopping, value, state)
    assert stopping.best_value == 1
    assert train.should_stop(stopping, 2)
    assert not train.should_stop(stopping, 3)
    assert not train.should_stop(stopping, None)


def test_small_improvements_count_in_float64(x64):
    state = fresh(optim.sgd(0.1))
    stopping = train.init_stopping(state)
    for value in (1.0, 1.0 - 1e-9):
        stopping = train.update_stopping(stopping, value, state)
    assert stopping.since_best == 0


def test_a_stopped_run_goes_on_with_more_patience():
    run, initial = make_run(40, patience=1, learning_rate=0.5)
    state, stopping, history = jax.jit(run)(initial, train.init_stopping(initial), DATA, HELD_OUT)
    assert not history.ran.all()
    again, _ = make_run(2, patience=None, learning_rate=0.5)
    _, _, more = jax.jit(again)(state, stopping, DATA, HELD_OUT)
    assert more.ran.all()


def test_state_and_stopping_can_be_donated():
    run, initial = make_run(1)
    jax.jit(run, donate_argnums=(0, 1))(initial, train.init_stopping(initial), DATA, HELD_OUT)


def test_the_best_state_has_the_moments_it_was_measured_with():
    state = fresh(optim.sgd(0.1))._replace(model_state={"mean": jnp.zeros(2)})
    stopping = train.update_stopping(train.init_stopping(state), 1.0, state)
    later = state._replace(model_state={"mean": jnp.ones(2)}, step=jnp.int32(9))
    stopping = train.update_stopping(stopping, 2.0, later)
    restored = train.best(later, stopping)
    np.testing.assert_array_equal(restored.model_state["mean"], [0, 0])
    assert restored.step == 9


def test_min_delta():
    state = fresh(optim.sgd(0.1))
    stopping = train.init_stopping(state)
    for value in (1.0, 0.95):
        stopping = train.update_stopping(stopping, value, state, min_delta=0.1)
    assert stopping.best_value == 1
    assert stopping.since_best == 1


def test_optaxs_optimizer_in_our_run():
    optimizer = optax.adam(1e-2)
    step = train.step(batch_loss, optimizer, has_key=True)
    state, _ = jax.jit(train.epoch(step, BATCH))(fresh(optimizer), DATA)
    ours = optim.adam(1e-2)
    want, _ = jax.jit(train.epoch(train.step(batch_loss, ours, has_key=True), BATCH))(
        fresh(ours), DATA
    )
    assert_trees_close(state.params, want.params, 1e-5)


def test_batch_norm_state_goes_through_a_run():
    config = models.CNNConfig((4, 4, 1), 2, channels=(3,), hidden=())
    params, moments = jax.jit(models.init_cnn)(KEY, config)
    optimizer = optim.sgd(0.1)

    def loss(params, state, batch):
        logits, state = models.cnn(params, config, batch, state=state, train=True)
        return jnp.mean(jnp.square(logits)), state

    state = train.init_state(params, optimizer, KEY, model_state=moments)
    x = 3 + jax.random.normal(KEY, (8, 4, 4, 1))
    after, _ = jax.jit(train.epoch(train.step(loss, optimizer, has_state=True), 4))(state, x)
    moved = after.model_state["moments"][0]["mean"]
    assert jnp.all(moved != moments["moments"][0]["mean"])


def test_one_trace_for_all_epochs():
    chex.clear_trace_counter()
    optimizer = optim.adam(1e-2)
    step = train.step(batch_loss, optimizer, has_key=True)
    epoch = jax.jit(chex.assert_max_traces(train.epoch(step, BATCH), n=1), donate_argnums=0)
    state = fresh(optimizer)
    for _ in range(3):
        state, _ = epoch(state, DATA)
    assert state.step == 15


def test_on_step_sees_every_step():
    seen = []
    optimizer = optim.sgd(0.1)
    step = train.step(batch_loss, optimizer, has_key=True)

    def on_step(state, metrics):
        jax.debug.callback(
            lambda s, v: seen.append((int(s), float(v))), state.step, metrics["loss"]
        )

    _, metrics = jax.jit(train.epoch(step, BATCH, on_step=on_step))(fresh(optimizer), DATA)
    jax.effects_barrier()
    assert sorted(seen) == [(i + 1, float(v)) for i, v in enumerate(metrics["loss"])]


def test_training_learns():
    run, initial = make_run(60)
    _, _, history = jax.jit(run)(initial, train.init_stopping(initial), DATA, DATA)
    assert history.held_out["loss"][-1] < 0.25 * history.held_out["loss"][0]


def test_bad_input_is_named():
    optimizer = optim.sgd(0.1)
    state = fresh(optimizer)
    step = train.step(batch_loss, optimizer, has_key=True)
    with pytest.raises(ValueError, match="batch_size must be from 1 to the 22 examples, got 23"):
        train.epoch(step, 23)(state, DATA)
    with pytest.raises(ValueError, match="same, non-zero first axis"):
        train.epoch(step, 4)(state, {"x": DATA["x"], "y": DATA["y"][:3]})
    with pytest.raises(ValueError, match="same, non-zero first axis"):
        train.evaluate(measure, 4)(state, jax.tree.map(lambda leaf: leaf[:0], DATA))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        train.evaluate(measure, 0)
    with pytest.raises(ValueError, match=r"loss must return a scalar, got shape \(3,\)"):
        train.step(lambda p, b: jnp.ones(3), optimizer)(state, DATA)
    with pytest.raises(TypeError, match=r"key must be a typed key.*uint32\[2\]"):
        train.init_state(state.params, optimizer, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        make_run(0)
    with pytest.raises(ValueError, match="patience must be at least 1"):
        make_run(1, patience=0)
    with pytest.raises(ValueError, match=r"metric 'l' must be one value for each example, \[4\]"):
        train.evaluate(lambda p, m, b: {"l": jnp.mean(b["y"])}, 4)(state, DATA)
    with pytest.raises(ValueError, match="got a tuple; pass has_aux=True"):
        train.step(lambda p, b: (jnp.ones(()), {}), optimizer)(state, DATA)
    with pytest.raises(ValueError, match=r"must return \(scalar, metrics\), got"):
        train.step(lambda p, b: jnp.ones(()), optimizer, has_aux=True)(state, DATA)
    with pytest.raises(ValueError, match="without the name 'loss'"):
        train.step(lambda p, b: (jnp.ones(()), {"loss": 1}), optimizer, has_aux=True)(state, DATA)
    epoch, evaluation = train.epoch(step, 4), train.evaluate(measure, 4)
    run = train.run(epoch, evaluation, 1, monitor="accuracy")
    with pytest.raises(ValueError, match=r"monitor must be one of \['loss'\], got 'accuracy'"):
        run(state, train.init_stopping(state), DATA, DATA)


def test_the_library_alone_trains_the_readmes_first_example():
    params = nn.init_dense(KEY, 3, 1)

    def loss(params, batch):
        return jnp.mean(losses.squared_error(nn.dense(params, batch["x"])[:, 0], batch["y"]))

    optimizer = optim.adam(1e-1)
    state = train.init_state(params, optimizer, KEY)
    step = jax.jit(train.step(loss, optimizer))
    before = loss(params, DATA)
    for _ in range(50):
        state, metrics = step(state, DATA)
    assert metrics["loss"] < before
