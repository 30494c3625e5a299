"""Meshes of devices, and jobs of several processes.

A mesh has the axes `data` (problems, or a batch's rows), `model` (heads and features) and, for training,
`fsdp` (parameters spread over the data-parallel devices). It is written as text: `data:2,model:4`, where one
size may be -1, "the devices that are left". Axes are of type Auto: the compiler propagates shardings from the
parameters' and the state's, and a contraction over a sharded axis needs no annotation of its own.
"""

import math
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh

from cord_jax import processes
from cord_jax.errors import UserError
from cord_jax.mesh_text import parse_sizes


def parse_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `text` describes, with every axis of `mesh_text.AXES` that it names, and `data` and `model` always.

    Args:
      text: `axis:size` pairs joined by commas, in any order; at most one size is -1.
      devices: the devices to use; all of the job's by default. One process may use the first few of its
        devices; a job of several processes uses all of them.

    Raises: `UserError` for text that is no mesh, and for one that does not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = parse_sizes(text)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        if len(devices) % fixed:
            raise UserError(
                f"--mesh={text}: {len(devices)} devices do not divide by {fixed}; "
                "give sizes whose product divides them"
            )
        sizes = {axis: len(devices) // fixed if size == -1 else size for axis, size in sizes.items()}
    count = math.prod(sizes.values())
    if count > len(devices):
        raise UserError(
            f"--mesh={text}: asks for {count} devices and there are {len(devices)}; "
            "give smaller sizes, or -1 for the rest"
        )
    if count < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"--mesh={text}: uses {count} of {len(devices)} devices, and a job of several processes "
            "must use all; give one size as -1"
        )
    # An axis may take part of a dimension of a slice, data:2,model:8 of 4x4 chips say; jax.make_mesh may not.
    laid_out = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices[:count], allow_split_physical_axes=True
    )
    return Mesh(laid_out, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def device_name(mesh: Mesh) -> str:
    """The mesh's devices in words, for instance "8 x TPU v5 lite"."""
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def split_cpu(text: str) -> None:
    """Makes a CPU as many devices as mesh `text` asks for, before anything touches a device.

    XLA runs most of a program of one device on one core, so a search of as many data shards as there are cores is
    faster. Other devices stay as they are, and so does a CPU that XLA_FLAGS divides, or of a mesh with a size of -1.

    Raises: `UserError` for text that is no mesh.
    """
    count = math.prod(parse_sizes(text).values())
    if count > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def join_processes(how: str) -> None:
    """Makes this process one of a job of several, before anything else touches a device.

    Args:
      how: `none` (a job of its own), `auto` (a TPU pod, Slurm or Open MPI says who the others are), or
        `HOST:PORT,COUNT,INDEX`: the address of process 0, the number of processes and this one's
        index from 0.

    A process that no longer answers ends the others within `processes.HEARTBEAT_SECONDS`, each with one line.

    Raises: `UserError` if the text is none of these or the environment says nothing.
    """
    if how == "none":
        return
    if how == "auto":
        processes.watch_errors()
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=processes.HEARTBEAT_SECONDS)
        except ValueError as error:
            raise UserError(
                f"--distributed=auto: no cluster was recognised ({_one_line(error)}); "
                "give HOST:PORT,COUNT,INDEX"
            ) from None
        return
    address, _, numbers = how.partition(",")
    count, _, index = numbers.partition(",")
    if not (
        address.rpartition(":")[2].isdigit()
        and count.isdigit()
        and index.isdigit()
        and int(index) < int(count)
    ):
        raise UserError(
            f"--distributed={how}: give none, auto, or HOST:PORT,COUNT,INDEX with INDEX below COUNT"
        )
    processes.watch_errors()
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=int(count),
        process_id=int(index),
        heartbeat_timeout_seconds=processes.HEARTBEAT_SECONDS,
    )


def from_process_0(array: np.ndarray) -> np.ndarray:
    """Process 0's array, in all processes; each gives one of the same shape and type.

    Only process 0 sees the output directory, and all must agree on what is left to do.
    """
    return np.asarray(multihost_utils.broadcast_one_to_all(array)) if jax.process_count() > 1 else array


def text_from_process_0(text: Callable[[], str]) -> str | None:
    """Process 0's text, in all processes; None if there is but one, which needs none.

    Args:
      text: makes it; called in process 0 alone.
    """
    if jax.process_count() == 1:
        return None
    data = text().encode() if jax.process_index() == 0 else b""
    length = int(from_process_0(np.array(len(data))))
    return bytes(from_process_0(np.frombuffer(data.ljust(length, b" "), np.uint8)[:length])).decode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
