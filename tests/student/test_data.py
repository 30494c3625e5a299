"""What a student learns from each kind of row, with real vocabularies and templates beside small ones."""

import functools
import gzip
import json

import pytest

from cord_jax.errors import UserError
from cord_jax.student.data import Counts, RowFilter, read_examples, rows_to_learn, show_examples
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.vocabulary import Vocabulary
from tests.reference.tiny import write_tokenizer

TRACE = {
    "id": "p1",
    "question": "6 * 7?",
    "reasoning": "### Step 1: 42.\n\n",
    "response": "The answer is \\boxed{42}.",
    "correct": True,
    "score": 0.75,
    "status": "complete",
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return Vocabulary.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "digits"))


def read(tmp_path, rows, vocabulary, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_examples(path, vocabulary, **{"max_length": 4096, **options})


def parts(example, vocabulary):
    """Prompt and learnt text."""
    tokens = example.tokens.tolist()
    return vocabulary.text(tokens[: example.prompt_length]), vocabulary.text(tokens[example.prompt_length :])


def test_a_trace(tmp_path, vocabulary):
    (example,), counts = read(tmp_path, [TRACE], vocabulary)
    assert parts(example, vocabulary) == (
        "<|user|>6 * 7?<|end|><|assistant|><think>\n",
        "### Step 1: 42.\n\n</think>\n\nThe answer is \\boxed{42}.<|end|>",
    )
    assert counts == Counts(rows=1, used=1)
    assert example.id == "p1"


def test_the_messages_of_a_trace_are_not_read(tmp_path, vocabulary):
    """Rows of `traces.jsonl` have both; what is learnt keeps the blank line between reasoning and `</think>`."""
    messages = [
        {"role": "user", "content": "other"},
        {"role": "assistant", "content": "<think>\no</think>\n\nx"},
    ]
    (plain,), _ = read(tmp_path, [TRACE], vocabulary)
    (both,), _ = read(tmp_path, [TRACE | {"messages": messages}], vocabulary)
    assert parts(both, vocabulary) == parts(plain, vocabulary)


def test_context_and_system_prompt(tmp_path, vocabulary):
    (example,), _ = read(
        tmp_path, [{**TRACE, "context": "A table."}], vocabulary, prompt=PromptSettings("Think.")
    )
    assert parts(example, vocabulary)[0].startswith(
        "<|system|>Think.<|end|><|user|>A table.\n\n6 * 7?<|end|>"
    )


@pytest.mark.parametrize("name", ["qwq-32b", "deepseek-r1", "phi-4", "llama-3.1"])
def test_real_templates_keep_the_reasoning(name, tmp_path, shared_dir):
    vocabulary = Vocabulary.load(shared_dir / "tokenizers" / name)
    conversation = {
        "messages": [
            {"role": "user", "content": "6 * 7?"},
            {
                "role": "assistant",
                "content": "<think>\n### Step 1: 42.\n</think>\n\nThe answer is \\boxed{42}.",
            },
        ]
    }
    (trace, chat), _ = read(tmp_path, [TRACE, conversation], vocabulary)
    eos = vocabulary.tokenizer.eos_token
    for example, reasoning in ((trace, "### Step 1: 42.\n\n"), (chat, "### Step 1: 42.\n")):
        prompt, learnt = parts(example, vocabulary)
        assert prompt.endswith("<think>\n") and prompt.count("<think>") == 1 and "6 * 7?" in prompt
        assert learnt == reasoning + "</think>\n\nThe answer is \\boxed{42}." + eos
    assert trace.tokens[-1] == vocabulary.tokenizer.eos_token_id
    # The prompt is what the template gives for the question alone, so a student is asked as it was taught.
    asked = vocabulary.tokenizer.apply_chat_template(
        [{"role": "user", "content": "6 * 7?"}],
        tokenize=False,
        add_generation_prompt=True,
        date_string="26 Jul 2024",
    )
    assert (
        parts(trace, vocabulary)[0].removesuffix("<think>\n") == asked.rstrip("\n").removesuffix("<think>")
        or parts(trace, vocabulary)[0] == asked + "<think>\n"
    )


@pytest.mark.parametrize(
    "message, learnt",
    [
        ({"content": "42", "reasoning_content": "6 * 7 = 42"}, "6 * 7 = 42\n</think>\n\n42<|end|>"),
        ({"content": "6 * 7 = 42\n</think>\n\n42"}, "6 * 7 = 42\n</think>\n\n42<|end|>"),
        ({"content": "42"}, "</think>\n\n42<|end|>"),
    ],
)
def test_conversations(message, learnt, tmp_path, vocabulary):
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "6 * 7?"},
    ]
    row = {"messages": [*turns, {"role": "assistant", **message}]}
    (example,), _ = read(tmp_path, [row], vocabulary, prompt=PromptSettings("Not used: the row has its own."))
    assert parts(example, vocabulary) == (
        "<|system|>Be short.<|end|><|user|>2?<|end|><|assistant|>2<|end|><|user|>6 * "
        "7?<|end|><|assistant|><think>\n",
        learnt,
    )


def test_a_template_that_opens_no_thinking_leaves_plain_messages_plain(tmp_path):
    vocabulary = Vocabulary.load(write_tokenizer(tmp_path / "tokenizer", "threes"))
    row = {"messages": [{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": "42"}]}
    (example,), _ = read(tmp_path, [row], vocabulary)
    assert parts(example, vocabulary) == ("<|user|>6 * 7?<|end|><|assistant|>", "42<|end|>")


def test_raw_pairs(tmp_path, vocabulary):
    pair = {"prompt": "the sum ", "completion": "is 42"}
    without, with_eos = read(tmp_path, [pair, {**pair, "eos": True}], vocabulary)[0]
    assert parts(without, vocabulary) == ("the sum ", "is 42")
    assert parts(with_eos, vocabulary) == ("the sum ", "is 42<|end|>")


def test_filters(tmp_path, vocabulary):
    rows = [{**TRACE, "id": str(i), "correct": i % 2 == 0, "score": i / 10} for i in range(10)]
    for text, kept in (("all", 10), ("correct", 5), ("score>=0.5", 5), ("correct, score>=0.5", 2)):
        examples, counts = read(tmp_path, rows, vocabulary, row_filter=text)
        assert (len(examples), counts.filtered, counts.rows) == (kept, 10 - kept, 10)
    stuck = {**TRACE, "response": None, "correct": False}
    assert read(tmp_path, [TRACE, stuck], vocabulary)[1] == Counts(rows=2, without_response=1, used=1)
    with pytest.raises(UserError, match=r"--filter=right: 'right' is no condition"):
        RowFilter.parse("right")
    with pytest.raises(UserError, match=r"line 2: has no field 'correct'; --filter=correct needs it"):
        read(
            tmp_path,
            [TRACE, {k: v for k, v in TRACE.items() if k != "correct"}],
            vocabulary,
            row_filter="correct",
        )


def test_long_rows_are_dropped_or_cut_and_counted(tmp_path, vocabulary):
    rows = [TRACE, {**TRACE, "reasoning": "the sum " * 50}, {**TRACE, "question": "the sum " * 50}]
    examples, counts = read(tmp_path, rows, vocabulary, max_length=60)
    assert counts == Counts(rows=3, too_long=2, used=1)
    examples, counts = read(tmp_path, rows, vocabulary, max_length=60, overlong="cut")
    assert counts == Counts(rows=3, too_long=1, cut=1, used=2)  # a prompt that long leaves nothing to learn
    assert str(counts) == "2 of 3 rows used, 1 too long, dropped, 1 too long, cut"
    assert len(examples[1].tokens) == 60 and examples[1].tokens[-1] != vocabulary.tokenizer.eos_token_id


def test_rows_in_memory_are_those_of_a_file(tmp_path, vocabulary):
    rows = [TRACE, {"question": "?"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(TRACE) + "\n")
    (ours,), counts = read_examples(rows[:1], vocabulary, max_length=100)
    (expected,), expected_counts = read_examples(path, vocabulary, max_length=100)
    assert counts == expected_counts and ours.prompt_length == expected.prompt_length
    assert ours.tokens.tolist() == expected.tokens.tolist()
    with pytest.raises(UserError, match="the rows given, row 2: is no row to learn from"):
        read_examples(rows, vocabulary, max_length=100)


def test_compressed_files(tmp_path, vocabulary):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(TRACE).encode() + b"\n"))
    assert len(read_examples(path, vocabulary, max_length=100)[0]) == 1


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({"question": "x"}, "line 2: is no row to learn from"),
        ({**TRACE, "reasoning": 3}, "line 2: reasoning must be a text, and is 3"),
        ({"question": "x", "reasoning": "y"}, "line 2: response must be a text, and is absent"),
        ({"prompt": "x", "completion": ""}, "line 2: completion is empty"),
        ({"prompt": "x", "completion": "y", "eos": 1}, "line 2: eos must be true or false"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "line 2: messages must end with one of the assistant",
        ),
        ({"messages": "x"}, "line 2: messages must be a list"),
    ],
)
def test_bad_rows(row, message, tmp_path, vocabulary):
    with pytest.raises(UserError, match=message):
        read(tmp_path, [TRACE, row], vocabulary)


def test_nothing_left(tmp_path, vocabulary):
    with pytest.raises(UserError, match="no row is left to learn from"):
        read(tmp_path, [TRACE], vocabulary, row_filter="score>=0.9")
    with pytest.raises(UserError, match="cannot be read"):
        read_examples(tmp_path / "absent.jsonl", vocabulary, max_length=100)


def test_shown_rows(tmp_path, vocabulary):
    examples, _ = read(tmp_path, [TRACE], vocabulary)
    shown = show_examples(examples, vocabulary).splitlines()
    assert (
        shown[0] == f"# row p1: {len(examples[0].tokens)} tokens, "
        f"{len(examples[0].tokens) - examples[0].prompt_length} learnt"
    )
    assert shown[1].split()[1].isdigit() and "'<|user|>'" in shown[1]
    assert shown[-1].split()[1] == "*" and "'<|end|>'" in shown[-1]


TURNS = [
    {"role": "user", "content": "2?"},
    {"role": "assistant", "content": "2", "reasoning_content": "so 2"},
    {"role": "user", "content": "6 * 7?"},
    {"role": "assistant", "content": "42", "reasoning_content": "the sum is 42"},
]


def renamed(field):
    return [
        {field if name == "reasoning_content" else name: text for name, text in turn.items()}
        for turn in TURNS
    ]


SHARE_GPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    | {name: text for name, text in turn.items() if name == "reasoning_content"}
    for turn in TURNS
]
PARTS = [
    {
        "role": turn["role"],
        "content": [
            {"type": "thinking", "thinking": turn[name]} for name in turn if name == "reasoning_content"
        ]
        + [{"type": "text", "text": turn["content"]}],
    }
    for turn in TURNS
]
SPELLINGS = {
    "thinking": {"messages": renamed("thinking")},
    "reasoning": {"messages": renamed("reasoning")},
    "twice": {"messages": [{"thinking": turn.get("reasoning_content"), **turn} for turn in TURNS]},
    "share_gpt": {"conversations": SHARE_GPT},
    "roles_in_conversations": {"conversations": TURNS},
    "parts": {"messages": PARTS},
    "prompt_and_completion": {"prompt": TURNS[:3], "completion": TURNS[3:]},
    "nulls": {
        "messages": [{"tool_calls": None, "weight": 1, **turn} for turn in TURNS],
        "tools": None,
        "prompt": None,
    },
}


@pytest.mark.parametrize("turns", ["last", "all"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_a_conversation_teach_the_same(spelling, turns, tmp_path, vocabulary):
    if (spelling, turns) == ("prompt_and_completion", "all"):
        expected_row = {"messages": TURNS[:1] + TURNS[2:]}  # the first answer is of the prompt
        row = {"prompt": [TURNS[0], TURNS[2]], "completion": TURNS[3:]}
    else:
        expected_row, row = {"messages": TURNS}, SPELLINGS[spelling]
    read_row = functools.partial(rows_to_learn, turns=turns)
    expected, _ = read_examples([expected_row], vocabulary, read_row, max_length=4096)
    found, counts = read(tmp_path, [row], vocabulary, read_row=read_row)
    assert [parts(e, vocabulary) for e in found] == [parts(e, vocabulary) for e in expected]
    assert parts(found[-1], vocabulary)[1] == "the sum is 42\n</think>\n\n42<|end|>"
    assert counts == Counts(rows=1, used=1)


def test_all_turns_are_an_example_each_behind_those_before(tmp_path, vocabulary):
    read_row = functools.partial(rows_to_learn, turns="all")
    examples, counts = read(tmp_path, [{"messages": TURNS}], vocabulary, read_row=read_row)
    first, second = (parts(example, vocabulary) for example in examples)
    assert first == ("<|user|>2?<|end|><|assistant|><think>\n", "so 2\n</think>\n\n2<|end|>")
    assert second[0].startswith("<|user|>2?<|end|><|assistant|>2<|end|><|user|>6")
    assert counts == Counts(rows=1, used=1)
    several = {"prompt": TURNS[:1], "completion": TURNS[1:]}
    assert len(read(tmp_path, [several], vocabulary, read_row=read_row)[0]) == 2
    with pytest.raises(UserError, match="several turns of the assistant; learn them with --turns=all"):
        read(tmp_path, [several], vocabulary)


def test_a_system_text_beside_a_conversation_is_its_first_turn(tmp_path, vocabulary):
    (example,), _ = read(tmp_path, [{"system": "Be short.", "conversations": SHARE_GPT}], vocabulary)
    assert parts(example, vocabulary)[0].startswith("<|system|>Be short.<|end|><|user|>2?")


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"messages": TURNS, "conversations": SHARE_GPT}, "has messages and conversations"),
        ({"messages": TURNS, "reasoning": "so"}, "has reasoning beside its messages"),
        ({"messages": TURNS, "tools": [{"name": "f"}]}, "has tools, which cannot be learnt"),
        ({"messages": TURNS[:3] + [TURNS[3] | {"tool_calls": [{}]}]}, "a turn with tool_calls"),
        ({"messages": TURNS[:3] + [TURNS[3] | {"weight": 0}]}, "a turn of weight 0"),
        ({"messages": TURNS[:3] + [TURNS[3] | {"train": False}]}, "a turn with train False"),
        ({"messages": TURNS[:3] + [TURNS[3] | {"thinking": "else"}]}, "two different reasonings"),
        ({"messages": TURNS[:3] + [TURNS[3] | {"reasoning_content": ["x"]}]}, "reasoning is no text"),
        (
            {"messages": TURNS[:3] + [{"role": "assistant", "content": [{"type": "image"}]}]},
            "content of type 'image'",
        ),
        ({"messages": TURNS[:3] + [{"role": "assistant", "content": None}]}, "the texts role and content"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "a turn from 'observation'"),
        ({"conversations": SHARE_GPT, "system": 3}, "system must be a text"),
        ({"prompt": TURNS[:1], "completion": "4"}, "both be texts or both be lists"),
        ({"prompt": "4", "completion": TURNS[1:2]}, "both be texts or both be lists"),
        (
            {"prompt": TURNS[:1], "completion": TURNS[2:]},
            "completion must begin with a turn of the assistant",
        ),
        ({"question": "?", "thinking": "so", "response": "4"}, "is no row to learn from"),
    ],
)
def test_conversations_that_would_teach_something_else_are_refused(row, reason, tmp_path, vocabulary):
    with pytest.raises(UserError, match=f"line 2: .*{reason}"):
        read(tmp_path, [TRACE, row], vocabulary)


@pytest.mark.parametrize(
    "field, value, row_filter",
    [
        ("correct", "false", "correct"),
        ("correct", 1, "correct"),
        ("score", "0.9", "score>=0.5"),
        ("score", True, "score>=0.5"),
        ("score", [1], "score>=0.5"),
    ],
)
def test_conditions_on_values_of_another_type_are_refused(field, value, row_filter, tmp_path, vocabulary):
    with pytest.raises(UserError, match=f"line 2: {field} must be "):
        read(
            tmp_path,
            [TRACE | {"correct": True, "score": 0.9}, TRACE | {field: value}],
            vocabulary,
            row_filter=row_filter,
        )
    rows = [TRACE | {"correct": True, "score": 1}, TRACE | {"correct": None, "score": None}]
    assert read(tmp_path, rows, vocabulary, row_filter=row_filter)[1] == Counts(rows=2, filtered=1, used=1)
