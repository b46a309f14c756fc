"""A population's members are the single runs, whatever they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses, models, nn, optim, train
from tests.numerics import assert_trees_close, assert_trees_equal

N, BATCH = 22, 4
NET = models.MLPConfig(n_in=3, n_out=1, hidden=(8,), dropout_rate=0.2)
GRID = train.members([3, 5], {"learning_rate": [1e-3, 0.03], "l2": [0.0, 0.1]})
X = np.random.default_rng(0).normal(size=(2 * N, 3))
DATA, HELD_OUT = ({"x": x, "y": np.sin(x.sum(1))} for x in (X[:N], X[N:]))
ORDER = jax.random.key(9)


def predict(params, x, key=None):
    return models.mlp(params, NET, x, key=key)[..., 0]


def state_and_step(member):
    def loss(params, batch, key):
        error = losses.squared_error(predict(params, batch["x"], key), batch["y"]).mean()
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return error + member.hyper["l2"] * squares

    optimizer = optim.adam(member.hyper["learning_rate"])
    key = jax.random.key(member.seed)
    dtype = jnp.result_type(float)
    params = jax.tree.map(lambda x: x.astype(dtype), jax.jit(models.init_mlp)(key, NET))
    return train.init_state(params, optimizer, key), train.step(loss, optimizer, has_key=True)


def measure(params, model_state, batch):
    return {"loss": losses.squared_error(predict(params, batch["x"]), batch["y"])}


def whole_run(order, patience=None):
    def run(member, data, held_out):
        state, step = state_and_step(member)
        epoch = train.epoch(step, BATCH, order=order)
        fit = train.run(epoch, train.evaluate(measure, 8), 4, patience=patience)
        return fit(state, train.init_stopping(state), data, held_out)

    return run


def assert_members_are_single_runs(run, *shared, rtol, chunk=None):
    together = jax.jit(train.population(run, chunk=chunk))(GRID, *shared)
    alone = jax.jit(run)
    for index in range(8):
        single = alone(train.member(GRID, index), *shared)
        assert_trees_close(plain(train.member(together, index)), plain(single), rtol)
    return together


def plain(tree):
    """Keys as their data; NaN, where a run had stopped, as 0."""

    def leaf(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if typed else jnp.nan_to_num(x)

    return jax.tree.map(leaf, tree)


def test_members_are_the_cross_product():
    assert GRID.seed.tolist() == [3] * 4 + [5] * 4
    rows = train.table(GRID)
    assert len(rows) == 8
    assert rows[5] == {"seed": 5, "learning_rate": pytest.approx(1e-3), "l2": pytest.approx(0.1)}
    assert train.table(train.members(range(2))) == [{"seed": 0}, {"seed": 1}]


@pytest.mark.parametrize(
    "order",
    [pytest.param(None, marks=pytest.mark.thorough, id="own"), pytest.param(ORDER, id="shared")],
)
def test_each_member_is_its_single_run(order):
    chunk = None if order is None else 4
    assert_members_are_single_runs(whole_run(order), DATA, HELD_OUT, rtol=1e-6, chunk=chunk)


def test_each_member_is_its_single_run_in_float64():
    with jax.enable_x64(True):
        state, _, history = assert_members_are_single_runs(
            whole_run(ORDER), DATA, HELD_OUT, rtol=1e-12
        )
        assert state.params["layers"][0]["kernel"].dtype == jnp.float64
        # members differ: this is not one run eight times
        assert len(np.unique(np.asarray(history.held_out["loss"][:, -1]))) == 8


@pytest.mark.parametrize(
    "order",
    [pytest.param(None, marks=pytest.mark.thorough, id="own"), pytest.param(ORDER, id="shared")],
)
def test_members_stop_early_each_for_itself(order):
    grown = {"x": HELD_OUT["x"], "y": -HELD_OUT["y"]}
    _, _, history = assert_members_are_single_runs(
        whole_run(order, patience=1), DATA, grown, rtol=1e-6
    )
    ran = history.ran.sum(1)
    assert ran.min() < ran.max()


def test_batches_are_shared_where_the_order_is_and_own_otherwise():
    def seen(order):
        def step(state, batch):
            return state._replace(step=state.step + 1), {"batch": batch}

        def run(member, data):
            state = train.init_state({}, optim.sgd(0.1), jax.random.key(member.seed))
            return train.epoch(step, BATCH, order=order)(state, data)[1]["batch"]

        return jax.jit(train.population(run))(train.members([0, 1]), jnp.arange(N))

    shared, own = seen(ORDER), seen(None)
    np.testing.assert_array_equal(shared[0], shared[1])
    assert len(np.unique(shared[0])) == shared[0].size
    assert not np.array_equal(own[0], own[1])


def gathers(jaxpr):
    """How many axes the results of gathering data have, in a program and all that it calls."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "gather" and eqn.invars[0].aval.shape[:1] == (N,):
            found.append(eqn.outvars[0].aval.shape)
        for sub in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(sub, "jaxpr", sub)
            if hasattr(inner, "eqns"):
                found += gathers(inner)
    return found


@pytest.mark.parametrize("patience", [None, 2])
def test_shared_data_is_gathered_once_for_all_members(patience):
    """Also where members stop early, and their steps differ."""

    def train_gathers(order):
        run = train.population(whole_run(order, patience))
        shapes = gathers(jax.make_jaxpr(run)(GRID, DATA, HELD_OUT).jaxpr)
        # those of the evaluation are of 8 examples
        return [shape for shape in shapes if shape in ((BATCH, 3), (8, BATCH, 3))]

    assert train_gathers(ORDER) == [(BATCH, 3)]
    assert train_gathers(None) == [(8, BATCH, 3)]


def test_states_are_continued_with_batch_norm_and_donated():
    def loss(params, moments, batch):
        x, moments = nn.batch_norm(params["norm"], moments, batch["x"], train=True)
        value = losses.squared_error((x @ params["w"]), batch["y"]).mean()
        return value, moments

    def fresh(member):
        params, moments = nn.init_batch_norm(3)
        w = jax.random.normal(jax.random.key(member.seed), (3,))
        optimizer = optim.sgd(member.hyper["learning_rate"], 0.9)
        return train.init_state(
            {"norm": params, "w": w}, optimizer, jax.random.key(member.seed), model_state=moments
        )

    def advance(both, data):
        state, member = both
        optimizer = optim.sgd(member.hyper["learning_rate"], 0.9)
        return train.epoch(train.step(loss, optimizer, has_state=True), BATCH, order=ORDER)(
            state, data
        )[0]

    data = jax.tree.map(jnp.float32, DATA)
    together = jax.jit(
        lambda states, grid, data: train.population(advance)((states, grid), data),
        donate_argnums=0,
    )
    states = jax.jit(train.population(fresh))(GRID)
    donated = states.params["w"]
    states = together(together(states, GRID, data), GRID, data)
    assert donated.is_deleted()
    alone = jax.jit(advance)
    for index in (0, 7):
        member = train.member(GRID, index)
        single = alone((alone((fresh(member), member), data), member), data)
        assert_trees_close(plain(train.member(states, index)), plain(single), 1e-6)


def test_a_plain_step_takes_one_batch_for_all():
    def advance(member, batch):
        state, step = state_and_step(member)
        return step(state, batch)[1]["loss"]

    batch = jax.tree.map(jnp.float32, DATA)
    found = jax.jit(train.population(advance))(GRID, batch)
    alone = jax.jit(advance)
    want = [alone(train.member(GRID, i), batch) for i in range(8)]
    assert_trees_close(found, jnp.stack(want), 1e-6)


def test_chunks_change_nothing_else():
    def square(member, shift):
        return {"value": member.seed**2 + shift}

    grid = train.members(range(7))
    whole = train.population(square)(grid, 1)
    for chunk in (1, 3, 7, 9):
        assert_trees_equal(train.population(square, chunk=chunk)(grid, 1), whole)


def test_what_disagrees_is_named():
    with pytest.raises(ValueError, match=r"population: every leaf needs the same.*hyper"):
        train.population(lambda m: m)(GRID._replace(hyper={"learning_rate": jnp.ones(3)}))
    with pytest.raises(ValueError, match="paired: every leaf needs the same"):
        train.paired([0, 1], {"learning_rate": [0.1]})
    with pytest.raises(ValueError, match="members: l2 must be a list of at least one number"):
        train.members([0], {"l2": 0.1})
    with pytest.raises(ValueError, match="members: seeds must be a list of at least one number"):
        train.members([])
    with pytest.raises(ValueError, match="members: hyper must not have the name 'seeds'"):
        train.members([0], {"seeds": [1]})
    with pytest.raises(ValueError, match="members: hyper must not have the name 'seed'"):
        train.members([0], {"seed": [1]})
    with pytest.raises(ValueError, match="paired: hyper must not have the name 'seed'"):
        train.paired([0], {"seed": [1]})
    with pytest.raises(ValueError, match="table: hyper must not have the name 'seed'"):
        train.table(GRID._replace(hyper={"seed": GRID.seed}))
    with pytest.raises(ValueError, match="population: chunk must be at least 1, got 0"):
        train.population(lambda m: m, chunk=0)
