"""launch.gguf_to_hf: what it writes, read by `models.load`, against transformers' own reading of the GGUF file."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import models  # noqa: E402
from cord_jax.text.vocabulary import Vocabulary  # noqa: E402
from launch import common, gguf_to_hf  # noqa: E402
from tests.reference.tiny import write_tokenizer  # noqa: E402

LAYERS, WIDTH, FEED_FORWARD, HEADS, KV_HEADS, HEAD = 2, 64, 96, 4, 2, 16
TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}{{ '<|assistant|>' }}"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small Llama with random weights in 8 bits, its GGUF file and the directory that is made of it."""
    directory = tmp_path_factory.mktemp("gguf")
    write_tokenizer(directory / "tokenizer", "digits")
    write_gguf(directory / "tiny.gguf", json.loads((directory / "tokenizer" / "tokenizer.json").read_text()))
    assert launch(gguf=directory / "tiny.gguf", output_dir=directory / "hf") == 0
    return directory


def write_gguf(path, tokenizer) -> None:
    tokens = {i: text for text, i in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens |= added
    ids = range(max(tokens) + 1)
    writer, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(ids))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokens.get(i, f"<unused{i}>") for i in ids])
    writer.add_token_types([3 if i in added or i not in tokens else 1 for i in ids])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    end = next(i for i, text in added.items() if text == "<|end|>")
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_chat_template(TEMPLATE)

    def add(name, *shape):
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(ids), WIDTH)
    writer.add_tensor("output_norm.weight", rng.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", rng.uniform(0.5, 1.5, WIDTH).astype(np.float32))
        add(f"blk.{layer}.attn_q.weight", HEADS * HEAD, WIDTH)
        add(f"blk.{layer}.attn_k.weight", KV_HEADS * HEAD, WIDTH)
        add(f"blk.{layer}.attn_v.weight", KV_HEADS * HEAD, WIDTH)
        add(f"blk.{layer}.attn_output.weight", WIDTH, HEADS * HEAD)
        add(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def launch(**values) -> int:
    for name in gguf_to_hf.FLAGS:
        gguf_to_hf.FLAGS[name].unparse()
    arguments = ["gguf_to_hf", *(f"--{name}={value}" for name, value in values.items())]
    return common.run_with(gguf_to_hf.main, gguf_to_hf.FLAGS, gguf_to_hf.__doc__, arguments)


@pytest.mark.slow
def test_logits_are_those_of_transformers(files):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(files, gguf_file="tiny.gguf")
    tokens = np.random.default_rng(1).integers(0, theirs.config.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    found = np.asarray(models.load(files / "hf")(jnp.asarray(tokens)))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_tokenizer_is_the_files(files):
    text = "### Step 3: the sum 12 + 3 = 15.\n\n### Step 4"
    ours = Vocabulary.load(files / "hf")
    assert ours.join(ours.encode(text)) == text.encode()
    definition = json.loads((files / "tokenizer" / "tokenizer.json").read_text())
    rows = models.read_config(files / "hf").vocab_size
    assert ours.defined(rows).sum() == len(
        {*definition["model"]["vocab"].values(), *(token["id"] for token in definition["added_tokens"])}
    )
    assert (files / "hf" / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.slow
def test_bad_input_is_told_in_one_line_and_leaves_nothing(files, tmp_path, capsys):
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "cut.gguf").write_bytes((files / "tiny.gguf").read_bytes()[:1000])
    for name, told in (
        ("none.gguf", "is no file"),
        ("text.gguf", "is no GGUF file"),
        ("cut.gguf", "cannot read it"),
    ):
        assert launch(gguf=tmp_path / name, output_dir=tmp_path / "hf") == 2
        error = capsys.readouterr().err
        assert told in error.splitlines()[-1], error
    assert launch(gguf=files / "tiny.gguf", output_dir=files / "hf") == 2
    assert "exists" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "text.gguf"]
