"""Pools of small random networks, and problems for them."""

import json
from pathlib import Path

from tests.equality.checkpoints import (
    BROKEN_HABITS,
    PREFIX_HABITS,
    TOKENIZERS,
    Habits,
    write_checkpoint,
    write_tokenizer,
)

PROBLEMS = [
    {"id": "a", "question": "What is 3 + 4?", "answer": "7"},
    {
        "id": "b",
        "question": "Which is greater, 1/2 or 3/8?",
        "answer": "1/2",
        "answers": ["\\frac{1}{2}", "0.5"],
        "level": 2,
    },
    {"id": "c", "question": "How long is it?", "answer": "e\u0301te\u0301 12", "context": "It is 12 m long."},
    {
        "id": "d-\u00fc",
        "question": "Let x = 96 - 57. What is the digit sum of x, and is it a prime number?",
        "answer": "12",
        "answers": ["12, no"],
        "context": "A prime number has two divisors.\n\nThe digit sum of 57 is 12.",
        "solution": "x = 39, so it is 3 + 9 = 12.",
    },
    {"id": "e", "question": "Is it so?", "answer": "no", "answers": ["1", "2", "3", "4"], "score": "none"},
]

_NETWORKS = {
    "qwen2": ("digits", "qwen2", 1, Habits()),
    "llama": ("threes", "llama", 2, Habits()),
    "phi3": ("merged", "phi3", 3, Habits()),
    "qwen3": ("digits", "qwen3", 4, Habits()),
    "mistral": ("threes", "mistral", 5, Habits()),
    "qwen3_moe": ("merged", "qwen3_moe", 6, Habits()),
    "qwen2-prefix": ("digits", "qwen2", 7, PREFIX_HABITS),
    "llama-prefix": ("threes", "llama", 8, PREFIX_HABITS),
    "phi3-prefix": ("merged", "phi3", 9, PREFIX_HABITS),
    "broken": ("merged", "llama", 10, BROKEN_HABITS),
}

# Values of the proposers' tables; the first entry is the meta-prover.
_GREEDY = {"temperature": 0.0}
_POOLS = {
    "argmax": [
        {"checkpoint": "qwen2"},
        {"name": "first", "checkpoint": "qwen2", **_GREEDY},
        {"name": "second", "checkpoint": "llama", "system_prompt": "Think in steps.", **_GREEDY},
        {"name": "third", "checkpoint": "phi3", **_GREEDY},
        {"name": "again", "checkpoint": "qwen2", **_GREEDY},
    ],
    "drawn": [
        {"checkpoint": "qwen2"},
        {"name": "first", "checkpoint": "qwen2", "temperature": 0.6, "top_k": 8},
        {"name": "second", "checkpoint": "llama", "temperature": 0.6, "top_p": 0.9},
        {"name": "third", "checkpoint": "phi3", "temperature": 0.6, "top_k": 12, "top_p": 0.8},
        {"name": "again", "checkpoint": "qwen2", "temperature": 0.6},
    ],
    "prefix": [
        {"checkpoint": "llama-prefix", "system_prompt": "Judge."},
        {"name": "first", "checkpoint": "qwen2-prefix", **_GREEDY},
        {"name": "second", "checkpoint": "llama-prefix", "temperature": 0.6, "top_k": 20},
        {"name": "third", "checkpoint": "phi3-prefix", "temperature": 0.6, "top_p": 0.95},
    ],
    "judge": [
        {"checkpoint": "qwen3_moe", "system_prompt": "Judge."},
        {"name": "first", "checkpoint": "qwen3", **_GREEDY},
        {"name": "second", "checkpoint": "mistral", "temperature": 0.6, "top_k": 10},
    ],
    "int8": [
        "second",
        {"name": "first", "checkpoint": "phi3", "temperature": 0.6, "weights": "int8"},
        {"name": "second", "checkpoint": "qwen3", "weights": "int8", **_GREEDY},
    ],
    "broken": [
        {"checkpoint": "phi3"},
        {"name": "first", "checkpoint": "broken", **_GREEDY},
        {"name": "second", "checkpoint": "broken", "temperature": 0.6, "system_prompt": "Think."},
    ],
}


def write_inputs(directory: Path) -> None:
    """Writes all checkpoints, the pools `NAME.toml` and `problems.jsonl` into a new directory."""
    directory.mkdir(parents=True)
    for kind in TOKENIZERS:
        write_tokenizer(directory / "tokenizers" / kind, kind)
    for name, (kind, family, seed, habits) in _NETWORKS.items():
        write_checkpoint(directory / name, directory / "tokenizers" / kind, family, seed, habits)
    for name, (meta, *proposers) in _POOLS.items():
        lines = [f"meta_prover = {json.dumps(meta)}" if isinstance(meta, str) else "[meta_prover]"]
        lines += [] if isinstance(meta, str) else _assignments(meta)
        for proposer in proposers:
            lines += ["[[proposer]]", *_assignments(proposer)]
        (directory / f"{name}.toml").write_text("\n".join(lines) + "\n")
    problems = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS)
    (directory / "problems.jsonl").write_text(problems)


def _assignments(table: dict) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
