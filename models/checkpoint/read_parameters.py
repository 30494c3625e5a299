"""Tensors of a checkpoint -> sharded parameters, with host memory for one or two tensors."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from models.checkpoint import safetensors
from models.checkpoint.tensor_map import Part, as_tensor, tensor_slices
from models.sharding import parameter_sharding


def read_parameter(
    parts: Sequence[Part],
    variables: Sequence[nnx.Variable],
    stored: Mapping[str, safetensors.Tensor],
    mesh: Mesh | None,
    whole: bool,
) -> list[jax.Array]:
    """The arrays of one parameter, on `mesh` or on the default device.

    A stack of layers or experts consists of many tensors. They are written into it one after another on the
    devices, or in host memory if `whole`.

    Args:
      parts: the tensors it consists of.
      variables: the parameter, abstract; or an int8 kernel and its scale, made on the devices from the
          tensor.
      stored: where the tensors are.
    """
    kernel, lead = variables[0], len(parts[0].index)
    shardings = [default_sharding() if mesh is None else parameter_sharding(v, mesh) for v in variables]
    int8 = len(variables) == 2
    dtype = stored[parts[0].name].dtype if int8 else kernel.dtype
    if not int8 and (not lead or whole):
        return [read_array(parts, kernel.shape, dtype, shardings[0], stored)]
    inner = [_without_leading(sharding, lead) for sharding in shardings]

    def read_block(part: Part) -> Sequence[jax.Array]:
        block = read_array([part._replace(index=())], kernel.shape[lead:], dtype, inner[0], stored)
        return _quantise(part.entry.inputs, *inner)(block) if int8 else [block]

    if not lead:
        return list(read_block(parts[0]))
    stacks = [
        jax.jit(functools.partial(jnp.zeros, v.shape, v.dtype), out_shardings=sharding)()
        for v, sharding in zip(variables, shardings)
    ]
    for part in parts:
        stacks = [_write_block(stack, block, part.index) for stack, block in zip(stacks, read_block(part))]
    return stacks


def default_sharding() -> Sharding:
    """The sharding that `jnp.asarray` gives an array."""
    return SingleDeviceSharding(jax.config.jax_default_device or jax.local_devices()[0])


def read_array(
    parts: Sequence[Part],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: Sharding,
    stored: Mapping[str, safetensors.Tensor],
) -> jax.Array:
    """An array of shards put together in host memory; each distinct one of this process is read once."""
    devices: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(axis.indices(size)[:2] for axis, size in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays, last = [], []
    for bounds, holders in devices.items():
        shard = read_shard(parts, shape, bounds, dtype, stored)
        jax.block_until_ready(last)  # one shard is on its way while the next is read
        last = [jax.device_put(shard, device) for device in holders]
        arrays += last
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def read_shard(
    parts: Sequence[Part],
    shape: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...],
    dtype: np.dtype,
    stored: Mapping[str, safetensors.Tensor],
) -> np.ndarray:
    """The block `bounds` (start and stop of each axis) of a parameter, cast to `dtype`."""
    out = safetensors.aligned_empty([stop - start for start, stop in bounds], dtype)
    for place, name, row, entry in parts:
        n = len(place)
        if not all(start <= i < stop for i, (start, stop) in zip(place, bounds[:n], strict=True)):
            continue
        block = out[tuple(i - start for i, (start, _) in zip(place, bounds[:n], strict=True))]
        rows, columns = tensor_slices(tuple(slice(*axis) for axis in bounds[n:]), shape[n:], entry)
        rows = slice(row + rows.start, row + rows.stop)
        safetensors.read_block(stored[name], rows, columns, as_tensor(block, entry))
    return out


def _without_leading(sharding: Sharding, axes: int) -> Sharding:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[axes:]))
    return sharding


@functools.partial(jax.jit, donate_argnums=0)
def _write_block(stack: jax.Array, block: jax.Array, index: tuple[int, ...]) -> jax.Array:
    """`stack` with `stack[index] = block`, in place."""
    return stack.at[index].set(block)


@functools.cache
def _quantise(inputs: int, kernel_sharding: Sharding, scale_sharding: Sharding):
    """A compiled function: kernel [*inputs, *outputs] -> int8 kernel, float32 scale [*outputs].

    Symmetric, to the nearest of -127 ... 127, with the greatest weight of each output at the end of the range.
    """

    def quantise(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(inputs))
        kernel = kernel.astype(jnp.float32)
        scale = jnp.max(jnp.abs(kernel), axis=axes) / 127
        steps = kernel / jnp.where(scale == 0, 1, scale)
        return jnp.round(steps).astype(jnp.int8), scale

    return jax.jit(quantise, out_shardings=(kernel_sharding, scale_sharding))
