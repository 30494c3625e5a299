"""What a step costs, for networks of real size: nothing is computed, only compiled or counted."""

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import models
from cord_jax.mesh import parse_mesh
from cord_jax.student import StudentConfig
from cord_jax.student.batches import Batch
from cord_jax.student.metrics import peak_flops, step_flops
from cord_jax.student.step import Step, batch_sharding

QWEN_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}


def test_memory_at_full_length_holds_no_logits_of_all_places():
    length, vocabulary = 20480, 152064
    small = QWEN_7B | {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    config = StudentConfig("s", "t", "o", batch_size=1, compute_dtype="float32", loss_positions=512)
    mesh = parse_mesh("data:1,model:1")
    step, state = Step.build(models.config_from_hf(small), config, mesh, 100)
    ids = jax.ShapeDtypeStruct((1, 1, length), jnp.int32, sharding=batch_sharding(mesh))
    memory = step.compile_step(state, Batch(ids, ids, ids, ids)).memory_analysis()
    logits = 4 * length * vocabulary
    # All logits would be 12.5 GB, dense attention 1.7 GB for each head. There are a few arrays of 0.3 GB,
    # logits of 512 places, and a few of the size of the embedding.
    assert memory.temp_size_in_bytes < logits / 4
    assert memory.alias_size_in_bytes >= 12 * 2 * 64 * vocabulary  # the state is updated in place


def test_flops_are_those_of_the_parameters():
    config = models.config_from_hf(QWEN_7B)
    layers = nnx.state(models.abstract(config).layers)
    kernels = sum(
        leaf.size for path, leaf in jax.tree.leaves_with_path(layers) if "kernel" in json.dumps(str(path))
    )
    # A row of one token reads itself: 2 * 2 * heads * width operations, forward.
    assert step_flops(config, [1], 0) == pytest.approx(6 * kernels + 3 * 4 * 28 * 128 * 28)
    assert step_flops(config, [1], 1) - step_flops(config, [1], 0) == 6 * 3584 * 152064
    # Attention of a row of n tokens has n (n + 1) / 2 pairs, or fewer with a window of w.
    attention = step_flops(config, [100], 0) - 100 * 6 * kernels
    assert attention == pytest.approx(3 * 4 * 28 * 128 * 28 * 5050)


def test_no_peak_of_unknown_devices():
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    assert peak_flops(Device("NVIDIA H100 80GB HBM3")) == 989e12
    assert peak_flops(Device("TPU v5 lite")) == 197e12
    assert peak_flops(Device("TPU v5")) == 459e12
    assert peak_flops(Device("cpu")) is None
