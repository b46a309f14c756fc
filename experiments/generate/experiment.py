"""Continue a text with SmolLM2, a language model of 135 million parameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments.data.weights import fetch_weights
from experiments.errors import UsageError
from experiments.flags import require_positive, require_seed
from experiments.generate.generation import encode, generate, load_language, score, until_stop
from experiments.generate.report import Results, print_results, write_report
from experiments.run import append_metrics, open_run
from jaxnets import tree
from jaxnets.models import decode

WEIGHTS = "smollm2-135m"


@dataclass(frozen=True)
class Config:
    """Continue a text with SmolLM2-135M, and see how sure it was of each token."""

    prompt: str = "The capital of France is"
    """the text to continue"""
    chat: bool = False
    """put the prompt as a question to the assistant that the model was taught to be"""
    tokens: int = 40
    """how many tokens to add at most"""
    samples: int = 1
    """how many continuations, side by side"""
    greedy: bool = False
    """always the likeliest token; the next three flags are then without meaning"""
    temperature: float = 0.7
    """what logits are divided by, positive: below 1 for what is likely, above it for variety"""
    top_k: int | None = None
    """draw from so many likeliest tokens only"""
    top_p: float | None = 0.9
    """draw from the fewest likeliest tokens whose probabilities sum to this, above 0, at most 1"""
    seed: int = 0
    """of what is drawn"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of parameters and computation"""
    weights_folder: Path | None = None
    """where the GGUF file is, if not found by itself"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


def check(config: Config) -> None:
    """Look at all flags that can be judged before the model is there.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    require_positive({name: getattr(config, name) for name in ("tokens", "samples", "top_k")})
    if not (config.temperature > 0 and np.isfinite(config.temperature)):
        raise UsageError(f"--temperature must be positive, got {config.temperature}; 0 is --greedy")
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise UsageError(f"--top-p must be above 0 and at most 1, got {config.top_p}")
    require_seed(config.seed)
    if config.greedy and config.samples > 1:
        raise UsageError("--greedy has one continuation: leave --samples out")


def main(config: Config) -> int:
    """Load, generate, score, report; returns the exit code."""
    check(config)
    (path,) = fetch_weights(WEIGHTS, config.weights_folder)
    language = load_language(path, config.dtype)
    model = language.config
    prompt = encode(language, config.prompt, chat=config.chat)
    if config.top_k is not None and config.top_k > model.vocabulary:
        raise UsageError(f"--top-k must be at most {model.vocabulary}, got {config.top_k}")
    if len(prompt) + config.tokens > model.max_length:
        raise UsageError(
            f"--tokens and the prompt's {len(prompt)} must be at most {model.max_length} together"
        )
    print(
        f"{WEIGHTS}: {tree.size(language.params):,} parameters in {config.dtype}, on "
        f"{jax.devices()[0].device_kind}"
    )
    choose = (
        decode.greedy
        if config.greedy
        else decode.sampler(config.temperature, k=config.top_k, p=config.top_p)
    )
    with open_run(config.runs, "generate", config, folder=config.folder) as run:
        generated = generate(
            language,
            prompt,
            config.tokens,
            choose=choose,
            key=jax.random.key(config.seed),
            samples=config.samples,
        )
        continuations = [until_stop(language, ids) for ids in generated.ids]
        results = Results(
            language,
            generated,
            continuations,
            [score(language, prompt, ids) for ids in continuations],
        )
        append_metrics(run, results.records())
        print_results(config.prompt, results)
        print(f"report: {write_report(run, config.prompt, results)}")
    return 0
