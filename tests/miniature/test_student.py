"""A trained miniature student: transformers writes the same answers with it, and stops where it does."""

import json
import random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cord_jax.evaluation import EvaluationConfig, evaluate
from cord_jax.miniature import HELD_OUT_PROBLEMS, STUDENT, world
from cord_jax.miniature.wording import WORDINGS, write_solution
from cord_jax.problems import read_problems
from cord_jax.student import StudentConfig, train
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

MAX_TOKENS = 320


def test_greedy_answers_of_the_exported_student_as_in_transformers(tmp_path):
    rng = random.Random(0)
    with open(tmp_path / "traces.jsonl", "w") as file:
        for puzzle in world.draw_puzzles(3, 24, "train"):
            solution = write_solution(puzzle, WORDINGS["student"], {}, rng)
            row = {
                "question": puzzle.question,
                "reasoning": solution.reasoning,
                "response": solution.response,
            }
            file.write(json.dumps(row) + "\n")
    hf = train(
        StudentConfig(
            STUDENT,
            tmp_path / "traces.jsonl",
            tmp_path / "student",
            max_length=512,
            batch_size=4,
            max_steps=3,
            learning_rate=5e-4,
            plot=False,
            mesh="data:1",
        )
    )
    evaluate(
        EvaluationConfig(
            hf,
            HELD_OUT_PROBLEMS,
            tmp_path / "answers",
            samples=1,
            temperature=0,
            max_tokens=MAX_TOKENS,
            slots=8,
            grader="exact",
            limit=8,
            mesh="data:1",
        )
    )
    rows = [json.loads(line) for line in (tmp_path / "answers" / "samples.jsonl").read_text().splitlines()]
    ours = {row["problem"]: row for row in rows}
    assert all(row["ended"] == "eos" for row in rows)

    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(hf), AutoTokenizer.from_pretrained(hf)
    vocabulary = Vocabulary.load(hf)
    for problem in read_problems(HELD_OUT_PROBLEMS)[:8]:
        prompt = vocabulary.encode_prompt(render_prompt(vocabulary, None, problem.question))
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False
            )
        written = out[0, len(prompt) :].tolist()
        assert written[-1] == tokenizer.eos_token_id
        assert len(written) == ours[problem.id]["tokens"]
        assert vocabulary.text(written[:-1]) == ours[problem.id]["text"]
