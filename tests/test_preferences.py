"""Pairs of siblings, beside what the definition of a tree's rows says; the job and what it refuses."""

import gzip
import itertools
import json
from decimal import Decimal

import pytest

from cord_jax import PreferencesConfig, UserError, write_preferences
from cord_jax.preferences import pairs_of, plain_prompt
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary
from launch import common, preferences
from tests.conftest import REPOSITORY
from tests.reference.tiny import write_tokenizer

FIELDS = {
    "prompt": str,
    "chosen": str,
    "rejected": str,
    "margin": float,
    "problem": str,
    "step": int,
    "chosen_teacher": str,
    "rejected_teacher": str,
    "chosen_score": float,
    "rejected_score": float,
    "question": str,
    "reasoning": str,
}


@pytest.fixture(scope="module")
def runs():
    """Recorded runs of the program, by name: rows of traces and of trees."""
    with gzip.open(REPOSITORY / "tests/equality/fixture.json.gz", "rt") as file:
        recorded = json.load(file)
    return {
        name: (files["traces.jsonl"], with_nodes(files["tree.jsonl"]))
        for name, files in recorded.items()
        if "tree.jsonl" in files
    }


def with_nodes(rows):
    """Numbers rows and names their parents, as docs/method.md defines both by `step`, `beam` and `rank`."""
    found, number, node_of = [], 0, {}
    for _, tree in itertools.groupby(rows, key=lambda row: row["problem"]):
        for number, row in enumerate(tree, start=1):
            parent = 0 if row["step"] == 1 else node_of[row["problem"], row["step"] - 1, row["beam"]]
            found.append({"node": number, "parent": parent} | row)
            if row["rank"] is not None:
                node_of[row["problem"], row["step"], row["rank"]] = number
    return found


def write_run(directory, traces, tree):
    directory.mkdir(parents=True)
    traces = [row | {"messages": [{"role": "user", "content": row["question"]}, {}]} for row in traces]
    for name, rows in (("traces.jsonl", traces), ("tree.jsonl", tree)):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def by_beams(tree, margin):
    """Pairs of candidates for one beam in one round, with the text that the beam had; the first ones have none."""
    texts, found = {}, set()
    for row in tree:
        key = row["problem"], row["step"], row["rank"]
        before = texts.get((row["problem"], row["step"] - 1, row["beam"]), "")
        if row["rank"] is not None:
            texts[key] = before + row["text"]
        for other in tree:
            same = ("problem", "step") if row["step"] == 1 else ("problem", "step", "beam")
            siblings = all(row[name] == other[name] for name in same)
            if siblings and row["score"] is not None and other["score"] is not None:
                end = [
                    r["text"] + "</think>\n\n" * (r["ended"] in ("think_end", "eos")) for r in (row, other)
                ]
                difference = Decimal(str(row["score"])) - Decimal(str(other["score"]))
                if end[0] != end[1] and difference > 0 and difference >= Decimal(str(margin)):
                    found.add((row["problem"], row["step"], before, *end, float(difference)))
    return found


@pytest.mark.parametrize("margin", [0, 0.02, 0.1])
@pytest.mark.parametrize("name", ["drawn", "prefix", "curation"])
def test_pairs_are_candidates_for_one_beam_in_one_round(runs, name, margin):
    traces, tree = runs[name]
    questions = {row["id"]: row["question"] for row in traces}
    rows = list(pairs_of(tree, questions, margin))
    found = {
        (row["problem"], row["step"], row["reasoning"], row["chosen"], row["rejected"], row["margin"])
        for row in rows
    }
    assert found == by_beams(tree, margin) and found
    for row in rows:
        assert {field: type(value) for field, value in row.items()} == FIELDS
        assert row["prompt"] == f"{questions[row['problem']]}\n\n<think>\n{row['reasoning']}"


def test_scores_are_decimals_and_equal_texts_make_no_pair():
    def row(node, text, score, ended="marker", parent=0):
        return {
            "node": node,
            "parent": parent,
            "problem": "p",
            "step": 1,
            "teacher": f"t{node}",
            "text": text,
            "score": score,
            "ended": ended,
        }

    tree = [
        row(1, "a\n\n", 0.4),
        row(2, "b\n\n", 0.3),
        row(3, "a\n\n", 0.9, "cap"),  # the same text as 1, and open, too
        row(4, "", None),
        row(5, "a\n\n", 0.3, "think_end"),
        row(6, "c\n\n", 0.9, parent=3),
    ]
    rows = list(pairs_of(tree, {"p": "?"}, 0.1))
    assert [(row["chosen_teacher"], row["rejected_teacher"], row["margin"]) for row in rows] == [
        ("t1", "t2", 0.1),
        ("t1", "t5", 0.1),
        ("t3", "t2", 0.6),
        ("t3", "t5", 0.6),
    ]
    assert rows[1]["rejected"] == "a\n\n</think>\n\n"
    assert not list(pairs_of(tree, {"q": "?"}, 0.1))


def test_the_job(runs, tmp_path, capsys):
    first = write_run(tmp_path / "first", *runs["drawn"])
    second = write_run(tmp_path / "second", *runs["curation"])
    (first / "summary.json").write_text("{}")
    with open(second / "traces.jsonl", "a") as file:
        file.write('{"id": "half a li')  # a run that was killed while it wrote
    config = PreferencesConfig(run=f"{first},{second}", output_dir=tmp_path / "out", margin=0.02)
    summary = write_preferences(config)
    assert f"{second}: the run is not finished" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()]
    expected = [
        row
        for traces, tree in (runs["drawn"], runs["curation"])
        for row in pairs_of(tree, {row["id"]: row["question"] for row in traces}, 0.02)
    ]
    assert rows == expected
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["pairs"] == len(rows) == sum(n for wins in summary["wins"].values() for n in wins.values())
    assert summary["problems_with_pairs"] == len({row["problem"] for row in rows}) <= summary["problems"]
    before = (tmp_path / "out/pairs.jsonl").stat().st_mtime_ns
    assert write_preferences(config) == summary
    assert (tmp_path / "out/pairs.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="margin is 0.02 there, 0.5 here"):
        write_preferences(PreferencesConfig(run=config.run, output_dir=tmp_path / "out", margin=0.5))


def test_prompts_in_a_students_own_template(runs, tmp_path):
    run = write_run(tmp_path / "run", *runs["drawn"])
    student = write_tokenizer(tmp_path / "student", "digits")
    (student / "prompt.json").write_text(
        json.dumps({"system_prompt": "Think.", "user_prompt": "{question}", "template_arguments": {}})
    )
    write_preferences(PreferencesConfig(run=run, output_dir=tmp_path / "out", margin=0, student=student))
    row = json.loads((tmp_path / "out/pairs.jsonl").read_text().splitlines()[-1])
    opening = render_prompt(Vocabulary.load(student), PromptSettings("Think."), row["question"])
    assert row["prompt"] == opening + row["reasoning"] and opening.startswith("<|system|>Think.")
    assert plain_prompt(row["question"]) not in row["prompt"]


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--margin=2"], "error: --margin=2: no two siblings of"),
        (["--margin=nan"], "error: --margin=nan: must be a finite number"),
        (["--run=absent"], "error: --run: absent has no traces.jsonl"),
        (["--run=a,a"], "error: --run=a,a: must be different directories"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing_behind(runs, flags, says, tmp_path, capsys):
    run = write_run(tmp_path / "run", *runs["drawn"])
    needed = [
        f"--run={run}",
        f"--output_dir={tmp_path / 'out'}",
        "--margin=0.02",
    ]  # flags keep what they were given
    arguments = ["preferences", *needed, *flags]
    assert common.run_with(preferences.main, preferences.FLAGS, "", arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(says) and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_rows_of_another_version_are_named(runs, tmp_path):
    traces, tree = runs["drawn"]
    run = write_run(tmp_path / "run", traces, [{k: v for k, v in row.items() if k != "node"} for row in tree])
    config = PreferencesConfig(run=run, output_dir=tmp_path / "out")
    with pytest.raises(
        UserError, match='tree.jsonl, line 1: damaged .field "node" is missing or of another type'
    ):
        write_preferences(config)
    (run / "tree.jsonl").write_text(json.dumps(tree[0] | {"score": "high"}) + "\n")
    with pytest.raises(
        UserError, match='tree.jsonl, line 1: damaged .field "score" is missing or of another type'
    ):
        write_preferences(config)
    (run / "tree.jsonl").write_text(json.dumps(tree[0] | {"parent": 7}) + "\n")
    with pytest.raises(
        UserError, match="tree.jsonl: node 1 of problem .* extends node 7, which is not before it"
    ):
        write_preferences(config)
    (run / "traces.jsonl").write_text(json.dumps({"id": "p", "messages": [{}]}) + "\n")
    with pytest.raises(
        UserError, match="traces.jsonl: the messages of a row do not begin with a user's turn"
    ):
        write_preferences(config)


def test_a_pool_that_agrees_has_nothing_to_prefer(tmp_path):
    rows = [
        {"node": n, "parent": 0, "problem": "p", "step": 1, "teacher": "t", "text": "x", "score": 0.5}
        | {"ended": "cap"}
        for n in (1, 2)
    ]
    run = write_run(tmp_path / "run", [{"id": "p", "question": "?"}], rows)
    with pytest.raises(UserError, match="no two different siblings have different scores"):
        write_preferences(PreferencesConfig(run=run, output_dir=tmp_path / "out"))
