"""Published configurations, and configurations that are refused."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import models

# Billions of parameters, as the model cards give them.
PUBLISHED = {
    "qwq-32b": 32.8,
    "deepseek-r1-distill-qwen-32b": 32.8,
    "phi-4-reasoning-plus": 14.7,
    "deepseek-r1-distill-qwen-7b": 7.6,
    "deepseek-r1-distill-qwen-1.5b": 1.78,
    "deepseek-r1-distill-llama-8b": 8.0,
    "qwen3-8b": 8.2,
}


def count(config: models.ModelConfig, stacked: bool) -> int:
    return sum(array.size for array in jax.tree.leaves(nnx.state(models.abstract(config, stacked=stacked))))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_number_of_parameters(shared_dir, name):
    file = shared_dir / "configs" / f"{name}.json"
    config = models.config_from_hf(json.loads(file.read_text()))
    total = count(config, stacked=True)
    assert total == count(config, stacked=False)
    assert total / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)
    with torch.device("meta"):
        reference = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(file)
        )
    assert total == sum(parameter.numel() for parameter in reference.parameters())


def test_process_reward_model_is_its_base_model_and_two_layers(shared_dir):
    fields = json.loads((shared_dir / "configs" / "qwen2.5-math-prm-7b.json").read_text())
    config = models.config_from_hf(fields)
    width = config.hidden_size
    with torch.device("meta"):
        base = transformers.Qwen2Model(transformers.Qwen2Config(**fields))
    expected = (
        sum(parameter.numel() for parameter in base.parameters()) + width * width + width + 2 * width + 2
    )
    assert config.head == "process_reward"
    assert count(config, stacked=True) == expected


MINIMAL = dict(
    architectures=["Qwen2ForCausalLM"],
    vocab_size=10,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "architecture .MambaForCausalLM. is not supported; .*Qwen3MoeFor",
        ),
        (
            {"architectures": [], "model_type": "gpt2"},
            "architecture 'gpt2' is not supported; supported are Llama",
        ),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported are 'silu'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 2 is not a multiple of num_key_value_heads 3"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            "quantised by 'awq' are not supported; use the orig",
        ),
        ({"vocab_size": 0}, "'vocab_size' must be a whole number of 1 to 2147483647, found 0"),
        (
            {"layer_types": ["full_attention", "chunked_attention"]},
            "layer_types must hold 2 of 'full_attention'",
        ),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types must hold 2 of"),
    ],
)
def test_what_is_not_supported_is_said(fields, message):
    with pytest.raises(models.CheckpointError, match=message):
        models.config_from_hf(MINIMAL | fields)


def test_a_config_is_static_under_jit():
    config = models.config_from_hf(MINIMAL | {"eos_token_id": [3, 4]})
    assert hash(config) == hash(models.config_from_hf(MINIMAL | {"eos_token_id": [3, 4]}))


def test_model_type_serves_where_no_architecture_is_named():
    assert models.config_from_hf(MINIMAL | {"architectures": None, "model_type": "qwen3"}).family == "qwen3"


# Gemma 3 of 1 billion parameters, in the older spelling of its rotations.
GEMMA = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "vocab_size": 262144,
}


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 8.0}])
def test_older_files_of_gemma_are_read_as_transformers_reads_them(scaling):
    fields = GEMMA | {"rope_scaling": scaling}
    config = models.config_from_hf(fields)
    theirs = transformers.Gemma3TextConfig(**{k: v for k, v in fields.items() if k != "architectures"})
    assert config.sliding_windows == tuple(
        512 if kind == "sliding_attention" else None for kind in theirs.layer_types
    )
    with torch.device("cpu"):
        rotary = transformers.models.gemma3.modeling_gemma3.Gemma3RotaryEmbedding(theirs)
    for rope, kind in ((config.rope, "full_attention"), (config.local_rope, "sliding_attention")):
        expected = getattr(rotary, f"{kind}_inv_freq").numpy()
        np.testing.assert_allclose(models.rope.inverse_frequencies(rope), expected, rtol=1e-6)
    assert count(config, stacked=True) == count(config, stacked=False) == 999_885_952


@pytest.mark.parametrize(
    "field", ["final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"]
)
def test_what_changes_gemmas_arithmetic_is_refused(field):
    with pytest.raises(models.CheckpointError, match=f"{field} is not supported"):
        models.config_from_hf(GEMMA | {field: True})
