"""The page as a file: what it holds, what it must never hold, and what it refuses."""

import base64
import hashlib
import html.parser
import json
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
from absl import flags

from cord_jax import statistics
from cord_jax.errors import UserError
from cord_jax.report import viewers
from cord_jax.report.page import try_report, write_report
from cord_jax.report.runs import open_runs
from cord_jax.report.sections import authors
from cord_jax.traces import Candidate, Trace
from launch import common
from tests.conftest import REPOSITORY
from tests.report.synthetic import NASTY, write_evaluation, write_synthesis, write_training

_VOID = {"meta", "input", "br", "link", "img"}


class Document(html.parser.HTMLParser):
    """A page as a browser without scripts reads it."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.scripts, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def document(page):
    return Document(page.read_text(encoding="utf-8"))


def unpack(document):
    """Element id -> data."""
    ids = [attributes.get("id") for tag, attributes in document.elements if tag == "script"]
    return {
        key: json.loads(zlib.decompress(base64.b64decode(script)))
        for key, script in zip(ids, document.scripts)
        if key is not None
    }


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_it_is_one_file_with_one_script_that_the_policy_names(document):
    running = [
        attributes for tag, attributes in document.elements if tag == "script" and "type" not in attributes
    ]
    assert running == [{}]
    policy = next(a["content"] for tag, a in document.elements if a.get("http-equiv"))
    script = document.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    for _, attributes in document.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#")
            elif name != "xmlns" and not name.startswith("xmlns:"):
                assert "//" not in (value or "")
    assert "url(" not in document.text and "@import" not in document.text
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_data_are_those_of_the_files(runs, document):
    data = unpack(document)
    index = data["index-trees"]
    names = [run["name"] for run in index["runs"]]
    assert names == ["beam", "mcts", "other"]  # a directory's runs in the order of their names
    assert [row[0].split()[0] for row in index["problems"]] == [f"p{i}" for i in range(12)]
    for r, name in enumerate(names):
        traces = {row["id"]: row for row in rows(runs / name / "traces.jsonl")}
        nodes = rows(runs / name / "tree.jsonl")
        for place, (problem, *_, found) in enumerate(index["problems"]):
            if problem not in traces:
                assert found[r] is None and f"tree-{r}-{place}" not in data
                continue
            trace, tree = traces[problem], data[f"tree-{r}-{place}"]
            assert found[r][:3] == [trace["correct"], trace["status"], trace["score"]]
            assert tree["question"] == trace["question"] and tree["response"] == trace["response"]
            assert NASTY in tree["question"]
            mine = [row for row in nodes if row["problem"] == problem]
            told = [
                [n[0], n[1], n[2], n[3], tree["teachers"][n[4]], n[5], n[7], n[8], n[9], n[10]]
                for n in tree["nodes"]
            ]
            fields = (
                "node",
                "parent",
                "step",
                "beam",
                "teacher",
                "score",
                "kept",
                "dropped",
                "ended",
                "text",
            )
            assert told == [[row[field] for field in fields] for row in mine]
            by_number = {row["node"]: row for row in mine}
            winner = [by_number[number] for number in tree["winner"]]
            assert [row["text"] for row in winner] == [step["text"] for step in trace["steps"]]
            assert [row["parent"] for row in winner[1:]] == tree["winner"][:-1]
    samples = data["index-samples"]
    assert [run["name"] for run in samples["runs"]] == ["after", "before"]
    for place, (problem, _, _, counts) in enumerate(samples["problems"]):
        for r, run in enumerate(samples["runs"]):
            of_file = [row for row in rows(runs / run["name"] / "samples.jsonl") if row["problem"] == problem]
            assert counts[r] == [sum(row["correct"] for row in of_file), len(of_file)]
            texts = [sample[-1] for sample in data[f"samples-{place}"]["runs"][r]]
            assert texts == [row["text"] for row in of_file]


def test_the_numbers_are_those_of_the_summaries(runs, document):
    opened = open_runs([runs])
    for run in opened.synthesis:
        summary = json.loads((run.path / "summary.json").read_text())
        right = f"{100 * summary['accuracy']:.1f} ± {100 * summary['accuracy_standard_error']:.1f} %"
        assert right in document.text
        assert f"{summary['mean_score']:.3f} ± {summary['mean_score_standard_error']:.3f}" in document.text
        for teacher, by_part in authors.shares(run).items():
            for part, estimate in by_part.items():
                assert estimate.mean == pytest.approx(summary["share"][part][teacher], abs=1e-6)
    beam, _, other = opened.synthesis
    lead = np.mean([t.correct for t in other.traces]) - np.mean([t.correct for t in beam.traces])
    assert f"{100 * lead:+.1f} pp".replace("-", "−") in document.text
    assert "Deepest" in document.text or "deepest node" in document.text
    for phrase in ("the answer against decoys", "training: loss", "pass@k", "right traces against score"):
        assert phrase in document.text


def test_the_same_runs_give_the_same_bytes_and_are_left_alone(runs, tmp_path):
    one, here = runs / "beam", tmp_path / "here.html"
    before = {path: path.read_bytes() for path in one.iterdir()}
    write_report([one], here)
    command = [sys.executable, "-m", "launch.report", f"--runs={one}", f"--output={tmp_path / 'there.html'}"]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout == f"{tmp_path / 'there.html'}\n", said.stderr
    assert (tmp_path / "there.html").read_bytes() == here.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.html", "there.html"]
    assert {path: path.read_bytes() for path in one.iterdir()} == before


def test_a_winner_by_somebody_who_proposes_nothing(tmp_path):
    write_synthesis(tmp_path / "run", 4, steps=1, integrator="meta_prover")
    page = Document(write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "whole traces, written anew as one" in page.text
    assert re.search(r"meta_prover\s*100\.0 ± 0\.0 %", page.text)
    for key, tree in unpack(page).items():
        if key.startswith("tree-"):
            assert tree["winner"] == [] and tree["teachers"][tree["steps"][0][0]] == "meta_prover"


def test_unfinished_runs_are_told_and_not_touched(tmp_path):
    write_synthesis(tmp_path / "traces", 3, finished=False)
    write_evaluation(tmp_path / "answers", 2, 2, accuracy=0.5, seed=0, finished=False)
    write_training(tmp_path / "student", 7, exported=False)
    with open(tmp_path / "traces" / "traces.jsonl", "a") as file:
        file.write('{"id": "half a li')
    torn = (tmp_path / "traces" / "traces.jsonl").read_bytes()
    (tmp_path / "traces" / "journal.jsonl").write_text('{"problem": "p9", "round": 1, "candidates": []}\n')
    text = Document(write_report([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "traces is not finished: 3 problems, 1 under way." in text
    assert "answers is not finished: 4 samples." in text and "student is not finished: 7 steps." in text
    assert (tmp_path / "traces" / "traces.jsonl").read_bytes() == torn


def test_runs_that_have_only_begun(tmp_path):
    write_synthesis(tmp_path / "traces", 0, finished=False)
    write_evaluation(tmp_path / "answers", 0, 2, accuracy=0.5, seed=0, finished=False)
    write_training(tmp_path / "student", 0, exported=False)
    text = Document(write_report([tmp_path], tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "not finished: 0 problems" in text


def test_a_page_too_large_is_cut_where_it_hurts_least(tmp_path):
    write_synthesis(tmp_path / "run", 30, words=200, accuracy=0.5)
    runs = open_runs([tmp_path / "run"]).synthesis
    whole = viewers.pack_trees(runs, 10**9)
    assert whole.cut is None and whole.left_out == 0 and len(whole.blocks) == 30
    half = viewers.pack_trees(runs, whole.size // 2)
    assert half.size <= whole.size // 2 and half.left_out == 0 and len(half.blocks) == 30
    assert len(viewers.pack_trees(runs, half.size).blocks["tree-0-7"]) == len(half.blocks["tree-0-7"])
    budget = 40_000
    tiny = viewers.pack_trees(runs, budget)
    assert tiny.size <= budget and 0 < len(tiny.blocks) == 30 - tiny.left_out
    right = [
        trace.correct for trace in sorted(runs[0].traces, key=lambda trace: int(trace.id[1:].split()[0]))
    ]
    there = {int(key.rpartition("-")[2]) for key in tiny.blocks}
    wrong = {place for place, is_right in enumerate(right) if not is_right}
    assert there <= wrong or wrong <= there
    page = write_report([tmp_path / "run"], tmp_path / "page.html", page_bytes=budget)
    text = Document(page.read_text(encoding="utf-8")).text
    assert f"Texts are cut to {tiny.cut} characters" in text
    assert f"{tiny.left_out} problems are left out, right ones first" in text


@pytest.mark.parametrize("text", ["short", "a" * 101, "x\n" * 5000])
@pytest.mark.parametrize("limit", [None, 60, 500])
def test_cut_texts_say_how_much_is_missing(text, limit):
    cut = viewers.shorten(text, limit)
    if limit is None or len(text) <= limit:
        assert cut == text
        return
    start, missing, end = re.fullmatch(r"(.*) \[… (\d+) characters …\] (.*)", cut, re.DOTALL).groups()
    assert text.startswith(start) and text.endswith(end) and len(start) + int(missing) + len(end) == len(text)


def test_a_winner_that_the_tree_does_not_hold_has_no_path(runs):
    trace = Trace.from_row(rows(runs / "beam" / "traces.jsonl")[0])
    tree = [
        Candidate.from_row(row) for row in rows(runs / "beam" / "tree.jsonl") if row["problem"] == trace.id
    ]
    assert len(viewers.winning_nodes(trace, tree)) == len(trace.steps)
    assert viewers.winning_nodes(trace, tree[:4]) == []


def test_refusals(tmp_path):
    write_synthesis(tmp_path / "run", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    good, output = tmp_path / "run", tmp_path / "page.html"
    for wrong, to, told in (
        ([tmp_path / "nothing"], output, "does not exist"),
        ([tmp_path / "file"], output, "is a file"),
        ([tmp_path / "empty"], output, "holds no run"),
        ([], output, "names no run"),
        ([good], tmp_path, "is a directory"),
        ([good], tmp_path / "no" / "page.html", "there is no directory"),
    ):
        with pytest.raises(UserError, match=told) as raised:
            write_report(wrong, to)
        assert "\n" not in str(raised.value)
    with open(good / "tree.jsonl", "a") as file:
        file.write("[1]\n")
    with pytest.raises(UserError, match="tree.jsonl, line"):
        write_report([good], output)
    assert not output.exists()


def test_a_run_ends_well_though_its_page_cannot_be_drawn(tmp_path, capsys):
    write_synthesis(tmp_path / "run", 2)
    (tmp_path / "run" / "report.html").mkdir()
    values = flags.FlagValues()
    flags.DEFINE_string("output_dir", str(tmp_path / "run"), "", flag_values=values)
    common.define_report(values)
    values(["job"])
    common.write_report(values)
    assert "report: not written (UserError" in capsys.readouterr().err
    assert "report: not written" in (tmp_path / "run" / "log.txt").read_text()
    (tmp_path / "run" / "report.html").rmdir()
    values(["job", "--noreport"])
    common.write_report(values)
    assert not (tmp_path / "run" / "report.html").exists()
    values(["job", "--report"])
    common.write_report(values)
    assert "report.html" in capsys.readouterr().err and (tmp_path / "run" / "report.html").exists()
    assert try_report([tmp_path / "no"], tmp_path / "no" / "report.html").startswith("report: not written")


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("a/traces", "b/traces", "b/other"):
        write_synthesis(tmp_path / name, 1)
    assert [run.name for run in open_runs([tmp_path]).synthesis] == ["a/traces", "other", "b/traces"]


def test_ratio_against_the_bootstrap():
    from scipy import stats

    rng = np.random.default_rng(0)
    wholes = rng.integers(1, 20, 400)
    parts = rng.binomial(wholes, rng.beta(2, 3, 400))
    found = statistics.ratio(parts, wholes)
    assert found.mean == pytest.approx(parts.sum() / wholes.sum())
    again = stats.bootstrap(
        (parts, wholes), lambda p, w, axis: p.sum(axis) / w.sum(axis), paired=True, n_resamples=2000, rng=rng
    )
    assert found.standard_error == pytest.approx(again.standard_error, rel=0.06)
    equal = statistics.ratio(parts[:50] % 5, np.full(50, 4))
    assert equal.standard_error == pytest.approx(statistics.estimate((parts[:50] % 5) / 4).standard_error)
    assert np.isnan(statistics.ratio([], []).mean) and statistics.ratio([0, 1], [0, 2]).count == 1
