import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.pretrained import load_safetensors, save_safetensors
from tests.catalogue import MODELS
from tests.numerics import assert_trees_equal, drawn

MIXED = {
    "half": jnp.linspace(-3, 3, 7, dtype=jnp.bfloat16),
    "layers": [{"kernel": jnp.ones((2, 3), jnp.float16)}, {"bias": np.arange(4, dtype=np.int64)}],
    "count": np.uint8(3),
    "empty": np.zeros((0, 4), np.float64),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case.name)
def test_every_model_comes_back_bit_for_bit(case, tmp_path):
    params = drawn(case.init)
    path = save_safetensors(tmp_path / "model.safetensors", params)
    like = jax.eval_shape(case.init, jax.random.key(0))
    assert_trees_equal(load_safetensors(path, like), params)


def test_all_dtypes_come_back_by_name(tmp_path):
    path = save_safetensors(tmp_path / "x", MIXED, metadata={"format": "np"})
    loaded = load_safetensors(path)
    assert list(loaded) == [
        "count", "empty", "half", "layers/0/kernel", "layers/1/bias", "mask",
    ]  # fmt: skip
    for got, want in zip(loaded.values(), jax.tree.leaves(MIXED), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, np.asarray(want))
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_the_formats_own_package_reads_and_writes_the_same(tmp_path):
    package = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    tree = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.arange(3)}
    path = save_safetensors(tmp_path / "ours", tree, metadata={"by": "jaxnets"})
    theirs = numpy.load_file(path)
    assert theirs.keys() == tree.keys()
    for name, x in tree.items():
        np.testing.assert_array_equal(theirs[name], x)
    with package.safe_open(path, "numpy") as opened:
        assert opened.metadata() == {"by": "jaxnets"}
    numpy.save_file(tree, tmp_path / "theirs")
    for name, x in load_safetensors(tmp_path / "theirs").items():
        np.testing.assert_array_equal(x, tree[name])
    # bfloat16, of which the package's own description is the oracle
    path = save_safetensors(tmp_path / "half", {"x": MIXED["half"]})
    ((name, entry),) = package.deserialize(path.read_bytes())
    assert (name, entry["dtype"], list(entry["shape"])) == ("x", "BF16", [7])
    assert bytes(entry["data"]) == np.asarray(MIXED["half"]).tobytes()


def test_what_differs_from_the_template_is_named(tmp_path):
    config = models.MLPConfig(3, 2, (4,))
    params = models.init_mlp(jax.random.key(0), config)
    path = save_safetensors(tmp_path / "x", params)
    deeper = models.init_mlp(jax.random.key(0), models.MLPConfig(3, 2, (4, 4)))
    with pytest.raises(ValueError, match="missing 'layers/2/bias', 'layers/2/kernel'"):
        load_safetensors(path, deeper)
    wider = models.init_mlp(jax.random.key(0), models.MLPConfig(3, 5, (4,)))
    with pytest.raises(ValueError, match=r"'layers/1/kernel' is float32\[4, 2\], not"):
        load_safetensors(path, wider)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    with pytest.raises(ValueError, match=r"'layers/0/bias' is float32\[4\], not bfloat16\[4\]"):
        load_safetensors(path, half)
    with pytest.raises(ValueError, match=r"'key' is key<fry>, which the format lacks"):
        save_safetensors(path, {"key": jax.random.key(0)})


def test_what_the_format_has_no_place_for_is_not_written(tmp_path):
    path, x = tmp_path / "x", np.ones(3)
    with pytest.raises(ValueError, match="no leaf can have the path '__metadata__'"):
        save_safetensors(path, {"__metadata__": x, "a": x}, metadata={"by": "jaxnets"})
    for metadata in ({"step": 3}, {3: "step"}, {"by": None}):
        with pytest.raises(ValueError, match="metadata must be strings by name, got"):
            save_safetensors(path, {"a": x}, metadata=metadata)
    assert not path.exists()
    # of a leaf further down the path is another
    save_safetensors(path, {"a": {"__metadata__": x}})
    assert list(load_safetensors(path)) == ["a/__metadata__"]


def test_a_save_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = save_safetensors(tmp_path / "x", {"a": np.ones(3)})

    def full(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_safetensors(path, {"a": np.zeros(3)})
    monkeypatch.undo()
    np.testing.assert_array_equal(load_safetensors(path)["a"], 1.0)
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def entry(shape=(2,), place=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "no JSON"),
        (b"[1]", b"", "no JSON object"),
        (b"[" * 100_000, b"", "no JSON"),
        ({"a": 3}, b"", "'a' is malformed"),
        ({"a": entry(dtype="F8")}, b"12345678", "dtype F8"),
        ({"a": entry(shape=(10**12,), place=(0, 4 * 10**12))}, b"12345678", "of 8 bytes"),
        ({"a": entry(shape=(10**12,))}, b"12345678", "has 8 bytes"),
        ({"a": entry(shape=(-2,))}, b"12345678", "malformed"),
        ({"a": entry(shape=(2**63, 0), place=(0, 0))}, b"", "malformed"),
        ({"a": entry(shape=(1,) * 64 + (2,))}, b"12345678", "'a' has 65 axes"),
        ({"a": entry(shape=(10**4000,) * 64)}, b"12345678", "malformed"),
        ({"a": entry(place=(0, 10**4000))}, b"12345678", "malformed"),
        ({"a": entry(place=(8, 0))}, b"12345678", "at 8 to 0"),
        ({"a": entry(), "b": entry()}, b"12345678", "overlap"),
        ({"a": entry()}, b"123456789", "belong to none"),
        ({"a": entry(place=(1, 9))}, b"123456789", "belong to none"),
    ],
)
def test_bad_files_fail_clearly(header, data, message, tmp_path):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "bad"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(ValueError, match=f"bad is no safetensors file.*{message}"):
        load_safetensors(path)


def test_a_header_larger_than_the_formats_own_package_reads(tmp_path):
    path = tmp_path / "bad"
    with path.open("wb") as stream:
        stream.write((100_000_001).to_bytes(8, "little"))
        stream.truncate(8 + 100_000_001)
    with pytest.raises(ValueError, match="its header has 100,000,001 bytes, more than 100,000,000"):
        load_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"1234", b"\xff" * 8, b"\xff" * 7 + b"\0{}"])
def test_a_header_longer_than_the_file(content, tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its header should have"):
        load_safetensors(path)
