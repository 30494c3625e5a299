"""The vocabularies of the miniature: byte-level BPE of a few hundred entries, with chat templates and EOS sets.

They differ where real ones do: in ids and merges, in their chat templates and the tokens that end a turn. `sums` has
`<think>` and `</think>` as added tokens and opens the thinking in its template, as QwQ does; `products` and `shares`
spell the tags out, as Llama 3 does. In all of them a number of up to two digits is one token together with the space
before it, so that a small network copies it in one go.
"""

import dataclasses
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cord_jax.miniature import world
from cord_jax.miniature.wording import WORDINGS, write_solution

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclasses.dataclass(frozen=True)
class VocabularySpec:
    """What a vocabulary is made of.

    Attributes:
        digits: regular expression of a run of digits that may become one token.
        size: number of entries, bytes, merges and added tokens together.
        special: the chat template's tokens, the first of which pads.
        added: further tokens that are matched whole but are ordinary text.
        eos: the end-of-sequence tokens, the chat template's own first.
        bos: the token at the start, if the template writes one.
        template: the chat template (Jinja).
    """

    digits: str
    size: int
    special: tuple[str, ...]
    added: tuple[str, ...]
    eos: tuple[str, ...]
    bos: str | None
    template: str


_CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
_HEADERS = (
    "{{ bos_token }}{%- for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
_TAGS = (
    "{%- for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{%- endif %}"
)

VOCABULARIES = {
    "sums": VocabularySpec(
        digits=r" ?\p{N}{1,2}",
        size=480,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        added=("<think>", "</think>"),
        eos=("<|im_end|>", "<|endoftext|>"),
        bos=None,
        template=_CHATML,
    ),
    "products": VocabularySpec(
        digits=r" ?\p{N}{1,2}",
        size=480,
        special=(
            "<|end_of_text|>",
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        added=(),
        eos=("<|eot_id|>", "<|end_of_text|>"),
        bos="<|begin_of_text|>",
        template=_HEADERS,
    ),
    "shares": VocabularySpec(
        digits=r" ?\p{N}{1,2}",
        size=480,
        special=("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        added=(),
        eos=("<|end|>",),
        bos=None,
        template=_TAGS,
    ),
}


def train_vocabulary(name: str, seed: int) -> Tokenizer:
    """The BPE tokenizer of a name in `VOCABULARIES`, learned from solutions in all wordings, its own the most."""
    spec = VOCABULARIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{_WORDS}|{spec.digits}|{_MARKS}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.size - len(spec.special) - len(spec.added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(name, seed), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in spec.special]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in spec.added])
    return tokenizer


def _corpus(name: str, seed: int) -> list[str]:
    rng = random.Random(f"vocabulary {name} {seed}")
    texts = []
    for puzzle in world.draw_puzzles(seed, 400, "pretraining"):
        for wording in (WORDINGS[name], WORDINGS[name], rng.choice(list(WORDINGS.values()))):
            solution = write_solution(puzzle, wording, {}, rng)
            texts.append(
                f"user\n{puzzle.question}assistant\n\n<think>\n{solution.reasoning}</think>\n\n{solution.response}"
            )
        texts.append(f"</think>\n\nThe final answer is {puzzle.answer}.")
    # Every number often enough that all vocabularies have it, in an order of their own.
    for number in range(1, 100):
        texts.extend([f" {number}"] * rng.randint(1200, 2000))
    return texts


def save_vocabulary(name: str, tokenizer: Tokenizer, directory: Path) -> dict:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json; return the ids for config.json."""
    spec = VOCABULARIES[name]
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": spec.bos,
        "eos_token": spec.eos[0],
        "pad_token": spec.special[0],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": spec.template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    eos_ids = [tokenizer.token_to_id(token) for token in spec.eos]
    ids = {
        "bos_token_id": tokenizer.token_to_id(spec.bos) if spec.bos else None,
        "eos_token_id": eos_ids,
        "pad_token_id": tokenizer.token_to_id(spec.special[0]),
    }
    (directory / "generation_config.json").write_text(json.dumps(ids, indent=1) + "\n")
    return ids
