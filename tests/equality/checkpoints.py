"""Small random checkpoints, written with nothing of this project.

Every network is random, but in a way that makes it write structured text: headings, `</think>`, ends of text,
partial characters and prefix words are likely, and some tokens make others likely after them. For that the
residual stream has three parts: a constant, a code of the token that was read, both of which the layers leave
alone, and the context, which they write. The rows of the output layer of padded ids get the highest logits of
all: a program that does not mask them writes nothing but padding.
"""

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Tokenizers

_TEXTS = {
    "digits": "### Step {i}: the sum {i} + {j} = {k}.\n\nWait, we {j}. Wait\n</think>\n\n\\boxed{{{k}}} ### Step {j}\nthe ",
    "threes": "### Step {i}. Let x = {k}, the x is\n\n</think> \\boxed{{{k}}} Wait, is {j}!\n### Step {j}: Wait wait we",
    "merged": "### Step {k}\n\nWait, {i} and {j}, so {k}. Wait {j}? wait\n### Step {i} \\boxed{{{k}}}</think>\nis wait x ",
}
_SPLITS = {
    "digits": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "threes": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_SIZES = {"digits": 330, "threes": 360, "merged": 390}
TOKENIZERS = tuple(_TEXTS)
_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|stop|>")
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def write_tokenizer(directory: Path, kind: str) -> None:
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
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=_SIZES[kind], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(list(_SPECIAL))
    template = _TEMPLATE
    if kind == "digits":
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
        template = _TEMPLATE.replace("'<|assistant|>'", "'<|assistant|><think>\\n\\n'")
    directory.mkdir(parents=True)
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


def _token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The bytes that each id adds to a text, by GPT-2's table of bytes and characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    pieces = {token: bytes(alphabet[c] for c in piece) for piece, token in vocabulary.items()}
    for token, added in tokenizer.get_added_tokens_decoder().items():
        pieces[token] = added.content.encode()
    return pieces


# Networks


@dataclass(frozen=True)
class Habits:
    """How much likelier than other words a network finds structure, in logits (words scatter by about 1).

    `newline`, `eos` and `think_end` apply everywhere (`think_end` to the first token of `</think>`), `marker`
    to `### Step` after a newline, `prefix` to the prefix words after a sentence or a newline, `broken` to
    tokens that hold only a part of a character.
    """

    newline: float = 2.5
    marker: float = 6.0
    eos: float = 0.0
    think_end: float = 1.0
    prefix: float = 2.0
    broken: float = -4.5


# For the segmentations without a heading, where the other markers should be likely instead.
PREFIX_HABITS = Habits(marker=0.0, prefix=9.0)
# Nothing but pieces of characters.
BROKEN_HABITS = Habits(newline=-9.0, eos=-9.0, think_end=-9.0, broken=12.0)

_WORDS = (
    *(
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
    ),
    *("s", "####", " ", "  ", "\n\n", ".\n\n", "\r\n", "e", "<", "</"),
)
_WHOLE = ("\u00e9", "e\u0301", "\u2014", "\u2019")
_BROKEN = (b"\xc3", b"\xa9", b"\xe2", b"\x80")
# Spelled in pieces, a long chain needs every piece to lead to the next.
_CONTINUED = 6.0
# What follows a blank line is most often a box.
_BOXED = 9.0

_HIDDEN = 64
_HEADS = 4
_LAYERS = 2
_EXPERTS = 4
_PADDED = 24
_CODE = slice(1, 28)  # of the token that was read
_CONTEXT = slice(28, _HIDDEN)
_CONSTANT = 2.0
_CODE_NORM = 4.0
# The root mean square of the last hidden states, about.
_SCALE = 1.7

_ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
}


def write_checkpoint(
    directory: Path, tokenizer: Path, family: str, seed: int, habits: Habits = Habits()
) -> None:
    """Writes a random float32 checkpoint of a family with a copy of a tokenizer."""
    shutil.copytree(tokenizer, directory)
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    rng = np.random.default_rng(seed)
    weights = _body(family, rng)
    embedding_vd, output_vd = _vocabulary(encoder, habits, rng)
    weights |= {
        "model.embed_tokens.weight": embedding_vd,
        "lm_head.weight": output_vd,
        "model.norm.weight": np.ones(_HIDDEN),
    }
    save_file(
        {name: np.ascontiguousarray(weight, np.float32) for name, weight in weights.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": len(output_vd),
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _kv_heads(family),
        "head_dim": _HIDDEN // _HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": encoder.token_to_id("<|end|>"),
        "sliding_window": 40 if family == "mistral" else None,
    }
    if family == "qwen3_moe":
        config |= {
            "num_experts": _EXPERTS,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": _HIDDEN,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    (directory / "config.json").write_text(json.dumps(config, indent=1))


def _kv_heads(family: str) -> int:
    """One in llama, which a mesh cannot split by heads; two elsewhere."""
    return 1 if family == "llama" else 2


def _body(family: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The layers, with weights large enough that what is written depends on more than the last token."""
    weights = {}
    head, kv = _HIDDEN // _HEADS, _kv_heads(family)

    def matrix(rows: int, columns: int, gain: float) -> np.ndarray:
        return gain * rng.standard_normal((rows, columns)) / columns**0.5

    def into_context(columns: int, gain: float) -> np.ndarray:
        matrix_dx = matrix(_HIDDEN, columns, gain)
        matrix_dx[: _CONTEXT.start] = 0
        return matrix_dx

    for index in range(_LAYERS):
        layer = f"model.layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[layer + norm + ".weight"] = 1 + 0.1 * rng.standard_normal(_HIDDEN)
        q, k, v = (
            matrix(rows, _HIDDEN, gain) for rows, gain in ((_HIDDEN, 2.0), (kv * head, 1.2), (kv * head, 1.4))
        )
        if family == "phi3":
            weights[layer + "self_attn.qkv_proj.weight"] = np.concatenate([q, k, v])
        else:
            for name, projection in (("q", q), ("k", k), ("v", v)):
                weights[layer + f"self_attn.{name}_proj.weight"] = projection
                if family == "qwen2":
                    weights[layer + f"self_attn.{name}_proj.bias"] = 0.2 * rng.standard_normal(
                        len(projection)
                    )
        if family.startswith("qwen3"):
            for name in ("q_norm", "k_norm"):
                weights[layer + f"self_attn.{name}.weight"] = 1.3 + 0.1 * rng.standard_normal(head)
        weights[layer + "self_attn.o_proj.weight"] = into_context(_HIDDEN, 1.4)
        if family == "qwen3_moe":
            weights[layer + "mlp.gate.weight"] = matrix(_EXPERTS, _HIDDEN, 2.0)
            parts = [(layer + f"mlp.experts.{expert}.", _HIDDEN) for expert in range(_EXPERTS)]
        else:
            parts = [(layer + "mlp.", 2 * _HIDDEN)]
        for part, width in parts:
            gate, up = matrix(width, _HIDDEN, 1.2), matrix(width, _HIDDEN, 1.2)
            if family == "phi3":
                weights[part + "gate_up_proj.weight"] = np.concatenate([gate, up])
            else:
                weights[part + "gate_proj.weight"], weights[part + "up_proj.weight"] = (gate, up)
            weights[part + "down_proj.weight"] = into_context(width, 1.4)
    return weights


def _vocabulary(
    encoder: Tokenizer, habits: Habits, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the embedding and of the output layer."""
    pieces = _token_bytes(encoder)
    ids = {piece: token for token, piece in sorted(pieces.items(), reverse=True)}
    specials = {encoder.token_to_id(token) for token in _SPECIAL}
    ends = {encoder.token_to_id("<|end|>"), encoder.token_to_id("<|stop|>")}
    anywhere, after = _transitions(encoder, habits)
    words = {encoder.encode(word, add_special_tokens=False).ids[-1] for word in _WORDS}
    broken = {ids[piece] for piece in _BROKEN} | {t for t in (*anywhere, *words) if not _is_text(pieces[t])}
    anywhere |= dict.fromkeys(specials - ends, -1.0)
    anywhere |= dict.fromkeys(broken, habits.broken) | dict.fromkeys(ends, habits.eos)
    repertoire = sorted({*words, *anywhere, *(target for _, target in after)})
    # Left to themselves such networks say one word for ever.
    after = {**{(token, token): -4.0 for token in repertoire}, **after}

    size = max(pieces) + 1 + _PADDED
    embedding_vd = rng.standard_normal((size, _HIDDEN))
    embedding_vd[:, 0] = _CONSTANT
    code_vc = embedding_vd[:, _CODE]
    code_vc *= _CODE_NORM / np.linalg.norm(code_vc, axis=1, keepdims=True)
    output_vd = np.zeros((size, _HIDDEN))
    output_vd[:, _CONTEXT] = 0.3 * rng.standard_normal((size, _HIDDEN))[:, _CONTEXT] / 6
    output_vd[repertoire, _CONTEXT] /= 0.3
    output_vd[repertoire, 0] = 2.0
    for token, extra in anywhere.items():
        output_vd[token, 0] += extra
    output_vd[max(pieces) + 1 :, 0] += 12.0
    output_vd[:, 0] *= _SCALE / _CONSTANT
    for (source, target), extra in after.items():
        output_vd[target, _CODE] += extra * _SCALE * code_vc[source] / _CODE_NORM**2
    return embedding_vd, output_vd


def _transitions(encoder: Tokenizer, habits: Habits) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """The extra logits of tokens anywhere, and of tokens after a token."""
    anywhere: dict[int, float] = {}
    after: dict[tuple[int, int], float] = {}

    def chain(text: str, first: float, second: float, rest: float = _CONTINUED) -> None:
        tokens = encoder.encode(text, add_special_tokens=False).ids
        anywhere[tokens[0]] = max(first, anywhere.get(tokens[0], -9.0))
        for index, pair in enumerate(itertools.pairwise(tokens)):
            after[pair] = max(second if index == 0 else rest, after.get(pair, -9.0))

    for digit in "0123456789":
        chain(digit, 0.0, 0.0)
        chain(" Step" + digit, -1.0, 1.0)
        chain(" Step " + digit, -1.0, 2.0)
    chain("\n### Step", habits.newline, habits.marker)
    chain("\n\n### Step", habits.newline - 0.5, habits.marker)
    for number in ("7", "12", "39"):
        chain("</think>\n\n\\boxed{" + number + "}", habits.think_end, _BOXED, _BOXED)
        chain("\\boxed{" + number + "}", -1.0, _BOXED, _BOXED)
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
