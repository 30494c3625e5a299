"""The parts of a decoder: projection, norm, embedding, feed-forward, mixture of experts, reward head."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.config import ExpertConfig
from models.parameters import Axes, Maker

# `ModelConfig.activation` -> the function.
ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class Linear(nnx.Module):
    """y = x · kernel + bias, over one or several input and output axes.

    kernel: [*inputs, *outputs], or [*outputs, *inputs] if `outputs_first`; bias: [*outputs], None without `bias`;
    scale: float32 [*outputs] by which the outputs of an int8 kernel are multiplied, else None. lora_a, lora_b,
    lora_scale: of `models.lora`, else None.
    """

    def __init__(self, inputs: Axes, outputs: Axes, make: Maker, bias: bool = False):
        self.inputs, self.outputs = tuple(inputs.items()), tuple(outputs.items())
        self.kernel, self.scale = make.kernel(inputs, outputs)
        self.outputs_first = self.kernel.get_metadata("outputs_first")
        self.bias = make.zeros(outputs) if bias else None
        self.lora_a = self.lora_b = self.lora_scale = None

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """x [..., *inputs] -> [..., *outputs] in `out_dtype` (default: that of x)."""
        leading, inputs = x.shape[: x.ndim - len(self.inputs)], x.shape[x.ndim - len(self.inputs) :]
        outputs, width = tuple(size for _, size in self.outputs), math.prod(inputs)
        kernel = self.kernel[...] if self.scale is None else self.kernel[...].astype(x.dtype)
        # A product of two matrices: with more axes, a CPU transposes its operands in the backward pass.
        x_pi = x.reshape(math.prod(leading), width)
        if self.outputs_first:
            kernel, contracted = kernel.reshape(-1, width), ((1,), (1,))
        else:
            kernel, contracted = kernel.reshape(width, -1), ((1,), (0,))
        y_po = lax.dot_general(
            x_pi, kernel, (contracted, ((), ())), preferred_element_type=out_dtype or x.dtype
        )
        if self.lora_a is not None:
            rank = self.lora_a.shape[-1]
            low_pr = lax.dot(x_pi, self.lora_a[...].reshape(width, rank).astype(x.dtype))
            added_po = lax.dot(low_pr, self.lora_b[...].reshape(rank, -1).astype(x.dtype))
            y_po += (self.lora_scale * added_po).astype(y_po.dtype)
        y = y_po.reshape(*leading, *outputs)
        if self.scale is not None:
            y = (y * self.scale[...]).astype(y.dtype)
        return y if self.bias is None else y + self.bias[...]


class RMSNorm(nnx.Module):
    """x / rms(x) · (offset + scale) over the last axis, in float32; returned in the dtype of x."""

    def __init__(self, axes: Axes, eps: float, make: Maker, offset: float = 0.0):
        self.eps, self.offset = eps, offset
        self.scale = make.zeros(axes) if offset else make.ones(axes)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        return (x32 * (self.offset + scale if self.offset else scale)).astype(x.dtype)


class Embedding(nnx.Module):
    """embedding: [vocab, embed]; scale: what rows of it are multiplied by, rounded to its dtype."""

    def __init__(self, vocab_size: int, width: int, make: Maker, scale: float = 1.0):
        self.scale = scale
        self.embedding = make.normal({"vocab": vocab_size, "embed": width})

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int [...] -> [..., embed]."""
        x = self.embedding[...][tokens]
        return x if self.scale == 1 else x * jnp.asarray(self.scale, x.dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        """x [..., embed] -> logits, float32 [..., vocab]: the head of a model with tied embeddings."""
        contract = ((x.ndim - 1,), (1,))
        return lax.dot_general(
            x, self.embedding[...], (contract, ((), ())), preferred_element_type=jnp.float32
        )


class MLP(nnx.Module):
    """Gated feed-forward: down(activation(gate(x)) * up(x))."""

    def __init__(
        self, width: int, intermediate: int, make: Maker, bias: bool = False, activation: str = "silu"
    ):
        self.activation = activation
        self.gate = Linear({"embed": width}, {"mlp": intermediate}, make, bias)
        self.up = Linear({"embed": width}, {"mlp": intermediate}, make, bias)
        self.down = Linear({"mlp": intermediate}, {"embed": width}, make, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))


class ExpertLinear(nnx.Module):
    """One projection of every expert; kernel: [experts, in, out], scale: [experts, out] if it is int8."""

    def __init__(self, num_experts: int, inputs: Axes, outputs: Axes, make: Maker):
        make = dataclasses.replace(make, outputs_first=False)  # as `lax.ragged_dot` takes them
        self.kernel, self.scale = make.stacked("experts", num_experts).kernel(inputs, outputs)

    def __call__(self, x_td: jax.Array, tokens_x: jax.Array) -> jax.Array:
        """Rows of `x_td` are ordered by expert; `tokens_x` says how many belong to each."""
        if self.scale is None:
            return lax.ragged_dot(x_td, self.kernel[...], tokens_x)
        y = lax.ragged_dot(x_td, self.kernel[...].astype(x_td.dtype), tokens_x)
        return (y * jnp.repeat(self.scale[...], tokens_x, axis=0, total_repeat_length=len(y))).astype(y.dtype)


class Experts(nnx.Module):
    """The gated feed-forwards of all experts."""

    def __init__(self, config: ExpertConfig, width: int, make: Maker, activation: str):
        self.activation = activation
        embed, hidden = {"embed": width}, {"mlp": config.intermediate_size}
        self.gate = ExpertLinear(config.num_experts, embed, hidden, make)
        self.up = ExpertLinear(config.num_experts, embed, hidden, make)
        self.down = ExpertLinear(config.num_experts, hidden, embed, make)

    def __call__(self, x_td: jax.Array, tokens_x: jax.Array) -> jax.Array:
        gate_tf = ACTIVATIONS[self.activation](self.gate(x_td, tokens_x))
        return self.down(gate_tf * self.up(x_td, tokens_x), tokens_x)


class MixtureOfExperts(nnx.Module):
    """Every token goes to the experts to which the router gives the highest probabilities.

    As Qwen3MoeSparseMoeBlock in transformers; no token is dropped. The copies of the tokens are ordered by
    expert, so that each expert multiplies one block of rows.
    """

    def __init__(self, config: ExpertConfig, width: int, make: Maker, activation: str = "silu"):
        self.config = config
        exact = dataclasses.replace(make, int8=False)  # the choice of experts is all or nothing
        self.router = Linear({"embed": width}, {"experts": config.num_experts}, exact)
        self.experts = Experts(config, width, make, activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., embed] -> [..., embed]."""
        k = self.config.experts_per_token
        x_td = x.reshape(-1, x.shape[-1])
        probability_tx = jax.nn.softmax(self.router(x_td, jnp.float32), axis=-1)
        weight_tj, expert_tj = lax.top_k(probability_tx, k)
        if self.config.normalise:
            weight_tj = weight_tj / weight_tj.sum(axis=-1, keepdims=True)
        order = jnp.argsort(expert_tj.reshape(-1), stable=True)
        tokens_x = jnp.bincount(expert_tj.reshape(-1), length=self.config.num_experts).astype(jnp.int32)
        out = self.experts(x_td[order // k], tokens_x)
        out_tjd = out[jnp.argsort(order)].reshape(*expert_tj.shape, -1)
        return jnp.einsum("tj,tjd->td", weight_tj.astype(x.dtype), out_tjd).reshape(x.shape)


class RewardHead(nnx.Module):
    """Linear, ReLU, Linear: the score of Qwen2ForProcessRewardModel (Qwen2.5-Math-PRM)."""

    def __init__(self, width: int, num_labels: int, make: Maker):
        self.hidden = Linear({"embed": width}, {"reward_hidden": width}, make, bias=True)
        self.out = Linear({"reward_hidden": width}, {"labels": num_labels}, make, bias=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., embed] after the final norm -> logits of the labels, float32 [..., labels]."""
        return self.out(jax.nn.relu(self.hidden(x)), jnp.float32)
