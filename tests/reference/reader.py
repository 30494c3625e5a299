"""One checkpoint as a reader and writer of text: ids, bytes, next tokens, probabilities of answers."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from . import text

# The networks are so small that a second thread only waits for the first.
torch.set_num_threads(1)


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table).

    Bytes that print in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + rank): byte for rank, byte in enumerate(others)})
    return alphabet


def token_bytes(description: dict) -> dict[int, bytes]:
    """The bytes that each defined id adds to a text, from the content of `tokenizer.json`."""
    alphabet = _byte_alphabet()
    byte_level = '"ByteLevel"' in json.dumps([description["pre_tokenizer"], description["decoder"]])
    pieces = {}
    for piece, token in description["model"]["vocab"].items():
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        if byte_level:
            # A piece outside the alphabet is the literal of an added token, which is set below.
            pieces[token] = bytes(alphabet.get(character, 0) for character in piece)
        elif byte:
            pieces[token] = bytes.fromhex(byte[1])
        else:
            pieces[token] = piece.replace("\u2581", " ").encode()
    for added in description["added_tokens"]:
        pieces[added["id"]] = added["content"].encode()
    return pieces


def without_dummy_prefix(description: dict) -> dict:
    """The tokenizer's description, changed so that it puts nothing before a text."""

    def walk(node):
        if isinstance(node, list):
            kept = [item for item in node if not (isinstance(item, dict) and item.get("type") == "Prepend")]
            return [walk(item) for item in kept]
        if isinstance(node, dict):
            node = {key: walk(value) for key, value in node.items()}
            if node.get("type") == "Metaspace":
                node["prepend_scheme"] = "never"
            if node.get("type") == "ByteLevel":
                node["add_prefix_space"] = False
        return node

    description = copy.deepcopy(description)
    for part in ("normalizer", "pre_tokenizer"):
        changed = walk([description[part]])
        description[part] = changed[0] if changed else None
    return description


def _ids(value) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


class Reader:
    """A checkpoint directory: network in float32 on the CPU, vocabulary, chat template.

    Attributes:
      pieces: bytes by id, for the ids that the tokenizer defines.
      eos: ids that end a text, by the tokenizer, config.json and generation_config.json.
      defined: bool [vocab], False for the padded rows of the logits.
    """

    def __init__(self, checkpoint: str | Path):
        checkpoint = Path(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        # AutoTokenizer would replace the split rules of tokenizer.json by those of the network's family.
        self.template = PreTrainedTokenizerFast.from_pretrained(checkpoint)
        description = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        description["truncation"] = description["padding"] = None
        self.tokenizer = Tokenizer.from_str(json.dumps(description))
        self.continuation = Tokenizer.from_str(json.dumps(without_dummy_prefix(description)))
        self.pieces = token_bytes(description)
        self.eos = _ids(self.template.eos_token_id)
        for name in ("config.json", "generation_config.json"):
            if (checkpoint / name).exists():
                self.eos |= _ids(json.loads((checkpoint / name).read_text()).get("eos_token_id"))
        step = "### Step 1. So 2 + 2 = 4.\n\n"
        joined = self.encode(step + "### Step 2"), self.encode(step) + self.encode("### Step 2")
        self.seams_differ = joined[0] != joined[1]
        self.defined = torch.zeros(self.model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        self.defined[[token for token in self.pieces if token < len(self.defined)]] = True

    def prompt(self, problem: dict, system_prompt: str | None, more: str = "") -> list[int]:
        """The ids of the model's chat template for a problem, with more behind its question, thinking opened."""
        turns = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        turns.append({"role": "user", "content": text.user_turn(problem) + more})
        rendered = self.template.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer.encode(text.open_thinking(rendered), add_special_tokens=False).ids

    def encode(self, piece: str) -> list[int]:
        """The ids of a text that continues another."""
        return self.continuation.encode(piece, add_special_tokens=False).ids

    def encode_piece(self, piece: str) -> list[int]:
        """The ids of a piece of a trace, with text after it; that only matters where seams differ."""
        if self.seams_differ and piece[-1:].isspace():
            with_more, more = self.encode(piece + "#"), self.encode("#")
            if with_more[-len(more) :] == more:
                return with_more[: -len(more)]
        return self.encode(piece)

    def bytes_of(self, tokens: list[int]) -> bytes:
        return b"".join(self.pieces[token] for token in tokens)

    def next_token(self, tokens: list[int]) -> tuple[int, float]:
        """The most probable defined id after `tokens`, the lowest of equals, and its lead in logits."""
        with torch.no_grad():
            output = self.model(torch.tensor([tokens]), use_cache=False, logits_to_keep=1)
        logits_v = output.logits[0, -1]
        logits_v = logits_v.masked_fill(~self.defined, -torch.inf).numpy()
        best = int(np.argmax(logits_v))
        rest = np.delete(logits_v, best)
        return best, float(logits_v[best] - rest.max())

    def encode_answer(self, closing: str, answer: str) -> tuple[list[int], list[bool]]:
        """The ids of closing + answer + ".", encoded as one piece, and which of them overlap the answer."""
        tokens = self.encode(closing + answer + ".")
        if self.bytes_of(tokens) != (closing + answer + ".").encode():
            raise ValueError(f"the vocabulary cannot write {closing + answer!r} letter by letter")
        begin = len(closing.encode())
        end = begin + len(answer.encode())
        overlaps, position = [], 0
        for token in tokens:
            width = len(self.pieces[token])
            overlaps.append(position < end and position + width > begin)
            position += width
        return tokens, overlaps

    def answer_probability(self, context: list[int], closing: str, answer: str) -> np.float32:
        """exp of the mean log-probability of the answer's tokens after `context` and the closing."""
        tokens, overlaps = self.encode_answer(closing, answer)
        with torch.no_grad():
            output = self.model(
                torch.tensor([context + tokens]), use_cache=False, logits_to_keep=len(tokens) + 1
            )
        logits_tv = output.logits[0, :-1]
        log_probs_tv = torch.log_softmax(logits_tv.masked_fill(~self.defined, -torch.inf), dim=-1)
        chosen = [log_probs_tv[index, token] for index, token in enumerate(tokens) if overlaps[index]]
        return np.float32(torch.stack(chosen).mean().exp().item())
