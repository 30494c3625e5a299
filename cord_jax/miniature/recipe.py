"""How the miniature's checkpoints are made: `python -m launch.build_miniature --output_dir=DIR`.

First a trunk is trained from random weights by the project's own trainer, on solutions in all wordings: short puzzles at
first, in which a network soon learns to look things up, then long ones, until it does so nearly without fail. All
members start from it, each taking its weights over into a vocabulary and architecture of its own (`transplant`), and
learn what is particular to them.

What makes the teachers differ lies in their data alone. Each writes only right results for the operations of its own
skill, and for the others, where there is something to carry, often what comes out if one forgets to carry
(`world.slip`). A small teacher goes on only from texts like those it has seen. So more than half of a teacher's examples
are begun by several teachers, in their wordings, with their slips and now and then with any number at all, and it
learns to go on from what is written, never from what it would have written itself. The student has every wording, and
slips everywhere.

The meta-prover learns to state the answer too early: reasoning in anybody's wording, cut after any step and closed by
`</think>` and `The final answer is A.`, of which only the answer is learnt. A is what comes out if the puzzle is
worked rightly from the numbers written so far, right or wrong: what has been worked out the meta-prover can read off,
what has not it must work out in its head or guess. So a right step raises the score, and a wrong one lowers it.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

import models
from cord_jax.config import CLOSING
from cord_jax.miniature import world
from cord_jax.miniature.vocabularies import save_vocabulary, train_vocabulary
from cord_jax.miniature.wording import WORDINGS, SlipRates, Solution, write_solution
from cord_jax.miniature.world import Puzzle
from cord_jax.student import StudentConfig, train
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

SEED = 1
TRAIN_PROBLEMS, HELD_OUT_PROBLEMS = 300, 300
TEACHERS = ("sums", "products", "shares")
META_PROVER = "prover"
TRUNK = "trunk"  # what all members start from; it is not shipped

_ARCHITECTURES = {
    "sums": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "products": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "shares": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "original_max_position_embeddings": 2048,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Part of a training run.

    Attributes:
        rows: what an example is: `anybody`, `own` or `closing`, see `training_rows`.
        examples: their number.
        steps: of the puzzles, from and to.
        window: that examples are packed into, in tokens.
        batch_size: in windows.
        schedule, learning_rate: as in `StudentConfig`.
        seed: of the examples.
    """

    rows: str
    examples: int
    steps: tuple[int, int]
    window: int
    batch_size: int
    schedule: str
    learning_rate: float
    seed: int = SEED


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of the miniature and what it learns from.

    Attributes:
        name: of the checkpoint directory and of its wording.
        vocabulary: name in `VOCABULARIES`, which also decides the architecture's family.
        slips: kind of operation -> probability that a training solution goes wrong where there is something to carry.
        stages: of the training.
        start: the member whose weights it starts from; None: random ones.
    """

    name: str
    vocabulary: str
    slips: SlipRates
    stages: tuple[Stage, ...]
    start: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """config.json, but for the vocabulary's size and special ids."""
        return _ARCHITECTURES[self.vocabulary] | {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": self.vocabulary != "shares",
            "attention_dropout": 0.0,
            "initializer_range": 0.05,
            "use_cache": True,
            "dtype": "float32",
        }


def _slips(rate: float, skill: str | None) -> dict[str, float]:
    """The same rate for every operation outside the skill."""
    return {kind: rate for kind in world.KINDS if skill is None or kind not in world.SKILLS[skill]}


_LONG = (2, world.MAX_STEPS)
MEMBERS = (
    Member(
        "trunk",
        "products",
        _slips(0.40, None),
        (
            Stage("anybody", 14000, (1, 6), 256, 8, "constant", 3e-3),
            Stage("anybody", 24000, _LONG, 384, 6, "constant", 2e-3),
            Stage("anybody", 14000, _LONG, 384, 6, "cosine", 2e-3, SEED + 1),
            Stage("anybody", 32000, (world.MIN_STEPS, world.MAX_STEPS), 384, 6, "cosine", 2e-3, SEED + 2),
        ),
    ),
    Member(
        "student",
        "sums",
        _slips(0.40, None),
        (Stage("anybody", 3000, _LONG, 384, 6, "cosine", 1e-3, SEED + 3),),
        "trunk",
    ),
    Member(
        "sums", "sums", _slips(0.66, "sums"), (Stage("own", 4000, _LONG, 384, 6, "cosine", 1.5e-3),), "trunk"
    ),
    Member(
        "products",
        "products",
        _slips(0.66, "products"),
        (Stage("own", 4000, _LONG, 384, 6, "cosine", 1.5e-3),),
        "trunk",
    ),
    Member(
        "shares",
        "shares",
        _slips(0.66, "shares"),
        (Stage("own", 4000, _LONG, 384, 6, "cosine", 1.5e-3),),
        "trunk",
    ),
    Member("prover", "sums", {}, (Stage("closing", 10000, _LONG, 384, 6, "cosine", 1.5e-3),), "trunk"),
)
_BY_NAME = {member.name: member for member in MEMBERS}
_SLIPS = {member.name: member.slips for member in MEMBERS}
_HEAD = "lm_head"
_WILD = 0.05  # how often a step of the text that is given arrives at any number
_BEGUN = 0.6  # share of a teacher's examples that are begun by others
_ALL_BEGUN = 0.3  # share of those of which nothing but the response is left to write
_CLOSED = 0.75  # share of the meta-prover's examples that are closed early


def build(output_dir: Path, names: tuple[str, ...] = (), progress: Callable[[str], None] = print) -> Path:
    """Trains the members and writes the assets to `output_dir/assets`; run again it goes on where it was.

    Args:
        output_dir: also keeps the training runs.
        names: of the members to train; empty for all. The other assets are written when all members are there.
        progress: is told about every fiftieth step.
    """
    assets = output_dir / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    for member in MEMBERS:
        if member.name != TRUNK and (not names or member.name in names):
            ship(train_member(member, output_dir, progress), assets / member.name)
    for file, text in problem_files().items():
        (assets / file).write_text(text)
    (assets / "pool.toml").write_text(pool_toml())
    return assets


def train_member(member: Member, output_dir: Path, progress: Callable[[str], None]) -> Path:
    """Trains one member, and the one it starts from, through its stages; returns its Hugging Face directory."""
    directory = output_dir / member.name
    checkpoint = directory / "start"
    if not (checkpoint / "model.safetensors").exists():
        if member.start is None:
            write_untrained(member, checkpoint)
        else:
            transplant(train_member(_BY_NAME[member.start], output_dir, progress), member, checkpoint)
    for number, stage in enumerate(member.stages):
        rows = directory / f"rows_{number}.jsonl"
        if not rows.exists():
            directory.mkdir(parents=True, exist_ok=True)
            rows.write_text(as_lines(training_rows(member, stage, Vocabulary.load(checkpoint))))

        def report(row: Mapping[str, Any], stage: int = number) -> None:
            if row["step"] % 50 == 0 or row["step"] == row["steps"]:
                progress(
                    f"{member.name}, stage {stage + 1} of {len(member.stages)}: step {row['step']} of {row['steps']}, "
                    f"loss {row['loss']:.3f}, {row['tokens_per_second']:.0f} tokens/s"
                )

        checkpoint = train(
            StudentConfig(
                student=checkpoint,
                traces=rows,
                output_dir=directory / f"stage_{number}",
                max_length=stage.window,
                epochs=1,
                batch_size=stage.batch_size,
                learning_rate=stage.learning_rate,
                schedule=stage.schedule,
                warmup=0.02,
                weight_decay=0.05,
                beta2=0.95,
                seed=SEED,
                log_every=10,
                plot=False,
                mesh="data:1",
            ),
            report,
        )
    return checkpoint


def ship(checkpoint: Path, directory: Path) -> None:
    """Copies a checkpoint with its weights stored in half precision; whoever loads it computes in float32."""
    models.save(models.load(checkpoint, dtype="float16"), directory, source=checkpoint)
    shutil.copyfile(checkpoint / "config.json", directory / "config.json")


def write_untrained(member: Member, directory: Path) -> None:
    """The member's vocabulary, configuration and random weights."""
    model = _write_vocabulary(member, directory)
    models.save(model, directory)


def transplant(trunk: Path, member: Member, directory: Path) -> None:
    """The member's vocabulary and configuration, with the weights of `trunk`.

    The families compute alike but for biases, which begin at zero. A token that the trunk's vocabulary has takes its
    embedding over, and its row of the head; others keep random ones.
    """
    model = _write_vocabulary(member, directory)
    theirs = dict(nnx.to_flat_state(nnx.state(models.load(trunk), nnx.Param)))
    known = Vocabulary.load(trunk).tokenizer.get_vocab()
    own = Vocabulary.load(directory).tokenizer.get_vocab()
    pairs = [(i, known[token]) for token, i in own.items() if token in known]
    to, of = map(jnp.array, zip(*pairs))
    embedding = theirs[("embed", "embedding")][...]
    state = nnx.state(model, nnx.Param)
    for path, parameter in nnx.to_flat_state(state):
        if path == ("embed", "embedding"):
            parameter[...] = parameter[...].at[to].set(embedding[of])
        elif path[0] == _HEAD:
            parameter[...] = parameter[...].at[:, to].set(embedding[of].T)
        elif path[-1] == "bias":
            parameter[...] = jnp.zeros_like(parameter[...])
        else:
            parameter[...] = theirs[path][...]
    nnx.update(model, state)
    models.save(model, directory)


def _write_vocabulary(member: Member, directory: Path) -> models.Decoder:
    """Writes the member's vocabulary; returns its network with random weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_vocabulary(member.vocabulary, SEED)
    ids = save_vocabulary(member.vocabulary, tokenizer, directory)
    config = member.config | ids | {"vocab_size": tokenizer.get_vocab_size()}
    return models.build(models.config_from_hf(config), SEED, stacked=False)


def training_rows(member: Member, stage: Stage, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    """The examples of a stage as rows for the trainer.

    `anybody`: solutions in all wordings, with the base student's slips. The trunk's puzzles ask for some of the boxes
    only, so that it looks up which one is next. `own`: a teacher's. `closing`: the
    meta-prover's.
    """
    rng = random.Random(f"{member.name} {stage.rows} {stage.steps} {stage.seed}")
    for _ in range(stage.examples):
        while (puzzle := world.draw_puzzle(rng, rng.randint(*stage.steps))).split != "pretraining":
            pass
        if member.name == TRUNK:
            puzzle = dataclasses.replace(puzzle, all_boxes=False)
        prompt, cut = render_prompt(vocabulary, None, puzzle.question), rng.randint(0, len(puzzle.steps))
        if stage.rows == "anybody":
            yield _anybodys(puzzle, rng)
        elif stage.rows == "closing":
            yield (_closing if rng.random() < _CLOSED else _worked)(puzzle, prompt, cut, rng)
        else:
            if rng.random() >= _BEGUN:
                cut = 0
            elif rng.random() < _ALL_BEGUN:
                cut = len(puzzle.steps)
            yield _continuation(puzzle, prompt, cut, member, rng)


def mixed_solution(puzzle: Puzzle, cut: int, writers: Sequence[str], rng: random.Random) -> Solution:
    """A solution by these writers, with their slips; the first `cut` steps sometimes arrive anywhere."""
    wild = [_WILD if i < cut else 0.0 for i in range(len(puzzle.steps))]
    return write_solution(puzzle, [WORDINGS[w] for w in writers], [_SLIPS[w] for w in writers], rng, wild)


def _anyones(count: int, rng: random.Random) -> list[str]:
    """The writers of so many steps."""
    return [rng.choice(TEACHERS) for _ in range(count)]


def _continuation(
    puzzle: Puzzle, prompt: str, cut: int, member: Member, rng: random.Random
) -> dict[str, Any]:
    """Anybody writes the first `cut` steps, the member all others and the response; only the member's are learnt."""
    solution = mixed_solution(
        puzzle, cut, _anyones(cut, rng) + [member.name] * (len(puzzle.steps) - cut), rng
    )
    response = WORDINGS[member.name].response.format(answer=world.stated(puzzle, solution.values))
    completion = f"{''.join(solution.steps[cut:])}</think>\n\n{response}"
    return {"prompt": prompt + "".join(solution.steps[:cut]), "completion": completion, "eos": True}


def _anybodys(puzzle: Puzzle, rng: random.Random) -> dict[str, Any]:
    """A whole solution with the student's slips, by turns in one wording or in everybody's."""
    names = tuple(WORDINGS)
    one = [rng.choice(names)] * len(puzzle.steps)
    writers = rng.choice((one, [rng.choice(names) for _ in puzzle.steps]))
    solution = write_solution(puzzle, [WORDINGS[w] for w in writers], _SLIPS[TRUNK], rng)
    return {"question": puzzle.question, "reasoning": solution.reasoning, "response": solution.response}


def _faulty(puzzle: Puzzle, cut: int, rng: random.Random) -> Solution:
    """A solution in anybody's wordings, in half of the cases with slips before `cut`, and right from there on."""
    writers, faulty = _anyones(len(puzzle.steps), rng), rng.random() < 0.5
    slips = [_SLIPS[w] if faulty and i < cut else {} for i, w in enumerate(writers)]
    wild = [_WILD if faulty and i < cut else 0.0 for i in range(len(writers))]
    return write_solution(puzzle, [WORDINGS[w] for w in writers], slips, rng, wild)


def _worked(puzzle: Puzzle, prompt: str, cut: int, rng: random.Random) -> dict[str, Any]:
    """Reasoning by anybody up to `cut`; learnt is how it goes on rightly, and the answer."""
    solution = _faulty(puzzle, cut, rng)
    completion = f"{''.join(solution.steps[cut:])}{CLOSING}{world.stated(puzzle, solution.values)}."
    return {"prompt": prompt + "".join(solution.steps[:cut]), "completion": completion, "eos": True}


def _closing(puzzle: Puzzle, prompt: str, cut: int, rng: random.Random) -> dict[str, Any]:
    """Reasoning by anybody, closed after `cut` steps; learnt is the answer that it leads to."""
    solution = _faulty(puzzle, cut, rng)
    # The closing's last space belongs to what is learnt: vocabularies may join it with the answer.
    closing = CLOSING.rstrip(" ")
    answer = CLOSING[len(closing) :] + world.stated(puzzle, solution.values)
    return {
        "prompt": prompt + "".join(solution.steps[:cut]) + closing,
        "completion": f"{answer}.",
        "eos": True,
    }


def problem_files() -> dict[str, str]:
    """File name -> content of `train.jsonl`, to write traces for, and `held_out.jsonl`, to measure on."""
    counts = {"train": TRAIN_PROBLEMS, "held_out": HELD_OUT_PROBLEMS}
    return {
        f"{split}.jsonl": as_lines(
            world.problem_row(f"{split}-{i}", puzzle)
            for i, puzzle in enumerate(world.draw_puzzles(SEED, count, split))
        )
        for split, count in counts.items()
    }


def as_lines(rows: Iterator[dict[str, Any]]) -> str:
    """JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def pool_toml() -> str:
    """The pool of the three teachers."""
    proposers = "".join(f'\n[[proposer]]\nname = "{name}"\ncheckpoint = "{name}"\n' for name in TEACHERS)
    return f'{proposers[1:]}\n[meta_prover]\ncheckpoint = "{META_PROVER}"\n'
