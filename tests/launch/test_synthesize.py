"""The flags of launch.synthesize."""

import pytest

from cord_jax.errors import UserError
from launch import synthesize

NEEDED = ["--pool=pool.toml", "--problems=problems.jsonl", "--output_dir=out"]


def parse(*arguments) -> dict:
    synthesize.FLAGS.unparse_flags()
    for name in synthesize.FLAGS:
        synthesize.FLAGS[name].unparse()
    synthesize.FLAGS(["synthesize", *NEEDED, *arguments])
    return synthesize.config_values(synthesize.FLAGS)


def test_defaults_are_the_contracts():
    values = parse()
    assert {name: values[name] for name in ("method", "decoding", "selector", "segmentation", "beam_width",
                                            "max_thinking_tokens", "max_answer_tokens", "mesh", "closing")} == {
        "method": "cord", "decoding": "beam", "selector": "predictive_perplexity", "segmentation": "prompt",
        "beam_width": 4, "max_thinking_tokens": 16384, "max_answer_tokens": 4096, "mesh": "data:1,model:-1",
        "closing": "</think>\n\nThe final answer is "}


def test_greedy_keeps_one():
    assert parse("--decoding=greedy")["beam_width"] == 1
    assert parse("--decoding=greedy", "--beam_width=1")["beam_width"] == 1


@pytest.mark.parametrize("arguments, parts", [
    (["--decoding=greedy", "--beam_width=4"], ["--decoding=greedy", "--beam_width=4"]),
    (["--method=curation", "--segmentation=prefix"], ["--method=curation", "--segmentation"]),
    (["--method=curation", "--max_steps=3"], ["--method=curation", "--max_steps"]),
])
def test_contradictions_are_refused(arguments, parts):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


def test_new_lines_in_the_closing():
    assert parse(r"--closing=</think>\n\nAnswer: ")["closing"] == "</think>\n\nAnswer: "
