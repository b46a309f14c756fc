"""The recipe of `pytorch.json`: PyTorch's nets, their weights, outputs and gradients, in float64.

It needs torch and transformers, which the tests do not:

    python -m tests.pretrained.make_pytorch_values
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn


class CNN(nn.Module):
    """Convolutions with batch norm, and dense layers behind them, which flatten channels first."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(n, m, 3, padding=1, bias=False) for n, m in ((2, 3), (3, 5))]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(n) for n in (3, 5)])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.max_pool2d(torch.relu(norm(conv(x))), 2)
        return self.head(x)


class UpAndDown(nn.Module):
    """Convolutions that halve an image, and transposed ones that double it."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(n, m, 4, 2, 1) for n, m in ((2, 3), (3, 5))])
        # windows that are not square, so that axes taken for each other are seen
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(n, m, (4, 2), 2, (1, 0)) for n, m in ((5, 3), (3, 2))]
        )

    def forward(self, x):
        for layer in (*self.down, *self.up):
            x = torch.relu(layer(x))
        return x


class Language(nn.Module):
    """Next tokens by two recurrent layers."""

    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.layers = getattr(nn, kind)(3, 4, num_layers=2, batch_first=True)
        self.head = nn.Linear(4, 7)

    def forward(self, ids):
        return self.head(self.layers(self.embedding(ids))[0])


def bert():
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=5, attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertModel(config, add_pooling_layer=False)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=12, max_position_embeddings=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e3}, rms_norm_eps=1e-5,
        tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def values(net, inputs):
    """Three digits of each weight, so that the file is small; then all digits of what follows.

    The gradients are of `Σ sin(3 y)`.
    """
    rng = np.random.default_rng(0)
    net = net.double().eval()
    drawn = {}
    for name, p in net.state_dict().items():
        if p.is_floating_point():
            x = np.round(0.5 * rng.normal(size=p.shape), 3)
            drawn[name] = torch.tensor(np.abs(x) + 0.1 if "var" in name else x)
    net.load_state_dict(drawn, strict=False)
    y = net(inputs)
    y = getattr(y, "logits", getattr(y, "last_hidden_state", y))
    torch.sin(3 * y).sum().backward()
    return {
        "x": inputs.tolist(),
        "state dict": {name: w.tolist() for name, w in drawn.items()},
        "y": y.tolist(),
        "gradients": {name: p.grad.tolist() for name, p in net.named_parameters()},
    }


def main():
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(1)

    def image(*shape):
        return torch.tensor(np.round(rng.normal(size=shape), 3))

    def ids(n):
        return torch.tensor(rng.integers(0, n, (2, 5)))

    mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4))
    found = {
        "torch": torch.__version__.partition("+")[0],
        "transformers": transformers.__version__,
        "mlp": values(mlp, image(3, 6)),
        "cnn": values(CNN(), image(2, 2, 8, 6)),
        "lstm": values(Language("LSTM"), ids(7)),
        "gru": values(Language("GRU"), ids(7)),
        "bert": values(bert(), ids(11)),
        "llama": values(llama(), ids(11)),
        "up and down": values(UpAndDown(), image(2, 2, 8, 4)),
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in found.items())
    Path(__file__).with_name("pytorch.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
