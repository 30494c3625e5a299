"""Loading and saving: bit-exact round trips, meshes, casts, and what is said about broken checkpoints."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType
from safetensors.numpy import load_file, save_file

import models
from models.checkpoint import load_save, read_parameters, safetensors
from tests.models.references import CLASSES, FAMILIES, load_reference, logits_of, relative_error


def weights_of(model: models.Decoder) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, key)): np.asarray(value[...]) for key, value in nnx.to_flat_state(nnx.state(model))
    }


def assert_same_weights(first: models.Decoder, second: models.Decoder) -> None:
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def mesh_of(data: int, model: int):
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


@pytest.mark.parametrize("stacked, outputs_first", [(False, True), (True, False)])
@pytest.mark.parametrize("family", FAMILIES)
def test_load_save_load_is_exact_and_transformers_reads_it(
    reference, family, stacked, outputs_first, tmp_path
):
    layout = dict(stacked=stacked, outputs_first=outputs_first)
    ref = (
        reference(family, 3, decoder_sparse_step=1, mlp_only_layers=[])
        if family == "qwen3_moe"
        else reference(family, 3)
    )
    model = load_reference(ref, **layout)
    assert model.is_stacked == stacked
    for name, shard_bytes in (("one", 1 << 30), ("many", 5_000)):
        models.save(model, tmp_path / name, shard_bytes=shard_bytes)
        assert_same_weights(models.load(tmp_path / name, **layout), model)
        theirs, found = CLASSES[family][1].from_pretrained(tmp_path / name, output_loading_info=True)
        assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
        assert theirs.dtype == torch.float32
        for key, value in ref.model.state_dict().items():
            assert torch.equal(theirs.state_dict()[key], value), key
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert (tmp_path / "many" / "model.safetensors.index.json").exists()


def test_saving_over_a_checkpoint_leaves_nothing_of_it_to_be_read(reference, tmp_path):
    old, new = (
        models.build(load_reference(reference("llama", 3)).config, seed=i, stacked=False) for i in (1, 2)
    )
    for first, second in ((5_000, 1 << 30), (1 << 30, 5_000)):
        models.save(old, tmp_path / str(first), shard_bytes=first)
        models.save(new, tmp_path / str(first), shard_bytes=second)
        assert_same_weights(models.load(tmp_path / str(first)), new)


def test_the_same_tensors_as_in_the_original_file(reference, tmp_path):
    ref = reference("phi3", 3)
    models.save(load_reference(ref), tmp_path / "copy")
    original, copy = (load_file(path / "model.safetensors") for path in (ref.directory, tmp_path / "copy"))
    assert original.keys() == copy.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(array, copy[name])


def test_tokenizer_and_generation_config_are_copied_from_the_source(reference, tmp_path):
    ref = reference("qwen2", 3)
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        (ref.directory / name).write_text(name)
    models.save(load_reference(ref), tmp_path / "copy", source=ref.directory)
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "copy" / name).read_text() == name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_cast_as_torch_casts_them(reference, dtype):
    ref = reference("phi3", 3)
    model = models.load(ref.directory, dtype=dtype, max_length=ref.max_length)
    expected = ref.model.model.embed_tokens.weight.detach().to(getattr(torch, dtype)).float().numpy()
    assert model.embed.embedding.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(model.embed.embedding[...].astype(jnp.float32)), expected)


def test_bfloat16_checkpoint_keeps_its_dtype_and_bits(reference, tmp_path):
    ref = reference("llama", 3)
    ref.model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    model = models.load(tmp_path / "half")
    assert model.dtype == jnp.bfloat16
    models.save(model, tmp_path / "copy")
    theirs = CLASSES["llama"][1].from_pretrained(tmp_path / "copy", dtype="auto")
    assert theirs.dtype == torch.bfloat16
    for key, value in ref.model.state_dict().items():
        assert torch.equal(theirs.state_dict()[key], value), key


EVEN = dict(
    hidden_size=48,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=6,
    intermediate_size=64,
    num_hidden_layers=2,
    vocab_size=64,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4},
)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("family", ["phi3", "qwen3_moe"])
def test_every_split_of_eight_devices_gives_the_same_weights_and_logits(reference, family, stacked):
    moe = {"moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": []}
    ref = reference(family, 3, **EVEN, **(moe if family == "qwen3_moe" else {}))
    whole = models.load(ref.directory, stacked=stacked)
    for shape in ((1, 8), (2, 4), (8, 1)):
        mesh = mesh_of(*shape)
        model = models.load(ref.directory, mesh=mesh, stacked=stacked)
        assert_same_weights(model, whole)
        q = model.layers.attention.q if stacked else model.layers[0].attention.q
        spread = q.kernel[...].sharding.spec
        assert spread == jax.P(*([None] * stacked), None, "model", None)
        assert len({str(shard.index) for shard in q.kernel[...].addressable_shards}) == shape[1]
    with jax.set_mesh(mesh_of(2, 4)):
        model = models.load(ref.directory, mesh=mesh_of(2, 4), stacked=stacked)
        assert relative_error(logits_of(model, ref.tokens), ref.logits) < 1e-4


def test_random_weights_do_not_depend_on_the_mesh():
    config = models.config_from_hf(
        {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 64, "num_key_value_heads": 4}
        | {key: value for key, value in EVEN.items() if not key.startswith("rope")}
    )
    one = models.build(config, seed=5)
    assert_same_weights(one, models.build(config, seed=5, mesh=mesh_of(2, 4)))
    kernel = weights_of(one)["layers.0.mlp.up.kernel"]
    assert kernel.std() == pytest.approx(0.02, rel=0.1)
    assert not np.array_equal(kernel, weights_of(models.build(config, seed=6))["layers.0.mlp.up.kernel"])


def test_a_process_reads_only_the_bytes_of_its_shards(reference, monkeypatch):
    ref = reference("llama", 3, **EVEN)
    read = []
    pread = safetensors._pread
    monkeypatch.setattr(
        safetensors, "_pread", lambda d, buffer, at: (read.append(buffer.nbytes), pread(d, buffer, at))
    )
    tensor = safetensors.read_directory(ref.directory)["model.layers.0.self_attn.q_proj.weight"]
    assert tensor.shape == (48, 48)
    out = np.empty((12, 48), np.float32)
    safetensors.read_block(tensor, slice(12, 24), slice(0, 48), out)
    assert sum(read) == out.nbytes
    whole = load_file(ref.directory / "model.safetensors")
    np.testing.assert_array_equal(out, whole["model.layers.0.self_attn.q_proj.weight"][12:24])


def test_columns_are_taken_from_a_map_of_the_file(tmp_path, monkeypatch):
    array = np.random.default_rng(0).normal(size=(500, 1024)).astype(np.float32)
    save_file({"w": array}, tmp_path / "model.safetensors")
    monkeypatch.setattr(safetensors, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(safetensors, "_pread", None)
    out = np.empty((256, 500), np.float32)
    tensor = safetensors.read_directory(tmp_path)["w"]
    safetensors.read_block(tensor, slice(0, 500), slice(512, 768), out.T)
    np.testing.assert_array_equal(out.T, array[:, 512:768])


# A broken checkpoint, and what is said about it.
def break_truncated(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def break_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"<html>not found</html>" * 3)


def break_pointer(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )


def break_shard(directory: Path) -> None:
    models.save(models.load(directory), directory, shard_bytes=5_000)
    sorted(directory.glob("model-*.safetensors"))[1].unlink()


def break_index(directory: Path) -> None:
    models.save(models.load(directory), directory, shard_bytes=5_000)
    index = directory / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    places["weight_map"]["model.norm.weight"] = places["weight_map"]["model.embed_tokens.weight"]
    index.write_text(json.dumps(places))


def edit_tensors(directory: Path, edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def break_shape(directory: Path) -> None:
    edit_tensors(directory, lambda t: t.update({"model.norm.weight": np.ones(7, np.float32)}))


def break_transposed(directory: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(directory, lambda t: t.update({name: np.ascontiguousarray(t[name].T)}))


def break_missing(directory: Path) -> None:
    edit_tensors(directory, lambda t: t.pop("model.layers.1.self_attn.k_proj.bias"))


def break_extra(directory: Path) -> None:
    edit_tensors(directory, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": np.ones(64, np.float32)}))


def break_nan(directory: Path) -> None:
    edit_tensors(directory, lambda t: t["model.layers.1.mlp.down_proj.weight"].__setitem__((3, 5), np.nan))


def break_dtype(directory: Path) -> None:
    edit_tensors(directory, lambda t: t.update({"model.norm.weight": np.ones(48, bool)}))


def break_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def break_empty(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def break_architecture(directory: Path) -> None:
    file = directory / "config.json"
    file.write_text(file.read_text().replace("Qwen2ForCausalLM", "RwkvForCausalLM"))


def break_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def break_directory(directory: Path) -> None:
    shutil.rmtree(directory)


BROKEN = {
    break_truncated: r"model.safetensors: truncated: tensor '\S+' ends at byte \d+, the file has \d+ bytes",
    break_header: r"model.safetensors: not a complete safetensors file: .* the file has 66",
    break_pointer: r"model.safetensors: a Git LFS pointer of 56 bytes instead of the weights; get them with",
    break_shard: r"model-00002-of-\d+.safetensors: missing shard; .*index.json places \d+ tensors in it",
    break_index: r"tensor 'model.norm.weight' is here but .*index.json places it in model-00002-of",
    break_shape: r"safetensors: tensor 'model.norm.weight' has shape \[7\], config.json needs \[48\]",
    break_transposed: r"0.mlp.up_proj.weight' has shape \[48, 64\], config.json needs \[64, 48\]",
    break_missing: r"tensor 'model.layers.1.self_attn.k_proj.bias' of shape \[24\] is missing; config.json",
    break_extra: r"tensor 'model.layers.0.mlp.up_proj.bias' of shape \[64\] was not expected",
    break_nan: r"tensor 'model.layers.1.mlp.down_proj.weight' has nan at row 3, column 5 .*expected finite",
    break_dtype: r"tensor 'model.norm.weight' has dtype BOOL; supported are F64, F32",
    break_pickle: r"holds only pickled weights \(pytorch_model.bin\), which are never opened",
    break_empty: r"expected model.safetensors or model.safetensors.index.json, found \['config.json'",
    break_architecture: r"config.json: architecture 'RwkvForCausalLM' is not supported; supported are Llama",
    break_config: r"config.json: not JSON",
    break_directory: r"config.json: no such file; expected a Hugging Face checkpoint directory",
}


@pytest.fixture(scope="module")
def sound_checkpoint(tmp_path_factory):
    fields = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 64} | EVEN
    directory = tmp_path_factory.mktemp("sound")
    models.save(models.build(models.config_from_hf(fields), seed=0, stacked=False), directory)
    return directory


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000], ids=["name", "path"])
def test_names_that_no_file_system_takes(name):
    with pytest.raises(models.CheckpointError, match="config.json: no such file"):
        models.read_config(name)


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_broken_checkpoints_are_refused_with_the_reason(sound_checkpoint, damage, tmp_path):
    directory = tmp_path / "broken"
    shutil.copytree(sound_checkpoint, directory)
    models.load(directory)
    damage(directory)
    with pytest.raises(models.CheckpointError, match=BROKEN[damage]) as error:
        models.load(directory)
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_value_beyond_the_range_of_the_cast_is_refused(sound_checkpoint, tmp_path):
    directory = shutil.copytree(sound_checkpoint, tmp_path / "wide")
    edit_tensors(directory, lambda t: t["model.norm.weight"].__setitem__(2, 1e6))
    assert models.load(directory).norm.scale[2] == 1e6
    with pytest.raises(models.CheckpointError, match="has inf at row 2, column 0 as float16"):
        models.load(directory, dtype="float16")


def test_a_repeated_head_of_a_tied_model_and_old_buffers_are_ignored(reference):
    ref = reference("llama", 3, tie_word_embeddings=True)

    def repeat(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    edit_tensors(ref.directory, repeat)
    assert load_reference(ref).lm_head is None


def test_a_head_of_its_own_is_used_whatever_the_config_says(reference, tmp_path, caplog):
    """As transformers does; and a head that is missing is told with the remedy."""
    ref = reference("llama", 3, tie_word_embeddings=True)
    copy = lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()})  # noqa: E731
    edit_tensors(ref.directory, copy)
    edit_tensors(ref.directory, lambda t: t["lm_head.weight"].__setitem__((5, 3), 7.0))
    model = load_reference(ref)
    assert "lm_head.weight is not the embedding, although config.json ties them: it is used" in caplog.text
    theirs = CLASSES["llama"][1].from_pretrained(ref.directory)
    with torch.no_grad():
        expected = theirs(torch.tensor(ref.tokens)).logits.numpy()
    assert relative_error(expected, ref.logits) > 1e-3
    assert relative_error(logits_of(model, ref.tokens), expected) < 1e-4
    models.save(model, tmp_path / "copy")
    assert_same_weights(models.load(tmp_path / "copy", stacked=False, max_length=ref.max_length), model)
    edit_tensors(tmp_path / "copy", lambda t: t.pop("lm_head.weight"))
    with pytest.raises(
        models.CheckpointError, match="'lm_head.weight' .* is missing; .*tie_word_embeddings true"
    ):
        models.load(tmp_path / "copy")


@pytest.mark.parametrize("family", ["phi3", "qwen3_moe"])
def test_stacks_written_tensor_by_tensor_on_the_devices_are_the_same(reference, family, monkeypatch):
    moe = {"moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": []}
    ref = reference(family, 3, **EVEN, **(moe if family == "qwen3_moe" else {}))
    whole = models.load(ref.directory, stacked=True)
    shards = []
    read_shard = read_parameters.read_shard
    execution_of = load_save.execution_of

    def on_an_accelerator(*arguments):
        return dataclasses.replace(execution_of(*arguments), reads_stacks_whole=False)

    monkeypatch.setattr(load_save, "execution_of", on_an_accelerator)
    monkeypatch.setattr(
        read_parameters, "read_shard", lambda parts, *a: shards.append(parts) or read_shard(parts, *a)
    )
    for mesh in (None, mesh_of(2, 4)):
        assert_same_weights(models.load(ref.directory, mesh=mesh, stacked=True), whole)
    assert all(len(parts) == 1 for parts in shards)
