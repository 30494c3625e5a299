"""How the miniature's checkpoints are made: `python -m launch.build_miniature --output_dir=DIR`.

Each member is trained from random weights by the project's own trainer, in stages: short puzzles first, in which a
network soon learns to find its place in the question, then puzzles of every length, some members twice. What makes the
teachers differ lies in their data alone. Each writes only right results for the operations of its own skill, and for
the others, where there is something to carry, often what comes out if one forgets to carry (`world.slip`).

A teacher of a million parameters goes on only from texts like those it has seen. So half of a teacher's examples are
begun by several teachers, in their wordings and with their slips, and it learns to go on in its own. The student, which
is to learn from such texts, has seen every wording, and slips everywhere.

The meta-prover also learns to state the answer too early: reasoning in anybody's wording, cut after any step and closed
by `</think>` and `The final answer is A.`, of which only the answer is learnt, so that it does not learn to stop there.
A is what comes out if the puzzle is worked rightly from the numbers written so far, right or wrong: what has been
worked out the meta-prover can read off, what has not it must work out in its head or guess. So a right step raises the
score, and a wrong one lowers it.
"""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import models
from cord_jax.config import CLOSING
from cord_jax.miniature import world
from cord_jax.miniature.vocabularies import save_vocabulary, train_vocabulary
from cord_jax.miniature.wording import WORDINGS, SlipRates, write_solution
from cord_jax.miniature.world import Puzzle
from cord_jax.student import StudentConfig, train
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

SEED = 1
TRAIN_PROBLEMS, HELD_OUT_PROBLEMS = 300, 300
TEACHERS = ("sums", "products", "shares")
META_PROVER = "products"

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
    """Part of a training run: how many examples, of puzzles up to which length, packed into which windows.

    `window` is in tokens, `batch_size` in windows; `schedule` and `learning_rate` as in `StudentConfig`; `seed` is
    of the examples; `closings` is the share of them that are cut solutions with the closing and the answer.
    """

    examples: int
    max_steps: int
    window: int
    batch_size: int
    schedule: str
    learning_rate: float
    closings: float = 0.0
    seed: int = SEED


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of the miniature and what it learns from.

    Attributes:
        name: of the checkpoint directory and of its wording.
        vocabulary: name in `VOCABULARIES`, which also decides the architecture's family.
        layers: of the network.
        width: of its feed-forward layers.
        slips: kind of operation -> probability that a training solution goes wrong where there is something to carry.
        stages: of the training.
    """

    name: str
    vocabulary: str
    layers: int
    width: int
    slips: SlipRates
    stages: tuple[Stage, ...]

    @property
    def config(self) -> dict[str, Any]:
        """config.json, but for the vocabulary's size and special ids."""
        return _ARCHITECTURES[self.vocabulary] | {
            "hidden_size": 128,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2 if self.vocabulary == "sums" else 4,
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


def _stages(
    short: int, all_lengths: int, *again: int, closings: tuple[float, float] = (0, 0)
) -> tuple[Stage, ...]:
    """Stages of so many examples; shares of closings in the first two and in the others."""
    return (
        Stage(short, 4, 256, 8, "constant", 3e-3, closings[0]),
        Stage(all_lengths, world.MAX_STEPS, 512, 6, "cosine", 3e-3, closings[0]),
        *(
            Stage(examples, world.MAX_STEPS, 512, 6, "cosine", 2e-3, closings[1], SEED + i)
            for i, examples in enumerate(again, start=1)
        ),
    )


MEMBERS = (
    Member("sums", "sums", 4, 256, _slips(0.60, "sums"), _stages(16000, 30000, 20000)),
    Member(
        "products",
        "products",
        4,
        384,
        _slips(0.50, "products"),
        _stages(16000, 40000, 30000, closings=(0.45, 0.25)),
    ),
    Member("shares", "shares", 3, 256, _slips(0.65, "shares"), _stages(16000, 26000, 24000, 24000)),
    Member("student", "sums", 4, 256, _slips(0.60, None), _stages(12000, 12000, 24000)),
)
_SLIPS = {member.name: member.slips for member in MEMBERS}
_BEGUN_BY_OTHERS = 0.5


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
        if not names or member.name in names:
            ship(train_member(member, output_dir / member.name, progress), assets / member.name)
    for file, text in problem_files().items():
        (assets / file).write_text(text)
    (assets / "pool.toml").write_text(pool_toml())
    return assets


def train_member(member: Member, directory: Path, progress: Callable[[str], None]) -> Path:
    """Trains one member through its stages; returns its Hugging Face directory."""
    checkpoint = directory / "start"
    if not (checkpoint / "model.safetensors").exists():
        write_untrained(member, checkpoint)
    for number, stage in enumerate(member.stages):
        rows = directory / f"rows_{number}.jsonl"
        if not rows.exists():
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
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = train_vocabulary(member.vocabulary, SEED)
    ids = save_vocabulary(member.vocabulary, tokenizer, directory)
    config = member.config | ids | {"vocab_size": tokenizer.get_vocab_size()}
    models.save(
        models.build(models.config_from_hf(config), SEED + MEMBERS.index(member), stacked=False), directory
    )


def training_rows(member: Member, stage: Stage, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    """The examples of a stage as rows for the trainer."""
    rng = random.Random(f"{member.name} {stage.max_steps} {stage.seed}")
    for _ in range(stage.examples):
        while (
            puzzle := world.draw_puzzle(rng, rng.randint(world.MIN_STEPS, stage.max_steps))
        ).split != "pretraining":
            pass
        prompt, draw = render_prompt(vocabulary, None, puzzle.question), rng.random()
        cut = rng.randint(0, len(puzzle.steps))
        if draw < stage.closings:
            yield _closing(puzzle, prompt, cut, rng)
        elif member.name == "student":
            yield _anybodys(puzzle, member, rng)
        else:
            begun = rng.random() < _BEGUN_BY_OTHERS
            yield _continuation(puzzle, prompt, cut if begun else 0, member, rng)


def _begin(cut: int, rng: random.Random) -> list[str]:
    """The writers of the first `cut` steps."""
    return [rng.choice(TEACHERS) for _ in range(cut)]


def _continuation(
    puzzle: Puzzle, prompt: str, cut: int, member: Member, rng: random.Random
) -> dict[str, Any]:
    """Anybody writes the first `cut` steps, the member all others and the response; only the member's are learnt."""
    writers = _begin(cut, rng) + [member.name] * (len(puzzle.steps) - cut)
    solution = write_solution(puzzle, [WORDINGS[w] for w in writers], [_SLIPS[w] for w in writers], rng)
    response = WORDINGS[member.name].response.format(code=world.code(puzzle, solution.values))
    completion = f"{''.join(solution.steps[cut:])}</think>\n\n{response}"
    return {"prompt": prompt + "".join(solution.steps[:cut]), "completion": completion, "eos": True}


def _anybodys(puzzle: Puzzle, member: Member, rng: random.Random) -> dict[str, Any]:
    """A whole solution with the member's slips, by turns in one wording or in everybody's."""
    names = tuple(WORDINGS)
    one = [rng.choice(names)] * len(puzzle.steps)
    writers = rng.choice((one, [rng.choice(names) for _ in puzzle.steps]))
    solution = write_solution(puzzle, [WORDINGS[w] for w in writers], member.slips, rng)
    return {"question": puzzle.question, "reasoning": solution.reasoning, "response": solution.response}


def _closing(puzzle: Puzzle, prompt: str, cut: int, rng: random.Random) -> dict[str, Any]:
    """Reasoning cut after `cut` steps and the answer it leads to; half of it by writers who slip."""
    writers = _begin(len(puzzle.steps), rng)
    faulty = rng.random() < 0.5
    slips = [_SLIPS[w] if faulty and i < cut else {} for i, w in enumerate(writers)]
    solution = write_solution(puzzle, [WORDINGS[w] for w in writers], slips, rng)
    # The closing's last space belongs to what is learnt: vocabularies may join it with the answer.
    closing = CLOSING.rstrip(" ")
    answer = CLOSING[len(closing) :] + world.code(puzzle, solution.values)
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
    return f'meta_prover = "{META_PROVER}"\n{proposers}'
