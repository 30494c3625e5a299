"""Small random checkpoints that write structured text.

The networks are random, but their output rows are tilted: a small repertoire of words, digits, partial
characters and structure is likely, and some tokens make others likely after them, so that within some thirty
tokens proposals end in every way (marker, `</think>`, end of text, cap, budget) and some are empty, invalid
or equal to others. The logits of the padded rows are made the highest of all: a program that does not mask
them writes nothing but padding.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen2Config

from .reader import token_bytes
from .settings import MetaProver, Pool, Proposer

# Tokenizers

_TEXTS = {
    "digits": "### Step {i}: the sum {i} + {j} = {k}.\n\nWait, we {j}. Wait\n</think>\n\n### Step {j}\nthe ",
    "threes": "### Step {i}. Let x = {k}, the x is\n\n</think> Wait, is {j}!\n### Step {j}: Wait wait we",
    "merged": "### Step {k}\n\nWait, {i} and {j}, so {k}. Wait {j}? wait\n### Step {i} </think>\nis wait x ",
}
_SPLITS = {
    "digits": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "threes": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_SIZES = {"digits": 320, "threes": 350, "merged": 380}
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOKENIZERS = tuple(_TEXTS)


def write_tokenizer(directory: Path, kind: str) -> Path:
    """Trains a byte-level BPE tokenizer of some 300 to 400 entries.

    Kinds: `digits` splits digits one by one, has `<think>` and `</think>` as tokens and a template that opens
    thinking; `threes` splits digits by threes and has two tokens that end a text; `merged` has the split rule
    of GPT-2.
    """
    tokenizer = Tokenizer(models.BPE())
    if kind in _SPLITS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[kind]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [_TEXTS[kind].format(i=i, j=i * 7 % 23, k=i * i % 97) for i in range(1, 60)]
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZES[kind], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|stop|>"])
    template = _TEMPLATE
    if kind == "digits":
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
        template = _TEMPLATE.replace("'<|assistant|>'", "'<|assistant|><think>\\n\\n'")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    if kind == "threes":
        ends = [tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<|stop|>")]
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return directory


# Networks


@dataclass(frozen=True)
class Habits:
    """How much likelier than other words a network finds structure, in logits (words scatter by about 1).

    `newline`, `eos` and `think_end` apply everywhere (`think_end` to the first token of `</think>`), `marker`
    to `### Step` after a newline, `digit` to the digits, `prefix` to the prefix words after a sentence or a
    newline, `broken` to tokens that hold only a part of a character.
    """

    newline: float = 2.5
    marker: float = 6.0
    eos: float = 0.0
    think_end: float = 2.0
    prefix: float = 2.0
    digit: float = 0.0
    broken: float = -4.3


# For the segmentations without a heading, where the other markers should be likely instead.
PREFIX_HABITS = Habits(marker=0.0, prefix=9.0)

_WORDS = (
    " the",
    " so",
    " is",
    " we",
    " sum",
    " x",
    " =",
    " +",
    ".",
    ",",
    "!",
    "?",
    " Let",
    ":",
    " and",
    "x",
    "the",
    "s",
    "####",
    " ",
    "  ",
    "\n\n",
    ".\n\n",
    "\r\n",
    "e",
    "<",
    "</",
)
_WHOLE = ("\u00e9", "e\u0301", "\u2014", "\u2019")
_BROKEN = (b"\xc3", b"\xa9", b"\xe2", b"\x80")
# Spelled in pieces, a long chain needs every piece to lead to the next.
_CONTINUED = 6.0


def _config(family: str, vocab_size: int, hidden_size: int, num_layers: int, eos_token_id: int):
    shape = dict(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        # On a mesh, columns are split where heads cannot be: both must be met.
        num_key_value_heads=1 if family == "llama" else 2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=eos_token_id,
    )
    families = {"qwen2": Qwen2Config, "llama": LlamaConfig, "phi3": Phi3Config, "gemma3": Gemma3TextConfig}
    if family == "gemma3":
        windows = ["sliding_attention", "full_attention"] * num_layers
        shape |= dict(
            head_dim=16, query_pre_attn_scalar=24, sliding_window=40, layer_types=windows[:num_layers]
        )
    return families[family](**shape)


def _randomise(model, generator: torch.Generator) -> None:
    """Weights large enough that what a network writes depends on more than its last token."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            offset = 0.0 if model.config.model_type == "gemma3_text" else 1.0
            weight.copy_(offset + 0.1 * noise)
        elif "embed_tokens" in name:
            # What all embeddings have in common gives the output rows a direction that works as a bias.
            weight.copy_(noise + torch.randn(weight.shape[1], generator=generator))
        elif weight.ndim == 1:
            weight.copy_(0.2 * noise)
        else:
            gain = 3.0 if "q_proj" in name or "qkv_proj" in name else 2.0 if "o_proj" in name else 1.4
            weight.copy_(gain * noise / weight.shape[1] ** 0.5)


def _transitions(encode, habits: Habits) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """The extra logits of tokens anywhere, and of tokens after a token."""
    anywhere: dict[int, float] = {}
    after: dict[tuple[int, int], float] = {}

    def chain(text: str, first: float, second: float) -> None:
        tokens = encode(text)
        anywhere[tokens[0]] = max(first, anywhere.get(tokens[0], -9.0))
        for index, pair in enumerate(zip(tokens, tokens[1:])):
            after[pair] = max(second if index == 0 else _CONTINUED, after.get(pair, -9.0))

    for digit in "0123456789":
        chain(digit, habits.digit, 0.0)
        chain(" Step" + digit, -1.0, 1.0)
        chain(" Step " + digit, -1.0, 2.0)
    chain("\n### Step", habits.newline, habits.marker)
    chain("\n\n### Step", habits.newline - 0.5, habits.marker)
    chain(" Steps", -1.0, 2.0)
    chain("### Steps", -1.0, _CONTINUED)
    chain("</think>", habits.think_end, _CONTINUED)
    for word in ("Wait", "wait"):
        chain("\n" + word, habits.newline, habits.prefix)
        for sign in ".!?":
            chain(sign + " " + word, 0.0, habits.prefix)
    for character in _WHOLE:
        chain(character, -2.0, _CONTINUED)
    for token in {target for _, target in after}:
        anywhere.setdefault(token, -3.0)
    return anywhere, after


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def write_checkpoint(
    directory: Path,
    tokenizer: Path,
    family: str,
    seed: int,
    *,
    hidden_size: int = 64,
    num_layers: int = 2,
    padded_rows: int = 24,
    habits: Habits = Habits(),
) -> Path:
    """Writes a random float32 checkpoint of a family (`qwen2`, `llama`, `phi3`, `gemma3`) with a copy of a tokenizer.

    Args:
      tokenizer: a directory with `tokenizer.json` and `tokenizer_config.json`.
      padded_rows: rows of the output layer beyond the last id of the tokenizer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, directory / file.name)
    description = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = token_bytes(description)
    ids = {piece: token for token, piece in sorted(pieces.items(), reverse=True)}
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    eos = encoder.token_to_id(settings["eos_token"])
    ends = {eos}
    if (tokenizer / "generation_config.json").exists():
        ends |= set(json.loads((tokenizer / "generation_config.json").read_text())["eos_token_id"])

    def encode(text: str) -> list[int]:
        return encoder.encode(text, add_special_tokens=False).ids

    anywhere, after = _transitions(encode, habits)
    words = {encode(word)[-1] for word in _WORDS}
    broken = {ids[piece] for piece in _BROKEN if piece in ids} | {
        token for token in (*anywhere, *words) if not _is_text(pieces[token])
    }
    specials = {token for token in list(pieces)[-8:]} - ends
    repertoire = sorted(words | broken | specials | ends | set(anywhere) | {target for _, target in after})
    # Left to themselves such networks say one word for ever.
    after = {**{(token, token): -4.0 for token in repertoire}, **after}

    vocab_size = max(pieces) + 1 + padded_rows
    generator = torch.Generator().manual_seed(seed)
    config = _config(family, vocab_size, hidden_size, num_layers, eos)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        _randomise(model, generator)
        picks = torch.randint(len(repertoire), (16, 96), generator=generator)
        tokens_bt = torch.tensor(repertoire)[picks]
        hidden_btd = model.model(tokens_bt).last_hidden_state
        mean_d = hidden_btd.mean((0, 1))
        bias_d = mean_d / (mean_d @ mean_d)

        rows_vd = model.lm_head.weight
        noise_vd = torch.randn(rows_vd.shape, generator=generator) / hidden_size**0.5
        rows_vd.copy_(0.3 * noise_vd)
        rows_vd[repertoire] = noise_vd[repertoire] + 2.0 * bias_d
        extras = {
            **anywhere,
            **dict.fromkeys(specials, -1.0),
            **dict.fromkeys(broken, habits.broken),
            **dict.fromkeys(ends, habits.eos),
        }
        for token, extra in extras.items():
            rows_vd[token] += extra * bias_d
        for (source, target), extra in after.items():
            here_d = hidden_btd[tokens_bt == source].mean(0)
            here_d = here_d - (here_d @ bias_d) * mean_d
            rows_vd[target] += extra * here_d / (here_d @ here_d)
        rows_vd[max(pieces) + 1 :] += 12.0 * bias_d
    model.save_pretrained(directory)
    if (tokenizer / "generation_config.json").exists():
        shutil.copyfile(tokenizer / "generation_config.json", directory / "generation_config.json")
    return directory


def write_pool(
    directory: Path,
    seed: int,
    *,
    tokenizers: tuple[Path, ...] | None = None,
    habits: Habits = Habits(),
    families: tuple[str, ...] = ("qwen2", "llama", "phi3"),
) -> Pool:
    """Three teachers of three families and vocabularies, and a fourth proposer on the first one's checkpoint.

    Args:
      tokenizers: tokenizer directories, one a teacher; by default three small ones are trained.
    """
    if tokenizers is None:
        tokenizers = tuple(write_tokenizer(directory / f"tokenizer-{kind}", kind) for kind in TOKENIZERS)
    checkpoints = [
        write_checkpoint(
            directory / f"{family}-{index}",
            tokenizer,
            family,
            100 * seed + index,
            hidden_size=(64, 48, 48)[index],
            habits=habits,
        )
        for index, (family, tokenizer) in enumerate(zip(families, tokenizers, strict=True))
    ]
    proposers = [
        Proposer(f"{family}-{index}", checkpoint, system_prompt=(None, "Think in steps.", None)[index])
        for index, (family, checkpoint) in enumerate(zip(families, checkpoints))
    ]
    proposers.append(Proposer("again", checkpoints[0]))
    return Pool(tuple(proposers), MetaProver(checkpoints[0]))


PROBLEMS = [
    {"id": "a", "question": "What is 3 + 4?", "answer": "7"},
    {
        "id": "b",
        "question": "Which is greater, 1/2 or 3/8?",
        "answer": "1/2",
        "answers": ["\\frac{1}{2}", "0.5"],
    },
    {"id": "c", "question": "How long is it?", "answer": "e\u0301te\u0301 12", "context": "It is 12 m long."},
]
