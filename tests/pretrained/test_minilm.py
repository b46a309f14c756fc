"""Sentence embeddings: on a small encoder, and MiniLM's real weights (`make download`)."""

import base64
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.weights import fetch_weights
from jaxnets import models, pretrained
from tests.catalogue import BERT
from tests.downloads import or_skip
from tests.numerics import assert_trees_equal, drawn, relative_error

NAMES = pretrained.BERT_NAMES
KEY = jax.random.key(0)


def test_there_and_back_bit_for_bit(tmp_path):
    params = drawn(models.init_encoder, BERT)
    state_dict = pretrained.to_state_dict(params, NAMES)
    assert state_dict["encoder.layer.1.attention.self.query.weight"].shape == (8, 8)
    assert state_dict["encoder.layer.0.intermediate.dense.weight"].shape == (32, 8)
    others = {
        "pooler.dense.bias": np.zeros(8, np.float32),
        "embeddings.position_ids": np.arange(5)[None],
    }
    path = pretrained.save_safetensors(tmp_path / "x", state_dict | others)
    assert_trees_equal(pretrained.load_bert(path, BERT), params)
    path = pretrained.save_safetensors(tmp_path / "y", state_dict | {"pooled": np.zeros(3)})
    with pytest.raises(ValueError, match="added 'pooled'"):
        pretrained.load_bert(path, BERT)


@pytest.mark.thorough
def test_an_embedding_is_the_mean_of_the_tokens_features_as_a_unit_vector():
    params = drawn(models.init_encoder, BERT)
    ids = jax.random.randint(KEY, (3, 5), 0, 11)
    mask = jnp.arange(5)[None] < jnp.array([[5], [2], [0]])
    got = pretrained.sentence_embedding(params, BERT, ids, mask)
    for row, n in enumerate((5, 2)):
        features = models.encoder(params, BERT, ids[row, :n])
        mean = np.asarray(features, np.float64).mean(0)
        assert relative_error(got[row], mean / np.linalg.norm(mean)) < 2e-6
    np.testing.assert_array_equal(got[2], 0)
    whole = pretrained.sentence_embedding(params, BERT, ids[0])
    assert relative_error(whole, got[0]) < 1e-6


def test_the_tokenizers_own_padding_and_truncation_are_off(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    texts = ["a b a", "", "c"]
    ids, mask = pretrained.tokenize(pretrained.load_tokenizer(path), texts)
    np.testing.assert_array_equal(ids, [[2, 4, 5, 4, 3], [2, 3, 0, 0, 0], [2, 1, 3, 0, 0]])
    np.testing.assert_array_equal(mask.sum(1), [5, 2, 3])
    ids, mask = pretrained.tokenize(pretrained.load_tokenizer(path, max_length=4), texts)
    np.testing.assert_array_equal(ids[0], [2, 4, 5, 3])
    with pytest.raises(ValueError, match="texts must not be empty"):
        pretrained.tokenize(tokenizer, [])
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        pretrained.load_tokenizer(path)


@pytest.fixture(scope="module")
def minilm():
    """The files of the weights, the parameters, and the reference's values."""
    weights, tokenizer = or_skip(fetch_weights, "minilm-l6")
    stored = json.loads(Path(__file__).with_name("minilm.json").read_text(encoding="utf-8"))
    values = base64.b64decode(stored["embeddings, float16 in base64"])
    stored["embeddings"] = np.frombuffer(values, "<f2").astype(np.float32).reshape(50, 384)
    return weights, tokenizer, pretrained.load_bert(weights), stored


@pytest.mark.download
def test_minilm_comes_back_bit_for_bit(minilm):
    path, _, params, _ = minilm
    stored = pretrained.load_safetensors(path)
    back = pretrained.to_state_dict(params, NAMES)
    assert len(stored) == 104
    left = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    assert stored.keys() - back.keys() == left
    for name, x in back.items():
        np.testing.assert_array_equal(x, stored[name])


@pytest.mark.download
def test_minilms_embeddings_are_the_references(minilm):
    _, path, params, stored = minilm
    tokenizer = pretrained.load_tokenizer(path, max_length=256)
    ids, mask = pretrained.tokenize(tokenizer, stored["sentences"])
    np.testing.assert_array_equal(mask.sum(1), stored["tokens"])
    assert max(stored["tokens"]) == 256
    embed = jax.jit(pretrained.sentence_embedding, static_argnums=1)
    # together, padded to the longest, where the reference had each alone
    got = np.asarray(embed(params, pretrained.MINILM, ids, mask))
    want = stored["embeddings"]
    cosines = np.sum(got * want, 1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert cosines.min() > 0.999999
    # what half precision leaves of the stored values
    assert np.abs(got - want).max() < 2e-4
    # a paraphrase, and another subject
    assert got[3] @ got[4] > 0.5
    assert abs(got[3] @ got[0]) < 0.15
