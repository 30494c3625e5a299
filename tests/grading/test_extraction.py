"""The answer that a response gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cord_jax.grading import predicted_answer
from cord_jax.problems import read_problems


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
        ("Final Answer: **73**", "73"),
        ("**Answer:** 73", "73"),
        ("\\fbox{7}", "7"),
        ("\\boxed{6} and \\fbox{7}", "7"),
        ("**Final Answer**\n\\[42\\]", "42"),
        ("### Final Answer\n\n42", "42"),
        ("__Answer__: 8", "8"),
        ("ANSWER : yes", "yes"),
        ("Answer\uff1a5", "5"),
        ("> **Answer:** 9", "9"),
        ("The correct answer is (B).", "(B)"),
        ("The answer is C. Paris", "C"),
        ("The answer is\n\n  **7** dollars.", "7 dollars"),
        ("Answer:\n```\n5\n```", "5"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: A. So the final answer is B.", "B"),
        ("answer is 5\nanswer is", "5"),
        ("The answer is 3 p.m. today", "3 p.m. today"),
        ("The answer is Mr. Clark.", "Mr. Clark"),
        ("so\n#### 72", "72"),
        ("The answer is 70.\n#### 72", "72"),
        ("#### yes", "yes"),
        ("Answer: 5\n\n#### Explanation\nBecause.", "5"),  # a title, since there is text under it
        ("##### 72", None),
        ("the answers: 5", None),
        ("Final Answer:\n\\boxed{}", None),
    ],
)
def test_predicted_answer(response, answer):
    assert predicted_answer(response) == answer


@pytest.mark.parametrize(
    "response, answer",
    [
        ("\\boxed{" * 150_000, None),
        ("\\boxed{" * 100_000 + "}" * 100_000, None),
        ("\\boxed{" * 100_000 + "7" + "}" * 100_000, "7"),
        ("{" * 1_000_000, None),
        ("answer is " * 100_000 + "7", "7"),
        ("answer is\n" * 100_000, None),
        ("answer is **" * 80_000, None),
        ("Answer: \\[ \\]" * 80_000, None),
        ("final answer is x" + " " * 1_000_000 + "y", "x" + " " * 1_000_000 + "y"),
        ("#### " * 200_000, None),
        ("* " * 500_000, None),
        (" " * 500_000 + "answer" + "*" * 500_000, None),
    ],
)
def test_a_megabyte_that_repeats_itself(response, answer):
    """A search that is not linear would not end."""
    found = predicted_answer(response)
    assert found == answer or (answer is None and found is not None and found in response)


@given(
    st.text(alphabet="73 .\n*_`#:answerANSWRisfboxed{}\\$[]()", max_size=80),
    st.sampled_from("73 yes -5 C".split()),
)
def test_a_box_or_statement_at_the_end_counts(before, answer):
    before += "\n\n"
    assert predicted_answer(before + f"\\boxed{{{answer}}}") == answer
    if predicted_answer(before + "x") is None:  # no box before
        for said in (
            f"Final Answer: **{answer}**",
            f"**Answer:** {answer}.",
            f"The answer is\n\n{answer}",
            f"#### {answer}",
        ):
            assert predicted_answer(before + said) == answer


def test_predicted_answer_of_the_reference_solutions(shared_dir):
    """MATH's solutions box their answers, and the file's `answer` was taken from the box by others."""
    problems = read_problems(shared_dir / "data" / "math500.jsonl")
    same = [predicted_answer(problem.solution) == problem.answer.strip() for problem in problems]
    assert sum(same) >= len(same) - 2
