"""Hugging Face directories <-> decoders.

Loading starts from the parameters that the architecture has, finds the tensors that each is made of, and
reads for every shard that this process holds just the bytes of that shard.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from models import safetensors
from models.config import ModelConfig
from models.decoder import Decoder
from models.errors import CheckpointError
from models.families import config_from_hf
from models.layout import Part, as_tensor, dotted, parts_of_parameters, tensor_slices, tensors_of_parts
from models.sharding import parameter_sharding

# What belongs to a checkpoint beside config.json and the weights.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
# Tensors of old checkpoints that follow from the config.
RECOMPUTED = re.compile(r".*\.rotary_emb\.inv_freq")
SHARD_BYTES = 5_000_000_000
# Platforms whose device memory is host memory: nothing is saved there by reading a stack in parts.
READ_STACKS_WHOLE = {"cpu"}


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture of a checkpoint directory, from its `config.json`.

    Raises:
      CheckpointError: see `models.config_from_hf`; also no such file, or not JSON.
    """
    file = Path(directory) / "config.json"
    if not file.exists():
        raise CheckpointError(f"{file}: no such file; expected a Hugging Face checkpoint directory")
    try:
        hf = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error})") from error
    try:
        return config_from_hf(hf)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("config.json", str(file), 1)) from None


def abstract(config: ModelConfig, dtype: Any = jnp.float32, stacked: bool = False) -> Decoder:
    """The decoder with `jax.ShapeDtypeStruct`s as weights: shapes, dtypes and axis names, no memory."""
    return Decoder(config, None, dtype, stacked)


def build(
    config: ModelConfig,
    seed: int = 0,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    stacked: bool | None = None,
) -> Decoder:
    """A decoder with random weights, placed on `mesh` by the rules of `models.sharding` (None: the default
    device).

    The weights depend on the seed, not on the mesh. `stacked` as in `load`.
    """
    stacked = default_stacked(config) if stacked is None else stacked
    return Decoder(config, nnx.Rngs(seed), dtype, stacked, mesh)


def default_stacked(config: ModelConfig) -> bool:
    """Stacked where all layers are alike, except on a CPU, where a scan over stacked weights copies them."""
    alike = config.experts is None or len(set(config.experts.layers)) == 1
    return alike and jax.default_backend() != "cpu"


def load(
    path: str | Path,
    mesh: Mesh | None = None,
    dtype: Any = None,
    stacked: bool | None = None,
    max_length: int | None = None,
) -> Decoder:
    """Loads a Hugging Face checkpoint directory.

    Args:
      path: directory with `config.json` and safetensors.
      mesh: where to place the weights, by the rules of `models.sharding`; None: the default device. Each
        process reads only the bytes of the shards that its own devices hold.
      dtype: of the parameters and the computation; None: that of the checkpoint's config.
      stacked: one stacked layer instead of a list (see `Decoder`); None: False on a CPU, True elsewhere.
      max_length: greatest length of a sequence in this run, in tokens. Dynamic and longrope frequencies
        depend on it and are fixed for the run; None: sequences stay within the length before scaling.

    Raises:
      CheckpointError: unsupported architecture or scaling; a missing, unexpected, truncated or wrongly shaped
        tensor; weights that are not finite; pickled weights.
    """
    directory = Path(path)
    config = read_config(directory)
    if max_length is not None:
        config = config.for_length(max_length)
    stored = safetensors.read_directory(directory)
    dtype = jnp.dtype(config.dtype if dtype is None else dtype)
    graphdef, state = nnx.split(
        abstract(config, dtype, default_stacked(config) if stacked is None else stacked)
    )
    flat = nnx.to_flat_state(state)
    shapes = {dotted(key): variable.shape for key, variable in flat}
    parts = parts_of_parameters(config, shapes)
    check_tensors(config, tensors_of_parts(parts, shapes), stored, directory)
    loaded = []
    for key, variable in flat:
        sharding = default_sharding() if mesh is None else parameter_sharding(variable, mesh)
        array = read_parameter(parts[dotted(key)], variable.shape, dtype, sharding, stored)
        loaded.append((key, variable.replace(array)))
    return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def default_sharding() -> Sharding:
    """Where `jnp.asarray` would put an array."""
    return SingleDeviceSharding(jax.config.jax_default_device or jax.local_devices()[0])


def check_tensors(
    config: ModelConfig,
    expected: dict[str, tuple[int, ...]],
    stored: dict[str, safetensors.Tensor],
    directory: Path,
) -> None:
    """Raises CheckpointError unless the checkpoint has exactly the tensors of the architecture."""
    for name, shape in expected.items():
        if name not in stored:
            raise CheckpointError(
                f"{directory}: tensor {name!r} of shape {list(shape)} is missing; config.json "
                f"({config.family}, "
                f"{config.num_layers} layers) needs it"
            )
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{stored[name].file}: tensor {name!r} has shape {list(stored[name].shape)}, config.json "
                f"needs "
                f"{list(shape)}"
            )
    for name, tensor in stored.items():
        # Tied models may repeat the embedding as the head; reward models may keep the head they were made
        # from.
        unused_head = config.tie_word_embeddings or config.head != "language_model"
        redundant = unused_head and name == "lm_head.weight"
        if name not in expected and not redundant and not RECOMPUTED.fullmatch(name):
            raise CheckpointError(
                f"{tensor.file}: tensor {name!r} of shape {list(tensor.shape)} was not expected: config.json "
                f"({config.family}, {config.num_layers} layers) has no place for it"
            )


def read_parameter(
    parts: list[Part],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: Sharding,
    stored: dict[str, safetensors.Tensor],
) -> jax.Array:
    """One parameter as a sharded array.

    A stack of layers or experts consists of many tensors. They are written into it one after another on the
    devices, so that host memory holds two of them at most.
    """
    lead = len(parts[0].index)
    if not lead or {device.platform for device in sharding.device_set} <= READ_STACKS_WHOLE:
        return read_array(parts, shape, dtype, sharding, stored)
    inner = sharding
    if isinstance(sharding, NamedSharding):
        inner = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[lead:]))
    stack = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()
    for part in parts:
        block = read_array([part._replace(index=())], shape[lead:], dtype, inner, stored)
        stack = write_block(stack, block, part.index)
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def write_block(stack: jax.Array, block: jax.Array, index: tuple[int, ...]) -> jax.Array:
    """`stack` with `stack[index] = block`, in place."""
    return stack.at[index].set(block)


def read_array(
    parts: list[Part],
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: Sharding,
    stored: dict[str, safetensors.Tensor],
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
    parts: list[Part],
    shape: tuple[int, ...],
    bounds: tuple[tuple[int, int], ...],
    dtype: np.dtype,
    stored: dict[str, safetensors.Tensor],
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


def save(
    model: Decoder, path: str | Path, source: str | Path | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a Hugging Face directory that `models.load` and transformers read.

    Args:
      model: its weights are written in their dtype, its `config.hf` as `config.json` with that dtype.
      path: directory; made if absent.
      source: checkpoint directory to copy tokenizer, chat template and generation config from.
      shard_bytes: greatest size of a file; more weights are split into shards with an index.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(model.dtype)
    hf = json.loads(model.config.hf)
    hf.pop("torch_dtype", None)
    hf["dtype"] = dtype.name
    (directory / "config.json").write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n")
    for name in COMPANIONS:
        if source is not None and (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, directory / name)
    parameters = {dotted(key): variable[...] for key, variable in nnx.to_flat_state(nnx.state(model))}
    shapes = {name: array.shape for name, array in parameters.items()}
    parts = parts_of_parameters(model.config, shapes)
    files = plan_files(tensors_of_parts(parts, shapes), dtype, shard_bytes)
    for file, tensors in files.items():
        entries = [(name, dtype, shape) for name, shape in tensors.items()]
        safetensors.write_file(directory / file, entries, gather_tensors(tensors, parts, parameters))
    if len(files) > 1:
        places = {name: file for file, tensors in files.items() for name in tensors}
        size = sum(array.nbytes for array in parameters.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def plan_files(
    tensors: dict[str, tuple[int, ...]], dtype: np.dtype, shard_bytes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Divides tensors over files of at most `shard_bytes` (or one tensor): file -> name -> shape."""
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in sorted(tensors.items()):
        length = int(np.prod(shape)) * dtype.itemsize
        if groups[-1] and size + length > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += length
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups)}


def gather_tensors(
    tensors: dict[str, tuple[int, ...]], parts: dict[str, list[Part]], parameters: dict[str, jax.Array]
) -> Iterator[np.ndarray]:
    """The tensors in order, each put together from the parameters that it holds."""
    places: dict[str, list[tuple[str, Part]]] = {name: [] for name in tensors}
    for path, shares in parts.items():
        for part in shares:
            if part.name in places:
                places[part.name].append((path, part))
    for name in tensors:
        rows = []
        for path, part in sorted(places[name], key=lambda place: place[1].row):
            block = np.asarray(parameters[path][part.index] if part.index else parameters[path])
            rows.append(as_tensor(block, part.entry))
        yield rows[0] if len(rows) == 1 else np.concatenate(rows)
