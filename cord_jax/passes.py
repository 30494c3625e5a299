"""The passes of a round as programs of their own, and the compiler's count of what each costs.

The compiler counts the body of a loop once, so a scan over layers would count one layer. Each pass is
therefore compiled with one and with two layers that are not stacked, and the difference is a layer. Loops
over tokens and chunks count once all the same: what is counted is one token, one chunk.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cord_jax import commits, settling
from cord_jax.commits import Chosen
from cord_jax.compilation import AbstractSearch, Compiled, abstract_search, compile_program
from cord_jax.costs import Work
from cord_jax.planning import SearchSettings
from cord_jax.pool import PoolSpec
from cord_jax.proposals import propose
from cord_jax.settling import Candidates


def lower_decode(search: AbstractSearch, reader: int) -> jax.stages.Lowered:
    """A reader's token loop."""
    plan = search.plan

    def write(constants, state):
        return propose(plan.readers[reader], plan.shards, constants, state, plan.quantum)[0]

    program = functools.partial(plan.shards.each, write)
    jitted = jax.jit(program, donate_argnums=1, out_shardings=search.sharding.readers[reader])
    return jitted.lower(search.constants[reader], search.state.readers[reader])


def lower_scoring(search: AbstractSearch, reader: int) -> jax.stages.Lowered:
    """The scoring pass of a sub-batch by the meta-prover, which is `reader`."""
    plan = search.plan
    row = functools.partial(_row, search)
    candidates, vocabularies = plan.candidates, len(search.exchange.vocabularies)
    across = NamedSharding(search.mesh, PartitionSpec(None, "data"))
    rows = plan.shards.count * plan.shards.rows
    lengths = jax.ShapeDtypeStruct((vocabularies, rows, candidates), jnp.int32, sharding=across)
    given = Candidates(
        token_urjt=jax.ShapeDtypeStruct((*lengths.shape, plan.step_width), jnp.int32, sharding=across),
        length_urj=lengths,
        ended_rj=row((candidates,), jnp.int8),
        dropped_rj=row((candidates,), jnp.int8),
        concluded_rj=row((candidates,), jnp.bool_),
        sampled_rj=row((candidates,), jnp.int32),
    )

    def write_scores(constants, state, slot_r, valid_r, given):
        score_rj, _ = settling.score(plan, constants, state, slot_r, valid_r, given)
        score_nb = score_rj[jnp.arange(state.score_nb.shape[0]) % score_rj.shape[0], : plan.num_beams]
        return dataclasses.replace(state, score_nb=score_nb)

    program = jax.jit(functools.partial(plan.shards.each, write_scores), donate_argnums=1)
    return program.lower(search.constants[reader], search.state, row(), row((), jnp.bool_), given)


def lower_commit(search: AbstractSearch, reader: int) -> jax.stages.Lowered:
    """The commit of a sub-batch's chosen steps by a reader that reads them itself."""
    plan = search.plan
    row, beams = functools.partial(_row, search), (plan.num_beams,)
    chosen = Chosen(
        slot_r=row(),
        valid_r=row((), jnp.bool_),
        parent_rb=row(beams),
        length_rb=row(beams),
        token_rbt=row((plan.num_beams, plan.step_width)),
        cue_rb=row(beams),
        permanent_r=row((), jnp.bool_),
    )

    def append(constants, state, chosen):
        return commits.append(plan.readers[reader], constants, state, plan.shards, chosen, chunk=plan.chunk)[0]

    program = functools.partial(plan.shards.each, append)
    jitted = jax.jit(program, donate_argnums=1, out_shardings=search.sharding.readers[reader])
    return jitted.lower(search.constants[reader], search.state.readers[reader], chosen)


def counted(
    lower: Callable[[AbstractSearch, int], jax.stages.Lowered],
    spec: PoolSpec,
    settings: SearchSettings,
    mesh: Mesh,
    reader: int,
    layers: int,
) -> Work | None:
    """The compiler's count of a pass of one device, for a model of `layers` layers that are alike.

    None if even a cut model does not fit.
    """
    one, two = (_compiled(lower, spec, settings, mesh, reader, number) for number in (1, 2))
    if one.memory is None or two.memory is None:
        return None
    more = layers - 1
    return Work(
        one.flops + more * (two.flops - one.flops),
        one.bytes + more * (two.bytes - one.bytes),
    )


def _compiled(lower, spec, settings, mesh, reader, layers) -> Compiled:
    search = abstract_search(spec, settings, mesh, layers=layers)
    return compile_program(lambda: lower(search, reader))


def _row(search: AbstractSearch, shape: tuple[int, ...] = (), dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    """An array with a row for each row of a sub-batch, spread over `data`."""
    rows = search.plan.shards.count * search.plan.shards.rows
    sharding = NamedSharding(search.mesh, PartitionSpec("data"))
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

