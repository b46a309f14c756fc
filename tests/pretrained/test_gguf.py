"""GGUF files, and the blocks their tensors are quantized in, against the format's own package."""

import struct

import numpy as np
import pytest

from jaxnets.pretrained import dequantize, load_gguf
from jaxnets.pretrained.quantized import KINDS, Quantized


def string(text):
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def typed(kind, content):
    return struct.pack("<I", kind) + content


def count(n):
    return typed(4, struct.pack("<I", n))


def tensor(name, shape, kind=0, offset=0):
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def written(tmp_path, values=(), tensors=(), data=b"", *, start=b"GGUF", version=3, counts=None):
    """A file of metadata `(name, value)`, the tensors' entries, and their bytes."""
    n_tensors, n_values = (len(tensors), len(values)) if counts is None else counts
    content = start + struct.pack("<IQQ", version, n_tensors, n_values)
    content += b"".join(string(name) + value for name, value in values) + b"".join(tensors)
    path = tmp_path / "x.gguf"
    path.write_bytes(content + b"\0" * (-len(content) % 32) + data)
    return path


def blocks_of(kind, n=6):
    """Bytes whose scales are finite."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (n, KINDS[kind].width), dtype=np.uint8)
    places = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for place in places.get(kind, (0,)):
        scales = rng.normal(size=(n, 1)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8)
    return blocks


QUANTIZED = [kind for kind in KINDS if KINDS[kind].size > 1]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_are_those_of_the_formats_own_package(kind):
    package = pytest.importorskip("gguf")
    blocks = blocks_of(kind)
    want = package.quants.dequantize(blocks, package.GGMLQuantizationType[kind])
    got = dequantize(Quantized(kind, (2, 3 * KINDS[kind].size), memoryview(blocks.tobytes())))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.ravel(), want.ravel())


def test_a_block_by_hand():
    """Four bits: `w = d q + m`, the lower halves of the bytes first."""
    packed = np.arange(16, dtype=np.uint8) | (15 - np.arange(16, dtype=np.uint8)) << 4
    block = np.array([0.5, -3], "<f2").tobytes() + packed.tobytes()
    want = 0.5 * np.concatenate([np.arange(16), 15 - np.arange(16)]) - 3
    np.testing.assert_array_equal(dequantize(Quantized("Q4_1", (32,), memoryview(block))), want)


def test_a_file_of_the_formats_own_package(tmp_path):
    package = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    tensors = {
        "plain": rng.normal(size=(3, 5)).astype(np.float32),
        "half": rng.normal(size=(2, 2, 4)).astype(np.float16),
        "small": rng.normal(size=(4, 64)).astype(np.float32),
    }
    path = tmp_path / "x.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_rope_freq_base(1e5)
    writer.add_add_bos_token(False)
    writer.add_name("café")
    writer.add_token_list(["a", "", "Ġb"])
    writer.add_token_types([1, 3, 1])
    writer.add_token_scores([0.5, -1.0, 2.0])
    kind = package.GGMLQuantizationType.Q4_1
    packed = package.quants.quantize(tensors["small"], kind)
    for name in ("plain", "half"):
        writer.add_tensor(name, tensors[name])
    writer.add_tensor("small", packed, raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()

    found = load_gguf(path)
    scores = found.metadata.pop("tokenizer.ggml.scores")
    np.testing.assert_array_equal(scores, [0.5, -1, 2])
    np.testing.assert_array_equal(found.metadata.pop("tokenizer.ggml.token_type"), [1, 3, 1])
    assert found.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 7,
        "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.add_bos_token": False,
        "general.name": "café",
        "tokenizer.ggml.tokens": ["a", "", "Ġb"],
    }
    assert {name: t.kind for name, t in found.tensors.items()} == {
        "plain": "F32", "half": "F16", "small": "Q4_1",
    }  # fmt: skip
    for name in ("plain", "half"):
        np.testing.assert_array_equal(dequantize(found.tensors[name]), tensors[name])
    want = package.quants.dequantize(packed, kind)
    np.testing.assert_array_equal(dequantize(found.tensors["small"]), want)


FOUR = [tensor("w", (4,))]
MANY = 2**61


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"start": b"GGML"}, "does not start with GGUF"),
        ({"version": 1}, "of version 1"),
        ({"version": 3 << 24}, "version 50331648, or big-endian"),
        ({"counts": (0, MANY)}, "it claims [48] bytes where"),
        ({"counts": (MANY, 0)}, "it claims [48] bytes where"),
        ({"values": [("a", typed(8, struct.pack("<Q", MANY)))]}, "claims 2,305,843,0"),
        ({"values": [("a", typed(8, struct.pack("<Q", 2**64 - 1)))]}, "claims 18,446,744,0"),
        ({"values": [("a", typed(8, string("x")[:-1] + b"\xff"))]}, "can't decode"),
        ({"values": [("a", typed(9, struct.pack("<IQ", 6, MANY)))]}, "claims 9,223,372,0"),
        ({"values": [("a", typed(9, struct.pack("<IQ", 8, MANY)))]}, "bytes where"),
        ({"values": [("a", typed(9, struct.pack("<IQ", 9, 1)))]}, "of type 9"),
        ({"values": [("a", typed(99, b""))]}, "of type 99"),
        ({"values": [("a", count(1)), ("a", count(2))]}, "'a' twice"),
        ({"values": [("general.alignment", count(0))]}, "alignment is 0"),
        ({"tensors": [tensor("w", (2,) * 5)]}, "'w' has 5 axes"),
        ({"tensors": [tensor("w", (4,), kind=31)]}, "quantization 31, which is not known"),
        ({"tensors": [tensor("w", (0, 2**63))]}, "the shape"),
        ({"tensors": [tensor("w", (4, 8), kind=3)], "data": bytes(20)}, "blocks of 32 values"),
        ({"tensors": [tensor("w", (5,))], "data": bytes(16)}, "should be 20 bytes"),
        ({"tensors": [tensor("w", (2**63, 2**63))], "data": bytes(16)}, "should be 340,282,366"),
        ({"tensors": [tensor("w", (4,), offset=2**64 - 1)], "data": bytes(16)}, "should be 16 b"),
        ({"tensors": FOUR * 2, "data": bytes(16)}, "tensor 'w' twice"),
        (
            {"tensors": [tensor(f"w{i}", (32,)) for i in range(99)], "data": bytes(128)},
            "tensors overlap",
        ),
    ],
)
def test_bad_files_fail_clearly(parts, message, tmp_path):
    path = written(tmp_path, **parts)
    with pytest.raises(ValueError, match=f"x.gguf is no GGUF file that can be read: .*{message}"):
        load_gguf(path)


def test_no_damage_does_more(tmp_path):
    """Each a clear error, or a file whose tensors are within it."""
    values = [
        ("general.architecture", typed(8, string("llama"))),
        ("list", typed(9, struct.pack("<IQ", 8, 2) + string("a") + string("b"))),
        ("numbers", typed(9, struct.pack("<IQ3f", 6, 3, 1, 2, 3))),
    ]
    whole = written(tmp_path, values, [tensor("w", (32, 2), 3)], bytes(40)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    failed = 0
    for n in range(400):
        content = bytearray(whole[: rng.integers(len(whole))] if n % 4 == 0 else whole)
        for position in rng.integers(0, max(1, len(content)), 3):
            content[position : position + 1] = rng.integers(0, 256, 1, dtype=np.uint8).tobytes()
        path.write_bytes(content)
        try:
            found = load_gguf(path)
        except ValueError:
            failed += 1
            continue
        assert sum(len(t.data) for t in found.tensors.values()) <= len(content)
        for one in found.tensors.values():
            dequantize(one)
    assert 100 < failed < 400
