"""The targets: for each, a world of valid files, a strategy that damages it, and what reads it."""

import functools
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import models
from cord_jax.config import PreferencesConfig
from cord_jax.engine.journal import Journal
from cord_jax.errors import UserError
from cord_jax.pool import read_pool
from cord_jax.preferences import write_preferences
from cord_jax.problems import read_problems
from cord_jax.publishing.runs import read_runs
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.rescoring.job import rescore
from cord_jax.run_directory import check_run, open_run, read_run_config
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import read_examples
from cord_jax.student.objectives import objective_of
from cord_jax.synthesis import _finished
from cord_jax.text.vocabulary import Vocabulary
from cord_jax.traces import TraceFiles
from cord_jax.tree_shape import TreeShape
from models.checkpoint import safetensors
from tests.fuzz.command_lines import command_lines, run_command_line
from tests.fuzz.command_lines import world as flags_world
from tests.fuzz.damage import damaged, json_file, lines_file
from tests.fuzz.property import listing
from tests.fuzz.texts import read_texts, real_places, real_world, small_world, texts_of
from tests.publishing.synthetic import write_run
from tests.text.small import byte_level, save


@dataclass(frozen=True)
class Target:
    """`case` draws one in a directory that `world` has filled; `read` must accept it or refuse it in one line."""

    world: Callable[[Path], None]
    case: Callable[[Path, Random], Any]
    read: Callable[[Path, Any], None]


PROBLEMS = [
    {
        "id": "a",
        "question": "How many?",
        "answer": "4",
        "context": "Two and two.",
        "answers": ["four", "4.0"],
    },
    {
        "id": "b",
        "question": "Who?",
        "answer": "Ada",
        "solution": "By name.",
        "level": 3,
        "source": {"file": "x"},
    },
    {"id": "c", "question": "Why? é\u2028", "answer": "\\frac{1}{2}"},
]
COLUMNS = (
    "",
    "",
    "",
    "question:question",
    "id:#",
    "question:level,id:#",
    "id:",
    ":",
    "x:y",
    "answer:source",
    "answer:\0",
)


def nothing(directory: Path) -> None:
    """An empty world."""


def problem_files(directory: Path, rng: Random):
    """JSON lines, plain or gzipped, or a directory that datasets has saved."""
    match rng.randrange(8):
        case 0:
            name, content = (
                "d/state.json",
                json_file(rng, {"_data_files": [{"filename": "d.arrow"}], "_split": None}),
            )
        case 1:
            name, content = "d/dataset_dict.json", json_file(rng, {"splits": ["train", "test"]})
        case _:
            name, content = rng.choice(["p.jsonl", "p.jsonl", "p.jsonl.gz"]), lines_file(rng, PROBLEMS)
    return (content, name), rng.choice(COLUMNS), rng.choice(["", "", "train", "*"])


def read_problem_file(directory: Path, case):
    (content, name), columns, split = case
    shutil.rmtree(directory / "d", ignore_errors=True)
    (directory / "d").mkdir()
    (directory / name).write_bytes(gzip.compress(content, 0) if name.endswith("gz") else content)
    read_problems(
        directory / "d" if name.startswith("d/") else directory / name, columns=columns, split=split
    )


TRACE = {
    "id": "a", "question": "How many?", "reasoning": "### Step 1\nTwo.\n\n", "response": "4", "correct": True, "score": 0.5,
    "context": "Here.",
}  # fmt: skip
TRACES = [
    TRACE | {"steps": [{"text": TRACE["reasoning"], "teacher": "one", "score": 0.5}]},
    TRACE | {
        "reasoning": "### Step 1\nTwo.\n\n### Step 2\n4.\n\n",
        "steps": [{"text": "### Step 1\nTwo.\n\n", "score": 0.2}, {"text": "### Step 2\n4.\n\n", "score": 0.9}],
    },
]  # fmt: skip
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
    {"role": "assistant", "content": "<think>\nTwo.</think>\n\n4", "reasoning_content": None, "weight": 1},
]
ROWS = [
    TRACE,
    {"messages": TURNS, "score": 0.3, "correct": False},
    {"conversations": [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "4"}], "system": "x"},
    {"prompt": "How", "completion": " many", "eos": True},
    {"prompt": TURNS[:2], "completion": TURNS[2:]},
]
PAIRS = [
    {
        "prompt": "How many?\n\n<think>\n",
        "chosen": "Two.",
        "rejected": "Three.",
        "question": "How many?",
        "prefix": "So",
    },
    {
        "id": "a",
        "question": "Who?",
        "prefix": "### Step 1\n",
        "chosen": "x</think>\n\n1",
        "rejected": "y",
        "margin": 0.4,
    },
]


def tokenizer_world(directory: Path) -> None:
    save(directory / "model", byte_level(), tokenizer_config={"chat_template": TEMPLATE})


TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"


@functools.cache
def _vocabulary(directory: Path) -> Vocabulary:
    return Vocabulary.load(directory / "model")


def training_rows(rows, objective):
    def case(directory: Path, rng: Random):
        row_filter = rng.choice(["all", "all", "correct", "score>=0.4"])
        return (
            lines_file(rng, rows),
            row_filter,
            rng.choice(["last", "all"]) if objective == "sft" else "last",
        )

    def read(directory: Path, given):
        content, row_filter, turns = given
        path = directory / "rows.jsonl"
        path.write_bytes(content)
        config = StudentConfig(student="-", traces="-", output_dir="-", objective=objective, turns=turns)
        texts = objective_of(config.resolved if hasattr(config, "resolved") else config).texts
        read_examples(path, _vocabulary(directory), texts, row_filter=row_filter, max_length=200)

    return Target(tokenizer_world, case, read)


POOL = b"""meta_prover = "one"
integrator = "two"

[[proposer]]
name = "one"
checkpoint = "model"
temperature = 0.7
top_k = 5
system_prompt = "Be brief."

[[proposer]]
name = "two"
checkpoint = "model"
dtype = "bfloat16"
weights = "int8"
user_prompt = "{question}"
template_arguments = {thinking = true, level = 2}

[reward_model]
checkpoint = "model"
"""
TOML = (
    *(
        b"inf",
        b"nan",
        b"-1",
        b"1e400",
        b"0x7fffffffffffffffff",
        b"[]",
        b"{}",
        b"true",
        b'""',
        b'"x"',
        b"'''",
        b"1979-05-27",
    ),
    *(b'"model"', b"[[[]]]", b'"\\u0000"', b"[" * 2000, b"a.b.c = 1\n", b"9" * 5000),
)


def pool_file(directory: Path, rng: Random) -> bytes:
    lines = POOL.splitlines()
    number = rng.randrange(len(lines))
    name, given, _ = lines[number].partition(b" = ")
    if given:
        lines[number] = name + given + rng.choice(TOML)
    content = b"\n".join(lines) + b"\n"
    return damaged(rng, content) if rng.random() < 0.5 else content


def read_pool_file(directory: Path, content):
    (directory / "pool.toml").write_bytes(content)
    read_pool(directory / "pool.toml")


SETTINGS = {"seed": 0, "closing": "x", "limit": 0}
RUN_FILES = ("config.json", "traces.jsonl", "tree.jsonl", "summary.json", "prompts.json", "journal.jsonl")


def run_world(directory: Path) -> None:
    write_run(directory / "whole", problems=range(3), steps=2, words=2)
    (directory / "whole" / "log.txt").unlink(missing_ok=True)
    (directory / "whole" / "journal.jsonl").write_text(json.dumps(JOURNAL) + "\n")


JOURNAL = {
    "problem": "p0009",
    "round": 1,
    "candidates": [{"text": "x", "score": 0.5, "ended": "marker", "tokens": [1, 2, 3]}],
}


def run_directories(directory: Path, rng: Random):
    name = rng.choice(RUN_FILES)
    content = (directory / "whole" / name).read_bytes()
    if name.endswith("jsonl"):
        content = lines_file(rng, [json.loads(line) for line in content.splitlines()])
    else:
        content = json_file(rng, json.loads(content))
    return name, content, rng.choice(["continue", "publish", "pairs", "rescore"])


def read_run_directory(directory: Path, case):
    name, content, what = case
    run = directory / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(directory / "whole", run)
    (run / name).write_bytes(content)
    before = listing(run)
    try:
        if what == "publish":
            found = read_runs([run])
            for problem in found.traces:
                found.trace(problem)
                found.tree(problem)
        elif what == "pairs":
            shutil.rmtree(directory / "pairs", ignore_errors=True)
            write_preferences(PreferencesConfig(run=run, output_dir=directory / "pairs"))
        elif what == "rescore":
            shutil.rmtree(directory / "asked", ignore_errors=True)
            rescore(RescoringConfig(run=run, output_dir=directory / "asked"))
        else:
            _continue(run)
            return  # which mends it
    except (UserError, models.CheckpointError):
        assert what == "continue" or listing(run) == before
        raise
    assert listing(run) == before


def _continue(run: Path) -> None:
    held = read_run_config(run)
    names = {"job": "synthesize", "settings": {}, "inputs": {}}
    wanted = {part: held[part] for part in names} if held else names
    check_run(run, **wanted)
    with open_run(run, **wanted) as opened:
        files = TraceFiles(opened, TreeShape(3, 0, 2, False))
        _finished(opened, TreeShape(3, 0, 2, False), [])
        files.read()
        files.read_tree()
        Journal(opened).read({"p0009": 0})


def weights_world(directory: Path) -> None:
    tensors = {
        "a.weight": np.ones((2, 3), np.float32),
        "b": np.zeros((4,), np.float16),
        "c": np.ones((1, 0, 2), np.float32),
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "model-00001-of-00001.safetensors").write_bytes(
        (directory / "model.safetensors").read_bytes()
    )


INDEX = {
    "metadata": {"total_size": 32},
    "weight_map": dict.fromkeys(["a.weight", "b", "c"], "model-00001-of-00001.safetensors"),
}


def weight_files(directory: Path, rng: Random):
    content = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def whole(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    match rng.randrange(3):
        case 0:
            return "model.safetensors", whole(json_file(rng, header))
        case 1:
            return "model.safetensors", damaged(rng, content)
    return "model.safetensors.index.json", json_file(rng, INDEX)


def read_weights(directory: Path, case):
    name, content = case
    tried = directory / "tried"
    shutil.rmtree(tried, ignore_errors=True)
    tried.mkdir()
    if name.endswith("index.json"):
        shutil.copy(directory / "model-00001-of-00001.safetensors", tried)
    (tried / name).write_bytes(content)
    for tensor in safetensors.read_directory(tried).values():
        if len(tensor.shape) == 2:
            out = np.empty(tensor.shape, np.float32)
            safetensors.read_block(tensor, slice(0, tensor.shape[0]), slice(0, tensor.shape[1]), out)


CONFIGS = [
    {
        "architectures": [architecture], "model_type": architecture[:5].lower(), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 20,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "sliding_window": 8, "layer_types": ["full_attention"] * 2,
        "rope_scaling": {"rope_type": rope, "factor": 2.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "attention_bias": False,
        "quantization_config": None,
    }
    for architecture, rope in [("Qwen2ForCausalLM", "yarn"), ("LlamaForCausalLM", "llama3"), ("Phi3ForCausalLM", "longrope"),
                               ("Qwen3MoeForCausalLM", "linear"), ("Gemma3ForCausalLM", "default"), ("MistralForCausalLM", "dynamic"),
                               ("Qwen2ForProcessRewardModel", "default")]
]  # fmt: skip


CONFIGS += [
    {"architectures": [f"{wrapper}ForConditionalGeneration"], "model_type": wrapper.lower(), "torch_dtype": "bfloat16",
     "tie_word_embeddings": None, "eos_token_id": [1, 2], "vision_config": {"model_type": "x"},
     "text_config": held | {"model_type": inner}}
    for wrapper, inner, held in [("Gemma3", "gemma3_text", CONFIGS[4]), ("Mistral3", "mistral", CONFIGS[5])]
]  # fmt: skip


def model_configs(directory: Path, rng: Random):
    return json_file(rng, rng.choice(CONFIGS))


def read_model_config(directory: Path, content):
    (directory / "config.json").write_bytes(content)
    config = models.read_config(directory)
    hash(config)
    if config.num_layers <= 4 and config.vocab_size * config.hidden_size < 10**6:
        models.abstract(config)


def tokenizer_files(directory: Path, rng: Random):
    model = directory / "model"
    held = {
        "tokenizer.json": json.loads((model / "tokenizer.json").read_text()),
        "tokenizer_config.json": json.loads((model / "tokenizer_config.json").read_text())
        | {
            "added_tokens_decoder": {"256": {"content": "</think>", "special": False}},
            "bos_token": None,
            "model_max_length": 64,
        },
        "generation_config.json": {"eos_token_id": [259, 260], "bos_token_id": 259, "pad_token_id": 259},
        "special_tokens_map.json": {
            "eos_token": {"content": "<|end|>"},
            "additional_special_tokens": ["</think>"],
        },
        "added_tokens.json": {"</think>": 259},
        "config.json": {"eos_token_id": 259, "vocab_size": 300},
    }
    name = rng.choice(sorted(held))
    return name, json_file(rng, held[name])


def read_tokenizer(directory: Path, case):
    name, content = case
    tried = directory / "tried"
    shutil.rmtree(tried, ignore_errors=True)
    shutil.copytree(directory / "model", tried)
    (tried / name).write_bytes(content)
    vocabulary = Vocabulary.load(tried)
    vocabulary.text(vocabulary.encode("### Step 1\nTwo é.</think>\n\n4"))


TARGETS = {
    "problems": Target(nothing, problem_files, read_problem_file),
    "rows": training_rows(ROWS, "sft"),
    "traces": training_rows(TRACES, "gain"),
    "pairs": training_rows(PAIRS, "dpo"),
    "pool": Target(lambda directory: (directory / "model").mkdir(), pool_file, read_pool_file),
    "run": Target(run_world, run_directories, read_run_directory),
    "weights": Target(weights_world, weight_files, read_weights),
    "config": Target(weights_world, model_configs, read_model_config),
    "tokenizer": Target(tokenizer_world, tokenizer_files, read_tokenizer),
    "flags": Target(flags_world, command_lines, run_command_line),
    "texts": Target(small_world, texts_of(None), read_texts),
    "real_texts": Target(real_world, texts_of(real_places()), read_texts),
}
