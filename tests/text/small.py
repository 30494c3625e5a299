"""Small tokenizers of every kind, made here, saved as Hugging Face directories."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(add_prefix_space: bool = False, merges=(("#", "#"), ("##", "#"), ("Ġ", "y"))) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(BYTES)}
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [AddedToken("</think>", normalized=False), AddedToken("<|sep|>", lstrip=True, rstrip=True)]
    )
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def sentencepiece(prefix: str, byte_fallback: bool = True) -> Tokenizer:
    """BPE over ▁ pieces; the dummy prefix is put by a "normalizer", by "metaspace" (first or always), or is
    "none"."""
    merges = [("▁", "y"), ("#", "#"), ("▁", "#"), ("▁", "▁")]
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    tokens += [chr(code) for code in range(33, 127)] + ["▁", "é"] + [a + b for a, b in merges]
    vocabulary = {"<unk>": 0} | {token: i for i, token in enumerate(tokens, start=1)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)
    )
    tail = [decoders.ByteFallback(), decoders.Fuse()] if byte_fallback else [decoders.Fuse()]
    if prefix.startswith("metaspace"):
        scheme = prefix.removeprefix("metaspace ")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme=scheme), *tail])
    else:
        parts = [normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), *parts] if prefix == "normalizer" else parts
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *tail])
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def save(directory: Path, tokenizer: Tokenizer, eos_token: str | None = "<|end|>", **files: dict) -> Path:
    """Writes the tokenizer and further JSON files, named without their ending."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos_token} | files.pop(
        "tokenizer_config", {}
    )
    for name, content in ({"tokenizer_config": config} | files).items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory
