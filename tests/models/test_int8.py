"""Weight-only int8, against torch models whose weights were rounded independently."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import models
from tests.models.references import load_reference, logits_of, relative_error
from tests.models.test_checkpoint import EVEN, assert_same_weights, mesh_of

MOE = {"moe_intermediate_size": 24, "decoder_sparse_step": 1, "mlp_only_layers": []}


def round_as_int8(model) -> None:
    """Rounds every projection of the layers to multiples of 1/127 of its row's greatest weight."""
    for name, parameter in model.model.layers.named_parameters():
        if parameter.ndim >= 2 and "mlp.gate.weight" not in name:
            step = parameter.data.abs().amax(dim=-1, keepdim=True) / 127
            parameter.data = torch.round(parameter.data / step) * step


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3_moe"])
def test_logits_are_those_of_the_rounded_weights(reference, family, stacked):
    ref = reference(family, 3, **EVEN, **(MOE if family == "qwen3_moe" else {}))
    model = load_reference(ref, stacked, weights="int8")
    round_as_int8(ref.model)
    with torch.no_grad():
        expected = ref.model(torch.tensor(ref.tokens)).logits.numpy()
    logits = logits_of(model, ref.tokens)
    assert relative_error(logits, expected) < 1e-4
    assert 1e-4 < relative_error(logits, ref.logits) < 0.1
    assert_same_weights(load_reference(ref, stacked, weights="int8", mesh=mesh_of(2, 4)), model)


def test_what_is_int8_and_what_is_not(reference, tmp_path):
    ref = reference("qwen3_moe", 3, **EVEN, **MOE)
    model = load_reference(ref, dtype="bfloat16", weights="int8")
    names = {".".join(map(str, key)): v.dtype for key, v in nnx.to_flat_state(nnx.state(model))}
    for name, dtype in names.items():
        whole = name.startswith(("embed", "lm_head", "norm")) or "norm." in name or "router" in name
        if name.endswith("kernel") and not whole:
            assert dtype == jnp.int8, name
        elif name.endswith("scale") and not whole:
            assert dtype == jnp.float32, name
        else:
            assert dtype == jnp.bfloat16, name
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(model))
    abstract = models.abstract(model.config, "bfloat16", weights="int8")
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(abstract))
    with pytest.raises(ValueError, match="int8 weights are not saved"):
        models.save(model, tmp_path / "copy")
    with pytest.raises(ValueError, match="must be None or 'int8', found 'int4'"):
        models.load(ref.directory, weights="int4")


def test_random_int8_weights_have_the_spread_of_random_weights(reference):
    config = load_reference(reference("llama", 3, **EVEN)).config
    up = models.build(config, weights="int8").layers[0].mlp.up
    weights = np.asarray(up.kernel[...], np.float32) * np.asarray(up.scale[...])
    assert weights.std() == pytest.approx(config.initializer_range, rel=0.05)
