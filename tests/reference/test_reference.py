"""The reference itself, against cases worked out by hand from the words of the design."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import torch

from . import text, tiny
from .endings import count
from .reader import Reader
from .search import Candidate, Hypothesis, Step, reference_search
from .settings import MetaProver, Pool, Proposer
from .text import Proposal, canonical_step, find_boundary, predicted_answer, read_proposal


def proposal(segmentation, body, stopped="cap", step=2, has_prefix=True):
    body = body if isinstance(body, bytes) else body.encode()
    return read_proposal(segmentation, step, body, stopped, has_prefix)


# Prompts


@pytest.mark.parametrize(
    "rendered, completed",
    [
        ("<|assistant|>", "<|assistant|><think>\n"),
        ("<|assistant|>\n", "<|assistant|>\n<think>\n"),
        ("<|assistant|><think>", "<|assistant|><think>\n"),
        ("<|assistant|><think>\n", "<|assistant|><think>\n"),
        ("<|assistant|><think> \n\n", "<|assistant|><think>\n"),
        ("<think>\n</think>\n", "<think>\n</think>\n<think>\n"),
    ],
)
def test_the_prompt_ends_in_think_once(rendered, completed):
    assert text.open_thinking(rendered) == completed


def test_a_context_precedes_the_question():
    assert text.user_turn({"question": "Q"}) == "Q"
    assert text.user_turn({"question": "Q", "context": "C"}) == "C\n\nQ"


# Boundaries under the prompt cue


@pytest.mark.parametrize(
    "body, cut",
    [
        (". Add.\n\n### Step 3", 8),
        (". Add.\n### Step:", 7),
        ("\n### Step 3", 1),
        (". Add.\n### Step</think>", 7),
        (". Add.\n### Step\n", 7),
        (". Add.\n### Step\u00e9", 7),
        (". Add.\n### Step3", 7),
        (". Add.\n### Stepping\n### Step 3", 20),
    ],
)
def test_a_step_heading_at_a_line_start_is_a_marker(body, cut):
    assert find_boundary("prompt", body.encode(), finished=False) == (cut, "marker")


@pytest.mark.parametrize(
    "body",
    [
        ". Add.\n#### Step 3",
        ". Add.\n### Steps 3",
        ". Add.\n## Step 3",
        ". Add.\n###  Step 3",
        ". Add.\n###Step 3",
        ". Add.\n ### Step 3",
        ". Add. ### Step 3",
        ". Add.\n### step 3",
        ". Add.\r### Step 3",
        "### Step 3",
        ". Add.\n\n",
    ],
)
def test_what_only_looks_like_a_heading_is_no_marker(body):
    assert find_boundary("prompt", body.encode(), finished=True) is None


def test_a_heading_at_the_very_end_is_decided_by_the_end():
    body = b". Add.\n### Step"
    assert find_boundary("prompt", body, finished=False) is None
    assert find_boundary("prompt", body, finished=True) == (7, "marker")
    assert find_boundary("prompt", body + b"\xc3", finished=False) == (7, "marker")
    assert proposal("prompt", body, stopped="eos") == Proposal("### Step 2. Add.\n\n", "marker", None)
    assert proposal("prompt", body, stopped="cap") == Proposal("### Step 2. Add.\n\n", "marker", None)


def test_think_end_counts_anywhere_however_it_is_written():
    assert find_boundary("prompt", b" a</think>\n\n7", finished=False) == (2, "think_end")
    assert find_boundary("prompt", b" a</think", finished=True) is None
    assert find_boundary("whole", b" a\n### Step 2\n\nb</think>", finished=False) == (16, "think_end")


def test_the_earliest_boundary_wins():
    assert find_boundary("prompt", b"a</think>\n### Step 2", finished=False) == (1, "think_end")
    assert find_boundary("prompt", b"a\n### Step 2</think>", finished=False) == (2, "marker")
    assert proposal("prompt", " a</think>", stopped="eos").ended == "think_end"
    assert proposal("prompt", " a\n### Step 3", stopped="eos").ended == "marker"


@pytest.mark.parametrize("stopped", ["eos", "cap", "budget"])
def test_without_a_boundary_a_proposal_ends_as_it_was_stopped(stopped):
    assert proposal("prompt", ": so 7 is", stopped) == Proposal("### Step 2: so 7 is\n\n", stopped, None)


# The other segmentations


def test_a_line_break_ends_at_the_first_empty_line():
    assert proposal("line_break", "One.\nTwo. \n\nThree") == Proposal("One.\nTwo.\n\n", "marker", None)
    assert proposal("line_break", "\n\nThree") == Proposal("", "marker", "empty")
    assert proposal("line_break", "\nThree\n\n") == Proposal("\nThree\n\n", "marker", None)
    assert proposal("line_break", "One.\n") == Proposal("One.\n\n", "cap", None)
    assert proposal("line_break", "a\n### Step 2\nb", "eos") == Proposal("a\n### Step 2\nb\n\n", "eos", None)
    assert find_boundary("line_break", b"One.\n\n", finished=False) == (4, "marker")


@pytest.mark.parametrize(
    "body, canonical",
    [
        ("It is 7. Wait, no", "It is 7."),
        ("It is 7! wAIT", "It is 7!"),
        ("Is it 7? Let me check it", "Is it 7?"),
        ("It is 7\nAlternatively, 8", "It is 7\n"),
        ("It is 7.\n\n  \nThe error is", "It is 7.\n\n  \n"),
        ("So 7. That's impossible: 8", "So 7."),
        ("So 7. That\u2019s impossible: 8", "So 7."),
        ("So 7. Let\u2019s try a different approach", "So 7."),
        ("So 7. let's try a different approach.", "So 7."),
        ("So 7. Double-check", "So 7."),
        ("So 7. Wait\u2014no", "So 7."),
        ("Wait, 7.\nWait, 8", "Wait, 7.\n"),
    ],
)
def test_a_prefix_word_goes_to_the_later_step(body, canonical):
    assert proposal("prefix", body) == Proposal(canonical, "marker", None)


@pytest.mark.parametrize(
    "body",
    [
        "Wait, it is 7",
        "\n\nWait, it is 7",
        " Wait",
        "It is 7.  Wait",
        "It is 7, wait",
        "So 7. Waiting",
        "So 7.Wait",
        "So 7. Wait\u00e9",
        "So 7: Wait",
        "So 7. Double-checking",
        "So 7. Double check",
        "So 7.\n Wait",
        "So 7. Let me  check",
        "So 7. That`s impossible",
        "So 7. Waits",
    ],
)
def test_what_is_no_prefix_marker(body):
    assert find_boundary("prefix", body.encode(), finished=True) is None


def test_a_prefix_word_waits_for_the_end_of_its_word():
    assert find_boundary("prefix", b"So 7. Wait", finished=False) is None
    assert find_boundary("prefix", b"So 7. Wait", finished=True) == (6, "marker")
    assert find_boundary("prefix", b"So 7. Wait\xc3", finished=False) is None
    assert find_boundary("prefix", b"So 7. Wait\xc3\xa9", finished=False) is None
    assert find_boundary("prefix", b"So 7. Wait\xe2\x80\x94", finished=False) == (6, "marker")
    assert find_boundary("prefix", b"So 7. Wait\xc3,", finished=False) == (6, "marker")
    assert find_boundary("prefix", "\u00e9. Wait,".encode(), finished=False) == (4, "marker")


def test_a_prefix_step_keeps_its_newlines():
    assert proposal("prefix", " So 7. \t\n", "eos") == Proposal(" So 7. \t\n", "eos", None)
    assert proposal("prefix", " So 7. \t", "eos") == Proposal(" So 7.", "eos", None)


# Canonical steps and dropped candidates


def test_canonical_steps():
    assert canonical_step("prompt", 12, ".\nSo 7.\n \n") == "### Step 12.\nSo 7.\n\n"
    assert canonical_step("prompt", 1, ": e\u0301") == "### Step 1: \u00e9\n\n"
    assert canonical_step("line_break", 3, "  So e\u0301.\t") == "  So \u00e9.\n\n"
    assert canonical_step("prefix", 3, "So e\u0301. ") == "So \u00e9."
    assert canonical_step("whole", 1, ". a\n### Step 2\nb\n") == "### Step 1. a\n### Step 2\nb\n\n"


@pytest.mark.parametrize("segmentation", ["prompt", "line_break", "prefix"])
def test_an_empty_body_has_nothing_to_add_only_after_something(segmentation):
    cases = [("</think>", "cap", "think_end"), (" </think>", "cap", "think_end"), ("", "eos", "eos")]
    for body, stopped, ended in cases:
        assert proposal(segmentation, body, stopped) == Proposal("", ended, None)
        assert proposal(segmentation, body, stopped, 1, has_prefix=False) == Proposal("", ended, "empty")
    assert proposal(segmentation, " ", "cap") == Proposal("", "cap", "empty")
    assert proposal(segmentation, " ", "budget") == Proposal("", "budget", "empty")


def test_an_empty_body_before_a_marker_is_dropped():
    assert proposal("prompt", "\n\n### Step 3") == Proposal("", "marker", "empty")


def test_bytes_that_are_not_text_are_dropped_only_before_the_cut():
    assert proposal("prompt", b" a\xe2\x80") == Proposal("", "cap", "invalid_utf8")
    assert proposal("prompt", b" a\xff</think>") == Proposal("", "think_end", "invalid_utf8")
    assert proposal("prompt", b" a</think>\xff") == Proposal("### Step 2 a\n\n", "think_end", None)
    assert proposal("prefix", b"a\xff. Wait,") == Proposal("", "marker", "invalid_utf8")


# Answers


def test_answer_forms_are_normalised_and_unique():
    problem = {"answer": "e\u0301", "answers": ["\u00e9", "x", "x"]}
    assert text.answer_forms(problem) == ["\u00e9", "x"]


@pytest.mark.parametrize(
    "response, answer",
    [
        ("so \\boxed{1} or \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{3} and the final answer is 4", "3"),
        ("The final answer is 4.", "4"),
        ("the Final Answer is 4.\nNo, the final answer is: 5\nDone", "5"),
        ("\\boxed{1", None),
        ("seven", None),
    ],
)
def test_predicted_answers(response, answer):
    assert predicted_answer(response) == answer


# Vocabularies


def test_real_vocabularies_give_their_golden_ids(shared_dir, tmp_path):
    golden = json.loads((shared_dir / "tokenizers" / "golden_cases.json").read_text())
    for name in ("qwen2.5", "phi-3"):
        source = shared_dir / "tokenizers" / name
        reader = Reader(
            tiny.write_checkpoint(tmp_path / name, source, "llama", 0, hidden_size=16, num_layers=1)
        )
        for case in golden[name]:
            ids = reader.tokenizer.encode(case["text"], add_special_tokens=False).ids
            assert ids == case["ids"], (name, case["text"])
            written = reader.bytes_of(reader.encode(case["text"])).decode()
            assert written == unicodedata.normalize("NFC", case["text"]) or written == case["text"]
        assert bool(reader.defined.all()) is False
        assert reader.bytes_of(reader.encode("### Step 1")) == b"### Step 1"


def test_a_search_over_real_vocabularies(shared_dir, tmp_path):
    names = ("qwq-32b", "phi-3", "deepseek-r1")
    pool = tiny.write_pool(tmp_path, 1, tokenizers=tuple(shared_dir / "tokenizers" / name for name in names))
    limits = dict(beam_width=2, max_steps=2, max_step_tokens=10, max_thinking_tokens=100, max_answer_tokens=4)
    for trace, rows in reference_search(pool, tiny.PROBLEMS[1:], **limits):
        assert trace["reasoning"].startswith("### Step 1")
        assert any(row["teacher"] == "llama-1" and row["score"] is not None for row in rows)
        assert all(row["text"] == unicodedata.normalize("NFC", row["text"]) for row in rows)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return tiny.write_pool(tmp_path_factory.mktemp("pool"), 0)


@pytest.fixture(scope="module")
def readers(pool):
    return [Reader(proposer.checkpoint) for proposer in pool.proposers[:3]]


def test_the_small_vocabularies_differ(readers):
    digits, threes, merged = readers
    assert len(digits.encode("</think>")) == 1 and len(threes.encode("</think>")) > 1
    assert len({len(reader.encode("### Step 1234567")) for reader in readers}) > 1
    assert len(digits.encode("12")) == 2
    assert len(threes.eos) == 2 and len(merged.eos) == 1
    for reader in readers:
        written = "caf\u00e9 \u4e03\n\n### Step 2"
        assert reader.bytes_of(reader.encode(written)) == written.encode()


def test_the_tokens_that_overlap_the_answer_are_scored(readers):
    for reader in readers:
        tokens, overlaps = reader.encode_answer("is ", "12 m")
        scored = reader.bytes_of([token for token, scored in zip(tokens, overlaps) if scored])
        assert b"12 m" in scored and scored.strip(b" .") == b"12 m"
        assert not overlaps[0]


def test_padded_ids_take_no_probability(readers):
    reader = readers[0]
    context = reader.encode("### Step 1")
    with torch.no_grad():
        logits_v = reader.model(torch.tensor([context])).logits[0, -1].numpy()
    assert logits_v.argmax() not in reader.pieces
    token, lead = reader.next_token(context)
    assert token in reader.pieces and lead > 0
    assert logits_v[token] == max(logits_v[defined] for defined in reader.pieces)


def test_the_score_is_the_geometric_mean_of_the_answer(readers):
    reader = readers[0]
    context = reader.prompt(tiny.PROBLEMS[0], None)
    tokens, overlaps = reader.encode_answer(text.DEFAULT_CLOSING, "42")
    defined = sorted(reader.pieces)
    product, number = 1.0, 0
    for index, (token, scored) in enumerate(zip(tokens, overlaps)):
        if scored:
            with torch.no_grad():
                logits_v = (
                    reader.model(torch.tensor([context + tokens[:index]])).logits[0, -1].double().numpy()
                )
            product *= np.exp(logits_v[token]) / np.exp(logits_v[defined]).sum()
            number += 1
    assert number == 2
    score = reader.answer_probability(context, text.DEFAULT_CLOSING, "42")
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, product ** (1 / number), rtol=1e-4)


# The search


def test_every_ending_and_every_reason_occurs():
    endings, reasons, statuses, margins = count(range(3))
    assert set(endings) == {"marker", "think_end", "eos", "cap", "budget"}
    assert set(reasons) == {None, "empty", "invalid_utf8", "duplicate"}
    assert margins.token > 0


@pytest.mark.parametrize("segmentation", ["prompt", "line_break", "prefix"])
def test_rows_are_consistent(pool, segmentation):
    limits = dict(beam_width=3, max_steps=3, max_step_tokens=12, max_thinking_tokens=45, max_answer_tokens=5)
    for trace, rows in reference_search(pool, tiny.PROBLEMS, segmentation=segmentation, **limits):
        names = [proposer.name for proposer in pool.proposers]
        assert [(row["step"], row["beam"], names.index(row["teacher"])) for row in rows] == sorted(
            (row["step"], row["beam"], names.index(row["teacher"])) for row in rows
        )
        assert "</think>" not in trace["reasoning"]
        assert trace["reasoning"] == "".join(step["text"] for step in trace["steps"])
        for row in rows:
            assert row["kept"] == (row["rank"] is not None)
            assert (row["score"] is None) == (row["dropped"] is not None)
            parents = [
                parent
                for parent in rows
                if parent["step"] == row["step"] - 1 and parent["rank"] == row["beam"]
            ]
            assert len(parents) == (row["step"] > 1)
        if trace["steps"]:
            assert trace["score"] == trace["steps"][-1]["score"]
            last = [row for row in rows if row["step"] == len(trace["steps"]) and row["kept"]]
            assert any(row["text"] == trace["steps"][-1]["text"] for row in last)


def test_curation_proposes_as_many_as_beams_times_proposers(pool):
    ((trace, rows),) = reference_search(
        pool, tiny.PROBLEMS[:1], method="curation", beam_width=2, max_thinking_tokens=24, max_answer_tokens=4
    )
    assert len(rows) == 2 * 4 and {row["step"] for row in rows} == {1}
    assert sum(row["kept"] for row in rows) == 1
    assert trace["score"] == max(row["score"] for row in rows if row["score"] is not None)
    assert len(trace["steps"]) == 1


def test_ties_go_to_the_carried_then_to_the_lower_beam_then_to_the_lower_proposer(pool):
    from .search import ProblemSearch
    from .settings import Settings

    settings = Settings("cord", "prompt", 9, 1, 1, 1, 1, "")
    search = ProblemSearch(Pool((), MetaProver("")), [], _Silent(), tiny.PROBLEMS[0], [], settings)
    entries = [
        (0, 1, 0.5, False),
        (0, 0, 0.5, False),
        (1, 0, 0.5, False),
        (2, -1, 0.5, True),
        (1, 1, 0.75, False),
    ]
    candidates = [
        Candidate(
            Hypothesis((Step(str(index), proposer, np.float32(score), 1, "eos"),)),
            beam,
            proposer,
            None if carried else {},
        )
        for index, (beam, proposer, score, carried) in enumerate(entries)
    ]
    assert [beam.steps[0].text for beam in search.select(candidates, 4)] == ["4", "3", "1", "0"]


class _Silent:
    """A meta-prover that is never asked."""

    def prompt(self, problem, system_prompt):
        return []


def test_a_pool_that_can_write_nothing_is_stuck(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path / "tokenizer", "merged")
    checkpoint = tiny.write_checkpoint(
        tmp_path / "model", tokenizer, "llama", 0, habits=tiny.Habits(eos=60.0)
    )
    pool = Pool((Proposer("a", checkpoint), Proposer("b", checkpoint)), MetaProver(checkpoint))
    ((trace, rows),) = reference_search(pool, tiny.PROBLEMS[:1], max_steps=2)
    assert trace["status"] == "stuck" and trace["response"] is None and trace["steps"] == []
    assert [(row["dropped"], row["ended"], row["score"]) for row in rows] == [("empty", "eos", None)] * 2
    assert trace["usage"]["a"] == {"proposed": 1, "committed": 0, "scored": 0}
    shutil.rmtree(tmp_path / "model")
