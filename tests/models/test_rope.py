"""Frequencies against `transformers.modeling_rope_utils`, from old and new spellings of config.json."""

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import models
from models.families import config_from_hf
from models.rope import KINDS, inverse_frequencies
from tests.models.references import FAMILIES, TOKENS, draw_rope

BASE = dict(
    architectures=["LlamaForCausalLM"],
    hidden_size=64,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_hidden_layers=1,
    intermediate_size=8,
    vocab_size=9,
)


def expected_frequencies(config: transformers.PretrainedConfig, length: int | None):
    """Frequencies and attention factor of transformers for a sequence of this length."""
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        model = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
        return model.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)


@pytest.mark.parametrize("seed", range(60))
def test_frequencies_of_all_scalings(seed):
    rng = np.random.default_rng(seed)
    rope, max_length = draw_rope(rng, "llama", 32)
    length = [None, TOKENS][rng.integers(2)]
    fields = BASE | {"max_position_embeddings": max_length}
    frequencies, factor = expected_frequencies(
        transformers.LlamaConfig(**fields, rope_parameters=dict(rope)), length
    )
    theta = rope.pop("rope_theta")
    new = {"rope_parameters": rope | {"rope_theta": theta}}
    old = {
        "rope_theta": theta,
        "rope_scaling": {"type" if k == "rope_type" else k: v for k, v in rope.items()},
    }
    for spelling in (new, old):
        config = config_from_hf(fields | spelling)
        config = config.for_length(length) if length else config
        np.testing.assert_allclose(inverse_frequencies(config.rope), frequencies.numpy(), rtol=2e-6)
        assert config.rope.attention_factor == pytest.approx(factor)


def test_all_scalings_are_drawn():
    kinds = {draw_rope(np.random.default_rng(seed), "llama", 32)[0]["rope_type"] for seed in range(60)}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("kind", ["su", "longrope", "yarn"])
def test_old_names_of_longrope_in_phi(kind):
    rope = {"type": kind, "short_factor": [1.5] * 16, "long_factor": [3.0] * 16}
    fields = BASE | {
        "architectures": ["Phi3ForCausalLM"],
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": rope,
    }
    config = config_from_hf(fields)
    assert config.rope.kind == "longrope"
    assert config.rope.attention_factor == pytest.approx(np.sqrt(1 + np.log(32) / np.log(4096)))
    short, long = inverse_frequencies(config.rope), inverse_frequencies(config.for_length(5000).rope)
    np.testing.assert_allclose(short, 2 * long, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [1]}},
            "'mrope' is not supported; supported are default",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one scaling per layer type"),
        ({"rope_scaling": {"type": "linear"}}, "'linear' needs the field 'factor'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "'llama3' needs the field 'low_freq_factor'",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            r"short_factor must have 16 numbers \(half of the rotated features\), found 1",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported for"),
    ],
)
def test_what_is_not_supported_is_said(fields, message):
    with pytest.raises(models.CheckpointError, match=message):
        config_from_hf(BASE | {"max_position_embeddings": 64} | fields)


def test_every_family_reads_theta():
    for family in FAMILIES:
        name = next(name for name, of in models.families.ARCHITECTURES.items() if of == family)
        fields = BASE | {"architectures": [name], "max_position_embeddings": 64}
        assert config_from_hf(fields | {"rope_theta": 5e5}).rope.theta == 5e5
        assert config_from_hf(fields | {"rope_parameters": {"rope_theta": 5e5}}).rope.theta == 5e5
        assert config_from_hf(fields).rope.theta == (1e6 if family == "gemma3" else 1e4)
