"""Learn to write as Shakespeare did, byte by byte: a transformer and an LSTM."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.texts import Text, fingerprint, load_text, split
from experiments.errors import UsageError
from experiments.flags import filled, require_positive, require_seed
from experiments.language import looks, nets
from experiments.language.report import Looks, print_results, write_report
from experiments.language.sizes import FULL, QUICK, Sizes
from experiments.language.training import Bytes, Trained, bits, overlapping, run
from experiments.randomness import keys_of
from experiments.run import append_metrics, open_run
from jaxnets import tree

LINE = 96
"""Bytes of the passage that is looked at byte by byte."""


@dataclass(frozen=True)
class Config:
    """Train a transformer and an LSTM on the bytes of a text, and let them write on.

    What is not given is that of the full form, for an accelerator, or with --quick of one for two
    CPU cores.
    """

    data: str = "shakespeare"
    """shakespeare, or the path of a text file or of a folder of *.txt"""
    data_folder: Path | None = None
    """where shakespeare's archive is, if not found by itself"""
    model: Literal["both", "transformer", "lstm"] = "both"
    """which net"""
    quick: bool = False
    """the form for two CPU cores: minutes, smaller nets"""
    held_out: float = 0.1
    """the share of the text, at its end, that is not trained on"""
    seed: int = 0
    """of initial weights, windows and samples"""
    context: int | None = None
    """bytes in a window"""
    batch_size: int | None = None
    """windows in a step"""
    steps: int | None = None
    """of training"""
    learning_rate: float | None = None
    """of matrices, by Muon, at its peak"""
    adam_learning_rate: float | None = None
    """of all other parameters, by Adam, at its peak"""
    depth: int | None = None
    """blocks of the transformer"""
    features: int | None = None
    """of its positions"""
    heads: int | None = None
    """of its attention, dividing the features"""
    layers: int | None = None
    """of the LSTM"""
    hidden: int | None = None
    """features of each"""
    embedding: int | None = None
    """features of a byte, in the LSTM"""
    dropout: float | None = None
    """from 0 to below 1"""
    dtype: Literal["float32", "bfloat16"] | None = None
    """of the computation"""
    prompt: str = "\n\nKING.\n"
    """what the samples go on from"""
    samples: int = 3
    """how many texts each net writes"""
    sample_length: int = 500
    """bytes of each"""
    temperature: float = 0.8
    """of sampling, positive"""
    top_p: float = 0.95
    """the share of the likeliest bytes that is sampled from, above 0 and at most 1"""
    runs: Path = Path("runs")
    """where a folder for this run is made"""
    folder: Path | None = None
    """the run's folder itself, new or empty"""


def settle(config: Config) -> Sizes:
    """What the config's `None`s stand for, once all of its flags are checked.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    sizes = filled(config, QUICK if config.quick else FULL)
    positive = {k: v for k, v in sizes._asdict().items() if k not in ("dropout", "dtype")}
    positive |= {k: getattr(config, k) for k in ("samples", "sample_length", "temperature")}
    require_positive(positive)
    if not 0 <= sizes.dropout < 1:
        raise UsageError(f"--dropout must be from 0 to below 1, got {sizes.dropout}")
    if not 0 < config.held_out < 1:
        raise UsageError(f"--held-out must be above 0 and below 1, got {config.held_out}")
    if not 0 < config.top_p <= 1:
        raise UsageError(f"--top-p must be above 0 and at most 1, got {config.top_p}")
    if sizes.features % sizes.heads or (sizes.features // sizes.heads) % 2:
        raise UsageError(
            f"--heads must divide --features into even parts, got {sizes.heads} and "
            f"{sizes.features}"
        )
    if not config.prompt:
        raise UsageError("--prompt must not be empty")
    require_seed(config.seed)
    return sizes


def main(config: Config) -> int:
    """Train, write, look, report; returns the exit code."""
    sizes = settle(config)
    config = replace(config, **sizes._asdict())
    text = load_text(config.data, config.data_folder)
    train_text, held_out = split(text, config.held_out)
    for name, part in (("left to train on", train_text), ("held out", held_out)):
        if len(part) <= 2 * sizes.context:
            raise UsageError(
                f"{text.name}: {len(part)} bytes {name} are too few for windows of --context "
                f"{sizes.context}"
            )
    names = list(nets.MAKE) if config.model == "both" else [config.model]
    made = [nets.MAKE[name](sizes) for name in names]
    _describe(text, made)
    opened = open_run(config.runs, "language", config, data=fingerprint(text), folder=config.folder)
    with opened as folder:
        trained = [
            run(
                net, sizes, train_text, held_out, config.seed,
                lambda record: append_metrics(folder, [record]),
            )
            for net in made
        ]  # fmt: skip
        written = [_write(config, one) for one in trained]
        found = look(sizes, trained, held_out)
        print_results(text, trained, written, config.prompt)
        path = write_report(folder, text, trained, written, found)
        print(f"report: {path}")
    return 0


def _describe(text: Text, made: list[nets.Net]) -> None:
    counts = [tree.size(jax.eval_shape(net.init, jax.random.key(0))) for net in made]
    described = ", ".join(
        f"{net.name} with {n:,} parameters" for net, n in zip(made, counts, strict=True)
    )
    print(
        f"{text.name}: {len(text.content):,} bytes; {described}, on {jax.devices()[0].device_kind}"
    )


def _write(config: Config, trained: Trained) -> list[str]:
    """What a net writes after the prompt."""
    prompt = jnp.asarray(np.frombuffer(config.prompt.encode(), np.uint8), jnp.int32)
    keys = jax.random.split(keys_of(config.seed).sample, config.samples)

    @jax.jit
    def write(params, prompt, keys):  # type: ignore[no-untyped-def]
        return nets.write(
            trained.net, params, prompt, config.sample_length, keys,
            temperature=config.temperature, p=config.top_p,
        )  # fmt: skip

    return [looks.text_of(sample) for sample in np.asarray(write(trained.params, prompt, keys))]


def look(sizes: Sizes, trained: list[Trained], held_out: Bytes) -> Looks:
    """Each net on passages that were held out."""
    windows = overlapping(held_out, sizes.context)
    first = trained[0]
    ranked = looks.passages(first.net, first.params, windows)
    middle = windows[len(windows) // 2]
    length = min(LINE, sizes.context)
    surprises = [
        np.asarray(jax.jit(lambda p, w, net=one.net: bits(net, p, w))(one.params, middle))[-length:]
        for one in trained
    ]
    maps, head = None, (0, 0)
    for one in trained:
        if one.net.name == "transformer":
            ids = jnp.asarray(middle[-length:], jnp.int32)
            maps_of = jax.jit(looks.attention_maps)
            every = np.asarray(maps_of(one.params, one.net.config, ids), np.float64)
            head = looks.farthest_looking(every)
            maps = every[head]
    return Looks(first.net.name, ranked, middle[-length:].tobytes(), surprises, maps, head)
