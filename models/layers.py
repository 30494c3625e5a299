"""The parts of a decoder layer: projection, norm, embedding, gated feed-forward."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.parameters import Axes, Maker


class Linear(nnx.Module):
    """y = x · kernel + bias, over one or several input and output axes.

    kernel: [*inputs, *outputs]; bias: [*outputs], None without `bias`.
    """

    def __init__(self, inputs: Axes, outputs: Axes, make: Maker, bias: bool = False):
        self.num_inputs = len(inputs)
        self.kernel = make.normal({**inputs, **outputs})
        self.bias = make.zeros(outputs) if bias else None

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """x [..., *inputs] -> [..., *outputs] in `out_dtype` (default: that of x)."""
        n = self.num_inputs
        contract = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
        y = lax.dot_general(
            x, self.kernel[...], (contract, ((), ())), preferred_element_type=out_dtype or x.dtype
        )
        return y if self.bias is None else y + self.bias[...]


class RMSNorm(nnx.Module):
    """x / rms(x) · scale over the last axis, in float32; returned in the dtype of x."""

    def __init__(self, axes: Axes, eps: float, make: Maker):
        self.eps = eps
        self.scale = make.ones(axes)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Embedding(nnx.Module):
    """embedding: [vocab, embed]."""

    def __init__(self, vocab_size: int, width: int, make: Maker):
        self.embedding = make.normal({"vocab": vocab_size, "embed": width})

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int [...] -> [..., embed]."""
        return self.embedding[...][tokens]

    def attend(self, x: jax.Array) -> jax.Array:
        """x [..., embed] -> logits, float32 [..., vocab]: the head of a model with tied embeddings."""
        contract = ((x.ndim - 1,), (1,))
        return lax.dot_general(
            x, self.embedding[...], (contract, ((), ())), preferred_element_type=jnp.float32
        )


class MLP(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, intermediate: int, make: Maker, bias: bool = False):
        self.gate = Linear({"embed": width}, {"mlp": intermediate}, make, bias)
        self.up = Linear({"embed": width}, {"mlp": intermediate}, make, bias)
        self.down = Linear({"mlp": intermediate}, {"embed": width}, make, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
