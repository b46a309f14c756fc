"""Each library's training loop as its own documentation writes it.

`make(problem)` returns a function that trains one epoch, waits for it, and returns its steps.
Batches come from the host, as from a data loader, except where a name says that all data is on the
device. What else differs, because the documented loops do: ours donate their state to the step,
which may then reuse its memory; those of Linen, NNX and Equinox do not. PyTorch's batches are on
the device beforehand, and its images in channels-last memory.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.problems import LEARNING_RATE, Problem, batches, data
from jaxnets import losses, models, optim, train

Epoch = Callable[[], int]


def _cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _on_device(problem: Problem) -> list[Any]:
    return [jax.tree.map(jnp.asarray, batch) for batch in batches(problem)]


def on_device(make: Callable[[Problem, list[Any]], Epoch]) -> Callable[[Problem], Epoch]:
    """The same loop over batches that are on the device beforehand."""
    return lambda problem: make(problem, _on_device(problem))


def from_host(make: Callable[[Problem, list[Any]], Epoch]) -> Callable[[Problem], Epoch]:
    """The loop over NumPy batches."""
    return lambda problem: make(problem, batches(problem))


def _jaxnets(
    problem: Problem, *, packed: bool = False
) -> tuple[train.TrainState, Callable[..., Any]]:
    key = jax.random.key(0)
    if problem.image is None:
        mlp = models.MLPConfig(problem.n_in, problem.n_out, problem.hidden)
        params = models.init_mlp(key, mlp)

        def forward(params: Any, x: jax.Array) -> jax.Array:
            return models.mlp(params, mlp, x)
    else:
        cnn = models.CNNConfig(
            problem.image, problem.n_out, problem.channels, hidden=problem.hidden, batch_norm=False
        )
        params, state = models.init_cnn(key, cnn)

        def forward(params: Any, x: jax.Array) -> jax.Array:
            return models.cnn(params, cnn, x, state=state)[0]

    def loss(params: Any, batch: Any) -> jax.Array:
        x, y = batch
        logits = forward(optim.unpack(params) if packed else params, x)
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, y))

    optimizer = optim.adam(LEARNING_RATE)
    if packed:
        params, optimizer = optim.pack(params), optim.flat(optimizer)
    return train.init_state(params, optimizer, key), train.step(loss, optimizer)


def jaxnets_step(problem: Problem, prepared: list[Any]) -> Epoch:
    """A Python loop over one jitted step."""
    state, step = _jaxnets(problem)
    jitted = jax.jit(step, donate_argnums=0)

    def epoch() -> int:
        nonlocal state
        for batch in prepared:
            state, metrics = jitted(state, batch)
        jax.block_until_ready((state, metrics))
        return len(prepared)

    return epoch


def jaxnets_epoch(problem: Problem, *, unroll: int = 1, packed: bool = False) -> Epoch:
    """A whole epoch in one scan, shuffling included."""
    state, step = _jaxnets(problem, packed=packed)
    jitted = jax.jit(train.epoch(step, problem.batch_size, unroll=unroll), donate_argnums=0)
    everything = jax.tree.map(jnp.asarray, data(problem))

    def epoch() -> int:
        nonlocal state
        state, metrics = jitted(state, everything)
        jax.block_until_ready((state, metrics))
        return problem.steps

    return epoch


def linen(problem: Problem, prepared: list[Any]) -> Epoch:
    """Flax Linen with `TrainState`, Optax's Adam, a jitted step."""
    from flax import linen as nn
    from flax.training.train_state import TrainState

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for channels in problem.channels:
                x = nn.relu(nn.Conv(channels, (3, 3))(x))
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            for width in problem.hidden:
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(problem.n_out)(x)

    net = Net()
    state = TrainState.create(
        apply_fn=net.apply,
        params=net.init(jax.random.key(0), prepared[0][0])["params"],
        tx=optax.adam(LEARNING_RATE),
    )

    @jax.jit
    def train_step(state: Any, batch: Any) -> Any:
        x, y = batch

        def loss_fn(params: Any) -> Any:
            return _cross_entropy(state.apply_fn({"params": params}, x), y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    def epoch() -> int:
        nonlocal state
        for batch in prepared:
            state, loss = train_step(state, batch)
        jax.block_until_ready((state.params, loss))
        return len(prepared)

    return epoch


def nnx(problem: Problem, prepared: list[Any]) -> Epoch:
    """Flax NNX with `nnx.Optimizer`, Optax's Adam, and `nnx.jit`, as its documentation shows."""
    from flax import nnx as nn

    class Net(nn.Module):
        def __init__(self, rngs: Any) -> None:
            n_in = (problem.image or (0,))[-1]
            convs = []
            for channels in problem.channels:
                convs.append(nn.Conv(n_in, channels, (3, 3), rngs=rngs))
                n_in = channels
            self.convs = nn.List(convs)
            sizes = (problem.n_in, *problem.hidden, problem.n_out)
            self.layers = nn.List(
                [nn.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)]
            )

        def __call__(self, x: Any) -> Any:
            for conv in self.convs:
                x = nn.max_pool(nn.relu(conv(x)), (2, 2), (2, 2))
            x = x.reshape(x.shape[0], -1)
            *hidden, last = self.layers
            for layer in hidden:
                x = nn.relu(layer(x))
            return last(x)

    net = Net(nn.Rngs(0))
    optimizer = nn.Optimizer(net, optax.adam(LEARNING_RATE), wrt=nn.Param)

    @nn.jit
    def train_step(net: Any, optimizer: Any, x: Any, y: Any) -> Any:
        loss, grads = nn.value_and_grad(lambda net: _cross_entropy(net(x), y))(net)
        optimizer.update(net, grads)
        return loss

    def epoch() -> int:
        for x, y in prepared:
            loss = train_step(net, optimizer, x, y)
        jax.block_until_ready((loss, nn.state(net)))
        return len(prepared)

    return epoch


def equinox(problem: Problem, prepared: list[Any]) -> Epoch:
    """Equinox with `eqx.filter_jit` and Optax's Adam, as its documentation shows."""
    import equinox as eqx

    key = jax.random.key(0)

    class Net(eqx.Module):
        convs: list[Any]
        layers: list[Any]

        def __init__(self) -> None:
            n_in = (problem.image or (0,))[-1]
            self.convs = []
            for channels in problem.channels:
                self.convs.append(eqx.nn.Conv2d(n_in, channels, 3, padding=1, key=key))
                n_in = channels
            sizes = (problem.n_in, *problem.hidden, problem.n_out)
            self.layers = [eqx.nn.Linear(a, b, key=key) for a, b in itertools.pairwise(sizes)]

        def __call__(self, x: Any) -> Any:
            if self.convs:
                x = x.transpose(2, 0, 1)
            for conv in self.convs:
                x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(conv(x)))
            x = x.reshape(-1)
            *hidden, last = self.layers
            for layer in hidden:
                x = jax.nn.relu(layer(x))
            return last(x)

    net = Net()
    optimizer = optax.adam(LEARNING_RATE)
    opt_state = optimizer.init(eqx.filter(net, eqx.is_array))

    @eqx.filter_jit
    def make_step(net: Any, opt_state: Any, x: Any, y: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(lambda net: _cross_entropy(jax.vmap(net)(x), y))(
            net
        )
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(net, eqx.is_array))
        return loss, eqx.apply_updates(net, updates), opt_state

    def epoch() -> int:
        nonlocal net, opt_state
        for x, y in prepared:
            loss, net, opt_state = make_step(net, opt_state, x, y)
        jax.block_until_ready((loss, eqx.filter(net, eqx.is_array)))
        return len(prepared)

    return epoch


def torch(problem: Problem) -> Epoch:
    """PyTorch eager with fused Adam; images in channels-last memory."""
    import torch as t

    device = "cuda" if t.cuda.is_available() else "cpu"
    layers: list[Any] = []
    n_in = (problem.image or (0,))[-1]
    for channels in problem.channels:
        layers += [t.nn.Conv2d(n_in, channels, 3, padding=1), t.nn.ReLU(), t.nn.MaxPool2d(2)]
        n_in = channels
    layers.append(t.nn.Flatten())
    sizes = (problem.n_in, *problem.hidden, problem.n_out)
    for a, b in itertools.pairwise(sizes):
        layers += [t.nn.Linear(a, b), t.nn.ReLU()]
    net = t.nn.Sequential(*layers[:-1]).to(device)
    if problem.image is not None:
        net = net.to(memory_format=t.channels_last)
    optimizer = t.optim.Adam(net.parameters(), LEARNING_RATE, fused=True)

    def image(x: Any) -> Any:
        x = t.from_numpy(x).to(device)
        return x if problem.image is None else x.permute(0, 3, 1, 2)

    prepared = [(image(x), t.from_numpy(y).long().to(device)) for x, y in batches(problem)]

    def epoch() -> int:
        for x, y in prepared:
            optimizer.zero_grad()
            loss = t.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        loss.item()
        if device == "cuda":
            # the last update is still under way
            t.cuda.synchronize()
        return len(prepared)

    return epoch


CONTENDERS: dict[str, Callable[[Problem], Epoch]] = {
    "Flax NNX + Optax": from_host(nnx),
    "Flax Linen + Optax": from_host(linen),
    "Flax Linen + Optax, data on the device": on_device(linen),
    "Equinox + Optax": from_host(equinox),
    "PyTorch eager, fused Adam, data on the device": torch,
    "jaxnets, step by step": from_host(jaxnets_step),
    "jaxnets, step by step, data on the device": on_device(jaxnets_step),
    "jaxnets, epoch in one scan": jaxnets_epoch,
    "jaxnets, epoch in one scan, unroll=2": partial(jaxnets_epoch, unroll=2),
    "jaxnets, the same, parameters packed": partial(jaxnets_epoch, unroll=2, packed=True),
}
