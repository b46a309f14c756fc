"""Text generation: end to end with a small model in a GGUF file, and the parts that judge."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.data import weights
from experiments.errors import UsageError
from experiments.generate import experiment, generation
from experiments.generate.experiment import Config, check
from jaxnets import models
from jaxnets.models import decode

LETTERS = ["<|end|>", "<|im_start|>", "<|im_end|>", *"abcdefgh", "Ġ", "Ċ", "ab", "Ġc"]


def write_model(path):
    """A Llama of two blocks whose tokens are letters."""
    package = pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    rng = np.random.default_rng(0)
    n, features, hidden = len(LETTERS), 16, 24
    shapes = {"token_embd": (n, features), "output_norm": (features,)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_norm": (features,), f"blk.{i}.ffn_norm": (features,),
            f"blk.{i}.attn_q": (16, features), f"blk.{i}.attn_k": (8, features),
            f"blk.{i}.attn_v": (8, features), f"blk.{i}.attn_output": (features, 16),
            f"blk.{i}.ffn_gate": (hidden, features), f"blk.{i}.ffn_up": (hidden, features),
            f"blk.{i}.ffn_down": (features, hidden),
        }  # fmt: skip
    writer = package.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(LETTERS)
    writer.add_token_types([3] * 3 + [1] * (n - 3))
    writer.add_token_merges(["a b", "Ġ c"])
    writer.add_eos_token_id(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def language(path):
    return generation.load_language(path, "float32")


def flags(path, monkeypatch, folder, *more):
    monkeypatch.setattr(experiment, "fetch_weights", lambda name, folder: [path])
    return ["generate", "--prompt", "ab cab", "--tokens", "8", "--folder", str(folder), *more]


@pytest.mark.thorough
def test_a_run_leaves_its_texts_probabilities_and_report(path, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    more = ["--samples", "2", "--top-k", "5", "--temperature", "1.5"]
    assert cli.main(flags(path, monkeypatch, folder, *more)) == 0
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["sample"] for r in found] == [0, 1]
    assert all(len(r["ids"]) == len(r["probabilities"]) == r["step"] <= 8 for r in found)
    bits = [-np.log2(r["probabilities"]).mean() for r in found]
    np.testing.assert_allclose(bits, [r["bits_per_token"] for r in found], rtol=1e-6)
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', html)
    out = capsys.readouterr().out
    assert f"ab cab{found[0]['text']}" in out
    assert re.search(r"tokens/s: 2 × 8 after a prompt of 3 in", out)


def test_greedy_generation_takes_the_likeliest_token_each_time(language):
    prompt = generation.encode(language, "ab cab", chat=False)
    assert [LETTERS[i] for i in prompt] == ["ab", "Ġc", "ab"]
    found = generation.generate(language, prompt, 6, choose=decode.greedy, key=jax.random.key(0))
    assert found.ids.shape == (1, 6)
    ids = generation.until_stop(language, found.ids[0])
    scores = generation.score(language, prompt, ids)
    np.testing.assert_array_equal(scores.likeliest[:, 0], ids)
    np.testing.assert_array_equal(scores.likeliest_probabilities[:, 0], scores.probabilities)
    seen = jnp.asarray(np.concatenate([prompt, ids])[:-1])
    full_pass = jax.jit(models.transformer, static_argnums=1)
    logits = np.asarray(full_pass(language.params, language.config, seen), np.float64)[2:]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(scores.probabilities, p.max(1), rtol=1e-4)
    np.testing.assert_allclose(scores.likeliest_probabilities, -np.sort(-p)[:, :3], rtol=1e-4)
    np.testing.assert_allclose(scores.entropy, -(p * np.log2(p)).sum(1), rtol=1e-4)


def test_a_text_ends_at_its_stop(language):
    assert language.stop == 0
    for ids, want in (([4, 0, 0], [4, 0]), ([4, 5], [4, 5]), ([0, 0], [0])):
        np.testing.assert_array_equal(generation.until_stop(language, np.array(ids)), want)


def test_tokens_are_shown_as_they_would_be_seen(language):
    ids = [3, LETTERS.index("Ġc"), LETTERS.index("Ċ"), 1]
    assert generation.pieces(language, ids) == ["a", "␣c", "⏎", "<|im_start|>"]


def test_a_question_is_put_between_the_marks_of_a_chat(language):
    ids = generation.encode(language, "ab", chat=True)
    assert LETTERS[ids[0]] == "<|im_start|>"
    assert [LETTERS[i] for i in ids].count("<|im_end|>") == 2


def test_a_chat_is_what_the_models_own_template_makes():
    """As Jinja2 3.1.6 renders it, with one message of the user and `add_generation_prompt`.

    The template is `tokenizer.chat_template` of SmolLM2-135M-Instruct's GGUF file; it puts its own
    system message before a first message that is none.
    """
    want = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert generation.CHAT.format("Why is the sky blue?") == want


def test_half_precision_is_asked_for_by_name(path):
    language = generation.load_language(path, "bfloat16")
    assert {p.dtype for p in jax.tree.leaves(language.params)} == {jnp.dtype("bfloat16")}
    forward = jax.jit(models.transformer, static_argnums=1)
    logits = jax.eval_shape(lambda p: forward(p, language.config, jnp.arange(3)), language.params)
    assert logits.dtype == jnp.bfloat16


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"x\.gguf is no GGUF file that can be read"):
        generation.load_language(tmp_path / "x.gguf", "float32")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--tokens 0", "--tokens must be positive, got 0"),
        ("--samples -1", "--samples must be positive, got -1"),
        ("--top-k 0", "--top-k must be positive, got 0"),
        ("--top-k 16", "--top-k must be at most 15, got 16"),
        ("--top-p 0", "--top-p must be above 0 and at most 1, got 0"),
        ("--top-p 1.5", "--top-p must be above 0 and at most 1, got 1.5"),
        ("--temperature 0", "--temperature must be positive, got 0.0; 0 is --greedy"),
        ("--temperature nan", "--temperature must be positive, got nan"),
        ("--seed -1", "--seed must be from 0 to 2147483647"),
        ("--greedy --samples 2", "--greedy has one continuation"),
        ("--prompt=", "--prompt must not be empty"),
        ("--tokens 62", "--tokens and the prompt's 3 must be at most 64 together"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_run(
    path, tmp_path, monkeypatch, capsys, more, message
):
    folder = tmp_path / "run"
    assert cli.main(flags(path, monkeypatch, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not folder.exists()


def test_the_weights_that_are_asked_for_exist():
    assert experiment.WEIGHTS in weights.WEIGHTS
    check(Config())
