"""The grader `judge`: its verdicts against transformers' network, its prompts, and checkpoints that cannot judge."""

import json

import jax
import pytest
import torch
import transformers

from cord_jax import EvaluationConfig, SynthesisConfig
from cord_jax.errors import UserError
from cord_jax.evaluation import evaluate
from cord_jax.grading import Submission, check_judge, open_grader
from cord_jax.grading.judge import judge_prompt, read_judge
from cord_jax.mesh import parse_mesh
from cord_jax.problems import Problem
from cord_jax.text.vocabulary import Vocabulary
from tests.reference.tiny import write_checkpoint, write_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)


def make_judge(directory, words=("Yes", "No"), template=TEMPLATE, seed=5):
    """A random network whose vocabulary has some words as tokens."""
    tokenizer = write_tokenizer(directory / "tokenizer", "digits")
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(str(tokenizer))
    loaded.add_tokens(list(words))
    loaded.chat_template = template
    loaded.save_pretrained(str(tokenizer))
    return write_checkpoint(directory / "judge", tokenizer, "qwen2", seed=seed)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_judge(tmp_path_factory.mktemp("judge"))


PROBLEMS = [
    Problem("a", "What is 2 + 3?", "5", answers=("five",)),
    Problem("b", "Who?", "Ann", context="A table."),
    Problem("c", "How many?" * 40, "12"),
]
SUBMISSIONS = [
    Submission(problem, f"{text} {i}" * (1 + 3 * i), "x")
    for problem in PROBLEMS
    for i, text in enumerate(["It is", "So we get", "None", "I would say"])
]


@pytest.mark.parametrize("mesh", ["data:1", "data:2", "data:2,model:2"])
def test_verdicts_are_those_of_transformers(checkpoint, mesh):
    network = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    vocabulary, yes, no = read_judge(checkpoint)
    expected = []
    for submission in SUBMISSIONS:
        ids = vocabulary.encode_prompt(judge_prompt(vocabulary, submission))
        with torch.no_grad():
            last = torch.softmax(network(torch.tensor([ids])).logits[0, -1], dim=0)
        expected.append(bool(last[yes] > last[no]))
    assert len(set(expected)) == 2, "the network says always the same"
    with open_grader("judge", checkpoint=checkpoint, mesh=parse_mesh(mesh, jax.devices()[:4])) as judge:
        assert judge.grade_responses(SUBMISSIONS) == expected
        assert judge.grade_responses(SUBMISSIONS[:1]) == expected[:1]
        assert judge.grade_responses([Submission(PROBLEMS[0], "?", None), SUBMISSIONS[3]]) == [
            False,
            expected[3],
        ]
        assert judge.grade_responses([]) == []


def test_the_prompt_holds_everything_and_closes_the_thought(checkpoint):
    vocabulary = Vocabulary.load(checkpoint)
    text = judge_prompt(vocabulary, Submission(PROBLEMS[0], "{It} is 5.", "5"))
    assert text.startswith("<user>") and text.endswith("<assistant><think>\n\n</think>\n\n")
    assert all(part in text for part in ("What is 2 + 3?", "5\nor five", "{It} is 5.", "Yes or No"))
    assert "A table.\n\nWho?" in judge_prompt(vocabulary, Submission(PROBLEMS[1], "Ann", "Ann"))
    long = judge_prompt(vocabulary, Submission(PROBLEMS[0], "x" * 100_000 + "the end", "5"))
    assert len(long) < 20_000 and "the end" in long


def test_real_templates(shared_dir):
    """Templates that open a thought by themselves get it closed; the others end as they do."""
    endings = {
        "qwen2.5": "<|im_start|>assistant\n",
        "qwq-32b": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "deepseek-r1-distill-qwen": "<\uff5cAssistant\uff5c><think>\n\n</think>\n\n",
    }
    for name, ending in endings.items():
        vocabulary = Vocabulary.load(shared_dir / "tokenizers" / name)
        assert judge_prompt(vocabulary, SUBMISSIONS[0]).endswith(ending)
        assert len(vocabulary.encode("Yes")) == len(vocabulary.encode("No")) == 1


@pytest.mark.parametrize("words", [(), ("Yes",)])
def test_a_judge_without_yes_and_no(tmp_path, words):
    judge = make_judge(tmp_path, words)
    with pytest.raises(UserError, match="--judge=.*no tokens of their own for Yes and No"):
        check_judge(judge)
    (tmp_path / "problems.jsonl").write_text(json.dumps({"id": "a", "question": "?", "answer": "1"}))
    config = EvaluationConfig(
        model=tmp_path / "nowhere",
        problems=tmp_path / "problems.jsonl",
        output_dir=tmp_path / "run",
        grader="judge",
        judge=judge,
    )
    with pytest.raises(UserError, match="Yes and No"):  # told before the model is looked for
        evaluate(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [EvaluationConfig, SynthesisConfig])
def test_settings_that_contradict_each_other(kind):
    where = dict(problems="p", output_dir="o") | (
        {"model": "m"} if kind is EvaluationConfig else {"pool": "p.toml"}
    )
    with pytest.raises(UserError, match="--grader=judge needs a model to ask; give --judge=DIR"):
        kind(**where, grader="judge")
    with pytest.raises(UserError, match="--judge=j is not asked with --grader=auto"):
        kind(**where, judge="j")
