"""The graders and the processes in which `auto` compares formulas."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cord_jax.errors import UserError
from cord_jax.grading import Submission, open_grader
from cord_jax.problems import Problem

REPOSITORY = Path(__file__).resolve().parents[2]
HALVES = ("\\frac{\\sqrt{12}}{2}", ("\\sqrt{3}",))
ENDLESS = ("10^{10^{10^{10}}}", ("x^{2}",)), ("9^{9^{9^9}}", ("9^{9^{9^8}}",))


def roots(count):
    """Formulas that only mathematics can compare, every other one right."""
    return [(f"\\sqrt{{{i * i * 3}}}", (f"{i + i % 2}\\sqrt{{3}}",)) for i in range(2, count + 2)]


def test_exact():
    with open_grader("exact") as grader:
        assert grader.grade(
            [(" cafe\u0301 ", ("x", "caf\u00e9\n")), ("4.0", ("4",)), (None, ("",)), ("", ("",))]
        ) == [True, False, False, True]


def test_any_form_and_no_answer():
    with open_grader("auto", workers=1) as grader:
        assert grader.grade([("0.5", ("x", "\\frac{1}{2}")), (None, ("1",)), ("", ("1",)), ("5", ())]) == [
            True,
            False,
            False,
            False,
        ]
        problem = Problem("a", "?", "4")
        submissions = [Submission(problem, "It is 4.", "4.0"), Submission(problem, "4", None)]
        assert grader.grade_responses(submissions) == [True, False]


def test_what_is_no_formula_starts_no_process():
    with open_grader("auto") as grader:
        pairs = [
            ("4.0", ("4",)),
            ("yes", ("no",)),
            ("B)", ("B",)),
            ("5 cm", ("5 m",)),
            ("silent", ("listen",)),
        ]
        assert grader.grade(pairs) == [True, False, True, False, False]
        assert not grader._workers._processes


def test_pairs_that_hang_do_not_spoil_the_others():
    with open_grader("auto", workers=2, deadline_seconds=2) as grader:
        pairs = [
            HALVES,
            ENDLESS[0],
            ("\\sqrt{8}", ("2\\sqrt{2}",)),
            ENDLESS[1],
            ("\\sqrt{8}", ("3\\sqrt{2}",)),
        ]
        assert grader.grade(pairs) == [True, False, True, False, False]
        assert grader.grade([("\\sqrt{75}", ("5\\sqrt{3}",))]) == [True]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_was_killed_is_replaced(kill):
    with open_grader("auto", workers=1) as grader:
        assert grader.grade([HALVES]) == [True]
        (worker,) = grader._workers._processes.values()
        worker.send_signal(kill)
        worker.wait()
        assert grader.grade(roots(2)) == [True, False]
    assert not grader._workers._processes


def test_off_the_main_thread_many_pairs():
    results = []

    def work():
        with open_grader("auto", workers=2) as grader:
            results.extend(grader.grade(roots(40)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=120)
    assert results == [i % 2 == 0 for i in range(2, 42)]


def run_script(tmp_path, text, **options):
    script = tmp_path / "script.py"
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_from_a_script_without_a_main_guard(tmp_path):
    """The workers do not run the caller's script again, and load no jax."""
    process = run_script(
        tmp_path,
        "import sys\n"
        "print('started')\n"
        "from cord_jax.grading import open_grader\n"
        "import cord_jax.grading.mathematics\n"
        "assert 'jax' not in sys.modules and 'transformers' not in sys.modules\n"
        "with open_grader('auto') as grader:\n"
        "    print(grader.grade([('2\\\\sqrt{3}', ('\\\\sqrt{12}',))]))\n",
    )
    output, errors = process.communicate(timeout=120)
    assert output == "started\n[True]\n", errors


def test_an_interruption_is_quiet(tmp_path):
    """Ctrl-C goes to every process of the terminal's group: the workers say nothing, and none is left."""
    process = run_script(
        tmp_path,
        "import signal\n"
        "from cord_jax.grading import open_grader\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background inherits that it is ignored
        "with open_grader('auto', workers=1, deadline_seconds=60) as grader:\n"
        "    grader.grade([('2\\\\sqrt{3}', ('\\\\sqrt{12}',))])\n"
        "    try:\n"
        "        print(next(iter(grader._workers._processes.values())).pid, flush=True)\n"  # the signal may follow at once
        "        grader.grade([('9^{9^{9^9}}', ('9^{9^{9^8}}',))])\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n",
        start_new_session=True,
    )
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert output == "interrupted\n" and errors == ""
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_unknown_grader():
    with pytest.raises(UserError, match="--grader=fuzzy.*auto, exact, judge"):
        open_grader("fuzzy")
