"""pass@1: samples against transformers' network, rows, counts, continuing an interrupted run."""

import itertools
import json
import shutil

import pytest
import scipy.stats

from cord_jax import EvaluationConfig, Problem, evaluate, statistics
from cord_jax.errors import UserError
from cord_jax.evaluation import _grade, majority_is_right, summarize
from cord_jax.grading import open_grader
from cord_jax.text.vocabulary import Vocabulary
from launch import common
from launch import evaluate as entry_point
from tests.reference.reader import Reader
from tests.reference.tiny import write_checkpoint, write_tokenizer

PROBLEMS = [
    {"id": f"p{i}", "question": f"What is {i} + {i * i}?", "answer": str(i + i * i)} for i in range(5)
]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluation")
    return write_checkpoint(
        directory / "model", write_tokenizer(directory / "tokenizer", "digits"), "qwen2", seed=3
    )


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation") / "problems.jsonl"
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return path


def row_of(problem, sample, answer, right) -> dict:
    """A row of samples.jsonl, without its text."""
    return {
        "problem": problem,
        "sample": sample,
        "predicted_answer": answer,
        "correct": right,
        "tokens": 5,
        "thinking_tokens": 3,
        "answer_tokens": 2,
        "thought_closed": answer is not None,
        "ended": "eos",
    }


@pytest.fixture
def settings(model, problems, tmp_path):
    return {
        "model": model,
        "problems": problems,
        "output_dir": tmp_path / "run",
        "samples": 4,
        "max_tokens": MAX_TOKENS,
        "slots": 8,
        "grader": "exact",
        "mesh": "data:1",
    }


def rows_of(directory) -> dict:
    rows = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    return {(row["problem"], row["sample"]): row for row in rows}


def test_greedy_samples_are_those_of_transformers(model, settings, tmp_path):
    in_memory = [Problem(**problem) for problem in PROBLEMS]
    evaluate(EvaluationConfig(**settings | {"problems": in_memory, "samples": 1, "temperature": 0.0}))
    rows = rows_of(tmp_path / "run")
    reader = Reader(model)
    for problem in PROBLEMS:
        prompt, written = reader.prompt(problem, None), []
        while len(written) < MAX_TOKENS and not (written and written[-1] in reader.eos):
            written.append(reader.next_token(prompt + written)[0])
        row = rows[problem["id"], 0]
        ended = written[-1] in reader.eos
        text = reader.bytes_of(written[:-1] if ended else written).decode(errors="replace")
        assert (row["text"], row["tokens"], row["ended"]) == (text, len(written), "eos" if ended else "cap")


def test_rows_summary_and_an_interruption(settings, tmp_path):
    summary = evaluate(EvaluationConfig(**settings))
    rows = rows_of(tmp_path / "run")
    assert list(rows["p0", 0]) == [
        "problem",
        "sample",
        "text",
        "predicted_answer",
        "correct",
        "tokens",
        "thinking_tokens",
        "answer_tokens",
        "thought_closed",
        "ended",
    ]
    for row in rows.values():
        assert row["tokens"] == row["thinking_tokens"] + row["answer_tokens"]
        assert row["thought_closed"] == ("</think>" in row["text"])
        assert row["thought_closed"] or (row["predicted_answer"] is None and not row["correct"])
    assert sorted(rows) == [(f"p{i}", sample) for i in range(5) for sample in range(4)]
    assert len({row["text"] for row in rows.values()}) > 10, "the samples do not differ"
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["problems"] == 5 and summary["samples"] == 4
    assert set(summary["per_problem"]) == {f"p{i}" for i in range(5)}

    written = (tmp_path / "run" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    other = tmp_path / "interrupted"
    other.mkdir()
    shutil.copy(tmp_path / "run" / "config.json", other)
    (other / "samples.jsonl").write_bytes(b"".join(written[:7]) + written[7][:20])
    continued = evaluate(EvaluationConfig(**settings | {"output_dir": other, "slots": 3, "mesh": "data:2"}))
    assert rows_of(other) == rows
    assert len((other / "samples.jsonl").read_text().splitlines()) == 20
    assert {name: value for name, value in continued.items() if name not in ("seconds", "device")} == {
        name: value for name, value in summary.items() if name not in ("seconds", "device")
    }
    (other / "summary.json").unlink()
    with open(other / "samples.jsonl", "ab") as file:  # as a disk may that has lost its place
        file.writelines(written[:3])
    assert evaluate(EvaluationConfig(**settings | {"output_dir": other}))["pass@1"] == continued["pass@1"]
    (other / "samples.jsonl").write_bytes(b"".join(written))
    continued = json.loads((other / "summary.json").read_text())
    before = (other / "summary.json").read_bytes()
    assert evaluate(EvaluationConfig(**settings | {"output_dir": other})) == continued
    assert (other / "summary.json").read_bytes() == before
    with pytest.raises(UserError, match="seed is 0 there, 7 here"):
        evaluate(EvaluationConfig(**settings | {"output_dir": other, "seed": 7}))


def test_pass_at_1_and_its_standard_error():
    correct = {"a": [True, True, False, False], "b": [False] * 4, "c": [True] * 4}
    rows = [
        row_of(problem, sample, "4" if right else None, right)
        for problem, samples in correct.items()
        for sample, right in enumerate(samples)
    ]
    summary = summarize(rows, list(correct), 4)
    assert summary["pass@1"] == 0.5
    assert summary["standard_error"] == pytest.approx(scipy.stats.sem([0.5, 0.0, 1.0]), abs=1e-6)
    assert summary["per_problem"]["a"] == {"correct": 2, "samples": 4}
    assert summary["ended"] == {"eos": 12, "cap": 0} and summary["mean_tokens"] == 5
    assert summary["pass@2"] == pytest.approx((5 / 6 + 0 + 1) / 3, abs=1e-6)
    assert summary["pass@4"] == pytest.approx(2 / 3, abs=1e-6) and "pass@8" not in summary
    assert summary["maj@4"] == pytest.approx(2 / 3, abs=1e-6)
    assert summary["unclosed_thoughts"] == 0.5
    assert (summary["mean_thinking_tokens"], summary["mean_answer_tokens"]) == (3, 2)


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_mean_over_all_choices_of_k(samples):
    for right in range(samples + 1):
        correct = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            choices = list(itertools.combinations(correct, k))
            expected = sum(map(any, choices)) / len(choices)
            assert statistics.pass_at_k({"a": correct}, k).mean == pytest.approx(expected)


@pytest.mark.parametrize(
    "answers, right",
    [
        (["4", "4.0", "5", "5", "$4$"], "4"),
        (["5", "4", "4", "5"], "5"),  # as many: the first
        ([None, None, None, "4"], "4"),
        ([None, None], None),
        (["B", "b)", "C", "(C)", "Option B"], "B"),
        (["1/2", "0.5", "\\frac12", "2", "2"], "1/2"),
    ],
)
def test_majority(answers, right):
    for correct in dict.fromkeys(a for a in answers if a):
        rows = [row_of("a", i, answer, answer == correct) for i, answer in enumerate(answers)]
        assert majority_is_right(rows) == (correct == right)
    assert not majority_is_right([row_of("a", i, None, False) for i in range(3)])


def test_what_a_row_says_of_its_sample(model):
    """Tokens are counted up to the one that completes the last `</think>`; after an open thought there is no answer."""
    vocabulary = Vocabulary.load(model)
    problem = Problem("a", "?", "5")
    written = ["3</think>The answer is 5.", "The answer is 5.", "1</think>2</think>\\boxed{6}", "</think>"]
    generated = [
        (0, i, [*vocabulary.encode(text), min(vocabulary.eos_ids)], "eos") for i, text in enumerate(written)
    ]
    generated.append((0, 4, vocabulary.encode("1</thi"), "cap"))
    with open_grader("auto") as grader:
        rows = _grade(problem, generated, vocabulary, grader)
    assert [row["predicted_answer"] for row in rows] == ["5", None, "6", None, None]
    assert [row["correct"] for row in rows] == [True, False, False, False, False]
    assert [row["thought_closed"] for row in rows] == [True, False, True, True, False]
    for (_, _, ids, _), row in zip(generated, rows):
        head = vocabulary.text(ids[: row["thinking_tokens"]])
        assert row["tokens"] == len(ids) == row["thinking_tokens"] + row["answer_tokens"]
        if row["thought_closed"]:
            assert "</think>" not in vocabulary.text(ids[row["thinking_tokens"] :])
            assert "</think>" in head and not vocabulary.text(ids[: row["thinking_tokens"] - 1]).endswith(
                "</think>"
            )


def test_the_prompt_is_the_one_that_the_student_was_trained_with(model, settings, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(model, trained)
    (trained / "prompt.json").write_text(json.dumps({"user_prompt": "Solve {question}!"}))
    few = settings | {"samples": 1, "temperature": 0.0, "max_tokens": 6}
    evaluate(EvaluationConfig(**few | {"model": trained, "output_dir": tmp_path / "a"}))
    evaluate(EvaluationConfig(**few | {"user_prompt": "Solve {question}!", "output_dir": tmp_path / "b"}))
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    assert stored["settings"]["user_prompt"] == "Solve {question}!"


@pytest.fixture
def broken(model, tmp_path):
    """Inputs that cannot be used: weights that end early, a problem without an answer."""
    shutil.copytree(model, tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (tmp_path / "bad.jsonl").write_text(
        '{"id": "a", "question": "?", "answer": "1"}\n{"id": "b", "question": "?"}\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    "change, part",
    [
        ({"model": "nowhere"}, "nowhere"),
        ({"model": "{broken}/torn"}, "torn"),
        ({"problems": "{broken}/bad.jsonl"}, "line 2"),
        ({"problems": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"mesh": "data:3,model:-1"}, "8 devices do not divide by 3"),
    ],
)
def test_input_that_cannot_be_used_leaves_nothing_behind(settings, capsys, tmp_path, broken, change, part):
    values = {name: settings[name] for name in ("model", "problems", "output_dir", "samples", "mesh")}
    values |= {name: value.format(broken=broken) for name, value in change.items()}
    entry_point.FLAGS.unparse_flags()
    status = common.run_with(
        entry_point.main,
        entry_point.FLAGS,
        entry_point.__doc__,
        ["evaluate", *(f"--{name}={value}" for name, value in values.items())],
    )
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1 and part in error
    assert not (tmp_path / "run").exists()
