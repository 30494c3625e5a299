"""Adapters: the student they start from and end in, their gradient, what stays as it was, resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import models
from cord_jax.student import StudentConfig, train
from models import lora
from models.checkpoint.adapters import fits_peft, save_adapters
from tests.student.students import read_metrics, write_student
from tests.student.test_step import make_batch, make_step

RANK, ALPHA = 3, 12.0
SETTINGS = dict(
    max_length=256,
    batch_size=4,
    epochs=2,
    learning_rate=1e-2,
    warmup=0.0,
    checkpoint_every=3,
    plot=False,
    lora_rank=RANK,
    lora_alpha=ALPHA,
)


def lora_step(student):
    """A step whose adapters are no longer zero, and its state."""
    program, state = make_step(student, lora_rank=RANK, lora_alpha=ALPHA)
    key = jax.random.key(1)
    params = jax.tree.map(lambda p: 0.1 * jax.random.normal(key, p.shape), state.params)
    return program, dataclasses.replace(state, params=params)


def test_fresh_adapters_change_nothing(student):
    program, state = make_step(student, lora_rank=RANK)
    tokens_bt = np.arange(20)[None]
    expected = models.load(student)(tokens_bt)
    np.testing.assert_array_equal(program.model(state.params, state.frozen)(tokens_bt), expected)


@pytest.mark.parametrize("stacked", [False, True])
def test_merged_adapters_are_the_same_function(student, stacked):
    config = models.read_config(student)
    layout = dict(stacked=stacked, outputs_first=not stacked)
    model = lora.attach(models.abstract(config, **layout), RANK, ALPHA)
    graphdef, adapters, _ = nnx.split(model, nnx.LoRAParam, ...)
    adapters = jax.tree.map(lambda p: p + 0.05, lora.initial(adapters, jax.random.key(0)))
    weights = nnx.state(models.load(student, **layout))
    tokens_bt = np.arange(20)[None]
    with_adapters = nnx.merge(graphdef, adapters, weights)(tokens_bt)
    merged = lora.merge(nnx.merge(graphdef, adapters, weights))
    np.testing.assert_allclose(merged(tokens_bt), with_adapters, atol=1e-5 * np.abs(with_adapters).max())
    assert jax.tree.structure(nnx.state(merged)) == jax.tree.structure(weights)


def test_gradient_is_that_of_the_merged_weights_by_the_chain_rule(student):
    """dA = s · dW · Bᵀ and dB = s · Aᵀ · dW, with dW the gradient of an ordinary run at the merged weights."""
    program, state = lora_step(student)
    batch, _ = make_batch()
    loss, grads, _ = program.gradient(state.params, state.frozen, batch)
    merged = lora.merge(program.model(state.params, state.frozen))
    whole, _ = make_step(student)
    expected_loss, whole_grads, _ = whole.gradient(nnx.state(merged), nnx.State({}), batch)
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    for layer in range(len(merged.layers)):
        for part, name in (("attention", "q"), ("attention", "o"), ("mlp", "down")):
            ours, adapter = grads["layers"][layer][part][name], state.params["layers"][layer][part][name]
            dw = whole_grads["layers"][layer][part][name]["kernel"][...]
            a, b = adapter["lora_a"][...], adapter["lora_b"][...]
            inputs, outputs = range(a.ndim - 1), range(1, b.ndim)
            da = jnp.tensordot(dw, b, (tuple(range(a.ndim - 1, dw.ndim)), tuple(outputs)))
            db = jnp.tensordot(a, dw, (tuple(inputs), tuple(inputs)))
            for found, wanted in ((ours["lora_a"][...], da), (ours["lora_b"][...], db)):
                wanted = ALPHA / RANK * wanted
                np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_run(student, rows, tmp_path):
    """Continued on other devices after its end came too early; only the projections differ from the student's."""

    class Killed(BaseException):
        pass

    def progress(row):
        if row["step"] == 5:
            raise Killed

    hf = train(StudentConfig(student, rows, tmp_path / "whole", mesh="data:1", **SETTINGS))
    with pytest.raises(Killed):
        train(StudentConfig(student, rows, tmp_path / "cut", mesh="data:1", **SETTINGS), progress)
    train(StudentConfig(student, rows, tmp_path / "cut", mesh="fsdp:2,model:2", **SETTINGS))
    losses = [[row["loss"] for row in read_metrics(tmp_path / name)] for name in ("whole", "cut")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert losses[0][-1] < 0.8 * losses[0][0]
    before, after = load_file(student / "model.safetensors"), load_file(hf / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if "proj.weight" in name}
    AutoModelForCausalLM.from_pretrained(hf)
    adapters = load_file(tmp_path / "whole" / "adapter" / "adapter_model.safetensors")
    assert len(adapters) == 2 * len(changed)
    for name in changed:
        a, b = (
            adapters[f"base_model.model.{name.removesuffix('weight')}lora_{part}.weight"] for part in "AB"
        )
        added = ALPHA / RANK * b @ a
        np.testing.assert_allclose(before[name] + added, after[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family, layout", [("qwen2", {}), ("phi3", {}), ("phi3", {"stacked": True})])
def test_peft_loads_the_adapters(family, layout, tmp_path):
    """Also those of projections that the checkpoint keeps in one tensor."""
    peft = pytest.importorskip("peft")
    student = write_student(tmp_path / "student", family)
    model = lora.attach(models.abstract(models.read_config(student), **layout), RANK, ALPHA)
    graphdef, adapters, _ = nnx.split(model, nnx.LoRAParam, ...)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    adapters = jax.tree.map(lambda p: 0.1 * jax.random.normal(next(keys), p.shape), adapters)
    model = nnx.merge(graphdef, adapters, nnx.state(models.load(student, **layout)))
    save_adapters(model, tmp_path / "adapter", str(student), RANK, ALPHA)
    base = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens_bt = np.arange(40).reshape(2, 20)
    expected = np.asarray(model(tokens_bt))
    with torch.no_grad():
        with theirs.disable_adapter():
            without = theirs(torch.tensor(tokens_bt)).logits.numpy()
        found = theirs(torch.tensor(tokens_bt)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(without - found).max() > 0.1
    state = peft.get_peft_model_state_dict(theirs)
    assert state.keys() == load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()


def test_adapters_that_peft_would_take_for_others():
    config = models.config_from_hf(
        dict(model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], num_hidden_layers=2)
    )
    for layers, fits in (((True, True), True), ((True, False), False)):
        experts = dataclasses.replace(config.experts, layers=layers)
        model = models.abstract(dataclasses.replace(config, experts=experts))
        assert fits_peft(lora.attach(model, RANK, ALPHA)) == fits


def test_int8_weights_are_refused(student):
    with pytest.raises(ValueError, match="adapters need floating-point weights"):
        lora.attach(models.abstract(models.read_config(student), weights="int8"), RANK, ALPHA)
