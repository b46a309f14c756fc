"""The benchmarks run and compare what they say; how fast anything is, is not tested."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from docs import compare_optimizers
from experiments.benchmarks import (
    attention,
    clipping,
    cost_model,
    frozen,
    layers,
    optimizers,
    per_example,
    population,
    recurrent,
    timing,
    training,
    transformer,
)
from experiments.benchmarks.problems import Problem
from experiments.errors import UsageError
from jaxnets import gradients, tree
from tests.numerics import assert_trees_close

TINY = (
    Problem("MLP", None, (), 6, (5,), 3, 4, 2),
    Problem("CNN", (4, 4, 1), (2,), 8, (5,), 3, 4, 2),
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(timing, "TURN", 0.0)


def test_training_prints_a_row_for_each_contender(monkeypatch, capsys):
    monkeypatch.setattr(training, "PROBLEMS", TINY)
    monkeypatch.setattr(training, "CONTENDERS", {name: lambda p: lambda: p.steps for name in "xy"})
    training.main(training.Config(rounds=1, only="MLP"))
    text = capsys.readouterr().out
    assert "MLP (2 steps a round, 1 rounds)" in text
    assert "CNN" not in text
    assert [row.split()[0] for row in text.splitlines()[-2:]] == ["x", "y"]


@pytest.mark.thorough
def test_every_contender_does_the_steps_it_says():
    made = training.make_contenders(TINY[1])
    assert set(training.CONTENDERS) - set(made) <= {"PyTorch eager, fused Adam, data on the device"}
    for name, epoch in made.items():
        assert epoch() == 2, name


@pytest.mark.parametrize("name", layers.LAYERS)
def test_both_libraries_layers_are_the_same_function(name):
    _, theirs, ours, inputs = layers.LAYERS[name](2)
    assert_trees_close(ours(inputs), theirs(inputs), 1e-5)


def test_layers_prints_a_row_for_each_library(capsys):
    layers.main(layers.Config(rounds=1, only=", 10 classes", batch=2))
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[-2:]] == ["Optax", "jaxnets"]


@pytest.mark.thorough
def test_attention_functions_are_the_same():
    """In float32: JAX's own takes the softmax in float32 even for float64."""
    config = attention.Config(positions=12, heads=2, head_dim=4)
    qkv = attention.operands(config, 6)
    want, *others = (
        attention.value_and_gradients(function)(*qkv) for function in attention.FUNCTIONS.values()
    )
    for got in others:
        assert_trees_close(got, want, 1e-5)


def test_attention_prints_a_row_for_each_function_and_the_memory(capsys):
    config = attention.Config(rounds=1, lengths=(4, 8), positions=8, heads=1, head_dim=2)
    attention.main(config)
    text = capsys.readouterr().out
    assert "[batch, T, heads, features] = [2, 4, 1, 2]" in text
    assert "[batch, T, heads, features] = [1, 8, 1, 2]" in text
    assert text.count("jaxnets  ") == 2
    assert len(re.findall(r"^temporary memory .*, MB: .* of it\)$", text, re.MULTILINE)) == 2
    with pytest.raises(UsageError, match=r"--lengths must be positive, got \(0,\)"):
        attention.main(attention.Config(lengths=(0,)))
    with pytest.raises(UsageError, match="--head-dim must be positive, got -1"):
        attention.main(attention.Config(head_dim=-1))


SMALL = transformer.Config(
    rounds=1, depth=2, deep=3, features=8, heads=2, length=6, batch=2, vocabulary=11, generated=3
)


@pytest.mark.thorough
def test_nnx_trains_the_same_transformer():
    """From our parameters both steps that are timed have the same two losses."""
    from flax import nnx

    model, ids = transformer.model_config(SMALL, 2), transformer._ids(SMALL)
    our_step, (ours,) = transformer.our_step(model)
    their_step, (theirs,) = transformer.nnx_step(model)
    blocks = [
        {name: p[name] for name in ("attention_norm", "attention", "mlp_norm")} | p["mlp"]
        for p in ours.params["blocks"]
    ]
    given = ours.params | {"blocks": dict(enumerate(blocks))}
    # the net's part of the state; the optimizer's begins with zeros
    assert tree.size(nnx.to_pure_dict(theirs[0])) == tree.size(given)
    nnx.replace_by_pure_dict(theirs, {0: given})
    losses = []
    for _ in range(2):
        theirs, loss = their_step(theirs, ids)
        ours, metrics = our_step(ours, ids)
        assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
        losses.append(float(loss))
    assert losses[1] < losses[0]


@pytest.mark.thorough
def test_every_way_to_decode_finds_the_same_ids():
    """PyTorch's too, where it is installed."""
    found = {name: decode() for name, decode in transformer.decoders(SMALL).items()}
    want = found.pop(transformer.LOOP)
    assert want.shape == (SMALL.generated,)
    assert len(found) >= 1
    for name, ids in found.items():
        np.testing.assert_array_equal(ids, want, err_msg=name)


def test_torch_decodes_the_same_ids():
    pytest.importorskip("torch")
    config = replace(SMALL, generated=12, features=16)
    first, *others = (decode() for decode in transformer.decoders(config).values())
    assert len(others) == 2
    for ids in others:
        np.testing.assert_array_equal(ids, first)


def test_torchs_lstm_is_the_same_function():
    pytest.importorskip("torch")
    _, _, ours, inputs = layers.lstm_over_time(2)
    y, pull = jax.vjp(ours, inputs)
    ((params, x),) = pull(2 * y)
    got, gradients = recurrent.in_torch(inputs)()
    assert_trees_close(got.detach().numpy(), y, 1e-5)
    want = {
        "x": x,
        "weight_ih_l0": params["input"]["kernel"].T,
        "weight_hh_l0": params["hidden"]["kernel"].T,
        "bias_ih_l0": params["input"]["bias"],
        # added to the other, so that its gradient is the same
        "bias_hh_l0": params["input"]["bias"],
    }
    assert_trees_close({name: g.numpy() for name, g in gradients.items()}, want, 1e-4)


def test_nothing_is_compiled_into_the_cache_that_is_switched_off(tmp_path):
    names = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}

    def compile_one():
        jax.jit(lambda x: x * 3 + 1).lower(1.0).compile()
        return list(tmp_path.iterdir())

    try:
        for name, value in names.items():
            jax.config.update(name, value)
        with timing.without_compilation_cache():
            assert not compile_one()
        assert compile_one()
        with timing.without_compilation_cache():
            pass
        assert jax.config.jax_enable_compilation_cache
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.mark.exhaustive
def test_transformer_prints_a_table_for_each_part(monkeypatch, capsys):
    monkeypatch.setattr(transformer, "COMPILATIONS", 2)
    transformer.main(SMALL)
    text = capsys.readouterr().out
    assert "training step, 2 blocks of 8 features, T = 6, batch 2" in text
    assert "trace and compile a training step, 3 blocks" in text
    assert len(re.findall(r"min +\d+\.\d\d s, max +\d+\.\d\d s", text)) == 4
    assert "all tokens in one scan" in text
    assert text.count("jaxnets, steps in a scan") == 2


@pytest.mark.thorough
def test_recurrent_prints_a_row_for_each_library(capsys):
    recurrent.main(recurrent.Config(rounds=1, batch=2))
    rows = capsys.readouterr().out.splitlines()
    after = rows.index("LSTM, 128 to 128, of [2, 64, 128] (1 rounds)") + 2
    assert [row.split()[0] for row in rows[after : after + 2]] == ["Flax", "jaxnets"]
    with pytest.raises(UsageError, match="--batch must be at least 1, got 0"):
        recurrent.main(recurrent.Config(batch=0))


@pytest.fixture
def tiny(monkeypatch):
    for name in ("MANY_SMALL", "MANY", "FEW", "MEDIUM"):
        monkeypatch.setattr(optimizers, name, optimizers.Shape(2, 128))
    monkeypatch.setattr(optimizers, "NETS", ((2, 3),))


def speeds(text):
    """Row -> the ratio to Optax."""
    return {
        m[1]: float(m[2]) for m in re.finditer(r"^(\S.*?) .*? (\d+\.\d\d)x", text, re.MULTILINE)
    }


@pytest.mark.thorough
def test_optimizers_prints_each_table_with_its_rows(tiny, capsys):
    optimizers.main(optimizers.Config(rounds=1, only="so", flat=False))
    _, same, ours_only = capsys.readouterr().out.split("\n\n")
    assert speeds(same).keys() == {"sophia"}
    assert ours_only.startswith("Not in Optax")
    assert speeds(ours_only).keys() == {"optax,", "soap"}


@pytest.mark.thorough
def test_packed_optimizers_have_tables_of_their_own(tiny, capsys):
    optimizers.flat_tables(rounds=1)
    alone, again, third, net = capsys.readouterr().out.strip().split("\n\n")
    for table in (alone, again, third):
        assert table.startswith("AdamW's step, 2 leaves, 0.000128 M parameters")
        assert len(table.splitlines()) == 2 + 5
    assert net.startswith("Whole training step, AdamW, MLP of 2 layers of 3")
    assert len(net.strip().splitlines()) == 2 + 4


@pytest.mark.thorough
def test_wrappers_have_a_second_table_of_large_leaves(tiny, capsys):
    optimizers.main(optimizers.Config(rounds=1, only="apply_if", flat=False))
    _, same, large = capsys.readouterr().out.split("\n\n")
    assert [speeds(table).keys() for table in (same, large)] == [{"apply_if_finite"}] * 2


def test_every_optimizer_is_timed_or_left_out_for_a_reason():
    """Those that the documents compare with Optax, but for line searches."""
    timed = {*optimizers.SAME_CALL, *optimizers.OURS_ONLY}
    compared = {*compare_optimizers.SAME, *compare_optimizers.OURS_ONLY}
    assert compared - timed == {"lbfgs", "lbfgs (backtracking)"}
    assert set(optimizers.WRAPPERS) < timed
    assert set(optimizers.EXTRA) < timed


@pytest.mark.thorough
@pytest.mark.parametrize("name", optimizers.SAME_CALL)
def test_both_libraries_take_the_call(tiny, name, capsys):
    optimizers.same_call_table(1, optimizers.MEDIUM, [name])
    assert len(capsys.readouterr().out.strip().splitlines()) == 3


@pytest.mark.parametrize("module", [layers, optimizers, training])
def tiny_net():
    net = per_example.mlp()
    return net._replace(inputs=net.inputs[:4], labels=net.labels[:4])


def absent(*arguments):
    raise ModuleNotFoundError("No module named 'x'", name="x")


@pytest.mark.thorough
def test_per_example_prints_a_row_for_each_way(monkeypatch, capsys):
    monkeypatch.setattr(per_example, "NETS", {"MLP": tiny_net})
    few = {way: per_example.WAYS[way] for way in (per_example.BASE, "norms alone")}
    monkeypatch.setattr(per_example, "WAYS", few)
    monkeypatch.setattr(per_example, "jax_privacy", absent)
    monkeypatch.setattr(per_example, "opacus", lambda name, arguments: [("theirs", lambda: 1)])
    per_example.main(per_example.Config(rounds=1))
    text = capsys.readouterr().out
    assert "(jax-privacy: x is not installed)" in text
    rows = [line.split()[0] for line in text.splitlines()[-4:]]
    assert rows == ["plain", "norms", "clipped,", "theirs"]


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
def test_jax_privacy_is_asked_for_what_is_computed_here():
    pytest.importorskip("jax_privacy")
    net = tiny_net()
    arguments = net.params, net.inputs, net.labels
    theirs = clipping.jax_privacy(net.loss, 4, 1)
    ours, _ = gradients.clipped_grad(net.loss, clipping.CLIP_NORM)(*arguments)
    assert_trees_close(theirs(*arguments), ours, 1e-5)


@pytest.mark.thorough
def test_cost_model_prints_a_row_for_each_layer(capsys):
    name = "dense, t=8, 32 -> 32"
    cost_model.main(cost_model.Config(rounds=1, only=name))
    _, row, _, summary = capsys.readouterr().out.splitlines()[-4:]
    assert row.startswith(f"{name:<34}gram")
    assert "direct" in row
    assert summary.endswith("of 1; of them with a choice: 1")


@pytest.mark.parametrize("module", [layers, training, per_example, cost_model, transformer])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"only": "nothing"}, "--only 'nothing' matches none of: "),
    ],
)
def test_nothing_to_time_is_an_error(monkeypatch, capsys, module, flags, message):
    monkeypatch.setattr(training, "PROBLEMS", TINY[:1])
    monkeypatch.setattr(training, "make_contenders", lambda problem: {"x": lambda: 1})
    monkeypatch.setattr(per_example, "NETS", {"MLP": tiny_net})
    monkeypatch.setattr(per_example, "WAYS", {per_example.BASE: per_example.plain})
    monkeypatch.setattr(per_example, "jax_privacy", absent)
    monkeypatch.setattr(per_example, "opacus", lambda name, arguments: [])
    with pytest.raises(UsageError, match=message):
        module.main(module.Config(**flags))
    # and that before any table
    assert not capsys.readouterr().out.strip().splitlines()[1:]


def test_medians_and_ratios():
    done = timing.interleave({"a": lambda: 1, "b": lambda: 2}, rounds=3)
    assert done.keys() == {"a", "b"}
    assert all(t.low <= t.median <= t.high for t in done.values())
    given = {"a": timing.Timing(4e-6, 3e-6, 5e-6), "b": timing.Timing(2e-6, 1e-6, 3e-6)}
    _, a, b = timing.table(given, "a").splitlines()
    assert a.split() == ["a", "4.0", "3.0", "5.0", "1.00x"]
    assert b.split() == ["b", "2.0", "1.0", "3.0", "2.00x"]
    # its library is not installed
    assert [row.split()[-1] for row in timing.table(given, "c").splitlines()[1:]] == ["–", "–"]


def test_memory_that_is_not_known_is_said_to_be():
    line = timing.memory_line({"a": 2_000_000, "b": 1_000_000, "c": None}, "a")
    assert line.endswith("MB: a 2.0; b 1.0 (0.50 of it), c not known")
    line = timing.memory_line({"a": None, "b": 1_000_000}, "a")
    assert line.endswith("MB: a not known; b 1.0")


def test_a_contender_without_its_library_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(training, "CONTENDERS", {"theirs": absent, "ours": lambda problem: "made"})
    assert training.make_contenders(TINY[0]) == {"ours": "made"}
    assert "(theirs: x is not installed)" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_population_and_runs_in_turn_are_the_same_steps():
    config = population.Config(seeds=2, rates=2, epochs=1, batch_size=700, chunk=3)
    forms = population.contenders(config)
    assert population.BASELINE in forms
    assert {name: go() for name, go in forms.items()} == dict.fromkeys(forms, 2 * 2 * 2)


@pytest.mark.thorough
def test_a_head_costs_no_memory_more_beside_its_frozen_base():
    config = frozen.Config(examples=4, batch_size=2, rounds=1)
    forms, peaks = frozen.contenders(config)
    assert {go() for go in forms.values()} == {2}
    assert len(peaks) == 3
    assert max(peaks.values()) <= 1.1 * peaks[frozen.BASELINE]
    with pytest.raises(UsageError, match="at least --batch-size"):
        frozen.main(frozen.Config(examples=1))
