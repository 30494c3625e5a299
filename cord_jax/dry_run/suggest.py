"""Meshes and slots that suit a topology: arithmetic over the few candidates; compiling decides.

The best are those that write the most tokens a second, as far as reading weights, keys and values allows,
among those that leave room for what a pass computes on the way.
"""

import dataclasses
from collections.abc import Sequence

import jax

from cord_jax.dry_run.abstract import AbstractSearch, abstract_search
from cord_jax.dry_run.costs import decode_token
from cord_jax.dry_run.topologies import Chip
from cord_jax.engine.limits import bytes_per_device
from cord_jax.engine.plan import SearchSettings
from cord_jax.errors import UserError
from cord_jax.mesh import parse_mesh
from cord_jax.pool import PoolSpec

_SLOTS = (1, 2, 4, 8, 16, 32, 64)  # of a data shard


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh with slots, as arithmetic sees it.

    Attributes:
      mesh: as text; slots: of the whole mesh.
      held: bytes of one device that weights and state take.
      working: bytes of one device that the largest pass needs beside them, about.
      tokens_per_second: that all rows write together at most.
    """

    mesh: str
    slots: int
    held: float
    working: float
    tokens_per_second: float

    def fits(self, chip: Chip) -> bool:
        """Whether the chip has room, as far as arithmetic can tell."""
        return self.held + self.working <= chip.usable_bytes


def working_bytes(search: AbstractSearch) -> float:
    """About what the scoring pass or a commit needs beside weights and state, on one device.

    The keys and values and the hidden states of the packed text, and two arrays of attention logits of a chunk in
    float32, over the greatest block of a pool.
    """
    plan, largest = search.plan, 0.0
    closing = search.state.closings.token_na.shape[1]
    for index, (config, reader, state) in enumerate(zip(search.configs, plan.readers, search.state.readers)):
        forks = plan.score_group if index == plan.meta else plan.places
        width = plan.shards.rows * forks * (plan.step_width + closing)
        token = bytes_per_device(state.pool) * plan.shards.count / plan.slots / reader.columns
        leaf = jax.tree.leaves(state.pool)[0]
        split = search.mesh.shape["model"] if "model" in leaf.sharding.spec else 1
        logits = 4 * config.num_heads * reader.execution.chunk * max(reader.blocks) / split
        largest = max(largest, width * (token + 2 * config.hidden_size) + 2 * logits)
    return largest


def candidates(
    spec: PoolSpec, settings: SearchSettings, chip: Chip, devices: Sequence[jax.Device]
) -> list[Candidate]:
    """All meshes of `data` and `model` over the devices, with the most slots that fit; the best first.

    A mesh on which not even one slot of each data shard fits comes last, with that.
    """
    found = []
    for model in (size for size in range(1, len(devices) + 1) if len(devices) % size == 0):
        data = len(devices) // model
        text = f"data:{data},model:{model}"
        mesh = parse_mesh(text, devices)
        best = None
        for slots in _SLOTS:
            search = abstract_search(spec, dataclasses.replace(settings, slots=slots * data), mesh)
            candidate = _judge(search, text, chip)
            if best is None or candidate.fits(chip):
                best = candidate
            if not candidate.fits(chip):
                break
        found.append(best)
    return sorted(found, key=lambda c: (not c.fits(chip), -c.tokens_per_second))


def best_of(found: Sequence[Candidate], chip: Chip) -> Candidate:
    """The best that fits, of what `candidates` found.

    Raises: `UserError` if nothing fits.
    """
    good = [candidate for candidate in found if candidate.fits(chip)]
    if good:
        return good[0]
    least = min(found, key=lambda c: c.held + c.working)
    need = (least.held + least.working) / 2**30
    raise UserError(
        f"chips of {chip.name} have {chip.usable_bytes / 2**30:.1f} GiB to use, and {least.mesh} with "
        f"{least.slots} slots needs {need:.1f} GiB, the least of all; take a larger topology, or lower "
        "--max_thinking_tokens or --beam_width"
    )


def _judge(search: AbstractSearch, mesh: str, chip: Chip) -> Candidate:
    plan = search.plan
    held = bytes_per_device((search.constants, search.state))
    writers = [index for index, reader in enumerate(plan.readers) if reader.proposers]
    seconds = sum(decode_token(search, index).seconds(chip) for index in writers)
    rows = plan.slots * plan.candidates
    return Candidate(mesh, plan.slots, held, working_bytes(search), rows / seconds)
