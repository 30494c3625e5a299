"""Vocabularies: golden ids, bytes, dummy prefixes, answers' tokens, and what is refused."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from cord_jax.errors import UserError
from cord_jax.problems import read_problems
from cord_jax.text.vocabulary import Vocabulary

from . import small
from .conftest import FAMILIES

CLOSING = "</think>\n\nThe final answer is "
# Unassigned code points are left out: Python and the tokenizers may know different versions of Unicode.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=40).map(
    lambda text: unicodedata.normalize("NFC", text)
)


@pytest.fixture
def golden(shared_dir):
    cases = json.loads((shared_dir / "tokenizers" / "golden_cases.json").read_text())
    return {name: cases[cases[name]] if isinstance(cases[name], str) else cases[name] for name in cases}


@pytest.mark.parametrize("name", ["qwen2.5", "qwq-32b", "deepseek-r1-distill-qwen", "llama-3.1", "phi-3"])
def test_golden_ids(load_real, golden, name):
    vocabulary = load_real(name)
    assert len(golden[name]) == 47
    for case in golden[name]:
        # The golden ids of phi-3 have the dummy prefix, which is that of a text with a space before it.
        text = " " + case["text"] if name == "phi-3" and case["text"] else case["text"]
        assert vocabulary.encode(text) == case["ids"]
        assert vocabulary.encode_prompt(case["text"]) == case["ids"]


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, max_size=12))
def test_exchange_keeps_every_text(load_real, texts):
    for name in FAMILIES:
        vocabulary = load_real(name)
        if name == "phi-3":  # SentencePiece writes a space as U+2581, so it cannot tell the two apart.
            texts = [text.replace("\u2581", " ") for text in texts]
        encoded = vocabulary.encode_batch(texts)
        assert [vocabulary.join(ids) for ids in encoded] == [text.encode() for text in texts]
        assert [vocabulary.text(ids) for ids in encoded] == texts
        assert encoded == [vocabulary.encode(text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_a_continuation_is_the_tokenizers_own_ids_but_for_the_prefix(load_real, text):
    for name in FAMILIES:
        vocabulary = load_real(name)
        own = vocabulary.tokenizer.encode(text, add_special_tokens=False)
        assert vocabulary.encode_prompt(text) == own
        assert vocabulary.encode(" " + text if name == "phi-3" and text else text) == own


def test_real_problems_keep_their_text(shared_dir, real):
    problems = read_problems(shared_dir / "data" / "math500.jsonl")
    texts = [unicodedata.normalize("NFC", problem.solution) for problem in problems]
    assert [real.text(ids) for ids in real.encode_batch(texts)] == texts


def test_each_token_alone_is_what_the_tokenizer_decodes(real):
    """Those whose bytes are text: the others the tokenizer cannot show."""
    wrong = []
    for i, piece in enumerate(real.token_bytes):
        text = piece.decode("utf-8", "replace")
        if "\ufffd" not in text and piece and not text.startswith(" "):
            wrong += (
                [i] if real.tokenizer.backend_tokenizer.decode([i], skip_special_tokens=False) != text else []
            )
    assert wrong == []


def test_added_tokens_spelled_in_a_text_become_their_ids(load_real):
    vocabulary = load_real("qwq-32b")
    assert vocabulary.encode("a</think>\n\nb<|im_end|>") == [64, 151668, 271, 65, 151645]
    assert vocabulary.text([64, 151668, 271, 65, 151645]) == "a</think>\n\nb<|im_end|>"
    assert len(load_real("qwen2.5").encode("</think>")) > 1


def test_end_of_sequence_ids(load_real, tmp_path):
    assert load_real("llama-3.1").eos_ids == {128009}
    tokenizer = small.byte_level()
    files = {"generation_config": {"eos_token_id": [3, 4]}, "config": {"eos_token_id": 5}}
    end = tokenizer.token_to_id("<|end|>")
    assert Vocabulary.load(small.save(tmp_path / "a", tokenizer, **files)).eos_ids == {3, 4, 5, end}
    assert Vocabulary.load(small.save(tmp_path / "b", tokenizer, None, **files)).eos_ids == {3, 4, 5}
    no_ids = {"generation_config": {}, "config": {"eos_token_id": None}}
    assert Vocabulary.load(small.save(tmp_path / "c", tokenizer, **no_ids)).eos_ids == {end}
    with pytest.raises(UserError, match="eos_token_id into generation_config.json"):
        Vocabulary.load(small.save(tmp_path / "d", tokenizer, None, **no_ids))
    with pytest.raises(UserError, match="an id or a list of ids"):
        Vocabulary.load(small.save(tmp_path / "e", tokenizer, None, config={"eos_token_id": "<|end|>"}))


def test_defined_ids(load_real):
    phi = load_real("phi-3")
    mask = phi.defined(32064)
    assert mask.dtype == bool and mask.shape == (32064,) and mask.sum() == 32011 and mask[:32011].all()
    with pytest.raises(UserError, match="id 32010, but the model has only 32000 logits"):
        phi.defined(32000)
    # deepseek-r1 leaves ids out between its tokens; no token of theirs may ever be sampled.
    r1 = load_real("deepseek-r1")
    ids = set(r1.tokenizer.get_vocab().values())
    assert set(np.flatnonzero(r1.defined(129280)).tolist()) == ids
    assert all(r1.token_bytes[i] == b"" for i in range(len(r1.token_bytes)) if i not in ids)


def test_fingerprints(load_real, shared_dir, tmp_path):
    prints = {load_real(name).fingerprint for name in FAMILIES}
    assert len(prints) == len(FAMILIES)
    copy = tmp_path / "copy"
    shutil.copytree(shared_dir / "tokenizers" / "phi-3", copy)
    copy.chmod(0o755)
    path = copy / "tokenizer_config.json"
    path.chmod(0o644)
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"chat_template": "another", "eos_token": "<|end|>"})
    )
    assert Vocabulary.load(copy).fingerprint == load_real("phi-3").fingerprint


# Answers

ANSWERS = [
    "42",
    "yes",
    "-1",
    "\\frac{1}{2}",
    "$5$",
    "(1, 2)",
    "\\text{Tuesday}",
    "3.5",
    "1,024",
    "x = 3",
    "\u00bd",
    "\u4e2d\u6587",
    "\U0001d465",
    "a b",
    ".5",
    ")",
    '"no"',
    "7.",
    "[0, 1)",
    "\u00e9t\u00e9",
]


@pytest.mark.parametrize(
    "closing", [CLOSING, "</think> The final answer is \\boxed{", "</think>\n\nAnswer:\n"]
)
def test_scored_tokens_overlap_the_answer(real, closing):
    """Against the tokenizer's own character offsets of the same text behind some other text."""
    for answer in ANSWERS:
        ids, scored = real.encode_with_answer(closing, answer)
        assert ids == real.encode(closing + answer + ".")
        assert len(scored) == len(ids)
        # By the bytes of the ids, which spell the text.
        assert real.join(ids) == (closing + answer + ".").encode()
        position, expected = 0, []
        for i in ids:
            span = range(position, position := position + len(real.token_bytes[i]))
            expected.append(
                any(len(closing.encode()) <= at < len((closing + answer).encode()) for at in span)
            )
        assert scored == expected


@pytest.mark.parametrize("name", ["qwen2.5", "llama-3.1", "phi-4"])
def test_scored_tokens_by_the_tokenizers_offsets(load_real, name):
    vocabulary = load_real(name)
    for answer in ANSWERS:
        text = CLOSING + answer + "."
        offsets = vocabulary.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        expected = [begin < len(CLOSING + answer) and end > len(CLOSING) for begin, end in offsets]
        assert vocabulary.encode_with_answer(CLOSING, answer)[1] == expected


def test_an_answer_merges_with_its_space_and_its_period(load_real):
    vocabulary = load_real("qwq-32b")
    ids, scored = vocabulary.encode_with_answer(CLOSING, "yes")
    assert [vocabulary.text([i]) for i, counts in zip(ids, scored) if counts] == [" yes"]
    ids, scored = vocabulary.encode_with_answer(CLOSING, "42")
    assert [vocabulary.text([i]) for i, counts in zip(ids, scored) if counts] == ["4", "2"]
    ids, scored = vocabulary.encode_with_answer(CLOSING, "\\frac{1}{2}")
    assert vocabulary.text([ids[-1]]) == "}." and scored[-1]
    assert vocabulary.encode_with_answer(CLOSING, "cafe\u0301") == vocabulary.encode_with_answer(
        CLOSING, "caf\u00e9"
    )


def test_closings_that_cannot_be_scored(load_real):
    vocabulary = load_real("qwq-32b")
    for closing in ("", " "):
        with pytest.raises(UserError, match="--closing"):
            vocabulary.encode_with_answer(closing, "yes")
    with pytest.raises(UserError, match="no text to score"):
        vocabulary.encode_with_answer(CLOSING, "")


def test_added_tokens_that_swallow_white_space(tmp_path):
    vocabulary = Vocabulary.load(small.save(tmp_path, small.byte_level()))
    ids, scored = vocabulary.encode_with_answer("a <|sep|> \n", "yes")
    assert vocabulary.join(ids) == b"a<|sep|>yes."
    assert scored == [False, False, True, True, True, False]


# Seams


@pytest.mark.parametrize("segmentation", ["prompt", "line_break", "prefix", "whole"])
def test_real_vocabularies_have_no_bad_seams(real, segmentation):
    assert real.seam_rate(segmentation) == 0


def test_bad_seams_are_counted(tmp_path):
    """A vocabulary whose tokens reach over the end of a step."""
    joined = small.byte_level(merges=(("#", "#"), ("##", "#"), ("Ċ", "###")))
    joined.pre_tokenizer = small.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = Vocabulary.load(small.save(tmp_path, joined))
    assert vocabulary.seam_rate() == 1
    assert vocabulary.seam_rate("line_break") == 0


def test_pieces_are_encoded_as_with_text_after_them(tmp_path):
    """GPT-2's split takes two line breaks for one token at the end of a text, and for two before text."""
    vocabulary = Vocabulary.load(small.save(tmp_path, small.byte_level(merges=(("\u010a", "\u010a"),))))
    steps = ["### Step 1. So 4.\n\n", "### Step 2. Done.\n\n"]
    whole = vocabulary.encode("".join(steps) + "The")
    assert vocabulary.seam_rate() > 0
    assert [len(ids) for ids in vocabulary.encode_batch(steps)] < [
        len(ids) for ids in vocabulary.encode_pieces(steps, "prompt")
    ]
    pieces = vocabulary.encode_pieces([*steps, "The"], "prompt")
    assert [i for ids in pieces for i in ids] == whole
    assert vocabulary.encode_pieces(["a b"], "prompt") == vocabulary.encode_batch(["a b"])


def test_seams_of_real_solutions(shared_dir, real):
    """Cut after newlines, as the steps of `line_break` are."""
    problems = read_problems(shared_dir / "data" / "math500.jsonl")
    texts = [problem.solution.split("\n\n") for problem in problems]
    steps = [
        [part.rstrip() + "\n\n" for part in parts if part.strip() and part[0] != "\n"] for parts in texts
    ]
    joined = real.encode_batch(["".join(parts) for parts in steps])
    piecewise = [sum(real.encode_batch(parts), []) for parts in steps]
    assert joined == piecewise


# Kinds of tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        small.byte_level(),
        small.byte_level(add_prefix_space=True),
        small.sentencepiece("none"),
        small.sentencepiece("normalizer"),
        small.sentencepiece("metaspace first"),
        small.sentencepiece("metaspace always"),
    ],
    ids=[
        "byte-level",
        "byte-level with prefix",
        "sentencepiece",
        "normalizer",
        "metaspace first",
        "metaspace always",
    ],
)
def test_no_dummy_prefix_before_a_step(tmp_path, tokenizer):
    vocabulary = Vocabulary.load(small.save(tmp_path, tokenizer))
    for text in ("yes", " yes", "### Step 1. yes\n\n", "\u00e9\U0001f600 y", "a<|end|>y<|end|> y"):
        ids = vocabulary.encode(text)
        assert vocabulary.join(ids) == text.encode()
    assert vocabulary.encode("y") + vocabulary.encode(" y") == vocabulary.encode("y y")
    assert vocabulary.seam_rate() == 0
    assert vocabulary.encode_prompt("yes") == vocabulary.tokenizer.encode("yes", add_special_tokens=False)


def test_the_file_defines_the_vocabulary_not_the_class_it_names(shared_dir, tmp_path, load_real):
    """transformers builds a Qwen2Tokenizer anew, with a normalizer that this tokenizer.json does not have."""
    copy = tmp_path / "copy"
    shutil.copytree(shared_dir / "tokenizers" / "deepseek-r1-distill-qwen", copy)
    copy.chmod(0o755)
    path = copy / "tokenizer_config.json"
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}))
    vocabulary = Vocabulary.load(copy)
    assert (
        vocabulary.encode("e\u0301") == load_real("deepseek-r1-distill-qwen").encode("e\u0301") == [68, 53839]
    )
    assert vocabulary.fingerprint == load_real("deepseek-r1-distill-qwen").fingerprint


def test_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        Vocabulary.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer.json: not JSON") as error:
        Vocabulary.load(tmp_path)
    assert "\n" not in str(error.value)

    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match="unsupported tokenizer: decoder"):
        Vocabulary.load(small.save(tmp_path / "words", words))
    with pytest.raises(UserError, match="byte fallback"):
        Vocabulary.load(small.save(tmp_path / "pieces", small.sentencepiece("none", byte_fallback=False)))
    lower = small.byte_level()
    lower.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="unsupported tokenizer: it turns"):
        Vocabulary.load(small.save(tmp_path / "lower", lower))


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path):
    tokenizer = small.byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    vocabulary = Vocabulary.load(small.save(tmp_path, tokenizer))
    assert vocabulary.text(vocabulary.encode("yes, it is so")) == "yes, it is so"
    assert len(vocabulary.encode("y")) == 1
