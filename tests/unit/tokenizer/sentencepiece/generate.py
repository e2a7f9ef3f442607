"""Makes the models and ids in this folder, with sentencepiece 0.2.3; to be run from the repository's root."""

from __future__ import annotations

import json
import random
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
SAMPLES = ["最后一行共件完今天天气很好", "한국어 텍스트와 단어", "Größe naïveté élan", "В 2024 году, «да»!"]
PARTS = [
    *"aeinrst_.;(", " ", "  ", "    ", "\n", "\t", "▁", "1", "23", "é", "ß", "日", "最", "后", "한국", "🙂",
    "\u0301", "Ж", "да", "<s>", "</s>", "<0x0A>", "the", "ing", " of", "\u3000", "\x00",
]  # fmt: skip


def main() -> None:
    """Train two models that differ in all that we read of them, and let SentencePiece encode."""
    rng = random.Random(1)
    page = Path("docs/format.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.strip()] + SAMPLES * 30
    texts = ["".join(rng.choices(PARTS, k=rng.randrange(0, 16))) for _ in range(150)]
    texts += [page[i : i + rng.randrange(1, 120)] for i in range(0, 12_000, 240)]
    texts += ["a" * 40, " " * 33, "x y " * 30, "a" * 300 + " b", "最后" * 40]
    options = {
        "words": {"character_coverage": 0.99},
        "phrases": {
            "add_dummy_prefix": False,
            "split_by_whitespace": False,
            "split_by_unicode_script": False,
        },
    }
    ids = {}
    for name, more in options.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(HERE / name),
            vocab_size=480,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            **more,
        )
        (HERE / f"{name}.vocab").unlink()
        ids[name] = sentencepiece.SentencePieceProcessor(model_file=str(HERE / f"{name}.model")).encode(texts)
    (HERE / "ids.json").write_text(
        json.dumps({"texts": texts, "ids": ids}, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
