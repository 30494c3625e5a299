"""A pool as it is loaded: int8 weights where it asks for them, frequencies for the longest sequence of the run."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import models
from cord_jax.engine.overflow import refuse_overflow
from cord_jax.engine.teachers import load_teachers
from cord_jax.errors import UserError
from cord_jax.mesh import parse_mesh
from cord_jax.pool import read_pool
from cord_jax.problems import read_problems
from tests.reference.tiny import PROBLEMS, write_pool
from tests.search.inputs import write_inputs


@pytest.fixture
def directory(tmp_path):
    write_inputs(tmp_path, write_pool(tmp_path, 0), PROBLEMS)
    return tmp_path


def test_int8_weights(directory):
    path = directory / "pool.toml"
    text = path.read_text().replace("\ntemperature =", '\nweights = "int8"\ntemperature =')
    path.write_text(text.replace("0.0}", '0.0, weights = "int8"}'))
    teachers = load_teachers(read_pool(path), parse_mesh("data:1,model:1"))
    tokens_bt = jnp.arange(12)[None]
    for reader in teachers.readers:
        found = np.asarray(reader.model(tokens_bt))
        rounded = models.load(reader.checkpoint, weights="int8")
        np.testing.assert_array_equal(found, np.asarray(rounded(tokens_bt)))
        assert not np.array_equal(found, np.asarray(models.load(reader.checkpoint)(tokens_bt)))


@pytest.mark.parametrize("new_tokens", [20, 5000])
def test_frequencies_are_those_of_the_longest_sequence(directory, new_tokens):
    spec, problems = read_pool(directory / "pool.toml"), read_problems(directory / "problems.jsonl")
    scaled = spec.proposers[0].checkpoint
    config = json.loads((scaled / "config.json").read_text())
    config["max_position_embeddings"] = 1024
    config.pop("rope_parameters", None)
    config |= {"rope_theta": 1e4, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    (scaled / "config.json").write_text(json.dumps(config))
    teachers = load_teachers(spec, parse_mesh("data:1,model:1"), problems, new_tokens)
    reader = next(reader for reader in teachers.readers if reader.checkpoint == scaled)
    length = reader.model.config.rope.length
    assert new_tokens + 10 < length < new_tokens + 1000
    tokens_bt = jnp.arange(12)[None]
    unscaled = dataclasses.replace(reader.model.config.rope, length=None)
    same = np.array_equal(
        models.rope.inverse_frequencies(reader.model.config.rope), models.rope.inverse_frequencies(unscaled)
    )
    assert same == (new_tokens == 20)
    expected = models.load(scaled, max_length=length)(tokens_bt)
    np.testing.assert_array_equal(np.asarray(reader.model(tokens_bt)), np.asarray(expected))


def test_weights_that_overflow_in_float16_are_told(tmp_path):
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 40,
    }
    mesh = parse_mesh("data:1,model:1")
    for dtype in ("float16", "float32"):
        model = models.build(models.config_from_hf(fields), mesh=mesh, dtype=jnp.dtype(dtype), stacked=False)
        refuse_overflow(model, mesh, [1, 2, 3], tmp_path)
        model.norm.scale[...] = jnp.full(16, 6e4, dtype)
        if dtype == "float32":
            refuse_overflow(model, mesh, [1, 2, 3], tmp_path)
            continue
        with pytest.raises(UserError, match="its weights overflow in float16"):
            refuse_overflow(model, mesh, [1, 2, 3], tmp_path)
