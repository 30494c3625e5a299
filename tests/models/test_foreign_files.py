"""Files of a stranger's checkpoint: whatever stands in them is read, or refused in one line that names the file."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
import safetensors as library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
from models.checkpoint import safetensors
from models.checkpoint.load_save import companions_of
from models.rope import inverse_frequencies

SMALL = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=20,
    max_position_embeddings=64,
)
FIELDS = (
    *SMALL,
    *"hidden_act hidden_activation rms_norm_eps rope_theta rope_scaling rope_parameters partial_rotary_factor".split(),
    *"original_max_position_embeddings tie_word_embeddings dtype torch_dtype initializer_range".split(),
    *"attention_bias mlp_bias sliding_window use_sliding_window max_window_layers layer_types".split(),
    *"quantization_config num_labels architectures model_type num_experts num_experts_per_tok".split(),
    *"decoder_sparse_step mlp_only_layers moe_intermediate_size norm_topk_prob".split(),
)
ROPE_FIELDS = (
    *"rope_type type factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale".split(),
    *"mscale_all_dim truncate low_freq_factor high_freq_factor short_factor long_factor rope_theta".split(),
)
SCALING = {
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0] * 4,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
JUNK = [
    "2",
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    0,
    -1,
    2,
    10**9,
    10**30,
    1e400,
    float("nan"),
    -0.5,
    3.5,
    True,
    "\ud800",
]


def read(fields):
    """The configuration, or None if it is refused as it must be."""
    try:
        config = models.config_from_hf(fields)
    except models.CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000 and "config.json" in str(error)
        return None
    hash(config)
    frequencies = inverse_frequencies(config.rope)
    assert np.isfinite(frequencies).all() and np.isfinite(config.rope.attention_factor)
    return config


@pytest.mark.parametrize("architecture", models.families.ARCHITECTURES)
def test_every_field_of_a_config_with_any_value(architecture):
    base = {"architectures": [architecture], **SMALL}
    assert read(base) is not None
    for field in FIELDS:
        for value in JUNK:
            read(base | {field: value})
    for kind in models.rope.KINDS:
        for field in ROPE_FIELDS:
            for value in JUNK:
                read(base | {"rope_scaling": {"rope_type": kind} | SCALING | {field: value}})
    assert read(base | {"num_hidden_layers": 10**9}) is None
    assert read(base | {"num_hidden_layers": "2"}) is None
    assert read(base | {"vocab_size": float("nan")}) is None


def test_a_whole_number_may_be_written_with_a_point_and_a_field_may_be_null():
    base = {"architectures": ["LlamaForCausalLM"], **SMALL}
    assert read(base | {"max_position_embeddings": 64.0, "mlp_bias": None}) == read(
        base | {"max_position_embeddings": 64.0, "mlp_bias": None}
    )
    assert read(base | {"max_position_embeddings": 64.0}).max_position_embeddings == 64


def test_unknown_fields_of_a_scaling_are_logged(caplog):
    read(
        SMALL | {"architectures": ["LlamaForCausalLM"], "rope_scaling": {"rope_type": "default", "swing": 3}}
    )
    assert "config.json: rope_scaling: swing unknown, without effect here" in caplog.text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    config = models.config_from_hf({"architectures": ["LlamaForCausalLM"], **SMALL})
    models.save(models.build(config, stacked=False), directory, shard_bytes=4000)
    assert (directory / "model.safetensors.index.json").exists()
    (directory / "tokenizer.json").write_text("{}")
    return directory


def as_directory(file):
    file.unlink()
    file.mkdir()


def as_fifo(file):
    file.unlink()
    os.mkfifo(file)


BAD_FILES = {
    "directory": as_directory,
    "fifo": as_fifo,
    "device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "empty": lambda file: file.write_bytes(b""),
    "object": lambda file: file.write_bytes(b"{}"),
    "list": lambda file: file.write_bytes(b"[]"),
    "half": lambda file: file.write_bytes(file.read_bytes()[:20]),
    "latin": lambda file: file.write_bytes(b'{"a": "\xe9"}'),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
    "digits": lambda file: file.write_bytes(b"9" * 10_000),
    "loop": lambda file: (file.unlink(), file.symlink_to(file)),
}


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "model-00002-of-00003.safetensors"]
)
@pytest.mark.parametrize("damage", BAD_FILES)
def test_something_else_in_place_of_a_file(checkpoint, tmp_path, damage, name):
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    name = name if (directory / name).exists() else sorted(f.name for f in directory.glob("model-*"))[1]
    BAD_FILES[damage](directory / name)
    with pytest.raises(models.CheckpointError) as error:
        models.load(directory)
    assert str(directory) in str(error.value) and "\n" not in str(error.value)


def test_shards_lie_within_the_directory(checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    index = directory / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    outside = shutil.copy(
        directory / next(iter(good["weight_map"].values())), tmp_path / "outside.safetensors"
    )
    for shard in (
        "../outside.safetensors",
        str(outside),
        "a/../../outside.safetensors",
        "",
        3,
        None,
        [],
        "a\0b",
    ):
        places = {name: shard for name in good["weight_map"]}
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(models.CheckpointError, match="must lie in a file of this directory"):
            models.load(directory)


def test_one_file_is_read_and_not_the_shards_beside_it(checkpoint, tmp_path, caplog):
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    other = models.build(models.read_config(directory), seed=7, stacked=False)
    models.save(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", directory)
    assert np.array_equal(models.load(directory).embed.embedding[...], other.embed.embedding[...])
    assert "model.safetensors: read instead of the shards of model.safetensors.index.json" in caplog.text


def test_a_cache_of_links_to_blobs_is_read_and_copied(checkpoint, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(checkpoint.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    models.save(models.load(snapshot), tmp_path / "export", source=snapshot)
    assert (tmp_path / "export" / "tokenizer.json").read_text() == "{}"


def test_companions_that_lead_out_of_the_directory_are_not_copied(checkpoint, tmp_path):
    (tmp_path / "secret").write_text("key")
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    (directory / "merges.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(models.CheckpointError, match="merges.txt: a symbolic link out of the checkpoint"):
        models.save(models.load(directory), tmp_path / "export", source=directory)
    (directory / "merges.txt").unlink()
    os.mkfifo(directory / "merges.txt")
    with pytest.raises(models.CheckpointError, match="merges.txt: is no file"):
        companions_of(directory)


def test_more_layers_than_tensors_are_refused_before_they_are_described(checkpoint, tmp_path):
    directory = shutil.copytree(checkpoint, tmp_path / "copy")
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 1000}))
    with pytest.raises(models.CheckpointError, match="1000 layers. needs more than 1000 tensors"):
        models.load(directory)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=3) | st.just(2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
ENTRIES = VALUES | st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64"]) | VALUES,
        "shape": st.just([2, 3]) | st.lists(st.integers(0, 6), max_size=3) | VALUES,
        "data_offsets": st.just([0, 24])
        | st.just([24, 48])
        | st.lists(st.integers(0, 60), max_size=3)
        | VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(st.sampled_from("abc"), ENTRIES | st.just(GOOD), max_size=3) | VALUES,
    size=st.integers(0, 64),
)
def test_headers_of_any_shape(tmp_path, header, size):
    """What is read lies in the file, apart from each other; what the format's own library reads whole is read."""
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    try:
        found = safetensors.read_header(file)
    except models.CheckpointError as error:
        assert str(file) in str(error) and "\n" not in str(error)
        try:
            with library.safe_open(file, "numpy") as other:
                kinds = {other.get_slice(name).get_dtype() for name in other.keys()}
        except Exception:
            return
        assert not kinds <= set(safetensors.DTYPES)
        return
    spans = sorted((t.offset, t.offset + int(np.prod(t.shape)) * t.dtype.itemsize) for t in found.values())
    assert all(8 + len(text) <= a <= b <= file.stat().st_size for a, b in spans)
    spans = [span for span in spans if span[0] < span[1]]
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))
