"""The parts of a decoder layer: projection, norm, embedding, gated feed-forward.

Every constructor takes `stack`: extra leading axes of all parameters, {} or {"layers": l}. Parameters carry the names
of their axes, which `models.sharding` maps to mesh axes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Axes = Mapping[str, int]


def parameter(init: nnx.Initializer, rngs: nnx.Rngs, axes: Axes, stack: Axes, dtype: jnp.dtype) -> nnx.Param:
    """A parameter with the shape and the axis names of `stack` and then `axes`."""
    axes = [*stack.items(), *axes.items()]
    # Sharding is decided when a mesh is known (models.sharding), not when the variable is made.
    init = nnx.with_partitioning(init, tuple(name for name, _ in axes), eager_sharding=False)
    return nnx.Param(init(rngs.params(), tuple(size for _, size in axes), dtype))


class Linear(nnx.Module):
    """y = x · kernel + bias, over one or several input and output axes.

    kernel: [*inputs, *outputs]; bias: [*outputs], absent without `bias`.
    """

    def __init__(self, inputs: Axes, outputs: Axes, *, bias: bool = False, std: float, stack: Axes, rngs: nnx.Rngs,
                 dtype: jnp.dtype):  # fmt: skip
        self.num_inputs = len(inputs)
        self.kernel = parameter(nnx.initializers.normal(std), rngs, {**inputs, **outputs}, stack, dtype)
        self.bias = parameter(nnx.initializers.zeros, rngs, outputs, stack, dtype) if bias else None

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """x [..., *inputs] -> [..., *outputs], accumulated and returned in `out_dtype` (default: that of x)."""
        n = self.num_inputs
        contract = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
        y = lax.dot_general(x, self.kernel[...], (contract, ((), ())), preferred_element_type=out_dtype or x.dtype)
        return y if self.bias is None else y + self.bias[...]


class RMSNorm(nnx.Module):
    """x / rms(x) · scale over the last axis, in float32; returned in the dtype of x."""

    def __init__(self, axes: Axes, eps: float, *, stack: Axes, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.eps = eps
        self.scale = parameter(nnx.initializers.ones, rngs, axes, stack, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Embedding(nnx.Module):
    """embedding: [vocab, embed]."""

    def __init__(self, vocab_size: int, width: int, *, std: float, rngs: nnx.Rngs, dtype: jnp.dtype):
        axes = {"vocab": vocab_size, "embed": width}
        self.embedding = parameter(nnx.initializers.normal(std), rngs, axes, {}, dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int [...] -> [..., embed]."""
        return self.embedding[...][tokens]

    def attend(self, x: jax.Array) -> jax.Array:
        """x [..., embed] · embedding transposed -> float32 [..., vocab]: the head of a model with tied embeddings."""
        contract = ((x.ndim - 1,), (1,))
        return lax.dot_general(x, self.embedding[...], (contract, ((), ())), preferred_element_type=jnp.float32)


class MLP(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, intermediate: int, *, bias: bool, std: float, stack: Axes, rngs: nnx.Rngs,
                 dtype: jnp.dtype):  # fmt: skip
        options = dict(bias=bias, std=std, stack=stack, rngs=rngs, dtype=dtype)
        self.gate = Linear({"embed": width}, {"mlp": intermediate}, **options)
        self.up = Linear({"embed": width}, {"mlp": intermediate}, **options)
        self.down = Linear({"mlp": intermediate}, {"embed": width}, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
