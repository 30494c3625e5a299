"""Where the time of a search goes: CoRD beside curation with as many proposals, and beside other decodings and selectors.

    python -m benchmarks.overhead                         # the miniature
    python -m benchmarks.overhead --lengths=realistic     # random networks, steps of 100 to 1,000 tokens
    python -m benchmarks.overhead --arms=cord,curation,mcts,process_reward

Wall-clock times are those of the engine, warm, in turns. The split comes from a further run in which the parts of a
round are programs of their own and each is waited for; the score, which a settled step contains, is computed once
more to be told apart. Tokens are those that were sampled, scored, judged (the meta-prover's judgments), and committed by
the readers that did not score them (of integration: none of these). The reward model is as large as the meta-prover, and its rewards mean nothing.

With `--lengths=realistic` the networks of `benchmarks.synthetic` write steps whose lengths scatter with a heavy tail.
`--shrink` divides all lengths, for machines that cannot wait: 4 means steps of 25 to 250 tokens.
"""

import dataclasses
import functools
import os
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import report
from benchmarks.rewards import write_reward_model
from cord_jax.config import SynthesisConfig
from cord_jax.engine.engine import Engine, Finished
from cord_jax.engine.meter import Meter
from cord_jax.engine.plan import SearchSettings
from cord_jax.engine.programs import Peek
from cord_jax.engine.teachers import load_teachers
from cord_jax.grading import Grader, open_grader
from cord_jax.mesh import parse_mesh
from cord_jax.methods import Job, make_method, search_of
from cord_jax.miniature import HELD_OUT_PROBLEMS, POOL
from cord_jax.pool import RewardModelSpec, read_pool
from cord_jax.problems import read_problems
from cord_jax.search import loop
from cord_jax.search.exchange import exchange_steps
from cord_jax.search.round_record import VALID
from cord_jax.search.slots import SubBatch
from cord_jax.search.state import DONE, FREE, SEARCHING, SearchPlan
from cord_jax.traces import Provenance
from launch import common

FLAGS = flags.FlagValues()
flags.DEFINE_enum("lengths", "miniature", ["miniature", "realistic"], "what writes", flag_values=FLAGS)
flags.DEFINE_string(
    "model_shape", "small", "of a random network: see benchmarks.synthetic", flag_values=FLAGS
)
flags.DEFINE_integer("shrink", 4, "divides all lengths of the random networks", flag_values=FLAGS)
flags.DEFINE_integer("limit", 32, "problems", flag_values=FLAGS)
flags.DEFINE_integer("slots", 8, "problems searched at a time", flag_values=FLAGS)
flags.DEFINE_integer("beam_width", 4, "hypotheses kept; traces a proposer in curation", flag_values=FLAGS)
flags.DEFINE_integer("max_steps", 14, "steps of a trace", flag_values=FLAGS)
flags.DEFINE_integer("repetitions", 2, "turns of each method", flag_values=FLAGS)
flags.DEFINE_list("arms", None, "the arms to be run, all without it", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file for the results", flag_values=FLAGS)

# Arms whose time is split into parts.
SPLIT = ("cord", "curation", "greedy")
PARTS = ("decode", "exchange", "score", "select and commit", "host")
LIMITS = {
    "miniature": dict(max_step_tokens=40, max_thinking_tokens=320, max_answer_tokens=48),
    "realistic": dict(max_step_tokens=1024, max_thinking_tokens=8192, max_answer_tokens=128),
}
REALISTIC = dict(step_lengths=(150, 350, 900), topic_shares=(0.4, 0.4, 0.2), last_step=0.12, response=40)


class StagedEngine(Engine):
    """An engine of one data shard that runs the parts of a round one after another and notes the seconds of each.

    Attributes:
      seconds: by part.
    """

    def _make_programs(self, plan: SearchPlan) -> None:
        super()._make_programs(plan)
        self.seconds = Counter()
        changes = functools.partial(jax.jit, donate_argnums=1)
        self._due = jax.jit(functools.partial(loop.due, plan))
        self._exchanged = jax.jit(functools.partial(exchange_steps, plan, self.exchange))
        self._scored = jax.jit(lambda *given: plan.scorer(plan, *given).score_rj)
        self._settled = changes(functools.partial(loop.settle, plan))
        self._written = changes(functools.partial(loop.write, plan))
        self._advance = self._advance_in_parts

    def _timed(self, part: str, program, *arguments):
        start = time.perf_counter()
        result = jax.block_until_ready(program(*arguments))
        self.seconds[part] += time.perf_counter() - start
        return result

    def _advance_in_parts(self, constants, state, max_rounds):
        plan = self.plan
        rounds = 0
        while rounds < max_rounds:
            phase_n = np.asarray(state.clock.phase_n)
            if (phase_n == DONE).any() or (phase_n == FREE).all() or np.asarray(loop.stalled(plan, state)):
                break
            state, now = self._due(state)
            batch = SubBatch(now.slot_r, now.ready_r)
            candidates, longest = self._timed("exchange", self._exchanged, state, batch)
            state = dataclasses.replace(state, longest=jnp.maximum(state.longest, longest))
            batch = SubBatch(now.slot_r, now.reads_r | (now.ready_r & (longest <= plan.step_width)))
            if batch.valid_r.any():
                ready = batch.among(batch.take(state.clock.phase_n) == SEARCHING)
                self._timed("score", self._scored, constants, state, ready, candidates)
                state = self._timed("select and commit", self._settled, constants, state, batch, candidates)
            if not now.left_y.any():
                state = self._timed("decode", self._written, constants, state, jnp.int32(plan.quantum))
            rounds += 1
        return state, Peek(state.clock, state.progress, state.meters, state.longest, rounds)

    def split(self, seconds: float) -> dict[str, float]:
        """The seconds of each part, of a run that took so many."""
        parts = dict(self.seconds)
        seconds -= parts["score"]  # which was computed twice
        parts["select and commit"] -= parts["score"]
        parts["host"] = seconds - sum(parts.values())
        return {part: parts[part] for part in PARTS}


def tokens_of(finished: Finished, plan: SearchPlan) -> dict[str, int]:
    """Tokens that the search of a problem sampled, read to score, and read to commit."""
    tree = finished.tree
    valid_mj = tree.dropped_nmj == VALID
    kept_mj = tree.rank_nmj >= 0
    others = len(plan.readers) - 1
    return {
        "sampled": int(tree.sampled_nmj.sum()) + len(finished.answer),
        "scored": int((valid_mj * (tree.tokens_nmj + finished.closing_tokens)).sum()),
        "judged": finished.judged_tokens,
        "committed": others * int((kept_mj * tree.tokens_nmj).sum()),
    }


def limits_of(values: flags.FlagValues) -> dict[str, int]:
    """The budgets of all arms."""
    shrink = 1 if values.lengths == "miniature" else values.shrink
    return {name: size // shrink for name, size in LIMITS[values.lengths].items()}


def methods(values: flags.FlagValues) -> dict[str, SearchSettings]:
    """The settings of each arm that is one search."""
    limits = limits_of(values) | {"slots": values.slots, "max_steps": values.max_steps}
    wide = limits | {"beam_width": values.beam_width}
    whole = {name: size for name, size in wide.items() if name not in ("max_steps", "max_step_tokens")}
    arms = {
        "cord": search_of(**wide),
        "curation": search_of(method="curation", **whole),
        "greedy": search_of(beam_width=1, **limits),
        "mcts": search_of(decoding="mcts", **wide),
        **{
            name: search_of(selector=name, **wide)
            for name in ("random", "max_length", "process_reward", "confidence", "binary_judgment")
        },
    }
    return {name: arm for name, arm in arms.items() if values.arms is None or name in values.arms}


def integration(values: flags.FlagValues) -> SynthesisConfig:
    """The settings of integration, which is two searches."""
    limits = {name: size for name, size in limits_of(values).items() if name != "max_step_tokens"}
    return SynthesisConfig(
        pool="-", problems="-", output_dir="-", method="integration", slots=values.slots, **limits
    )


def inputs(values: flags.FlagValues, scratch: Path) -> tuple[Path, Path]:
    """The pool file and the problem file."""
    if values.lengths == "miniature":
        return POOL, HELD_OUT_PROBLEMS
    from benchmarks import synthetic

    lengths = tuple(length / values.shrink for length in REALISTIC["step_lengths"])
    response = REALISTIC["response"] / values.shrink
    habits = synthetic.Habits(**REALISTIC | {"step_lengths": lengths, "response": response})
    pool = synthetic.write_pool(scratch, values.model_shape, habits)
    return pool, synthetic.write_problems(scratch / "problems.jsonl", values.limit)


def measure(values: flags.FlagValues, scratch: Path) -> dict:
    """Runs all arms in turns; the numbers of the table."""
    with open_grader("auto") as grader:
        return _measure(values, scratch, grader)


def _measure(values: flags.FlagValues, scratch: Path, grader: Grader) -> dict:
    pool, problems = inputs(values, scratch)
    problems = read_problems(problems)[: values.limit]
    mesh, spec = parse_mesh("data:1,model:1"), read_pool(pool)
    rewarded = write_reward_model(scratch / "reward", spec.meta_prover.checkpoint)
    spec = dataclasses.replace(spec, reward_model=RewardModelSpec(rewarded))
    loaded = {
        rewards: load_teachers(spec, mesh, rewards=rewards)
        for rewards in {arm.scorer.needs_reward_model for arm in methods(values).values()}
    }

    def search_all(engine: Engine) -> tuple[float, list[Finished]]:
        start = time.perf_counter()
        found = list(engine.run(range(len(problems))))
        return time.perf_counter() - start, found

    engines, result = {}, {}
    for name, settings in methods(values).items():
        teachers = loaded[settings.scorer.needs_reward_model]
        engine = engines[name] = Engine(teachers, problems, settings, mesh, grader=grader)
        first, found = search_all(engine)
        tokens = Counter()
        for finished in found:
            tokens.update(tokens_of(finished, engine.plan))
        sampled = np.concatenate([f.tree.sampled_nmj[f.tree.sampled_nmj > 0] for f in found])
        result[name] = {
            "first_seconds": first,
            "tokens": {kind: count / len(problems) for kind, count in tokens.items()},
            "steps": float(np.mean([len(finished.texts) for finished in found])),
            "proposal_tokens": np.quantile(sampled, (0.05, 0.5, 0.95)).tolist(),
            "seconds": [],
        }
    integrates = values.arms is None or "integration" in values.arms
    for _ in range(values.repetitions):
        for name, engine in engines.items():
            result[name]["seconds"].append(search_all(engine)[0] / len(problems))
            result[name]["idle_row_share"] = engine.meter.idle_row_share
        if integrates:
            job = Job(loaded[False], problems, mesh, grader=grader)
            row = _integrated(integration(values), job)
            result.setdefault("integration", row | {"seconds": []})["seconds"] += row["seconds"]
    for name in [name for name in SPLIT if name in engines]:
        settings, teachers = methods(values)[name], loaded[False]
        staged = StagedEngine(teachers, problems, settings, mesh)
        search_all(staged)
        staged.seconds.clear()
        seconds = search_all(staged)[0]
        result[name]["split"] = {part: s / len(problems) for part, s in staged.split(seconds).items()}
    first = next(iter(result))
    return {
        "flags": {name: values[name].value for name in values},
        "cores": os.cpu_count(),
        "methods": result,
        "ratios": {
            f"{name} / {other}": _ratios(result[name], result[other])
            for other in dict.fromkeys(("cord", "curation") if "curation" in result else (first,))
            for name in result
            if other in result and name != other
        },
    }


def _integrated(config: SynthesisConfig, job: Job) -> dict:
    """A row of the table: its second search is laid out anew each time, and compilation does not count."""
    compiled, looked = {}, []

    def look(meter: Meter) -> None:
        compiled[id(meter)] = meter.compile_seconds
        looked.append(meter)  # which keeps it alive, and its id its own

    searches = make_method(config).prepare(dataclasses.replace(job, on_look=look))
    start = time.perf_counter()
    found = list(searches(range(len(job.problems)), {}))
    seconds = time.perf_counter() - start - sum(compiled.values())
    tokens = Counter()
    for outcome in found:
        usage = outcome.trace(job.grader, Provenance("integration", config.selector, None, "", False)).usage
        tokens["sampled"] += sum(one.proposed for one in usage.values()) + len(outcome.finished.answer)
        tokens["scored"] += sum(one.scored for one in usage.values())
        tokens["judged"] += outcome.finished.judged_tokens
        tokens["committed"] += 0
    sampled = np.concatenate([outcome.finished.tree.sampled_nmj.ravel() for outcome in found])
    return {
        "first_seconds": seconds + sum(compiled.values()),
        "tokens": {kind: count / len(found) for kind, count in tokens.items()},
        "steps": 1.0,
        "proposal_tokens": np.quantile(sampled, (0.05, 0.5, 0.95)).tolist(),
        "seconds": [seconds / len(found)],
        "idle_row_share": looked[-1].idle_row_share,
    }


def _ratios(row: dict, other: dict) -> dict[str, float]:
    """How much more one arm takes than another."""
    seconds = min(row["seconds"]) / min(other["seconds"])
    sampled = row["tokens"]["sampled"] / other["tokens"]["sampled"]
    return {
        "seconds": seconds,
        "tokens": sum(row["tokens"].values()) / sum(other["tokens"].values()),
        "seconds_by_sampled_token": seconds / sampled,
    }


def table(result: dict) -> str:
    """The report."""
    lines = [
        f"{'a problem':15} seconds   sampled    scored    judged committed tokens   steps   idle rows"
        "   proposal's tokens (5, 50, 95 %)"
    ]
    for name, row in result["methods"].items():
        tokens = row["tokens"]
        low, middle, high = row["proposal_tokens"]
        lines.append(
            f"{name:15} {min(row['seconds']):7.3f} {tokens['sampled']:9.0f} {tokens['scored']:9.0f} "
            f"{tokens['judged']:9.0f} "
            f"{tokens['committed']:16.0f} {row['steps']:7.1f} {100 * row['idle_row_share']:9.0f} %"
            f"   {low:.0f}, {middle:.0f}, {high:.0f}"
        )
    lines.append(f"{'share of':15} " + "".join(f"{part:>18}" for part in PARTS))
    for name in [name for name, row in result["methods"].items() if "split" in row]:
        split = result["methods"][name]["split"]
        shares = "".join(f"{100 * split[part] / sum(split.values()):16.0f} %" for part in PARTS)
        lines.append(f"{name:15} {shares}")
    for name, ratio in result["ratios"].items():
        lines.append(
            f"{name + ':':28} {ratio['seconds']:.2f} in seconds, {ratio['tokens']:.2f} in tokens processed, "
            f"{ratio['seconds_by_sampled_token']:.2f} in seconds by sampled token"
        )
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Prints the table, and writes the numbers as JSON if asked."""
    report.run(measure, table, values)


if __name__ == "__main__":
    common.run(main, FLAGS, __doc__)
