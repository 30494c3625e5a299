"""Tiny students with a tokenizer, and rows to train them on."""

import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, Qwen2Config

from cord_jax.text.vocabulary import Vocabulary
from tests.reference.tiny import write_tokenizer

FAMILIES = {"qwen2": Qwen2Config, "llama": LlamaConfig, "phi3": Phi3Config}


def write_student(
    directory: Path,
    family: str = "qwen2",
    tokenizer: str = "digits",
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    **options,
) -> Path:
    """A random student, made and saved by transformers."""
    write_tokenizer(directory, tokenizer)
    vocabulary = Vocabulary.load(directory)
    torch.manual_seed(0)
    settings = dict(
        vocab_size=-(-len(vocabulary.token_bytes) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=family != "llama",
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=vocabulary.tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**{**settings, **options}), dtype=torch.float32)
    model.save_pretrained(directory)
    return directory


def write_rows(path: Path, count: int = 60) -> Path:
    """Traces of sums, of different lengths."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            a, b = rng.randrange(100), rng.randrange(100)
            steps = [
                f"### Step {t}: the sum {a} + {b} is {a + b}.\n\n" for t in range(1, rng.randrange(2, 6))
            ]
            file.write(
                json.dumps(
                    {
                        "id": f"r{i}",
                        "question": f"the sum {a} + {b}?",
                        "reasoning": "".join(steps),
                        "response": f"The final answer is {a + b}.",
                        "correct": i % 3 > 0,
                        "score": i / count,
                    }
                )
                + "\n"
            )
    return path


def read_metrics(output_dir: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def write_pairs(path: Path, count: int = 24) -> Path:
    """Pairs of a right and a wrong next step of sums, of different lengths, as launch.preferences writes them."""
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            a, b, step = rng.randrange(100), rng.randrange(100), rng.randrange(1, 4)
            right, wrong = (
                f"### Step {step}: the sum {a} + {b} is {c}.\n\n"
                for c in (a + b, a + b + rng.randrange(1, 9))
            )
            row = {
                "prompt": "not read where question and reasoning are given",
                "chosen": right,
                "rejected": wrong if i % 3 else "</think>\n\n",
                "margin": 0.25,
                "problem": f"p{i}",
                "step": step,
                "question": f"the sum {a} + {b}?",
                "reasoning": "".join(f"### Step {t}: so.\n\n" for t in range(1, step)),
            }
            file.write(json.dumps(row) + "\n")
    return path
