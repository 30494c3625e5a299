"""Adapters of a decoder (`models.lora`) as a directory that PEFT loads onto the checkpoint they belong to.

A projection that a checkpoint keeps in one tensor with others (Phi's `qkv_proj`) has one pair of matrices there: A stacks
those of the parts, and B holds theirs as blocks, so that each part adds what it did. Their rank is that of all parts
together, and so is alpha, which leaves alpha / rank as it was.
"""

import json
from pathlib import Path

import jax
import numpy as np
import scipy.linalg
from flax import nnx

from models.checkpoint import safetensors
from models.checkpoint.load_save import to_host
from models.checkpoint.tensor_map import Part, dotted, parts_of_parameters
from models.decoder import Decoder
from models.layers import MLP, Linear

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def fits_peft(model: Decoder) -> bool:
    """Whether PEFT can hold the adapters.

    It takes those of a mixture's dense feed-forwards for adapters of experts, and names modules of a multimodal
    checkpoint otherwise.
    """
    dense = any(isinstance(module, MLP) for _, module in nnx.iter_modules(model))
    return not model.config.multimodal and (model.config.experts is None or not dense)


def save_adapters(model: Decoder, path: str | Path, base: str, rank: int, alpha: float) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, under the names that PEFT gives them.

    In a cluster every process calls this, and the first one writes.

    Args:
      model: a decoder with adapters that `fits_peft`.
      path: directory; made if absent.
      base: the checkpoint that they are added to, as the configuration names it.
      rank, alpha: as they were attached with.
    """
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for module, parts in _modules(model).items():
        pairs = [_matrices(linear, index) for linear, index in parts]
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.concatenate([a_ri for a_ri, _ in pairs])
        tensors[f"base_model.model.{module}.lora_B.weight"] = scipy.linalg.block_diag(
            *(b_or for _, b_or in pairs)
        )
        ranks[module] = len(pairs) * rank
    if jax.process_index() > 0:
        return
    short = {module.rpartition(".")[2]: of_all for module, of_all in ranks.items()}
    fused = {name: of_all for name, of_all in short.items() if of_all != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(short),
        "rank_pattern": fused,
        "alpha_pattern": {name: of_all // rank * alpha for name, of_all in fused.items()},
    }
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    entries = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    safetensors.write_file(directory / WEIGHTS, entries, tensors.values())


def _modules(model: Decoder) -> dict[str, list[tuple[Linear, tuple[int, ...]]]]:
    """The adapted projections that make up each module of the checkpoint, in the order of its rows, each with its place
    along the axis of layers.
    """
    linears = {
        f"{dotted(path)}.kernel": linear
        for path, linear in nnx.iter_modules(model)
        if isinstance(linear, Linear) and linear.lora_a is not None
    }
    shapes = {name: linear.kernel.shape for name, linear in linears.items()}
    outputs_first = {name for name, linear in linears.items() if linear.outputs_first}
    places: dict[str, list[tuple[str, Part]]] = {}
    for name, parts in parts_of_parameters(model.config, shapes, outputs_first).items():
        for part in parts:
            places.setdefault(part.name.removesuffix(".weight"), []).append((name, part))
    return {
        module: [(linears[name], part.index) for name, part in sorted(parts, key=lambda place: place[1].row)]
        for module, parts in sorted(places.items())
    }


def _matrices(linear: Linear, index: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A [rank, inputs] and B [outputs, rank] of a projection."""
    a, b = (to_host(matrix[...][index]) for matrix in (linear.lora_a, linear.lora_b))
    rank = a.shape[-1]
    return a.reshape(-1, rank).T, b.reshape(rank, -1).T
