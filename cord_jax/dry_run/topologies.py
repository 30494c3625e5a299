"""TPU topologies to compile for, without owning one, and what their chips can do.

libtpu, which the extra `tpu` installs, holds the compiler; it needs no TPU. A topology is named by chip and
shape, `v5p:2x2x4` or `v6e:4x4`. One device is one chip: the two cores of a v4 or v5p chip work as one.
"""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from cord_jax.errors import UserError

EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:2x2x2, v5p:2x2x4, v6e:4x4"


@dataclasses.dataclass(frozen=True)
class Chip:
    """The abilities of one chip, as its maker publishes them.

    Attributes:
      name: as in the name of a topology.
      hbm_gb: memory, in GB as on the data sheet.
      usable_bytes: what the compiler of libtpu 0.0.42 lets a program use of it.
      bandwidth: of the memory, bytes per second.
      flops: dense bfloat16 operations per second.
      options: of `jax.experimental.topologies.get_topology_desc`.
    """

    name: str
    hbm_gb: int
    usable_bytes: float
    bandwidth: float
    flops: float
    options: tuple[tuple[str, str], ...] = ()


_GIB = 2**30
# Memory, its bandwidth and FLOP/s: cloud.google.com/tpu/docs, the pages v4, v5e, v5p and v6e ("key
# specifications"; the page on v5e also rounds its bandwidth to 800 GB/s, that on v6e to 1600).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32, 30.75 * _GIB, 1228e9, 275e12, (("chip_config_name", "megacore"),)),
        Chip("v5e", 16, 15.75 * _GIB, 819e9, 197e12),
        Chip("v5p", 95, 95.74 * _GIB, 2765e9, 459e12),
        Chip("v6e", 32, 31.25 * _GIB, 1640e9, 918e12),
    )
}


def describe(name: str) -> tuple[Chip, list[jax.Device]]:
    """The chip of a topology, and its devices, for `parse_mesh`. They compile and do not compute.

    Raises: `UserError` if libtpu is not installed, or knows no such topology.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", name)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology={name}: no chip and shape; chips are {', '.join(CHIPS)}, as in {EXAMPLES}"
        )
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(
            f"--topology={name}: libtpu, the TPU's compiler, is not installed; it comes with the extra tpu: "
            "pip install -e '.[tpu]'"
        )
    chip = CHIPS[match[1]]
    # Without these libtpu looks for a TPU host, and locks out other processes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{chip.name}-{_chips(match[2])}")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options = dict(chip.options)
    if _chips(match[2]) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # jax and libtpu raise several kinds
        reason = " ".join(str(error).split())
        raise UserError(
            f"--topology={name}: libtpu takes no such shape ({reason[:160]}); as in {EXAMPLES}"
        ) from None
    return chip, list(found.devices)


def _chips(shape: str) -> int:
    count = 1
    for size in shape.split("x"):
        count *= int(size)
    return count
