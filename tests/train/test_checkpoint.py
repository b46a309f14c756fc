import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models, optim, train
from tests.numerics import assert_trees_equal

CONFIG = models.MLPConfig(n_in=3, n_out=2, hidden=(4,))


def make_state(seed=0):
    params = jax.jit(models.init_mlp)(jax.random.key(seed), CONFIG)
    params["half"] = jnp.linspace(0, 1, 5, dtype=jnp.bfloat16)
    return train.init_state(params, optim.adam(1e-3), jax.random.key(seed))


def without_key(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_what_is_restored_is_what_was_saved(tmp_path):
    state = make_state(1)
    train.save_checkpoint(tmp_path, 12, state)
    restored = train.restore_checkpoint(tmp_path, make_state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_trees_equal(without_key(restored), without_key(state))
    assert [x.dtype for x in jax.tree.leaves(restored)] == [x.dtype for x in jax.tree.leaves(state)]
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)


def test_the_latest_is_the_default_and_older_ones_are_dropped(tmp_path):
    assert train.latest_checkpoint(tmp_path / "none") is None
    for step in (3, 20, 100):
        train.save_checkpoint(tmp_path, step, {"step": jnp.int32(step)}, keep=2)
    assert train.latest_checkpoint(tmp_path) == 100
    like = {"step": jnp.int32(0)}
    assert train.restore_checkpoint(tmp_path, like)["step"] == 100
    assert train.restore_checkpoint(tmp_path, like, step=20)["step"] == 20
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint of step 3 .* there are \[20, 100\]"
    ):
        train.restore_checkpoint(tmp_path, like, step=3)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_manifest_is_in_the_format_of_sha256sum(tmp_path):
    import hashlib

    train.save_checkpoint(tmp_path, 1, make_state())
    lines = (tmp_path / "00000001.sha256").read_text().splitlines()
    assert lines
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def largest_file(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "does not match its SHA-256"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "does not match its SHA-256"),
        (lambda f: f.unlink(), "is missing"),
        (lambda f: f.with_name("stranger").write_text("x"), "is not in its manifest"),
    ],
    ids=["flipped", "truncated", "missing", "added"],
)
def test_a_corrupt_checkpoint_is_refused_by_name(tmp_path, damage, message):
    train.save_checkpoint(tmp_path, 1, make_state())
    damage(largest_file(tmp_path / "00000001"))
    with pytest.raises(ValueError, match=f"corrupt checkpoint: .*{message}"):
        train.restore_checkpoint(tmp_path, make_state())


def test_a_damaged_manifest_is_refused(tmp_path):
    train.save_checkpoint(tmp_path, 1, make_state())
    (tmp_path / "00000001.sha256").write_text("nonsense\n")
    with pytest.raises(ValueError, match="is not a SHA-256 manifest"):
        train.restore_checkpoint(tmp_path, make_state())


def test_a_save_cut_short_is_not_a_checkpoint_and_can_be_done_again(tmp_path):
    train.save_checkpoint(tmp_path, 1, {"x": jnp.ones(2)})
    (tmp_path / "00000002").mkdir()
    (tmp_path / "00000002" / "half-written").write_text("…")
    assert train.latest_checkpoint(tmp_path) == 1
    train.save_checkpoint(tmp_path, 2, {"x": jnp.full(2, 2.0)})
    np.testing.assert_array_equal(
        train.restore_checkpoint(tmp_path, {"x": jnp.zeros(2)})["x"], [2, 2]
    )


def test_nothing_is_overwritten(tmp_path):
    train.save_checkpoint(tmp_path, 1, {"x": jnp.ones(2)})
    with pytest.raises(FileExistsError, match="step 1 is saved already"):
        train.save_checkpoint(tmp_path, 1, {"x": jnp.zeros(2)})
    np.testing.assert_array_equal(train.restore_checkpoint(tmp_path, {"x": jnp.zeros(2)})["x"], 1)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": jnp.zeros(3)}, r"'x' is float32\[2\] in the checkpoint, and float32\[3\] is wanted"),
        ({"x": jnp.zeros(2, jnp.int32)}, r"'x' is float32\[2\].*int32\[2\] is wanted"),
        ({"y": jnp.zeros(2)}, r"'x' is float32\[2\] in the checkpoint, and nothing is wanted"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, r"'y' is nothing in the checkpoint"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, like, message):
    train.save_checkpoint(tmp_path, 1, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        train.restore_checkpoint(tmp_path, like)


def test_the_checkpoint_just_saved_is_kept_whatever_its_step(tmp_path):
    for step in (100, 5):
        train.save_checkpoint(tmp_path, step, {"x": jnp.full(1, step)}, keep=1)
    assert train.checkpoint_steps(tmp_path) == [5, 100]
    assert train.restore_checkpoint(tmp_path, {"x": jnp.zeros(1, int)}, step=5)["x"] == 5


def test_what_would_be_lost_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        train.save_checkpoint(tmp_path, 1, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}})
    with pytest.raises(ValueError, match="there is nothing to save in x"):
        train.save_checkpoint(tmp_path, 1, {"x": jnp.ones(0)})
    with pytest.raises(ValueError, match="there is nothing to save in the tree"):
        train.save_checkpoint(tmp_path, 1, {})
    assert not list(tmp_path.iterdir())


def test_numpy_leaves_keep_their_dtype(tmp_path):
    saved = {"x": np.array([1 + 1e-12])}
    train.save_checkpoint(tmp_path, 1, saved)
    assert np.asarray(train.restore_checkpoint(tmp_path, saved)["x"]) == 1 + 1e-12


def test_missing_folders_and_bad_steps(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        train.restore_checkpoint(tmp_path / "none", {})
    with pytest.raises(ValueError, match="step ≥ 0"):
        train.save_checkpoint(tmp_path, -1, {"x": jnp.ones(2)})
