"""The report of `launch.compile_tpu`: the programs of a search or a student, compiled for a topology."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

import models
from cord_jax.dry_run import costs, lower, suggest
from cord_jax.dry_run.abstract import (
    PROBLEMS,
    STAND_IN,
    AbstractSearch,
    Compiled,
    abstract_search,
    compile_program,
    lower_round,
)
from cord_jax.dry_run.student import abstract_step, cheaper, compile_student, row_shards
from cord_jax.dry_run.topologies import Chip
from cord_jax.engine.limits import bytes_per_device
from cord_jax.engine.plan import SearchSettings
from cord_jax.mesh import parse_mesh
from cord_jax.pool import PoolSpec
from cord_jax.student.config import StudentConfig
from cord_jax.student.metrics import step_flops

GIB = 2**30
MEMORY_HEADER = (
    "bytes of a chip, GiB      arguments   outputs  temporaries   total      of   seconds to compile"
)
Say = Callable[[str], None]


def report_search(
    spec: PoolSpec,
    settings: SearchSettings,
    chip: Chip,
    devices: Sequence[jax.Device],
    mesh: str | None,
    say: Say,
) -> bool:
    """Compiles a search and says what it takes.

    Args:
      mesh: as text; None to look for a mesh and for slots, and to verify what is found by compiling it.
      say: is given the report line by line.

    Returns: whether it fits.

    Raises: `UserError` if no mesh is given and arithmetic finds none that fits.
    """
    tried = [(mesh, settings.slots)] if mesh else _suggested(spec, settings, chip, devices, say)
    for text, slots in tried:
        settings = dataclasses.replace(settings, slots=slots)
        search = abstract_search(spec, settings, parse_mesh(text, devices))
        say(f"\n--mesh={text} --slots={search.plan.slots} on {len(devices)} x {chip.name} ({chip.hbm_gb} GB)")
        say(MEMORY_HEADER)
        compiled = compile_program(lambda: lower_round(search))
        say(memory_line("round", compiled, chip))
        if compiled.fits(chip.usable_bytes):
            _report_held(search, say)
            _report_passes(search, spec, settings, chip, say)
            return True
    return False


def _suggested(spec, settings, chip, devices, say: Say) -> list[tuple[str, int]]:
    """The best mesh, with its slots and then with fewer, to compile in this order."""
    found = suggest.candidates(spec, settings, chip, devices)
    say("by arithmetic             slots   weights and state   working, about   tokens/s at most")
    for c in found:
        verdict = "" if c.fits(chip) else "   does not fit"
        say(
            f"  {c.mesh:22} {c.slots:6} {c.held / GIB:15.1f} GiB {c.working / GIB:12.1f} GiB "
            f"{c.tokens_per_second:18,.0f}{verdict}"
        )
    best = suggest.best_of(found, chip)
    slots, data = [best.slots], parse_mesh(best.mesh, devices).shape["data"]
    while slots[-1] // 2 >= data:
        slots.append(slots[-1] // 2)
    return [(best.mesh, number) for number in slots]


def memory_line(name: str, compiled: Compiled, chip: Chip) -> str:
    """A program's memory against the chip's, under `MEMORY_HEADER`."""
    if compiled.memory is None:
        return f"  {name:22} does not fit ({compiled.seconds:.0f} s to compile): {compiled.refusal}"
    m, usable = compiled.memory, chip.usable_bytes
    verdict = "fits" if compiled.fits(usable) else "does not fit"
    return (
        f"  {name:22} {m.arguments / GIB:10.2f} {m.outputs / GIB:9.2f} {m.temporaries / GIB:12.2f} "
        f"{m.total / GIB:7.2f} {usable / GIB:7.2f} {compiled.seconds:6.0f}   {verdict}"
    )


def _report_held(search: AbstractSearch, say: Say) -> None:
    """Tells what a chip holds of each reader, and what was assumed."""
    say("held on a chip, GiB       weights      pool      ring")
    readers = zip(search.keys, search.plan.readers, search.constants, search.state.readers)
    for key, reader, constants, state in readers:
        ring = bytes_per_device(state.rows.local) if state.rows is not None else 0
        say(
            f"  {key.checkpoint.name[:22]:22} {bytes_per_device(constants.weights) / GIB:8.2f} "
            f"{bytes_per_device(state.pool) / GIB:9.2f} {ring / GIB:9.2f}   {reader.execution.split} of the pool over `model`"
        )
    for key, own in zip(search.keys, search.with_tokenizer):
        if not own:
            say(
                f"  {key.checkpoint.name}: no tokenizer.json; assumed {STAND_IN.states} automaton states, "
                f"{STAND_IN.classes} token classes, headings of {STAND_IN.cue_width} tokens"
            )
    say(
        f"  assumed of problems: prompts of {PROBLEMS.prompt_width} tokens, closings with the answer of "
        f"{PROBLEMS.closing_width}, {PROBLEMS.scored_width} of them scored"
    )


def _report_passes(search: AbstractSearch, spec, settings, chip: Chip, say: Say) -> None:
    """Counts and least times of a token, a chunk and a whole pass."""
    plan, known = search.plan, {}

    def counted(lower, index: int) -> costs.Work | None:
        config = search.configs[index]
        shape = dataclasses.replace(config, hf="", rope=None)
        if (lower, shape) not in known:
            layers = config.num_layers
            known[lower, shape] = lower.counted(lower, spec, settings, search.mesh, index, layers)
        return known[lower, shape]

    say("work of a chip                       by arithmetic    by the compiler      least time, ms")
    say("                                     GFLOP      GB     GFLOP      GB    memory  arithmetic")
    names = [key.checkpoint.name[:12] for key in search.keys]
    writers = [index for index, reader in enumerate(plan.readers) if reader.proposers]
    for index in writers:
        work = costs.decode_token(search, index)
        say(_work_line(f"token, {names[index]}", work, counted(lower.lower_decode, index), chip))
    chunk, logits = costs.scoring_chunk(search), costs.scoring_logits(search)
    found = counted(lower.lower_scoring, plan.meta)
    say(_work_line("chunk and logits of scoring", chunk + logits, found, chip))
    for index in writers:
        work = costs.commit_chunk(search, index)
        say(_work_line(f"chunk of commit, {names[index]}", work, counted(lower.lower_commit, index), chip))
    say(f"whole passes over a problem of each shard, every step at its cap of {plan.max_step_tokens} tokens")
    number = costs.chunks_of_scoring(search)
    say(_work_line(f"scoring, {number} chunks", chunk * number + logits, None, chip))
    for index in writers:
        if index != plan.meta:
            number = costs.chunks_of_commit(search, index)
            work = costs.commit_chunk(search, index) * number
            say(_work_line(f"{number} chunks of commit, {names[index]}", work, None, chip))
    tick = sum(costs.decode_token(search, index).seconds(chip) for index in writers)
    rows = plan.slots * plan.candidates
    say(f"a token in each of {rows} rows: {1e3 * tick:.1f} ms at least, at most {rows / tick:,.0f} a second")


def _work_line(name: str, work: costs.Work, by_compiler: costs.Work | None, chip: Chip) -> str:
    memory, arithmetic = 1e3 * work.bytes / chip.bandwidth, 1e3 * work.flops / chip.flops
    mine = f"{work.flops / 1e9:9.1f} {work.bytes / 1e9:7.2f}"
    other = "" if by_compiler is None else f"{by_compiler.flops / 1e9:9.1f} {by_compiler.bytes / 1e9:7.2f}"
    return f"  {name:30} {mine} {other:17} {memory:9.2f} {arithmetic:11.2f}"


def report_student(
    config: models.ModelConfig,
    settings: StudentConfig,
    chip: Chip,
    devices: Sequence[jax.Device],
    look: bool,
    say: Say,
) -> bool:
    """Compiles a student's step and says what it takes.

    Args:
      look: try cheaper settings, one after another, until one fits.

    Returns: whether it fits.
    """
    windows = f"{settings.batch_size} windows of {settings.max_length} tokens"
    say(f"on {len(devices)} x {chip.name} ({chip.hbm_gb} GB), {windows}")
    say(MEMORY_HEADER)
    for tried in cheaper(settings, len(devices)) if look else (settings,):
        mesh = parse_mesh(tried.mesh, devices)
        names = ("mesh", "accumulation", "remat", "loss_positions", "param_dtype")
        say(" ".join(f"--{name}={getattr(tried, name)}" for name in names))
        held = bytes_per_device(abstract_step(config, tried, mesh)[1])
        if held > chip.usable_bytes:
            say(f"  does not fit: weights and moments alone take {held / GIB:.1f} GiB")
            continue
        compiled = compile_student(config, tried, mesh)
        say(memory_line("step", compiled, chip))
        if compiled.fits(chip.usable_bytes):
            rows = [tried.max_length] * tried.batch_size
            flops = step_flops(config, rows, sum(rows)) / len(devices)
            at_once = tried.batch_size // tried.accumulation // row_shards(mesh)
            say(
                f"  {flops / 1e12:.1f} TFLOP of a chip and step, if each window is one row: "
                f"{flops / chip.flops:.2f} s at least; windows of a chip at a time: {at_once}"
            )
            return True
    return False
