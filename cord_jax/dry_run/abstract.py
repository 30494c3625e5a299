"""The programs of a search, compiled for devices that need not be there, from `config.json` files alone.

The plan, the constants and the state are those of `Engine`, as shapes with shardings. Where a checkpoint has
a tokenizer its tables are made; where it has none, `STAND_IN` says what is assumed of them.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.engine.engine import exchange_rules
from cord_jax.engine.plan import ProblemSizes, ReaderParts, SearchSettings, plan_judging, plan_search
from cord_jax.engine.programs import advance_program
from cord_jax.engine.tables import Tables, make_tables
from cord_jax.engine.teachers import ReaderKey, distinct_readers, sampling_of
from cord_jax.pool import PoolSpec
from cord_jax.search import loop
from cord_jax.search.exchange import Exchange, ReaderText
from cord_jax.search.readers import JudgingTables, ReaderConstants
from cord_jax.search.state import SearchPlan, SearchState, state_shardings
from cord_jax.search.texts import SearchTexts
from cord_jax.text.vocabulary import Vocabulary
from models.sharding import parameter_shardings

# Problems as long as those of competitions: a prompt of 1,024 tokens, one form of the answer.
PROBLEMS = ProblemSizes(prompt_width=1024, closing_width=64, scored_width=32, num_forms=1)


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """Sizes of a vocabulary's tables; none of the families' own vocabularies needs more.

    states, classes: of the boundary automaton. cue_width: tokens of a step's heading.
    """

    states: int = 512
    classes: int = 768
    cue_width: int = 8


STAND_IN = _StandIn()


@dataclasses.dataclass(frozen=True)
class AbstractSearch:
    """A search as shapes.

    Attributes:
      plan: what is static; constants, state: arrays as shapes with shardings; sharding: of the state.
      exchange: never called.
      mesh: its devices.
      keys: what each reader reads; configs: their architectures.
      with_tokenizer: whether each reader's tables are its own vocabulary's.
    """

    plan: SearchPlan
    constants: tuple[ReaderConstants, ...]
    state: SearchState
    sharding: SearchState
    exchange: Exchange
    mesh: Mesh
    keys: tuple[ReaderKey, ...]
    configs: tuple[models.ModelConfig, ...]
    with_tokenizer: tuple[bool, ...]


@functools.cache
def _tables(checkpoint, width: int, segmentation: str, max_steps: int) -> tuple[Tables, str | None]:
    """A vocabulary's tables as shapes, and its fingerprint; stand-ins and None without a tokenizer."""
    if (checkpoint / "tokenizer.json").exists():
        vocabulary = Vocabulary.load(checkpoint)
        tables = make_tables(vocabulary, width, segmentation, max_steps)
        return dataclasses.replace(tables, arrays=_shapes(tables.arrays)), vocabulary.fingerprint
    states, classes = STAND_IN.states, STAND_IN.classes
    integers = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    flags = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bool_)
    arrays = dict(
        token_class_v=integers((width,)),
        table_uc=integers((states, classes)),
        done_u=flags((states,)),
        defined_v=flags((width,)),
        eos_v=flags((width,)),
        cue_xt=integers((max_steps + 2, STAND_IN.cue_width)),
        cue_length_x=integers((max_steps + 2,)),
    )
    return Tables(arrays, 0, states - 1), None


def _judging_tables(width: int) -> JudgingTables:
    """The tables of a meta-prover who writes judgments, as shapes."""
    return JudgingTables(
        jax.ShapeDtypeStruct((width,), jnp.bool_),
        jax.ShapeDtypeStruct((STAND_IN.cue_width,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )


def _shapes(tree: Any, shardings: Any = None) -> Any:
    """Arrays as shapes, with shardings if they are given (a tree, or one for all)."""
    if shardings is None:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def abstract_search(
    spec: PoolSpec,
    settings: SearchSettings,
    mesh: Mesh,
    problems: ProblemSizes = PROBLEMS,
    layers: int | None = None,
) -> AbstractSearch:
    """The search that `Engine` would lay out on a mesh, of which nothing is allocated.

    Args:
      layers: cut every model to so many layers and do not stack them, to count what one layer costs.

    Raises: `models.CheckpointError` or `UserError` if a checkpoint's files cannot be read.
    """
    used, meta = distinct_readers(spec)
    configs = [models.read_config(key.checkpoint) for key in used]
    if layers is not None:
        configs = [cut(config, layers) for config in configs]
    parts, constants, names = [], [], []
    replicated = NamedSharding(mesh, PartitionSpec())
    for (key, proposers), config in zip(used.items(), configs):
        execution = models.execution_of(config, mesh, key.dtype, decodes=True)
        if layers is not None:
            execution = dataclasses.replace(execution, stacked=False)
        dtype, layout = key.dtype or config.dtype, (execution.stacked, key.weights, execution.outputs_first)
        model = models.abstract(config, jnp.dtype(dtype), *layout)
        tables, fingerprint = _tables(
            key.checkpoint, config.vocab_size, settings.segmentation, settings.max_steps
        )
        names.append(fingerprint or f"unknown: {key.checkpoint}")
        vocabulary = list(dict.fromkeys(names)).index(names[-1])
        sampling = sampling_of(spec, proposers)
        parts.append(ReaderParts(model, execution, vocabulary, proposers, sampling, tables))
        _, weights = nnx.split(model)
        constants.append(
            ReaderConstants(
                weights=_shapes(weights, parameter_shardings(weights, mesh)),
                **_shapes(tables.arrays, replicated),
            )
        )
    judging = plan_judging(settings.scorer, spec.meta_prover)
    if judging is not None:
        constants[meta] = dataclasses.replace(
            constants[meta], judging=_shapes(_judging_tables(configs[meta].vocab_size), replicated)
        )
    plan = plan_search(parts, meta, settings, problems, mesh, judging=judging)
    exchange = Exchange(
        [None] * len(set(names)),  # it is never called, only counted
        [ReaderText(reader.vocabulary, reader.proposers) for reader in plan.readers if reader.proposers],
        exchange_rules(plan, settings),
        SearchTexts(plan.num_proposers, plan.candidates),
    )
    state = jax.eval_shape(functools.partial(loop.empty_state, plan, sizes=problems), tuple(constants))
    sharding = state_shardings(state, mesh)
    return AbstractSearch(
        plan,
        tuple(constants),
        _shapes(state, sharding),
        sharding,
        exchange,
        mesh,
        tuple(used),
        tuple(configs),
        tuple(not name.startswith("unknown") for name in names),
    )


def cut(config: models.ModelConfig, layers: int) -> models.ModelConfig:
    """The architecture with its first `layers` layers only."""
    windows, experts = config.sliding_windows, config.experts
    return dataclasses.replace(
        config,
        num_layers=layers,
        sliding_windows=None if windows is None else windows[:layers],
        experts=None if experts is None else dataclasses.replace(experts, layers=experts.layers[:layers]),
    )


def lower_round(abstract: AbstractSearch) -> jax.stages.Lowered:
    """The search itself: rounds of proposing, exchange, scoring, selection and commits."""
    program = advance_program(abstract.plan, abstract.exchange, abstract.sharding)
    return program.lower(abstract.constants, abstract.state, np.int32(1))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a compiled program runs.

    Attributes:
      arguments: what it is given, weights and state.
      outputs: what it returns beyond the arguments that it overwrites.
      temporaries: what it computes on the way.
      code: the program.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.outputs + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program, compiled.

    Attributes:
      memory: of one device; None if the compiler gave up for want of it.
      refusal: the compiler's words in that case.
      flops, bytes: the compiler's count for one device, every loop's body counted once.
      seconds: to trace, lower and compile it.
    """

    memory: Memory | None
    refusal: str
    flops: float
    bytes: float
    seconds: float

    def fits(self, usable_bytes: float) -> bool:
        """Whether a device of so much memory can run it."""
        return self.memory is not None and self.memory.total <= usable_bytes


def compile_program(lower: Callable[[], jax.stages.Lowered]) -> Compiled:
    """Compiles what `lower` gives, and says what it takes. Only want of memory is no exception."""
    start = time.perf_counter()
    try:
        with _not_kept():
            compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).removeprefix("RESOURCE_EXHAUSTED:").split())
        return Compiled(None, reason[:300], 0.0, 0.0, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    found, cost = compiled.memory_analysis(), compiled.cost_analysis()
    memory = Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        found.generated_code_size_in_bytes,
    )
    return Compiled(memory, "", cost.get("flops", 0.0), cost.get("bytes accessed", 0.0), seconds)


@contextlib.contextmanager
def _not_kept():
    """Keeps programs out of the cache on disk, which cannot read those of devices that are not there."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
