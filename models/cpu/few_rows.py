"""Projections for CPUs that multiply few rows at a time: the same products, of kernels that lie another way.

XLA's products of a few rows take a fifth to a half less time where a row of the kernel is an output, unless such rows
are long: then products of some of the inputs, one after another, are faster (`docs/performance.md`).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from models.decoder import Decoder
from models.layers import Linear

# Inputs of a part of a kernel, at most.
LONGEST = 2560


class FewRowsLinear(nnx.Module):
    """What a `Linear` computes.

    parts: kernels [outputs, inputs], each of some of the inputs; bias: as there.
    """

    def __init__(self, linear: Linear):
        self.num_inputs = linear.num_inputs
        self.outputs = linear.kernel.shape[linear.num_inputs :]
        self.bias = linear.bias
        inputs = math.prod(linear.kernel.shape[: linear.num_inputs])
        parts = _turned(linear.kernel[...].reshape(inputs, -1), -(-inputs // LONGEST))
        self.parts = nnx.List([nnx.Param(part) for part in parts])

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """As `Linear`."""
        lead = x.shape[: x.ndim - self.num_inputs]
        x_pi = x.reshape(math.prod(lead), -1)
        over = ((1,), (1,)), ((), ())
        pieces = zip(jnp.array_split(x_pi, len(self.parts), axis=1), self.parts, strict=True)
        y_po = sum(
            lax.dot_general(x_pi, part_oi[...], over, preferred_element_type=out_dtype or x.dtype)
            for x_pi, part_oi in pieces
        )
        y = y_po.reshape(*lead, *self.outputs)
        return y if self.bias is None else y + self.bias[...]


def arrange(model: Decoder) -> None:
    """Replaces the projections of a decoder, one after another; not of experts, nor those in int8.

    Its layers must not be stacked, and its weights be whole on every device.
    """
    for _, module in list(nnx.iter_graph(model)):
        if isinstance(module, nnx.Module):
            for name, linear in list(vars(module).items()):
                if isinstance(linear, Linear) and linear.scale is None:
                    setattr(module, name, FewRowsLinear(linear))


def _turned(kernel_io: jax.Array, number: int) -> list[jax.Array]:
    return jax.jit(lambda kernel_io: [part.T for part in jnp.array_split(kernel_io, number)])(kernel_io)
