"""The jobs' settings: what each refuses, in one line, in Python and on the command line alike."""

import dataclasses
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from cord_jax import (
    EvaluationConfig,
    PreferencesConfig,
    Problem,
    StudentConfig,
    SynthesisConfig,
    names,
    settings,
)
from cord_jax.config import CLOSING
from cord_jax.distillation import DistillationConfig
from cord_jax.errors import UserError
from cord_jax.miniature.config import QuickstartConfig
from cord_jax.publishing.config import PublishConfig
from cord_jax.rescoring.config import RescoringConfig
from cord_jax.study.config import StudyConfig
from launch import (
    common,
    distill,
    evaluate,
    flags_of,
    preferences,
    publish,
    quickstart,
    rescore,
    study,
    synthesize,
    train_student,
)
from tests.conftest import REPOSITORY
from tests.refused_settings import REFUSED

JOBS = {
    "synthesize": (
        SynthesisConfig,
        synthesize,
        {"pool": "p.toml", "problems": "q.jsonl", "output_dir": "out"},
    ),
    "evaluate": (EvaluationConfig, evaluate, {"model": "m", "problems": "q.jsonl", "output_dir": "out"}),
    "train_student": (
        StudentConfig,
        train_student,
        {"student": "m", "traces": "t.jsonl", "output_dir": "out"},
    ),
    "quickstart": (QuickstartConfig, quickstart, {"output_dir": "out"}),
    "publish": (PublishConfig, publish, {"run": "r", "output_dir": "out"}),
    "study": (StudyConfig, study, {"output_dir": "out"}),
    "distill": (
        DistillationConfig,
        distill,
        {"pool": "p.toml", "problems": "q.jsonl", "held_out": "h.jsonl", "student": "s", "output_dir": "out"},
    ),
    "preferences": (PreferencesConfig, preferences, {"run": "r", "output_dir": "out"}),
    "rescore": (RescoringConfig, rescore, {"run": "r", "output_dir": "out"}),
}
CASES = [
    (job, field, value, says)
    for job, refused in REFUSED.items()
    for field, values in refused.items()
    for value, says in values
]
CONTRADICTIONS = [
    ("synthesize", {"decoding": "greedy", "beam_width": 4}, ["--decoding=greedy", "--beam_width=4"]),
    ("synthesize", {"method": "curation", "segmentation": "prompt"}, ["--method=curation", "--segmentation"]),
    ("synthesize", {"method": "curation", "decoding": "beam"}, ["--method=curation", "--decoding"]),
    ("synthesize", {"method": "curation", "max_steps": 128}, ["--method=curation", "--max_steps"]),
    ("synthesize", {"method": "curation", "max_step_tokens": 9}, ["--method=curation", "--max_step_tokens"]),
    ("synthesize", {"method": "integration", "beam_width": 4}, ["--method=integration", "--beam_width"]),
    ("synthesize", {"method": "integration", "decoding": "mcts"}, ["--method=integration", "--decoding"]),
    (
        "synthesize",
        {"method": "integration", "segmentation": "prompt"},
        ["--method=integration", "--segmentation"],
    ),
    ("synthesize", {"method": "integration", "max_steps": 2}, ["--method=integration", "--max_steps"]),
    (
        "synthesize",
        {"method": "curation", "integration_instruction": "x"},
        ["--integration_instruction", "--method=integration"],
    ),
    ("synthesize", {"reward_of": "min"}, ["--reward_of", "--selector=process_reward"]),
    ("synthesize", {"judgments": 3, "selector": "confidence"}, ["--judgments", "--selector=binary_judgment"]),
    ("synthesize", {"max_judgment_tokens": 8}, ["--max_judgment_tokens", "binary_judgment or confidence"]),
    ("synthesize", {"exploration": 0.5}, ["--exploration", "--decoding=mcts"]),
    ("train_student", {"batch_size": 8, "accumulation": 3}, ["--batch_size=8", "--accumulation=3"]),
    ("train_student", {"eval_every": 5}, ["--eval_every=5", "--held_out"]),
    ("train_student", {"beta": 0.2}, ["--beta=0.2", "--objective=dpo"]),
    ("train_student", {"objective": "dpo", "turns": "all"}, ["--turns=all", "--objective=dpo"]),
    ("train_student", {"objective": "gain", "turns": "all"}, ["--turns=all", "--objective=gain"]),
    ("train_student", {"objective": "dpo", "overlong": "cut"}, ["--overlong=cut", "--objective=dpo"]),
]


def refusal(job: str, values: dict) -> str:
    """The message with which the job's dataclass refuses values."""
    config, _, needed = JOBS[job]
    with pytest.raises(UserError) as caught:
        config(**needed | values)
    return str(caught.value)


def parse(job: str, *arguments: str):
    """The configuration that a command line describes."""
    config, _, needed = JOBS[job]
    values = flags.FlagValues()
    flags_of.define(config, values)
    values([job, *(f"--{name}={value}" for name, value in needed.items()), *arguments])
    return flags_of.config_of(config, values)


@pytest.mark.parametrize("job, field, value, says", CASES)
def test_a_bad_value_is_one_line_that_names_the_flag(job, field, value, says):
    message = refusal(job, {field: value})
    flag = {"row_filter": "filter", "job_settings": "settings"}.get(field, field)
    assert message.startswith(f"--{flag}=") and says in message and message.isprintable()
    assert len(message) < 220


def test_a_number_too_long_to_write():
    assert refusal("synthesize", {"seed": 10**5000}) == "--seed=<int>: must be at most 2147483647"


@pytest.mark.parametrize("job", JOBS)
def test_every_setting_refuses_something(job):
    assert {field.name for field in dataclasses.fields(JOBS[job][0])} == set(REFUSED[job])


@pytest.mark.parametrize("job, values, parts", CONTRADICTIONS)
def test_contradictions_are_refused_in_python_and_on_the_command_line(job, values, parts):
    message = refusal(job, values)
    with pytest.raises(UserError) as caught:
        parse(job, *(f"--{name}={value}" for name, value in values.items()))
    assert str(caught.value) == message
    assert all(part in message for part in parts) and message.isprintable()


@pytest.mark.parametrize("job", JOBS)
def test_flags_are_the_fields_and_mean_the_same_when_none_is_given(job):
    config, entry_point, needed = JOBS[job]
    fields = dataclasses.fields(config)
    flags_of_all = ["distributed", "report"] if job in ("synthesize", "evaluate", "train_student") else []
    assert list(entry_point.FLAGS) == [settings.flag_name(field) for field in fields] + flags_of_all
    assert parse(job) == config(**needed)
    help_text = " ".join(common._help(entry_point.FLAGS, "").split())
    for field in fields:
        assert " ".join(settings.setting_of(field).full_help.split()) in help_text
        assert f"{field.name}: {settings.setting_of(field).full_help}." in config.__doc__


def test_what_was_not_given_follows_from_the_rest():
    needed = JOBS["synthesize"][2]
    resolved = SynthesisConfig(**needed).resolved
    assert (resolved.beam_width, resolved.max_steps, resolved.max_step_tokens) == (4, 128, 1024)
    assert (resolved.decoding, resolved.segmentation, resolved.closing) == ("beam", "prompt", CLOSING)
    assert SynthesisConfig(**needed, decoding="greedy").resolved.beam_width == 1
    assert parse("synthesize", "--decoding=greedy", "--beam_width=1").resolved.beam_width == 1
    assert SynthesisConfig(**needed, method="curation", beam_width=8).resolved.segmentation == "prompt"
    given_as_they_are = SynthesisConfig(
        **needed, decoding="beam", beam_width=4, max_steps=128, segmentation="prompt"
    )
    assert settings.deciding(given_as_they_are) == settings.deciding(SynthesisConfig(**needed))


def test_values_are_put_into_their_normal_form():
    config = EvaluationConfig(
        model=Path("m"),
        problems=[Problem("a", "q", "1")],
        output_dir="out",
        samples=np.int64(2),
        temperature=1,
    )
    assert type(config.samples) is int and type(config.temperature) is float
    assert config.model == Path("m") and config.output_dir == Path("out")
    assert settings.free(config) == {
        "model": "m",
        "problems": "1 in memory",
        "judge": None,
        "limit": 0,
        "slots": 32,
        "mesh": "data:1,model:-1",
    }
    json.dumps(settings.deciding(config), allow_nan=False)


@pytest.mark.parametrize(
    "table, package, also",
    [
        (names.METHODS, "cord_jax.methods", ()),
        (names.OBJECTIVES, "cord_jax.student.objectives", ()),
        (names.SELECTORS, "cord_jax.search.scorers", ()),
        (names.DECODINGS, "cord_jax.search.decodings", ("whole",)),  # curation's, which no flag names
    ],
)
def test_names_are_modules(table, package, also):
    found = {module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    assert found == {*table, *also}


def test_a_run_that_does_not_say_a_setting_is_told_so():
    with pytest.raises(UserError, match=r"^config.json of the run: does not say --pool;"):
        settings.recorded(SynthesisConfig, {"problems": "p.jsonl", "output_dir": "run"})


def test_text_of_the_command_line():
    assert parse("synthesize", r"--closing=</think>\n\nAnswer: ").closing == "</think>\n\nAnswer: "
    assert parse("train_student", "--nopack", "--learning_rate=1e-4", "--filter=correct").pack is False
    assert parse("synthesize").closing == CLOSING


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-3, max_value=3),
    st.just(10**5000),
    st.floats(),
    st.floats(0, 1),
    st.text(st.characters(), max_size=8),
    st.binary(max_size=4),
    st.sampled_from(
        ["cord", "beam", "exact", "data:2", "all", "score>=.5", "float32", "drop", "full", "greedy"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.just(Problem("a", "q", "1")),
    st.builds(lambda: [Problem("a", "q", "1")]),
    st.builds(object),
    st.just(np.float32(0.5)),
    st.just(np.arange(3)),
)


@pytest.mark.parametrize("job", JOBS)
@given(data=st.data())
def test_whatever_is_given_is_taken_or_refused_in_one_line(job, data):
    config, _, needed = JOBS[job]
    fields = [field.name for field in dataclasses.fields(config)]
    values = data.draw(st.dictionaries(st.sampled_from(fields), ANYTHING, max_size=4))
    try:
        made = config(**needed | values)
    except UserError as error:
        assert str(error).isprintable() and str(error).startswith("--")
        return
    json.dumps([settings.deciding(made), settings.free(made)], allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("job", JOBS)
@given(data=st.data())
def test_whatever_is_typed_is_taken_or_refused_in_one_line(job, data):
    entry_point = JOBS[job][1]
    own = [name for name in entry_point.FLAGS if name != "distributed"]
    text = st.one_of(st.text(st.characters(exclude_characters="\0"), max_size=8), st.integers().map(str))
    given_flags = data.draw(st.dictionaries(st.sampled_from(own), text, max_size=4))
    try:
        parse(job, *(f"--{name}={value}" for name, value in given_flags.items()))
    except UserError as error:
        assert str(error).isprintable()
    except flags.Error:
        pass  # `launch.common` makes a line of it


def test_flags_are_checked_before_jax_is_imported():
    program = (
        "import sys\n"
        "from launch import common, distill, evaluate, quickstart, study, synthesize, train_student\n"
        "from cord_jax import Problem, PoolSpec, SynthesisConfig, StudentConfig, EvaluationConfig\n"
        "arguments = ['x', '--pool=p', '--problems=q', '--output_dir=o', '--beam_width=0']\n"
        "status = common.run_with(synthesize.main, synthesize.FLAGS, '', arguments)\n"
        "assert status == 2 and not {'jax', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "error: --beam_width=0: must be at least 1\n"
