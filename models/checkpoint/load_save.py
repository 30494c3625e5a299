"""Hugging Face directories <-> decoders.

Loading starts from the parameters that the architecture has, finds the tensors that each is made of, and
reads for every shard that this process holds just the bytes of that shard.
"""

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from models.checkpoint import language_model, safetensors
from models.checkpoint.read_parameters import read_parameter
from models.checkpoint.remedies import ADAPTER, base_of_adapter, no_checkpoint
from models.checkpoint.tensor_map import Part, as_tensor, dotted, parts_of_parameters, tensors_of_parts
from models.config import ModelConfig
from models.decoder import Decoder
from models.errors import CheckpointError
from models.execution import execution_of
from models.families import config_from_hf
from models.files import read_json_object

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
_LOG = logging.getLogger(__name__)


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture of a checkpoint directory, from its `config.json`.

    Raises:
      CheckpointError: see `models.config_from_hf`; also no such file, or not JSON.
    """
    file = Path(directory) / "config.json"
    if not os.path.exists(file):  # False, too, for a name that is too long
        raise CheckpointError(
            f"{file}: no such file; expected a Hugging Face checkpoint directory{no_checkpoint(directory)}"
        )
    hf = read_json_object(file)
    try:
        config = config_from_hf(hf)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("config.json", str(file), 1)) from None
    return _untied(config, file.parent) if config.tie_word_embeddings else config


def _untied(config: ModelConfig, directory: Path) -> ModelConfig:
    """The config of a checkpoint whose head is another matrix than the embedding although the config ties them.

    transformers ties the two only where they are equal.
    """
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if config.head != "language_model" or not language_model.has_tensor(directory, head):
        return config
    stored = language_model.read_tensors(directory)
    if embedding not in stored or safetensors.equal(stored[head], stored[embedding]):
        return config
    _LOG.warning("%s: %s is not the embedding, although config.json ties them: it is used", directory, head)
    hf = json.loads(config.hf) | {"tie_word_embeddings": False}
    return dataclasses.replace(config, tie_word_embeddings=False, hf=json.dumps(hf, sort_keys=True))


def abstract(
    config: ModelConfig,
    dtype: Any = jnp.float32,
    stacked: bool = False,
    weights: str | None = None,
    outputs_first: bool = False,
) -> Decoder:
    """The decoder with `jax.ShapeDtypeStruct`s as weights: shapes, dtypes and axis names, no memory."""
    return Decoder(config, None, dtype, stacked, weights=weights, outputs_first=outputs_first)


def build(
    config: ModelConfig,
    seed: int = 0,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    stacked: bool | None = None,
    weights: str | None = None,
) -> Decoder:
    """A decoder with random weights that depend on the seed and not on the mesh; arguments as in `load`."""
    stacked = execution_of(config, mesh).stacked if stacked is None else stacked
    return Decoder(config, nnx.Rngs(seed), dtype, stacked, mesh, weights)


def load(
    path: str | Path,
    mesh: Mesh | None = None,
    dtype: Any = None,
    stacked: bool | None = None,
    max_length: int | None = None,
    weights: str | None = None,
    outputs_first: bool = False,
) -> Decoder:
    """Loads a Hugging Face checkpoint directory.

    Args:
      path: directory with `config.json` and safetensors.
      mesh: where to place the weights, by the rules of `models.sharding`; None: the default device. Each
        process reads only the bytes of the shards that its own devices hold.
      dtype: of the parameters and the computation; None: that of the checkpoint's config.
      stacked: one stacked layer instead of a list (see `Decoder`); None: as `models.execution_of` says.
      max_length: greatest length of a sequence in this run, in tokens. Dynamic and longrope frequencies
        depend on it and are fixed for the run; None: sequences stay within the length before scaling.
      weights: "int8" for weight-only int8 of the layers' projections (see `Decoder`), rounded tensor by
        tensor on the devices: about half the memory of bfloat16.
      outputs_first: the layout of kernels (see `Decoder`).

    Raises:
      CheckpointError: unsupported architecture or scaling; a missing, unexpected, truncated or wrongly shaped
        tensor; weights that are not finite; pickled weights.
    """
    directory = Path(path)
    config = read_config(directory)
    if max_length is not None:
        config = config.for_length(max_length)
    if (directory / ADAPTER).exists():
        _LOG.warning(
            "%s: beside the weights lies an adapter of %s, which is not applied",
            directory,
            base_of_adapter(directory),
        )
    stored = language_model.read_tensors(directory)
    _refuse_more_layers(config, stored, directory)
    dtype = jnp.dtype(config.dtype if dtype is None else dtype)
    execution = execution_of(config, mesh, dtype)
    stacked = execution.stacked if stacked is None else stacked
    graphdef, state = nnx.split(abstract(config, dtype, stacked, weights, outputs_first))
    variables = {dotted(key): variable for key, variable in nnx.to_flat_state(state)}
    shapes = {name: variable.shape for name, variable in variables.items()}
    parts = parts_of_parameters(config, shapes, _outputs_first(variables))
    check_tensors(config, tensors_of_parts(parts, shapes), stored, directory)
    arrays: dict[str, jax.Array] = {}
    for name, shares in parts.items():
        if shares:
            names = [name, scale_of(name)] if variables[name].dtype == jnp.int8 else [name]
            whole = execution.reads_stacks_whole
            found = read_parameter(shares, [variables[n] for n in names], stored, mesh, whole)
            arrays.update(zip(names, found))
    loaded = [(key, v.replace(arrays[dotted(key)])) for key, v in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _outputs_first(variables: dict[str, nnx.Variable]) -> set[str]:
    """Names of the kernels that lie by outputs."""
    return {name for name, variable in variables.items() if variable.get_metadata("outputs_first", False)}


def _refuse_more_layers(config: ModelConfig, stored: dict[str, safetensors.Tensor], directory: Path) -> None:
    """Raises CheckpointError if there are fewer tensors than layers and experts, before these are described."""
    experts = config.experts
    least = config.num_layers + (sum(experts.layers) * experts.num_experts if experts else 0)
    if len(stored) < least:
        raise CheckpointError(
            f"{directory}: config.json ({config.family}, {config.num_layers} layers) needs more than {least} tensors, "
            f"the weights have {len(stored)}"
        )


def scale_of(kernel: str) -> str:
    """The parameter that holds the scales of an int8 kernel."""
    return kernel.removesuffix("kernel") + "scale"


def check_tensors(
    config: ModelConfig,
    expected: dict[str, tuple[int, ...]],
    stored: dict[str, safetensors.Tensor],
    directory: Path,
) -> None:
    """Raises CheckpointError unless the checkpoint has exactly the tensors of the architecture."""
    needs = f"config.json ({config.family}, {config.num_layers} layers)"
    for name, shape in expected.items():
        if name not in stored:
            hint = (
                "; set tie_word_embeddings true if the embedding is the head"
                if name == "lm_head.weight"
                else ""
            )
            raise CheckpointError(
                f"{directory}: tensor {name!r} of shape {list(shape)} is missing; {needs} needs it{hint}"
            )
        tensor = stored[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name!r} has shape {list(tensor.shape)}, config.json needs "
                f"{list(shape)}"
            )
    for name, tensor in stored.items():
        if name in expected or RECOMPUTED.fullmatch(name):
            continue
        if name == "lm_head.weight" and config.head != "language_model":
            continue  # a reward model may keep the head of the language model that it was made from
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # equal to the embedding (`read_config`)
        raise CheckpointError(
            f"{tensor.file}: tensor {name!r} of shape {list(tensor.shape)} was not expected: {needs} has no "
            "place for it"
        )


def save(
    model: Decoder, path: str | Path, source: str | Path | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a Hugging Face directory that `models.load` and transformers read.

    In a cluster every process calls this, and the first one writes.

    Args:
      model: its weights are written in their dtype, its `config.hf` as `config.json` with that dtype.
      path: directory; made if absent.
      source: checkpoint directory to copy tokenizer, chat template and generation config from (`companions_of`).
      shard_bytes: greatest size of a file; more weights are split into shards with an index.

    Raises:
      ValueError: the weights are int8, which is a way to run a checkpoint and not a format.
    """
    if any(array.dtype == jnp.int8 for array in jax.tree.leaves(nnx.state(model))):
        raise ValueError(
            "int8 weights are not saved: load the checkpoint without weights='int8' and save that"
        )
    directory = Path(path)
    dtype = np.dtype(model.dtype)
    variables = {dotted(key): variable for key, variable in nnx.to_flat_state(nnx.state(model))}
    parameters = {name: variable[...] for name, variable in variables.items()}
    shapes = {name: array.shape for name, array in parameters.items()}
    parts = parts_of_parameters(model.config, shapes, _outputs_first(variables))
    files = plan_files(tensors_of_parts(parts, shapes), dtype, shard_bytes)
    if jax.process_index() > 0:
        for tensors in files.values():
            for _ in gather_tensors(tensors, parts, parameters):
                pass
        return
    directory.mkdir(parents=True, exist_ok=True)
    hf = json.loads(model.config.hf)
    hf.pop("torch_dtype", None)
    hf.setdefault("model_type", model.config.family)
    hf["dtype"] = dtype.name
    _anew(directory / "config.json").write_text(json.dumps(hf, indent=2, sort_keys=True) + "\n")
    for file in () if source is None else companions_of(source):
        shutil.copyfile(file, _anew(directory / file.name))
    for old in ("model.safetensors", "model.safetensors.index.json"):
        (directory / old).unlink(missing_ok=True)  # either would be read instead of the new files
    for file, tensors in files.items():
        entries = [(name, dtype, shape) for name, shape in tensors.items()]
        safetensors.write_file(_anew(directory / file), entries, gather_tensors(tensors, parts, parameters))
    if len(files) > 1:
        places = {name: file for file, tensors in files.items() for name in tensors}
        size = sum(array.nbytes for array in parameters.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _anew(file: Path) -> Path:
    """The path of a file that is written anew: a link in its place is taken away, and not written through."""
    if file.is_symlink():
        file.unlink()
    return file


def companions_of(source: str | Path) -> list[Path]:
    """The files of a checkpoint directory that belong to it beside config.json and the weights.

    They are copied into other checkpoints, so none may be a symbolic link out of the directory: that would copy a file
    of whoever runs this, which the checkpoint's author chose. The links of a Hugging Face cache, from
    `snapshots/REVISION` to `blobs` of the same repository, stay within it.

    Raises:
      CheckpointError: a link that leads elsewhere, or something that is not a file.
    """
    directory = Path(source).resolve()
    homes = [directory]
    if directory.parent.name == "snapshots":
        homes.append(directory.parent.parent / "blobs")
    found = []
    for name in COMPANIONS:
        file = directory / name
        if not file.exists():
            continue
        if not file.is_file():
            raise CheckpointError(f"{file}: is no file; expected one, or nothing of this name")
        if not any(file.resolve().is_relative_to(home) for home in homes):
            raise CheckpointError(
                f"{file}: a symbolic link out of the checkpoint's directory, to {file.resolve()}; put the file itself "
                "in its place"
            )
        found.append(file)
    return found


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
            block = parameters[path][part.index] if part.index else parameters[path]
            rows.append(as_tensor(to_host(block), part.entry))
        yield rows[0] if len(rows) == 1 else np.concatenate(rows)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole of an array, in every process; all of them ask for it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
