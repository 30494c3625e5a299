"""Low-rank adapters on the projections of a decoder's layers (LoRA, arXiv 2106.09685).

    model = lora.attach(models.abstract(config), rank=16, alpha=32)
    graphdef, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)
    adapters = lora.initial(adapters, jax.random.key(0))          # a decoder that is still what it was
    model = lora.merge(nnx.merge(graphdef, adapters, weights))    # a plain decoder again

A projection x · kernel becomes x · kernel + alpha / rank · (x · a) · b, with a: [*inputs, rank] and
b: [rank, *outputs]. Those of queries, keys, values, attention output and of dense feed-forwards are adapted; experts,
router, embedding and head are not.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder import Decoder
from models.layers import MLP, Linear


def attach(model: Decoder, rank: int, alpha: float) -> Decoder:
    """Gives an abstract decoder (`models.abstract`) adapters, abstract too and float32; returns it.

    Raises: ValueError if the weights are int8.
    """
    for linear in _adapted(model):
        if linear.scale is not None:
            raise ValueError("adapters need floating-point weights: build the model without weights='int8'")
        stack, of_rank = _stack(linear), (("rank", rank),)
        linear.lora_a = nnx.data(_parameter((*stack, *linear.inputs, *of_rank)))
        linear.lora_b = nnx.data(_parameter((*stack, *of_rank, *linear.outputs)))
        linear.lora_scale = alpha / rank
    return model


def initial(adapters: nnx.State, key: jax.Array) -> nnx.State:
    """Values for abstract adapters: a uniform within ±1 / sqrt(number of inputs), b zero, so nothing changes yet."""
    flat = nnx.to_flat_state(adapters)
    keys = jax.random.split(key, len(flat))

    def value(path, variable, key):
        if path[-1] == "lora_b":
            return jnp.zeros(variable.shape, variable.dtype)
        names = variable.get_metadata("out_sharding")
        bound = (
            math.prod(size for name, size in zip(names, variable.shape) if name not in ("layers", "rank"))
            ** -0.5
        )
        return jax.random.uniform(key, variable.shape, variable.dtype, -bound, bound)

    return nnx.from_flat_state(
        [(path, variable.replace(value(path, variable, key))) for (path, variable), key in zip(flat, keys)]
    )


def merge(model: Decoder) -> Decoder:
    """Adds each adapter to its kernel, in float32, and takes it off; returns the decoder."""
    for linear in _adapted(model):
        product = functools.partial(_product, linear)
        product = jax.vmap(product) if _stack(linear) else product
        kernel, added = linear.kernel[...], product(linear.lora_a[...], linear.lora_b[...])
        linear.kernel[...] = (kernel.astype(jnp.float32) + linear.lora_scale * added).astype(kernel.dtype)
        linear.lora_a = linear.lora_b = nnx.static(None)
        linear.lora_scale = None
    return model


def _adapted(model: Decoder) -> Iterator[Linear]:
    for layer in [model.layers] if model.is_stacked else model.layers:
        yield from (layer.attention.q, layer.attention.k, layer.attention.v, layer.attention.o)
        if isinstance(layer.mlp, MLP):
            yield from (layer.mlp.gate, layer.mlp.up, layer.mlp.down)


def _stack(linear: Linear) -> tuple[tuple[str, int], ...]:
    """The name and the size of the axis of layers, if there is one."""
    name, size = linear.kernel.get_metadata("out_sharding")[0], linear.kernel.shape[0]
    return ((name, size),) if name == "layers" else ()


def _product(linear: Linear, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of an adapter's two matrices, as the kernel lies."""
    product = jnp.tensordot(a, b, axes=1)
    if not linear.outputs_first:
        return product
    inputs = range(len(linear.inputs))
    return jnp.moveaxis(product, inputs, range(-len(inputs), 0))


def _parameter(axes: tuple[tuple[str, int], ...]) -> nnx.LoRAParam:
    names, shape = zip(*axes)
    return nnx.LoRAParam(jax.ShapeDtypeStruct(shape, jnp.float32), out_sharding=names, eager_sharding=False)
