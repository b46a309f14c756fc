"""LLaMA's decoders from GGUF files: small ones, and SmolLM2's real weights (`make download`)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.weights import fetch_weights
from jaxnets import models, pretrained
from jaxnets.models import decode
from jaxnets.pretrained.gguf import GGUF
from jaxnets.pretrained.quantized import Quantized
from tests.catalogue import LLAMA
from tests.downloads import or_skip
from tests.numerics import assert_trees_equal, drawn, relative_error

NAMES = pretrained.GGUF_LLAMA_NAMES


def metadata(**changes):
    """What describes the catalogue's `LLAMA`."""
    values = {
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 1e5,
        "rope.dimension_count": 2,
        "context_length": 1024,
        **changes,
    }
    given = {f"llama.{name}": value for name, value in values.items() if value is not None}
    return {"general.architecture": "llama", **given}


def tensors(params):
    return {
        name: Quantized("F32", x.shape, memoryview(x.tobytes()))
        for name, x in pretrained.to_state_dict(params, NAMES).items()
    }


@pytest.fixture(scope="module")
def params():
    return drawn(models.init_transformer, LLAMA)


@pytest.mark.parametrize("scan", [False, True], ids=["listed", "stacked"])
def test_rotations_of_neighbours_and_of_halves_are_one_decoder(scan, x64):
    """So that what a GGUF file holds has Hugging Face's layout too."""
    config = replace(LLAMA, head_dim=6, scan=scan, param_dtype=jnp.float64)
    params, ids = drawn(models.init_transformer, config), jnp.asarray([[3, 1, 4, 1, 5, 9]])
    moved, halves = pretrained.half_apart(params, config)
    assert halves == replace(config, positions="rotary")
    want = models.transformer(params, config, ids)
    assert relative_error(models.transformer(moved, halves, ids), want) < 1e-12
    assert relative_error(models.transformer(params, halves, ids), want) > 1e-3
    with pytest.raises(ValueError, match=r"must be 'rotary_interleaved', got 'rotary'"):
        pretrained.half_apart(moved, halves)


def test_a_file_gives_the_config_and_the_parameters_that_it_was_made_of(params):
    got, config = pretrained.llama_of(GGUF(metadata(), tensors(params)))
    assert config == replace(LLAMA, head_dim=2)
    assert_trees_equal(got, params)
    tied = {name: x for name, x in tensors(params).items() if name != "output.weight"}
    got, config = pretrained.llama_of(GGUF(metadata(), tied))
    assert config.tied
    assert "head" not in got


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture is 'mamba', not 'llama'"),
        ({"llama.block_count": None}, "block_count must be a positive int, got none"),
        ({"llama.block_count": 10**9}, "block_count is 1000000000, the tensors have 2"),
        ({"llama.attention.head_count": "4"}, "head_count must be a positive int, got '4'"),
        ({"llama.attention.head_count": True}, "head_count must be a positive int, got True"),
        ({"llama.attention.head_count": 3}, "3 heads must divide 8 features"),
        ({"llama.attention.head_count_kv": 3}, "kv_heads must divide 4 heads, got 3"),
        ({"llama.rope.freq_base": math.nan}, "freq_base must be a positive float, got nan"),
        ({"llama.rope.dimension_count": 1}, "1 of a head's 2 features are turned"),
        ({"llama.rope.scaling.type": "yarn"}, "scaling.type is 'yarn', which is not had here"),
        ({"llama.expert_count": 8}, "expert_count is 8, which is not had here"),
    ],
)
def test_what_metadata_say_wrong_is_named(changes, message, params):
    given = {k: v for k, v in (metadata() | changes).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        pretrained.llama_config(GGUF(given, tensors(params)))


def test_tensors_that_do_not_fit_are_named(params):
    whole = tensors(params)
    less = {name: x for name, x in whole.items() if name != "blk.1.ffn_norm.weight"}
    with pytest.raises(ValueError, match=r"missing 'blk\.1\.ffn_norm\.weight'"):
        pretrained.llama_of(GGUF(metadata(), less))
    # rotations by frequencies of its own: another function
    more = whole | {"rope_freqs.weight": whole["output_norm.weight"]}
    with pytest.raises(ValueError, match=r"added 'rope_freqs\.weight'"):
        pretrained.llama_of(GGUF(metadata(), more))
    other = whole | {"blk.0.attn_k.weight": whole["blk.0.attn_q.weight"]}
    with pytest.raises(ValueError, match="'blocks/0/attention/key/kernel' must be"):
        pretrained.llama_of(GGUF(metadata(), other))
    with pytest.raises(ValueError, match=r"'token_embd\.weight' must be a matrix, got none"):
        pretrained.llama_config(GGUF(metadata(), {}))


def test_names_and_shapes_are_compared_before_anything_is_dequantized(params, monkeypatch):
    def none(tensor):
        raise AssertionError("dequantized")

    monkeypatch.setattr("jaxnets.pretrained.names.dequantize", none)
    whole = tensors(params)
    wrong = {"output.weight": whole["blk.0.attn_q.weight"]}
    # the last of the leaves
    with pytest.raises(ValueError, match=r"'head/kernel' is float32\[8, 8\], not"):
        pretrained.llama_of(GGUF(metadata(), whole | wrong))
    with pytest.raises(AssertionError, match="dequantized"):
        pretrained.llama_of(GGUF(metadata(), whole))


def test_blocks_that_are_only_claimed_are_not_built(params, monkeypatch):
    """Tiny tensors named as those of many blocks."""
    traced = []
    init = models.init_transformer
    monkeypatch.setattr(
        "jaxnets.pretrained.llama.init_transformer",
        lambda key, config: traced.append(config.depth) or init(key, config),
    )
    tiny = Quantized("F32", (1,), memoryview(bytes(4)))
    depth = 10**4
    many = tensors(params) | {f"blk.{i}.x": tiny for i in range(2, depth)}
    with pytest.raises(ValueError, match=r"'blk\.2\.attn_q\.weight' must be a matrix, got none"):
        pretrained.llama_of(GGUF(metadata(block_count=depth), many))
    small = tiny._replace(shape=(1, 1))
    more = many | {f"blk.{i}.attn_q.weight": small for i in range(2, depth)}
    with pytest.raises(
        ValueError, match=r"'blk\.2\.attn_q\.weight' must be \(8, 8\), got \(1, 1\)"
    ):
        pretrained.llama_of(GGUF(metadata(block_count=depth), more))
    assert traced == []
    whole = tensors(params)
    renamed = {name.replace("blk.1.", "blk.01."): x for name, x in whole.items()}
    with pytest.raises(ValueError, match=r"'blk\.1\.attn_q\.weight' must be a matrix, got none"):
        pretrained.llama_of(GGUF(metadata(), renamed))
    pretrained.llama_of(GGUF(metadata(), whole))
    assert traced == [1]


WORDS = ["<end>", *"abcdefghij ".replace(" ", "Ġ"), "ab", "Ġc"]


def words(**changes):
    values = {
        "model": "gpt2", "pre": "smollm", "tokens": WORDS, "merges": ["a b", "Ġ c"],
        "token_type": np.array([3] + [1] * 13), **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def test_the_tokenizer_merges_pairs_and_knows_its_special_tokens():
    pytest.importorskip("tokenizers")
    tokenizer = pretrained.gguf_tokenizer(words())
    ids = tokenizer.encode("ab ca<end>").ids
    assert [WORDS[i] for i in ids] == ["ab", "Ġc", "a", "<end>"]
    assert tokenizer.decode(ids) == "ab ca"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "got 'llama' and 'smollm'"),
        ({"pre": "qwen2"}, "one of smollm, gpt-2, got 'gpt2' and 'qwen2'"),
        ({"tokens": None}, "tokens must be strings"),
        ({"tokens": np.arange(14)}, "tokens must be strings"),
        ({"tokens": [*WORDS[:-1], "a"]}, "tokens must be different"),
        ({"token_type": np.ones(3)}, "each have a type"),
        ({"merges": [3]}, "merges must be strings"),
        ({"merges": ["a x"]}, "merges are not of its tokens"),
        ({"merges": ["a"]}, "merges are not of its tokens"),
    ],
)
def test_metadata_without_a_tokenizer(changes, message):
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=message):
        pretrained.gguf_tokenizer(words(**changes))


@pytest.fixture(scope="module")
def smollm2():
    """The file, its parameters and config, its tokenizer, and the reference's values."""
    (path,) = or_skip(fetch_weights, "smollm2-135m")
    file = pretrained.load_gguf(path)
    params, config = pretrained.llama_of(file)
    stored = json.loads(Path(__file__).with_name("smollm2.json").read_text(encoding="utf-8"))
    return file, params, config, pretrained.gguf_tokenizer(file.metadata), stored


@pytest.mark.download
def test_smollm2_comes_back_bit_for_bit(smollm2):
    file, params, _, _, _ = smollm2
    back = pretrained.to_state_dict(params, NAMES)
    assert back.keys() == file.tensors.keys()
    assert sum(x.size for x in back.values()) == 134_515_008
    for name, x in back.items():
        np.testing.assert_array_equal(x, pretrained.dequantize(file.tensors[name]))


@pytest.mark.download
def test_smollm2_expects_what_the_reference_does(smollm2):
    _, params, config, tokenizer, stored = smollm2
    text = Path(__file__).with_name("smollm2.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text).ids[: len(stored["ids"])]
    np.testing.assert_array_equal(ids, stored["ids"])
    logits = jax.jit(models.transformer, static_argnums=1)(params, config, jnp.array(ids))
    found = np.argmax(logits[:-1], -1)
    assert len(found) == 1000
    assert np.mean(found == np.array(stored["top"])) >= 0.999
    log_probabilities = jax.nn.log_softmax(logits[:-1])[np.arange(1000), np.array(ids[1:])]
    assert abs(float(log_probabilities.mean()) - stored["mean log probability"]) < 1e-4
    assert relative_error(logits[-1, ::512], np.array(stored["last logits"])) < 1e-4


@pytest.mark.download
def test_smollm2_answers_as_the_reference_does(smollm2):
    _, params, config, tokenizer, stored = smollm2
    prompt = jnp.array(tokenizer.encode(stored["prompt"]).ids)

    @jax.jit
    def generate(params, prompt):
        def advance(ids, caches, start):
            return models.continue_transformer(params, config, ids, caches, start)

        return decode.generate(advance, models.transformer_caches(config, 32), prompt, 12)

    answer = tokenizer.decode(generate(params, prompt).tolist())
    assert answer.startswith(" Paris.")
    assert answer == stored["answer"]
