"""What directories of checkpoints are like that people have: exports of many tools, halves, leftovers, and other things."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.reference.tiny import write_tokenizer

SIZES = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    max_position_embeddings=512, initializer_range=0.5, pad_token_id=None,
)  # fmt: skip


def write_sound(directory: Path) -> Path:
    """A small Llama as transformers saves it, with a tokenizer: 360 rows for 355 tokens."""
    write_tokenizer(directory, "threes")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=360, **SIZES)
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def edit(directory: Path, name: str, change: Callable[[dict], Any] | None = None, **fields: Any) -> None:
    """Changes a JSON file; a field that becomes `...` is taken away."""
    file = directory / name
    value = json.loads(file.read_text()) if file.exists() else {}
    value |= fields
    value = {key: held for key, held in value.items() if held is not ...}
    if change is not None:
        change(value)
    file.write_text(json.dumps(value))


def tensors(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], Any], to: str = "model.safetensors"
) -> None:
    """Changes the weights; returns nothing, and writes what the function has made of the dictionary."""
    held = load_file(directory / "model.safetensors")
    held = change(held) or held
    (directory / "model.safetensors").unlink()
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, directory / to, {"format": "pt"})


def config(**fields: Any) -> Callable[[Path], None]:
    """Other fields in config.json."""
    return lambda directory: edit(directory, "config.json", **fields)


def tokenizer_config(**fields: Any) -> Callable[[Path], None]:
    """Other fields in tokenizer_config.json."""
    return lambda directory: edit(directory, "tokenizer_config.json", **fields)


def template_of(directory: Path) -> str:
    """Takes the chat template out of tokenizer_config.json."""
    template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
    edit(directory, "tokenizer_config.json", chat_template=...)
    return template


def beside(**files: bytes | str) -> Callable[[Path], None]:
    """Further files; two underscores stand for a point."""

    def write(directory: Path) -> None:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (directory / name.replace("__", ".")).write_bytes(data)

    return write


def only(*names: str, **files: bytes | str) -> Callable[[Path], None]:
    """Nothing but some of the files, and others."""

    def keep(directory: Path) -> None:
        for file in directory.iterdir():
            if file.name not in names:
                file.unlink()
        beside(**files)(directory)

    return keep


def _rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda directory: (directory / old).rename(directory / new) and None


def _shards(directory: Path, lost: str | None = None, index: bool = True) -> None:
    held = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(held)
    places = {}
    for number, share in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        places |= dict.fromkeys(share, file)
        if file != lost:
            save_file({name: held[name] for name in share}, directory / file, {"format": "pt"})
    if index:
        edit(directory, "model.safetensors.index.json", metadata={"total_size": 1}, weight_map=places)


def _wrapped(directory: Path, prefix: str, head: str) -> None:
    """As a multimodal checkpoint, with something of a vision tower."""
    whole = json.loads((directory / "config.json").read_text())
    inner = {
        key: value for key, value in whole.items() if key not in ("architectures", "dtype", "torch_dtype")
    }
    outer = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "dtype": "float32",
             "text_config": inner | {"model_type": "mistral"}, "vision_config": {"model_type": "pixtral"},
             "tie_word_embeddings": False}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(outer))

    def change(held):
        renamed = {
            name.replace("model.", prefix, 1): value
            for name, value in held.items()
            if name != "lm_head.weight"
        }
        return renamed | {head: held["lm_head.weight"], "vision_tower.patch_conv.weight": torch.ones(3, 2)}

    tensors(directory, change)


def _cache(directory: Path, hole: bool = False) -> None:
    """A Hugging Face cache: `snapshots/REVISION` of links to `blobs`, below the directory."""
    blobs, revision = directory / "blobs", directory / "snapshots" / "0123abc"
    files = [file for file in directory.iterdir() if file.is_file()]
    blobs.mkdir()
    revision.mkdir(parents=True)
    (directory / "refs").mkdir()
    (directory / "refs" / "main").write_text("0123abc")
    for number, file in enumerate(files):
        incomplete = hole and file.name == "model.safetensors"
        file.rename(blobs / f"{number}{'.incomplete' * incomplete}")
        (revision / file.name).symlink_to(f"../../blobs/{number}")


def _into(name: str) -> Callable[[Path], None]:
    def move(directory: Path) -> None:
        files = list(directory.iterdir())
        (directory / name).mkdir()
        for file in files:
            file.rename(directory / name / file.name)

    return move


def _add_bos(directory: Path) -> None:
    def change(definition: dict) -> None:
        bos = next(t["id"] for t in definition["added_tokens"] if t["content"] == "<|system|>")
        pieces = [
            {"SpecialToken": {"id": "<|system|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        special = {"<|system|>": {"id": "<|system|>", "ids": [bos], "tokens": ["<|system|>"]}}
        definition["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [
            {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": special}  # fmt: skip

    edit(directory, "tokenizer.json", change)
    edit(directory, "tokenizer_config.json", bos_token="<|system|>")


def _cast(kind: torch.dtype, name: str) -> Callable[[Path], None]:
    return lambda directory: tensors(directory, lambda held: held.update({name: held[name].to(kind)}))


def _added(content: str) -> dict[str, Any]:
    return {"content": content, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False}  # fmt: skip


THINKS = ("[THINK]", "[/THINK]")
GATE = "model.layers.0.mlp.gate_proj.weight"
LINEAR = {"rope_type": "linear", "factor": 2.0}
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}<|assistant|>"
)

CASES: Mapping[str, Callable[[Path], Any]] = {
    "sound": lambda directory: None,
    # config.json
    "torch_dtype": config(dtype=..., torch_dtype="bfloat16"),
    "torch_dtype spelled out": config(dtype=..., torch_dtype="torch.float16"),
    "dtype and torch_dtype": config(dtype="float32", torch_dtype="bfloat16"),
    "no dtype": config(dtype=...),
    "dtype auto": config(dtype="auto"),
    "rope_theta and rope_scaling": config(rope_parameters=..., rope_theta=5000.0, rope_scaling=LINEAR),
    "rope_scaling of old": config(rope_parameters=..., rope_theta=5000, rope_scaling={"type": "linear", "factor": 2}),
    "rope_parameters": config(rope_parameters=LINEAR | {"rope_theta": 5000.0}),
    "rope_parameters and an empty rope_scaling": config(rope_scaling=None, rope_parameters=LINEAR | {"rope_theta": 5e3}),
    "rope_parameters and rope_scaling": config(rope_parameters={"rope_type": "default", "rope_theta": 5e3}, rope_scaling=LINEAR),
    "rope_parameters and rope_theta": config(rope_parameters={"rope_type": "default", "rope_theta": 5e3}, rope_theta=7e3),
    "no architectures": config(architectures=...),
    "architectures null": config(architectures=None),
    "no architectures and no model_type": config(architectures=..., model_type=...),
    "another model_type": config(model_type="mistral"),
    "architecture of a body": config(architectures=["LlamaModel"]),
    "architecture of a classifier": config(architectures=["LlamaForSequenceClassification"]),
    "remote code": config(architectures=["FancyForCausalLM"], auto_map={"AutoModelForCausalLM": "modeling_fancy.FancyForCausalLM"}),
    "a known architecture with remote code": config(auto_map={"AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"}),
    "multimodal Qwen": config(architectures=["Qwen2_5_VLForConditionalGeneration"], model_type="qwen2_5_vl"),
    "fields null": config(head_dim=None, rope_scaling=None, sliding_window=None, quantization_config=None, pad_token_id=None),
    "no max_position_embeddings": config(max_position_embeddings=...),
    "no vocab_size": config(vocab_size=...),
    "gelu": config(hidden_act="gelu"),
    "BOM and CRLF": lambda d: (d / "config.json").write_bytes(
        b"\xef\xbb\xbf" + (d / "config.json").read_bytes().replace(b"\n", b"\r\n")),
    "awq": config(quantization_config={"quant_method": "awq", "bits": 4}),
    "gptq": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "fp8": config(quantization_config={"quant_method": "fp8"}),
    "quantised by nobody": config(quantization_config={"bits": 4}),
    "compression_config": config(compression_config={"quant_method": "compressed-tensors"}),
    "mlx": config(quantization={"group_size": 64, "bits": 4}),
    "modelopt": beside(hf_quant_config__json='{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}'),
    "pretraining_tp": config(pretraining_tp=2),
    # Weights
    "float8 tensors": _cast(torch.float8_e4m3fn, GATE),
    "int8 tensors": _cast(torch.int8, GATE),
    "tensors of several dtypes": _cast(torch.bfloat16, GATE),
    "double precision": _cast(torch.float64, GATE),
    "a buffer of ints": lambda d: tensors(d, lambda t: t.update({"model.position_ids": torch.arange(4)})),
    "leftover pickle": beside(pytorch_model__bin=b"PK\x03\x04"),
    "leftover consolidated": lambda d: shutil.copy(d / "model.safetensors", d / "consolidated.safetensors"),
    "consolidated only": _rename("model.safetensors", "consolidated.safetensors"),
    "pickle only": lambda d: (d / "model.safetensors").rename(d / "pytorch_model-00001-of-00001.bin"),
    "a variant only": _rename("model.safetensors", "model.fp16.safetensors"),
    "leftovers of training": lambda d: (beside(optimizer__pt=b"x", trainer_state__json="{}", training_args__bin=b"x",
                                               scheduler__pt=b"x")(d), (d / "global_step10").mkdir()),
    "shards": _shards,
    "shards without index": lambda d: _shards(d, index=False),
    "a shard missing": lambda d: _shards(d, lost="model-00002-of-00002.safetensors"),
    "empty file of weights": beside(model__safetensors=b""),
    "no tensors": lambda d: tensors(d, lambda t: {"x": torch.ones(1)} if t.clear() is None else t),
    "without the prefix model.": lambda d: tensors(d, lambda t: {n.removeprefix("model."): v for n, v in t.items()}),
    "prefix of a wrapper": lambda d: tensors(d, lambda t: {f"_orig_mod.{n}": v for n, v in t.items()}),
    "tied, with a head": lambda d: (config(tie_word_embeddings=True)(d), tensors(
        d, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))),
    "tied, without a head": lambda d: (config(tie_word_embeddings=True)(d), tensors(
        d, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"})),
    "tied, with another head": config(tie_word_embeddings=True),
    "not tied, without a head": lambda d: tensors(d, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}),
    "a head's bias": lambda d: tensors(d, lambda t: t.update({"lm_head.bias": torch.ones(360)})),
    "embedding wider than config": config(vocab_size=300),
    "embedding narrower than config": config(vocab_size=400),
    "vocabulary wider than the embedding": lambda d: (config(vocab_size=340)(d), tensors(d, lambda t: {
        n: v[:340] if v.shape[0] == 360 else v for n, v in t.items()})),
    "adapter only": only("tokenizer.json", "tokenizer_config.json",
        adapter_config__json='{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}',
        adapter_model__safetensors=b"x"),
    "adapter beside a model": beside(
        adapter_config__json='{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}',
        adapter_model__safetensors=b"x"),
    "gguf in a directory": only(model_q4__gguf=b"GGUF\x03\0\0\0"),
    "multimodal Mistral": lambda d: _wrapped(d, "language_model.model.", "language_model.lm_head.weight"),
    "multimodal Mistral of transformers 5": lambda d: _wrapped(d, "model.language_model.", "lm_head.weight"),
    # Where it lies
    "cache": _cache,
    "cache with a hole": lambda d: _cache(d, hole=True),
    "snapshot with a hole": lambda d: _cache(d, hole=True) or d / "snapshots" / "0123abc",
    "snapshot": lambda d: _cache(d) or d / "snapshots" / "0123abc",
    "a level below": _into("checkpoint-500"),
    "nothing but a README": only(README__md="# A model"),
    # The tokenizer
    "no tokenizer.json, tokenizer.model": lambda d: (d / "tokenizer.json").rename(d / "tokenizer.model"),
    "no tokenizer.json, tekken.json": lambda d: (d / "tokenizer.json").rename(d / "tekken.json"),
    "no tokenizer.json, vocab.json": lambda d: (beside(vocab__json='{"a": 0}', merges__txt="#v\n")(d),
                                                (d / "tokenizer.json").unlink()),
    "no tokenizer_config.json": lambda d: (beside(chat_template__jinja=template_of(d))(d),
                                           (d / "tokenizer_config.json").unlink()),
    "no generation_config.json": lambda d: (d / "generation_config.json").unlink(),
    "tokenizer_class unknown": tokenizer_config(tokenizer_class="FancyTokenizer"),
    "tokenizer_class of transformers 5": tokenizer_config(tokenizer_class="TokenizersBackend"),
    "tokenizer with remote code": tokenizer_config(auto_map={"AutoTokenizer": ["tokenization_x.X", None]}),
    "model_max_length": tokenizer_config(model_max_length=1000000000000000019884624838656),
    "model_max_length 8": tokenizer_config(model_max_length=8),
    "eos in config.json as a list": lambda d: (config(eos_token_id=[352, 353])(d), tokenizer_config(eos_token=...)(d),
                                               (d / "generation_config.json").unlink()),
    "eos in generation_config.json only": lambda d: (config(eos_token_id=...)(d), tokenizer_config(eos_token=...)(d)),
    "eos in the tokenizer only": lambda d: (config(eos_token_id=...)(d), (d / "generation_config.json").unlink()),
    "eos as an object": tokenizer_config(eos_token={"__type": "AddedToken", "content": "<|end|>", "special": True}),
    "eos that is no token": tokenizer_config(eos_token="<|never|>"),
    "eos nowhere": lambda d: (config(eos_token_id=None)(d), (d / "generation_config.json").unlink(),
        tokenizer_config(eos_token=..., chat_template="{{ messages[0].content }}")(d)),
    "pad token beyond the embedding": lambda d: (tokenizer_config(pad_token="[PAD]")(d), config(vocab_size=355)(d),
        tensors(d, lambda t: {n: v[:355] if v.shape[0] == 360 else v for n, v in t.items()})),
    "token in tokenizer_config.json": tokenizer_config(added_tokens_decoder={"355": _added("<tool>")}),
    "token in added_tokens.json": beside(added_tokens__json='{"<tool>": 355}'),
    "token in special_tokens_map.json": beside(special_tokens_map__json='{"additional_special_tokens": ["<tool>"]}'),
    "tokenizer adds a bos": _add_bos,
    "tokenizer adds a bos, as the template": lambda d: (_add_bos(d), tokenizer_config(
        chat_template="{{ bos_token }}" + template_of(d))(d)),
    # Chat templates
    "chat_template.jinja": lambda d: beside(chat_template__jinja=template_of(d))(d),
    "chat_template.jinja and another": beside(chat_template__jinja="{{ messages[0].content }}<|assistant|>"),
    "chat_template.json": lambda d: beside(chat_template__json=json.dumps({"chat_template": template_of(d)}))(d),
    "templates by name": lambda d: tokenizer_config(chat_template=[
        {"name": "default", "template": template_of(d)}, {"name": "tool_use", "template": "x"}])(d),
    "templates by name, no default": lambda d: tokenizer_config(chat_template=[
        {"name": "rag", "template": template_of(d)}, {"name": "tool_use", "template": "x"}])(d),
    "additional_chat_templates": lambda d: ((d / "additional_chat_templates").mkdir(),
        (d / "additional_chat_templates" / "tool_use.jinja").write_text("x"), beside(chat_template__jinja=template_of(d))(d)),
    "no template": lambda d: template_of(d) and None,
    "empty template": tokenizer_config(chat_template=""),
    "template refuses the system turn": tokenizer_config(chat_template=REFUSING),
    "template of parts": tokenizer_config(chat_template="{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}"
                                          "{{ p.text }}{% endfor %}{% endfor %}<|assistant|>"),
    "template writes half a pair": tokenizer_config(chat_template="{{ '\\ud83d' }}{{ messages[0].content }}"),
    "template that thinks in other marks": lambda d: tokenizer_config(chat_template=template_of(d) + "[THINK]")(d),
    "chat_template.json beside another": beside(chat_template__json='{"chat_template": "{{ messages[0].content }}"}'),
    "template without the user": tokenizer_config(chat_template="<|user|>Hello<|end|><|assistant|>"),
    "[THINK]": lambda d: edit(d, "tokenizer.json", lambda t: t["added_tokens"].extend(
        {"id": 355 + n} | _added(token) for n, token in enumerate(THINKS))),
}  # fmt: skip
