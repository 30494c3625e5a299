"""What must not change a trace: slots, quanta, capacities, devices; and what the compiled search
looks like.
"""

import dataclasses
import gc
import json
import weakref

import jax
import jax.numpy as jnp
import pytest

from cord_jax.dry_run.abstract import abstract_search
from cord_jax.mesh import parse_mesh
from cord_jax.methods import search_of
from cord_jax.pool import read_pool
from cord_jax.search.loop import due
from cord_jax.search.round_record import SettledRound
from cord_jax.search.state import SEARCHING
from models.attention.tree_blocks import TreeBlocks
from models.attention.tree_pieces import TreePieces
from tests.reference.tiny import PROBLEMS, write_pool
from tests.search.inputs import LIMITS, changed, make_engine, outcomes, write_inputs


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Inputs of a run with sampling, so that the random keys matter too."""
    directory = tmp_path_factory.mktemp("pool")
    pool = write_pool(directory, 3)
    proposers = tuple(dataclasses.replace(p, temperature=0.7) for p in pool.proposers)
    write_inputs(directory, dataclasses.replace(pool, proposers=proposers), PROBLEMS)
    return directory


@pytest.fixture(scope="module")
def first_run(directory):
    """Its outcomes, and a weak reference to the engine, which nobody else holds."""
    engine = make_engine(directory, slots=1)
    return outcomes(engine), weakref.ref(engine)


@pytest.fixture(scope="module")
def expected(first_run):
    return first_run[0]


def test_a_search_that_is_over_gives_its_memory_back(first_run):
    """What jax keeps of a compiled search, its callback too, must not hold weights and caches."""
    gc.collect()
    assert first_run[1]() is None


@pytest.mark.slow
def test_slots_and_quantum_change_nothing(directory, expected):
    assert outcomes(make_engine(directory, slots=3, quantum=5)) == expected


def test_what_is_due_and_does_not_fit_comes_next(directory):
    settings = search_of(**LIMITS | {"slots": 6})
    shapes = abstract_search(read_pool(directory / "pool.toml"), settings, parse_mesh("data:1,model:1"))
    assert shapes.plan.shards.rows == 4
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.state)
    clock = dataclasses.replace(state.clock, phase_n=jnp.full(6, SEARCHING))
    state = dataclasses.replace(state, clock=clock)
    state, now = due(shapes.plan, state)
    assert now.ready_r.all() and now.left_y.all()
    settled_n1 = jnp.isin(jnp.arange(6), now.slot_r)[:, None]
    first, *others = state.readers
    writing = dataclasses.replace(first.rows, running_nq=first.rows.running_nq | settled_n1)
    state = dataclasses.replace(state, readers=(dataclasses.replace(first, rows=writing), *others))
    _, then = due(shapes.plan, state)
    assert set(then.slot_r[then.ready_r].tolist()) == set(range(6)) - set(now.slot_r.tolist())
    assert not then.left_y.any()


@pytest.mark.parametrize("stacked", [False, True], ids=["listed", "stacked"])
@pytest.mark.slow
def test_forced_compaction_changes_nothing(directory, expected, stacked):
    size = 32
    attention = TreeBlocks() if stacked else TreePieces(size)  # as on a TPU, as on a CPU
    execution_of = changed(stacked=stacked, tree=attention, chunk=size)
    engine = make_engine(directory, slots=3, execution_of=execution_of)
    assert all(reader.execution.stacked == stacked for reader in engine.plan.readers)
    prompt = engine.plan.readers[0].columns - 4 * engine.plan.step_width - 70 - 12
    number = -(-(prompt + 110) // size)
    # Regions as small as a chunk: blocks, or pieces of a single one.
    blocks = (size,) * number if stacked else (size * number,)
    tight = tuple(dataclasses.replace(reader, blocks=blocks) for reader in engine.plan.readers)
    engine.lay_out(dataclasses.replace(engine.plan, readers=tight))
    assert outcomes(engine) == expected


@pytest.mark.slow
def test_capacities_grow_when_they_are_too_small(directory, expected):
    engine = make_engine(directory, slots=2, execution_of=changed(chunk=8))
    small = tuple(dataclasses.replace(reader, blocks=(128,)) for reader in engine.plan.readers)
    engine.lay_out(dataclasses.replace(engine.plan, readers=small, step_width=8, read_width=16))
    before = engine.plan
    assert outcomes(engine) == expected
    assert engine.plan.step_width > before.step_width and engine.plan.read_width > before.read_width


@pytest.mark.slow
def test_an_interrupted_search_goes_on_from_its_journal(directory, expected):
    recorded = {}

    def record(settled):
        for problem, step, candidates in settled:
            row = json.loads(json.dumps(candidates.to_row("id", step)))
            recorded.setdefault(problem, []).append(SettledRound.from_row(row))

    run = make_engine(directory, slots=3, quantum=5).run(range(3), on_settled=record, max_rounds=1)
    next(run)  # one problem is done; the others are interrupted where they are
    assert len([problem for problem, steps in recorded.items() if len(steps) >= 2]) >= 2
    assert outcomes(make_engine(directory, slots=2), recorded) == expected


@pytest.mark.parametrize(
    "mesh",
    [
        "data:2,model:2",
        pytest.param("data:8,model:1", marks=pytest.mark.slow),
        pytest.param("data:1,model:4", marks=pytest.mark.slow),
    ],
)
def test_devices_change_nothing(directory, expected, mesh):
    engine = make_engine(directory, mesh, slots=4)
    if mesh == "data:2,model:2":
        assert {reader.execution.split for reader in engine.plan.readers} == {"heads", "columns"}
    assert outcomes(engine) == expected


@pytest.mark.slow
def test_long_answers_are_written_in_pieces(directory):
    whole = outcomes(make_engine(directory, slots=3, max_step_tokens=20, max_answer_tokens=20))
    pieces = outcomes(make_engine(directory, slots=3, max_step_tokens=20, max_answer_tokens=50))
    lengths = [len(pieces[problem][5]) for problem in pieces]
    assert max(lengths) > 20
    for problem in pieces:
        assert pieces[problem][5][:20] == whole[problem][5][:20]
        assert pieces[problem][:5] == whole[problem][:5]


def enclosing_loops(text: str, operation: str) -> list[int]:
    """For each `operation` of a lowered module's main function, how many while loops it lies in."""
    main = text[text.index("func.func public @main") :]
    main = main[: main.index("func.func private")]
    open_loops, found = [], []
    for line in main.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.lstrip().startswith(("}", "cond {")):
            open_loops = [at for at in open_loops if at < indent]
        if operation in line:
            found.append(len(open_loops))
        if "stablehlo.while" in line:
            open_loops.append(indent)
    return found


def test_one_loop_with_one_callback(directory):
    """The search is one while loop; a round has one callback, and the token loops inside it have none."""
    text = make_engine(directory, slots=2).lower().as_text()
    loops = enclosing_loops(text, "stablehlo.while")
    assert loops.count(0) == 1
    assert loops.count(1) >= 3  # a token loop for each reader, at least
    assert enclosing_loops(text, "callback") == [1]
