"""Nothing is written before everything is checked: what is refused, however late, leaves no output directory."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cord_jax.miniature import ASSETS, HELD_OUT_PROBLEMS, STUDENT
from launch import common
from tests.publishing.synthetic import write_run


def copy_with(student: Path, change) -> None:
    """A copy of the miniature's student in which something has been changed."""
    shutil.copytree(STUDENT, student)
    change(student)


def not_finite(student: Path) -> None:
    tensors = safetensors.numpy.load_file(student / "model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name] = np.full_like(tensors[name], np.nan)
    safetensors.numpy.save_file(tensors, student / "model.safetensors", {"format": "pt"})


def without_a_tensor(student: Path) -> None:
    tensors = safetensors.numpy.load_file(student / "model.safetensors")
    del tensors[sorted(tensors)[-1]]
    safetensors.numpy.save_file(tensors, student / "model.safetensors", {"format": "pt"})


def with_config(**fields):
    def change(student: Path) -> None:
        config = json.loads((student / "config.json").read_text()) | fields
        (student / "config.json").write_text(json.dumps(config))

    return change


def without_bytes(student: Path) -> None:
    """Has the tokenizer split texts at white space, so that it cannot write every text."""
    tokenizer = (student / "tokenizer.json").read_text()
    assert '"type": "ByteLevel"' in tokenizer
    (student / "tokenizer.json").write_text(tokenizer.replace('"type": "ByteLevel"', '"type": "Whitespace"'))


STUDENTS = {
    "nan": not_finite,
    "torn": without_a_tensor,
    "short": with_config(max_position_embeddings=64),
    "words": without_bytes,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Inputs of every job, sound ones and ones with something wrong at their end."""
    directory = tmp_path_factory.mktemp("world")
    for name, change in STUDENTS.items():
        copy_with(directory / name, change)
        (directory / f"{name}.toml").write_text(
            f'meta_prover = "sums"\n[[proposer]]\nname = "sums"\ncheckpoint = "{ASSETS / "sums"}"\n'
            f'[[proposer]]\nname = "last"\ncheckpoint = "{name}"\n'
        )
    problems = HELD_OUT_PROBLEMS.read_text().splitlines(keepends=True)[:6]
    (directory / "problems.jsonl").write_text("".join(problems))
    (directory / "bad.jsonl").write_text("".join(problems) + '{"id": "last", "question": "?"}\n')
    rows = [json.dumps({"prompt": f"{i} + 1", "completion": f" {i + 1}"}) + "\n" for i in range(8)]
    (directory / "rows.jsonl").write_text("".join(rows))
    (directory / "bad_rows.jsonl").write_text("".join(rows) + '{"prompt": "1"}\n')
    (directory / "long.jsonl").write_text(
        rows[0] + json.dumps({"prompt": "1 + " * 50, "completion": "1"}) + "\n"
    )
    write_run(directory / "run")
    for file in ("traces.jsonl", "tree.jsonl"):
        shutil.copytree(directory / "run", directory / f"bad_{file[:-6]}")
        *lines, last = (directory / "run" / file).read_bytes().splitlines(keepends=True)
        row = {
            name: value for name, value in json.loads(last).items() if name != "teacher" and name != "steps"
        }
        (directory / f"bad_{file[:-6]}" / file).write_bytes(
            b"".join(lines) + json.dumps(row).encode() + b"\n"
        )
    for name in ("bad", "fine"):
        held_out = "bad_rows" if name == "bad" else "rows"
        (directory / f"{name}_settings.toml").write_text(
            f'[training]\nheld_out = "{directory}/{held_out}.jsonl"\nmesh = "data:1"\n'
        )
    (directory / "cells").mkdir()
    (directory / "page").mkdir()
    (directory / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    return directory


SYNTHESIS = dict(
    pool="{w}/nan.toml",
    problems="{w}/problems.jsonl",
    max_thinking_tokens=60,
    max_step_tokens=16,
    max_answer_tokens=8,
)
TRAINING = dict(
    student=STUDENT, traces="{w}/rows.jsonl", max_length=256, batch_size=2, epochs=1, mesh="data:1"
)
EVALUATION = dict(model=STUDENT, problems="{w}/problems.jsonl", max_tokens=24, mesh="data:1", grader="exact")
ROUNDS = dict(
    pool=ASSETS / "pool.toml", problems="{w}/problems.jsonl", held_out="{w}/problems.jsonl", student=STUDENT
)
PUBLICATION = dict(run="{w}/run", license="cc0-1.0")

REFUSED = [
    ("synthesize", SYNTHESIS, "expected finite weights"),
    ("synthesize", SYNTHESIS | dict(pool="{w}/torn.toml"), "is missing"),
    ("synthesize", SYNTHESIS | dict(pool="{w}/short.toml"), "has a prompt of"),
    ("synthesize", SYNTHESIS | dict(pool="{w}/words.toml"), "/words"),
    ("synthesize", SYNTHESIS | dict(problems="{w}/bad.jsonl"), "line 7"),
    ("synthesize", SYNTHESIS | dict(pool=ASSETS / "pool.toml", mesh="data:3,model:-1"), "do not divide by 3"),
    ("synthesize", SYNTHESIS | dict(pool=ASSETS / "pool.toml", slots=1_000_000), "this machine has"),
    ("synthesize", SYNTHESIS | dict(pool=ASSETS / "pool.toml", grader="judge", judge="{w}/words"), "/words"),
    ("synthesize", SYNTHESIS | dict(pool=ASSETS / "pool.toml", selector="process_reward"), "reward model"),
    ("train_student", TRAINING | dict(student="{w}/nan"), "expected finite weights"),
    ("train_student", TRAINING | dict(student="{w}/torn"), "is missing"),
    ("train_student", TRAINING | dict(student="{w}/short", traces="{w}/long.jsonl"), "a row has"),
    ("train_student", TRAINING | dict(held_out="{w}/bad_rows.jsonl", eval_every=2), "line 9"),
    ("train_student", TRAINING | dict(mesh="data:4"), "does not divide"),
    ("train_student", TRAINING | dict(objective="dpo"), "line 1"),
    ("evaluate", EVALUATION | dict(model="{w}/nan"), "expected finite weights"),
    ("evaluate", EVALUATION | dict(model="{w}/words"), "/words"),
    ("evaluate", EVALUATION | dict(model="{w}/short"), "has a prompt of"),
    ("evaluate", EVALUATION | dict(problems="{w}/bad.jsonl"), "line 7"),
    ("evaluate", EVALUATION | dict(grader="judge", judge="{w}/nan"), "Yes and No"),
    ("evaluate", EVALUATION | dict(samples=1_000_000, slots=1_000_000), "this machine has"),
    ("evaluate", EVALUATION | dict(mesh="data:3,model:-1"), "do not divide by 3"),
    ("preferences", dict(run="{w}/bad_tree"), "tree.jsonl, line"),
    ("preferences", dict(run="{w}/run", margin=1.0), "--margin=1"),
    ("preferences", dict(run="{w}/run", student="{w}/absent"), "absent"),
    ("publish", PUBLICATION | dict(run="{w}/bad_tree"), "tree.jsonl"),
    ("publish", PUBLICATION | dict(run="{w}/bad_traces"), "traces.jsonl"),
    ("publish", PUBLICATION | dict(teacher_licenses="middle=mit"), "middle"),
    ("rescore", dict(run="{w}/bad_tree"), "tree.jsonl"),
    ("rescore", dict(run="{w}/bad_traces"), "traces.jsonl"),
    ("rescore", dict(run="{w}/page"), "config.json"),
    ("distill", ROUNDS | dict(problems="{w}/bad.jsonl"), "line 7"),
    ("distill", ROUNDS | dict(held_out="{w}/bad.jsonl"), "line 7"),
    ("distill", ROUNDS | dict(settings="{w}/bad_settings.toml"), "line 9"),
    (
        "distill",
        ROUNDS | dict(pool="{w}/words.toml", settings="{w}/fine_settings.toml"),
        "/words",
    ),
    ("study", dict(arms="nobody"), "nobody"),
    ("quickstart", dict(train_problems=301), "--train_problems=301"),
    ("gguf_to_hf", dict(gguf="{w}/rows.jsonl"), "no GGUF file"),
    ("gguf_to_hf", dict(gguf="{w}/model.gguf"), "model.gguf"),
]


@pytest.mark.parametrize(
    "name, values, part", REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_refused_leaves_nothing(world, tmp_path, capsys, name, values, part):
    if name == "gguf_to_hf":
        pytest.importorskip("gguf")
        pytest.importorskip("torch")
    if name == "publish":
        pytest.importorskip("datasets")
    job = importlib.import_module(f"launch.{name}")
    values = {key: str(value).format(w=world) for key, value in values.items()}
    output = tmp_path / "out"
    job.FLAGS.unparse_flags()
    argv = [name, f"--output_dir={output}", *(f"--{key}={value}" for key, value in values.items())]
    assert common.run_with(job.main, job.FLAGS, job.__doc__, argv) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and part in lines[0], lines
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_damaged_runs_is_not_written(world, tmp_path, capsys):
    job = importlib.import_module("launch.report")
    job.FLAGS.unparse_flags()
    argv = ["report", f"--runs={world}/run,{world}/bad_traces", f"--output={tmp_path}/page.html"]
    assert common.run_with(job.main, job.FLAGS, job.__doc__, argv) == 2
    assert "bad_traces" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_other_sizes_changes_nothing(world, tmp_path, capsys):
    from cord_jax.study import cells

    cells.write_cell(tmp_path / "out", "cord", 0, {"train_problems": 3}, {})
    before = sorted(tmp_path.rglob("*"))
    job = importlib.import_module("launch.study")
    job.FLAGS.unparse_flags()
    argv = ["study", f"--output_dir={tmp_path}/out", "--arms=cord"]
    assert common.run_with(job.main, job.FLAGS, job.__doc__, argv) == 2
    assert "holds another arm or study" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
