"""Predicted answers and their grading."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cord_jax.answers import Grader, predicted_answer
from cord_jax.errors import UserError
from cord_jax.problems import read_problems

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "response, answer",
    [
        ("So \\boxed{4}.", "4"),
        ("\\boxed{3} no, \\boxed{ 4 }", "4"),
        ("\\boxed{\\frac{1}{2}} \\boxed{4", "\\frac{1}{2}"),  # the last one is never closed
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{[1, 2\\}}", "[1, 2\\}"),  # an escaped brace is a letter
        ("\\boxed {4}", "4"),
        ("\\\\boxed{4}", "4"),
        ("} \\boxed{{4}} }", "{4}"),
        ("\\boxed{\\boxed{4}}", "4"),
        ("\\boxed{a\nb}", "a\nb"),
        ("write \\boxed{} around it. The final answer is 4.", "4"),
        ("The final answer is 5. So \\boxed{4}", "4"),  # a box comes first
        ("\\boxed{4}. The final answer is 5.", "4"),
        ("The final answer is 4.", "4"),
        ("The Final Answer is: 4", "4"),
        ("The final answer is 3.5.", "3.5"),
        ("The final answer is 3.5. It is positive.", "3.5"),
        ("The final answer is 3.\nDone.", "3"),
        ("**The final answer is 42.**", "42"),
        ("**Final answer is:** 42", "42"),
        ("The final answer is\n\n$$\n42\n$$\n", "42"),
        ("The final answer is \\[ x = 4 \\]\nas asked", "x = 4"),
        ("The final answer is $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The final answer is 3. No: the final answer is 4.", "4"),
        ("The final answer is 7\r\nbye", "7"),
        ("The final answer is yes", "yes"),
        ("The final answer is .5", ".5"),
        ("the final answer is", None),
        ("the final answer is .", None),
        ("the final answer isn't clear", None),
        ("4", None),
        ("", None),
    ],
)
def test_predicted_answer(response, answer):
    assert predicted_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "\\boxed{" * 100_000,
        "\\boxed{" * 50_000 + "}" * 50_000,
        "final answer is \\[" * 50_000,
        "final answer is x" + " " * 500_000 + "y",
        "{" * 500_000,
    ],
)
def test_degenerate_responses_take_no_time(response):
    start = time.monotonic()
    predicted_answer(response)
    assert time.monotonic() - start < 5


def test_predicted_answer_of_the_reference_solutions(shared_dir):
    """MATH's solutions box their answers, and the file's `answer` was taken from the box by others."""
    problems = read_problems(shared_dir / "data" / "math500.jsonl")
    same = [predicted_answer(problem.solution) == problem.answer.strip() for problem in problems]
    assert sum(same) >= len(same) - 2


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1, deadline_seconds=5) as grader:
        yield grader


@pytest.mark.parametrize(
    "predicted, forms, correct",
    [
        ("4", ("4",), True),
        ("4.0", ("4",), True),
        ("\\frac12", ("0.5",), True),
        ("0.5", ("x", "\\frac{1}{2}"), True),  # any form
        ("$42$", ("42",), True),
        ("1,000", ("1000",), True),
        ("\\text{yes}", ("Yes",), True),
        ("x = 3", ("3",), True),
        ("(1, 2)", ("(1,2)",), True),
        ("(2, 1)", ("(1,2)",), False),
        ("2\\sqrt{3}", ("\\sqrt{12}",), True),
        ("no", ("yes",), False),
        ("-1", ("1",), False),
        ("", ("1",), False),
        ("\\", ("1",), False),
        ("}{", ("1",), False),
        (None, ("1",), False),
    ],
)
def test_math_verify(grader, predicted, forms, correct):
    assert grader.grade([(predicted, forms)]) == [correct]


def test_reference_answers_are_right(grader, shared_dir):
    problems = read_problems(shared_dir / "data" / "math500.jsonl")[:100]
    assert all(grader.grade([(predicted_answer(problem.solution), problem.forms) for problem in problems]))
    # Each beside another's answer: as good as never right.
    shifted = [(predicted_answer(a.solution), b.forms) for a, b in zip(problems, problems[1:])]
    assert sum(grader.grade(shifted)) <= 5


def test_exact():
    with Grader("exact") as grader:
        assert grader.grade(
            [(" cafe\u0301 ", ("x", "caf\u00e9\n")), ("4.0", ("4",)), (None, ("",)), ("", ("",))]
        ) == [True, False, False, True]


def test_pairs_that_hang_do_not_spoil_the_others():
    endless = ("10^{10^{10^{10}}}", ("1",))
    with Grader(workers=2, deadline_seconds=1) as grader:
        start = time.monotonic()
        pairs = [
            ("4.0", ("4",)),
            endless,
            ("5.0", ("5",)),
            endless,
            endless,
            ("6.0", ("6",)),
            ("6.0", ("7",)),
        ]
        assert grader.grade(pairs) == [True, False, True, False, False, True, False]
        assert time.monotonic() - start < 30
        assert grader.grade([("8.0", ("8",))]) == [True]


def test_a_worker_that_was_killed_is_replaced():
    with Grader(workers=1) as grader:
        assert grader.grade([("4.0", ("4",))]) == [True]
        (worker,) = grader._workers.values()
        worker.kill()
        worker.wait()
        assert grader.grade([("4.0", ("4",)), ("5.0", ("5",))]) == [True, True]
    assert not grader._workers


def test_off_the_main_thread_many_pairs():
    results = []

    def work():
        with Grader(workers=2) as grader:
            results.extend(grader.grade([(f"{i}.0", (str(i + i % 2),)) for i in range(60)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=120)
    assert results == [i % 2 == 0 for i in range(60)]


def test_from_a_script_without_a_main_guard(tmp_path):
    """The workers do not run the caller's script again, and load no jax."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "print('started')\n"
        "from cord_jax.answers import Grader\n"
        "import cord_jax.math_equality\n"
        "assert 'jax' not in sys.modules and 'transformers' not in sys.modules\n"
        "with Grader() as grader:\n"
        "    print(grader.grade([('4.0', ('4',))]))\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout == "started\n[True]\n", ran.stderr


def test_unknown_mode():
    with pytest.raises(UserError, match="math_verify, exact"):
        Grader("fuzzy")
