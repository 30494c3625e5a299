"""Published data sets, loaded by Hugging Face `datasets`: rows, splits, card, what is refused, what a kill leaves."""

import json
import re
import shutil
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

datasets = pytest.importorskip("datasets")

from huggingface_hub import DatasetCard  # noqa: E402

from cord_jax.errors import UserError  # noqa: E402
from cord_jax.preferences import pairs_of, questions_of  # noqa: E402
from cord_jax.problems import Problem  # noqa: E402
from cord_jax.publishing import card, features  # noqa: E402
from cord_jax.publishing.config import PublishConfig  # noqa: E402
from cord_jax.publishing.decontamination import Questions, words_of  # noqa: E402
from cord_jax.publishing.job import publish  # noqa: E402
from launch import common  # noqa: E402
from launch import publish as entry_point  # noqa: E402
from tests.conftest import REPOSITORY  # noqa: E402
from tests.publishing.synthetic import write_run  # noqa: E402

NAMES = dict(license="cc-by-4.0", problems_license="mit", teacher_licenses="left=apache-2.0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def published(run):
    publish(PublishConfig(run=run, output_dir=run.parent / "set", **NAMES))
    return run.parent / "set"


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def load(path, name="default", **options):
    return datasets.load_dataset(str(path), name, cache_dir=str(path.parent / "cache"), **options)


def files(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def as_written(row):
    """A loaded trace as `traces.jsonl` has it."""
    row = {name: value for name, value in row.items() if name not in card_only(row)}
    usage = {use.pop("teacher"): use for use in row["usage"]}
    extra = json.loads(row.pop("extra") or "{}")
    return (
        row | {"usage": usage} | {f"problem_{name}" if name in row else name: extra[name] for name in extra}
    )


def card_only(row):
    """Columns of a problem that it does not have."""
    return [name for name in ("context", "solution", "answers") if row[name] is None]


def test_what_is_loaded_is_what_the_run_wrote(run, published):
    traces, tree = lines(run / "traces.jsonl"), lines(run / "tree.jsonl")
    loaded = load(published)
    assert [as_written(row) for row in loaded["train"]] == [row for row in traces if row["correct"]]
    assert [as_written(row) for row in loaded["other"]] == [row for row in traces if not row["correct"]]
    assert len(load(published, split="all")) == len(traces)
    assert list(load(published, "tree")["train"]) == tree
    pairs = list(load(published, "pairs")["train"])
    assert pairs == list(pairs_of(tree, questions_of(traces))) and pairs


def test_columns_are_declared(published):
    for name, columns in (("default", features.TRACES), ("tree", features.TREE), ("pairs", features.PAIRS)):
        for split in load(published, name).values():
            assert split.features == columns


def test_shards_together_are_the_whole(run, published, tmp_path):
    parts = [
        write_run(tmp_path / f"part{i}", range(i - 1, 12, 3), count=12, shard=f"{i}/3") for i in (1, 2, 3)
    ]
    summary = publish(
        PublishConfig(run=",".join(map(str, parts[::-1])), output_dir=tmp_path / "set", **NAMES)
    )
    assert summary["shards"] == ["3/3", "2/3", "1/3"] and summary["figures"]["seconds"] == 3.0
    ours, whole = files(tmp_path / "set"), files(published)
    assert {n: data for n, data in ours.items() if n.endswith(".parquet")} == {
        n: data for n, data in whole.items() if n.endswith(".parquet")
    }
    assert "3/3, 2/3, 1/3" in ours["README.md"].decode()


def test_the_same_again_is_the_same_bytes(run, published, tmp_path):
    before = files(published)
    publish(PublishConfig(run=run, output_dir=tmp_path / "set", **NAMES))
    assert files(tmp_path / "set") == before
    publish(PublishConfig(run=run, output_dir=published, **NAMES))
    assert files(published) == before


def test_the_card(run, published):
    text = (published / "README.md").read_text()
    data = DatasetCard.load(published / "README.md").data
    assert data.license == "cc-by-4.0" and data.size_categories == ["n<1K"] and "cord" in data.tags
    assert datasets.get_dataset_config_names(str(published)) == ["default", "tree", "pairs"]
    prompt = json.loads((run / "prompts.json").read_text())["prompts"]["left"]
    assert f"\n`````text\n{prompt}\n`````\n" in text  # a fence that the prompt does not close
    summary = json.loads((run / "summary.json").read_text())
    for name in ("accuracy", "mean_score"):
        assert f"{summary[name]:.4f} ± {summary[f'{name}_standard_error']:.4f}" in text
    figures = json.loads((published / "summary.json").read_text())["figures"]
    assert figures["unanswered"] == summary["unanswered"] > 0 and figures["status"] == summary["status"]
    assert "| left | `left` | apache-2.0 |" in text and "| right | `right` | not stated |" in text
    assert "this data set: cc-by-4.0" in text and "the problems: mit" in text
    assert "{{" not in text.replace("{{The authors", "") and "{%" not in text
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["references"][0]
    assert cited["title"] in card.CITATION and cited["identifiers"][0]["value"] in card.CITATION
    assert str(run.parent) not in text + (published / "config.json").read_text()


def test_without_a_right_trace_there_is_no_train_split(tmp_path):
    run = write_run(tmp_path / "run", [0, 3], steps=1)
    publish(PublishConfig(run=run, output_dir=tmp_path / "set"))
    assert list(load(tmp_path / "set")) == ["other"]
    assert "no split `train`" in (tmp_path / "set/README.md").read_text()


WORDS = st.lists(st.sampled_from(["a", "b", "C", "1", "é", "二"]), max_size=18)


@st.composite
def questions_and_words(draw):
    """Questions of tests, and words some of which may be a piece of one."""
    tests = draw(st.lists(WORDS.filter(bool), min_size=1, max_size=3))
    start = draw(st.integers(0, 3))
    piece = draw(st.sampled_from(tests))[start : start + draw(st.integers(0, 18))]
    ends = st.just([]) | WORDS
    return tests, [*draw(ends), *piece, *draw(ends)] or ["a"]


@given(questions_and_words(), st.sampled_from([" ", "-", ", "]))
def test_overlaps_are_those_of_a_search_for_substrings(given_words, separator):
    tests, words = given_words

    def text(parts):
        return "|" + "|".join(parts).lower() + "|"

    questions = Questions([("t", [Problem(str(i), " ".join(parts)) for i, parts in enumerate(tests)])])
    found = questions.overlaps([("p", words_of(separator.join(words)))])[0].get("p")
    runs = [text(words[i : i + 13]) for i in range(len(words) - 12)]
    same = any(text(words) == text(test) for test in tests)
    shared = any(part in text(test) for part in runs for test in tests)
    assert (found is not None) == (same or shared)
    if found is not None:
        assert found.reason == ("question" if same else "13-gram")
        other = text(tests[int(found.other)])
        assert text(words) == other if same else any(part in other for part in runs)


def test_turns_of_phrase_are_told_and_may_pass():
    phrase = "where m and n are relatively prime positive integers find the sum m n"
    questions = Questions([("t", [Problem("0", f"One test, {phrase}."), Problem("1", "Whole question")])])
    problems = [(str(i), words_of(f"Number {i} {phrase}")) for i in range(12)] + [
        ("w", words_of("whole Question!"))
    ]
    everything, most = questions.overlaps(problems)
    assert len(everything) == 13 and most == 12
    assert list(questions.overlaps(problems, 11)[0]) == ["w"]
    assert len(questions.overlaps(problems, 12)[0]) == 13
    copy = ("copy", words_of(f"One test, {phrase}, and what is more, this is not the whole."))
    assert set(questions.overlaps([*problems, copy], 11)[0]) == {"w", "copy"}
    assert Questions([("t", [Problem("0", "?!")])]).overlaps([("p", words_of("..."))]) == ({}, 0)


def test_what_overlaps_is_left_out_and_listed(run, tmp_path):
    asked = {row["id"]: row["messages"][0]["content"] for row in lines(run / "traces.jsonl")}
    question = asked["p0001"].upper()
    tests = [{"n": 7, "text": asked["p0000"]}, {"n": 8, "text": "Unlike others " + question + " and more"}]
    (tmp_path / "aime.jsonl").write_text("".join(json.dumps(test) + "\n" for test in tests))
    summary = publish(
        PublishConfig(
            run=run,
            output_dir=tmp_path / "set",
            decontaminate=str(tmp_path / "aime.jsonl"),
            columns="id:#,question:text",
        )
    )
    assert summary["removed"] == {"question": 1, "13-gram": 1, "against": ["aime.jsonl"], "common_words": 0}
    removed = lines(tmp_path / "set/removed.jsonl")
    assert [(row["problem"], row["reason"], row["file"], row["other"]) for row in removed] == [
        ("p0000", "question", "aime.jsonl", "1"),
        ("p0001", "13-gram", "aime.jsonl", "2"),
    ]
    for name, key in (("default", "id"), ("tree", "problem"), ("pairs", "problem")):
        assert {row[key] for row in load(tmp_path / "set", name, split="all")}.isdisjoint(["p0000", "p0001"])
    text = (tmp_path / "set/README.md").read_text()
    assert re.search(r"left out: 1 for the whole question, 1 for 13 words", text)


def unfinished(run):
    (run / "summary.json").unlink()
    (run / "traces.jsonl").write_bytes(b"".join((run / "traces.jsonl").read_bytes().splitlines(True)[:5]))


def problems_of(run, **said):
    """Changes what a run says of its problems."""
    config = json.loads((run / "config.json").read_text())
    config["inputs"]["problems"] = said
    (run / "config.json").write_text(json.dumps(config))


def damaged(run):
    with open(run / "tree.jsonl", "a") as file:
        file.write('{"problem"')


def own_files(run):
    (run.parent / "set").mkdir()
    (run.parent / "set/thesis.tex").touch()


def twice(run):
    shutil.copytree(run, run.parent / "copy")


REFUSED = {
    "no run": (lambda run: (run / "config.json").unlink(), {}, ["run: holds no run of launch.synthesize"]),
    "not finished": (unfinished, {}, ["is not finished (5 of 12 problems have a trace)"]),
    "not finished growing": (
        lambda run: problems_of(run, count=14),
        {},
        ["is not finished (12 of 14 problems have a trace)"],
    ),
    "another version": (problems_of, {}, ["holds a run of another version of launch.synthesize"]),
    "a damaged line": (damaged, {}, ["tree.jsonl, line 109: damaged"]),
    "no tree": (lambda run: (run / "tree.jsonl").unlink(), {}, ["tree.jsonl: cannot be read"]),
    "other files": (own_files, {}, ["holds files that belong to no run (thesis.tex)"]),
    "the same problems": (twice, {"run": "{run},{parent}/copy"}, ['the problem "p0000" is in', "too"]),
    "other settings": (
        lambda run: write_run(run.parent / "copy", range(20, 22), beam_width=3),
        {"run": "{run},{parent}/copy"},
        ["copy: was made with other settings", "beam_width is 3, and 2 there"],
    ),
    "one directory twice": (None, {"run": "{run},{run}"}, ["different directories"]),
    "an unknown teacher": (None, {"teacher_licenses": "middle=mit"}, ["no teacher middle", "left, right"]),
    "no licence": (None, {"teacher_licenses": "left"}, ["'left' is not teacher=licence"]),
    "a licence of two words": (None, {"license": "do it"}, ["--license=do it: must be"]),
    "no such test": (None, {"decontaminate": "nothing.jsonl"}, ["nothing.jsonl", "cannot be read"]),
    "columns of nothing": (None, {"columns": "id:#"}, ["--columns=id:#: is of the files of --decontaminate"]),
    "the run itself": (None, {"output_dir": "{run}"}, ["holds a run of synthesize, not of publish"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_published_is_one_line_and_writes_nothing(run, tmp_path, capsys, what):
    damage, given, parts = REFUSED[what]
    shutil.copytree(run, tmp_path / "run")
    if damage:
        damage(tmp_path / "run")
    before = files(tmp_path)
    values = {"run": "{run}", "output_dir": "{parent}/set"} | given
    flags = [f"--{n}={v.format(run=tmp_path / 'run', parent=tmp_path)}" for n, v in values.items()]
    for name in entry_point.FLAGS:
        entry_point.FLAGS[name].unparse()
    status = common.run_with(entry_point.main, entry_point.FLAGS, entry_point.__doc__, ["publish", *flags])
    out, error = capsys.readouterr()
    assert status == 2 and out == "" and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(part in error for part in parts), error
    assert files(tmp_path) == before


def test_other_settings_are_refused_where_a_data_set_is(run, published):
    before = files(published)
    with pytest.raises(UserError, match="license is"):
        publish(PublishConfig(run=run, output_dir=published, **NAMES | {"license": "mit"}))
    assert files(published) == before


def test_a_kill_in_the_middle_leaves_no_data_set(run, tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    config = PublishConfig(run=run, output_dir=tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(card, "write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(config)
    assert not (tmp_path / "set").exists()
    publish(config)
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and len(
        load(tmp_path / "set", split="all")
    ) == 12


def test_without_datasets_one_line_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match="needs the package datasets; install it: python -m pip install datasets"
    ):
        publish(PublishConfig(run=run, output_dir=tmp_path / "set"))
    assert not (tmp_path / "set").exists()
