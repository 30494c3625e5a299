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
from jax.sharding import Mesh, NamedSharding

from cord_jax.dry_run.abstract import AbstractSearch, Compiled, abstract_search, compile_program
from cord_jax.dry_run.costs import Work
from cord_jax.engine.plan import SearchSettings
from cord_jax.pool import PoolSpec
from cord_jax.search import commits
from cord_jax.search.commits import Branches, Chosen
from cord_jax.search.exchange import candidate_shapes
from cord_jax.search.jax_tools import data_specs
from cord_jax.search.proposals import propose
from cord_jax.search.slots import SubBatch


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
    rows = plan.shards.count * plan.shards.rows
    given = _cut(search, candidate_shapes(plan, len(search.exchange.vocabularies), rows))

    def write_scores(constants, state, batch, given):
        score_rj = plan.scorer(plan, constants, state, batch, given).score_rj
        first_nj = score_rj[jnp.arange(state.tree.score_nmj.shape[0]) % score_rj.shape[0]]
        score_nmj = state.tree.score_nmj.at[:, 0].set(first_nj)
        return dataclasses.replace(state, tree=dataclasses.replace(state.tree, score_nmj=score_nmj))

    program = jax.jit(functools.partial(plan.shards.each, write_scores), donate_argnums=1)
    return program.lower(search.constants, search.state, _batch(search), given)


def lower_commit(search: AbstractSearch, reader: int) -> jax.stages.Lowered:
    """The commit of a sub-batch's chosen steps by a reader that reads them itself."""
    plan = search.plan
    rows, places = plan.shards.count * plan.shards.rows, plan.places
    of_place = jax.ShapeDtypeStruct((rows, places), jnp.int32)
    of_row = jax.ShapeDtypeStruct((rows,), jnp.bool_)
    chosen = Chosen(
        length_rb=of_place,
        token_rbt=jax.ShapeDtypeStruct((rows, places, plan.read_width), jnp.int32),
        cue_rb=of_place,
        permanent_r=of_row,
        shared_r=of_row,
    )
    branches = Branches(
        node_rb=of_place,
        lineage_rbi=jax.ShapeDtypeStruct((rows, places, plan.nodes), jnp.bool_),
        keeps_ri=jax.ShapeDtypeStruct((rows, plan.nodes), jnp.bool_),
    )

    def append(constants, state, batch, chosen, branches):
        return commits.append(plan.readers[reader], constants, state, plan.shards, batch, chosen, branches)[0]

    program = functools.partial(plan.shards.each, append)
    jitted = jax.jit(program, donate_argnums=1, out_shardings=search.sharding.readers[reader])
    return jitted.lower(
        search.constants[reader],
        search.state.readers[reader],
        _batch(search),
        _cut(search, chosen),
        _cut(search, branches),
    )


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


def _batch(search: AbstractSearch) -> SubBatch:
    """A sub-batch of every shard."""
    rows = search.plan.shards.count * search.plan.shards.rows
    batch = SubBatch(jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows,), jnp.bool_))
    return _cut(search, batch)


def _cut(search: AbstractSearch, shapes):
    """Shapes with the shardings that they have in a round."""
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(search.mesh, spec)),
        shapes,
        data_specs(shapes),
    )
