"""What the members must be able to do before any comparison of methods says something about the method.

The conditions, set beforehand:

* a teacher that continues a text by several hands keeps its place in 99.5 % of steps, and in 99 % of responses states
  the answer that the text before it implies;
* each teacher is better at its own operations than the others are;
* while a right text is in the beam and a right next step among the candidates, the meta-prover keeps one in 99.5 % of
  rounds;
* the best of twelve whole traces is right on less than half of the puzzles.

The first two are read off the networks' probabilities. A text by random writers, with their slips, is gone on with as
it should be; the product of the probabilities of the tokens is the share of samples that go on exactly like that. The
others are measured on a search of puzzles that no comparison uses. `launch.build_miniature --check` prints all of them.
"""

import dataclasses
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import models
from cord_jax import synthesize
from cord_jax.miniature import world
from cord_jax.miniature.decomposition import Rounds, count_rounds
from cord_jax.miniature.quickstart import synthesis_config
from cord_jax.miniature.recipe import TEACHERS, as_lines, mixed_solution
from cord_jax.miniature.wording import WORDINGS
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

CHECK_SEED = 77
TEMPERATURE = 0.6  # the pool's
THINK_END = "</think>\n\n"
_BATCH, _PAD = 16, 128


@dataclasses.dataclass(frozen=True)
class Continuation:
    """A text and how it should go on.

    Attributes:
        before: prompt, then pieces of text, encoded one by one, as the search commits them.
        after: what should follow, in pieces that begin where a token does.
        free: the one of `after` that is left open: its probability does not count.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    free: int | None = None


def probabilities(
    checkpoint: Path, continuations: Sequence[Continuation], temperature: float = TEMPERATURE
) -> tuple[np.ndarray, np.ndarray]:
    """Probability at this temperature that each is gone on with so, and of its free part; float64 [n] each."""
    vocabulary, model = Vocabulary.load(checkpoint), models.load(checkpoint)
    rows = []
    for text in continuations:
        ids = vocabulary.encode_prompt(text.before[0])
        ids += [i for piece in text.before[1:] for i in vocabulary.encode(piece)]
        after = [vocabulary.encode(piece) for piece in text.after]
        free = np.array([number == text.free for number, piece in enumerate(after) for _ in piece])
        places = np.arange(len(free)) + len(ids)
        rows.append((ids + [i for piece in after for i in piece], places, free))
    longest = -(-max(len(ids) for ids, _, _ in rows) // _PAD) * _PAD

    @jax.jit
    def log_p(tokens_bt):
        logits_btv = model(tokens_bt)[:, :-1] / temperature
        chosen_bt1 = jnp.take_along_axis(logits_btv, tokens_bt[:, 1:, None], axis=-1)
        return chosen_bt1[..., 0] - jax.nn.logsumexp(logits_btv, axis=-1)

    asked, open_ = [], []
    for begin in range(0, len(rows), _BATCH):
        batch = rows[begin : begin + _BATCH]
        tokens_bt = np.zeros((_BATCH, longest), np.int32)
        for i, (ids, _, _) in enumerate(batch):
            tokens_bt[i, : len(ids)] = ids
        values_bt = np.asarray(log_p(tokens_bt), np.float64)
        for i, (_, places, free) in enumerate(batch):
            of_token = values_bt[i, places - 1]
            asked.append(np.exp(of_token[~free].sum()))
            open_.append(np.exp(of_token[free].sum()))
    return np.array(asked), np.array(open_)


@dataclasses.dataclass(frozen=True)
class Condition:
    """A figure and what it must be: at least `bound`, or below it. `value` and `bound` are fractions."""

    name: str
    value: float
    bound: float
    below: bool = False

    @property
    def holds(self) -> bool:
        return self.value < self.bound if self.below else self.value >= self.bound

    def __str__(self) -> str:
        wanted = f"{'below' if self.below else 'at least'} {self.bound:.1%}"
        return f"{'holds' if self.holds else 'FAILS':6} {self.value:7.2%} ({wanted:14})  {self.name}"


def check(assets: Path, output_dir: Path, puzzles: int = 800, searched: int = 100) -> list[Condition]:
    """All conditions on the members in `assets`.

    Args:
        puzzles: that the teachers' figures are taken on.
        searched: puzzles that are searched, in `output_dir`, which may hold finished searches.
    """
    figures = {name: teacher_figures(assets, name, puzzles) for name in TEACHERS}
    conditions = []
    for name, own in figures.items():
        conditions += [
            Condition(f"{name} keeps its place when it continues a text by several hands", own.place, 0.995),
            Condition(f"{name} states the answer that a text by several hands implies", own.response, 0.99),
        ]
        lead = min(own.right[name] - other.right[name] for other in figures.values() if other is not own)
        rates = ", ".join(f"{skill} {rate:.1%}" for skill, rate in own.right.items())
        conditions.append(Condition(f"{name} leads the others at its operations (right: {rates})", lead, 0.1))
    rounds, curation = search_figures(assets, output_dir, searched)
    return [
        *conditions,
        Condition("a right next step is proposed on a right text", rounds.present / rounds.rounds, 0.99),
        Condition(
            "the meta-prover keeps a right one in the beam of four", rounds.kept / rounds.present, 0.995
        ),
        Condition("  and ranks one first (nothing is asked)", rounds.first / rounds.present, 0.0),
        Condition("the best of twelve whole traces is right", curation, 0.5, below=True),
    ]


@dataclasses.dataclass(frozen=True)
class TeacherFigures:
    """What a teacher does on texts by several hands, at the temperature of the search.

    Attributes:
        place: share of steps that are the asked line in the teacher's wording, whatever the result.
        response: share of responses that state the answer that the text implies.
        right: skill -> share of right results.
    """

    place: float
    response: float
    right: dict[str, float]


def teacher_figures(directory: Path, name: str, puzzles: int, seed: int = 0) -> TeacherFigures:
    """The figures of one teacher on held-out puzzles."""
    rng = random.Random(f"conditions {name} {seed}")
    vocabulary, own = Vocabulary.load(directory / name), WORDINGS[name]
    steps, responses, kinds = [], [], []
    for puzzle in world.draw_puzzles(1000 + seed, puzzles, "held_out"):
        prompt = render_prompt(vocabulary, None, puzzle.question)
        solution = mixed_solution(puzzle, 0, [rng.choice(TEACHERS) for _ in puzzle.steps], rng)
        response = own.response.format(answer=world.stated(puzzle, solution.values))
        responses.append(Continuation((prompt, *solution.steps, THINK_END), (response,)))
        for at in rng.sample(range(len(puzzle.steps)), 4):
            line = puzzle.steps[at]
            value = solution.values[at - 1] if line.start is None else line.start
            result = world.compute(line.kind, value, line.operand)
            heading, equation = f"### Step {at + 1}", world.equation(line.kind, value, line.operand, result)
            text = own.write_step(at + 1, world.NAMES[at], equation).removeprefix(heading)
            head, tail = text.split(f"= {result}")
            then = THINK_END if at + 1 == len(puzzle.steps) else "###"
            before, after = (prompt, *solution.steps[:at], heading), (f"{head}=", f" {result}", tail, then)
            steps.append(Continuation(before, after, free=1))
            kinds.append(line.kind)
    place, result = probabilities(directory / name, steps)
    response, _ = probabilities(directory / name, responses)
    right = {
        skill: float(np.mean([p for p, kind in zip(result, kinds) if kind in world.SKILLS[skill]]))
        for skill in world.SKILLS
    }
    return TeacherFigures(float(place.mean()), float(response.mean()), right)


def search_figures(assets: Path, output_dir: Path, puzzles: int) -> tuple[Rounds, float]:
    """The rounds of CoRD without a filter, and curation's share of right traces, on held-out puzzles."""
    output_dir.mkdir(parents=True, exist_ok=True)
    problems = output_dir / "problems.jsonl"
    drawn = world.draw_puzzles(CHECK_SEED, puzzles, "held_out")
    problems.write_text(as_lines(world.problem_row(f"check-{i}", puzzle) for i, puzzle in enumerate(drawn)))
    for method in ("cord", "curation"):
        job = synthesis_config(method, problems, output_dir / method, puzzles, CHECK_SEED)
        synthesize(dataclasses.replace(job, pool=assets / "pool.toml", filters=""))
    rows = [json.loads(line) for line in (output_dir / "curation" / "traces.jsonl").read_text().splitlines()]
    questions = {row["id"]: row["question"] for row in rows}
    rounds = Rounds()
    tree = (output_dir / "cord" / "tree.jsonl").read_text().splitlines()
    for problem, candidates in itertools.groupby(map(json.loads, tree), key=lambda row: row["problem"]):
        rounds += count_rounds(questions[problem], candidates)
    return rounds, float(np.mean([row["correct"] for row in rows]))
