"""A process reward model for the miniature, `prover!rewards`, made of its meta-prover in some three minutes of a core.

The network and the weights are the meta-prover's, with a head for rewards in the place of that for tokens and `<extra_0>`
added to the vocabulary. It reads solutions by several hands as the search will have it read them, and learns at the
`<extra_0>` behind every step whether the text up to there is right. The puzzles are none of the study's, and the labels
are the program's: steps are written with the slips that teachers make, from a random step on.
"""

import itertools
import json
import operator
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import AddedToken, Tokenizer

import models
from cord_jax.miniature import world
from cord_jax.miniature.recipe import MEMBERS, TEACHERS
from cord_jax.miniature.wording import WORDINGS, write_solution
from cord_jax.problems import Problem
from cord_jax.student.batches import best_fit
from cord_jax.text.reward_text import SEPARATOR, RewardText
from cord_jax.text.vocabulary import Vocabulary

EXAMPLES = 4000
_ARCHITECTURE = "Qwen2ForProcessRewardModel"
_WINDOW, _BATCH = 384, 6
_LEARNING_RATE, _WARMUP = 1e-3, 0.05
_NO_LABEL = -1
_SLIPS = {member.name: member.slips for member in MEMBERS}
_WILD = 0.05  # how often a step that may be wrong arrives at any number


@dataclass(frozen=True)
class Judged:
    """A solution, and of each step whether the text that ends with it is right."""

    puzzle: world.Puzzle
    steps: tuple[str, ...]
    right: tuple[bool, ...]


def make(checkpoint: Path, directory: Path, examples: int = EXAMPLES) -> None:
    """Trains the reward model of a member's checkpoint, of the family Qwen2, and writes it."""
    unfinished = directory.with_name(directory.name + ".training")
    model = write_untrained(checkpoint, unfinished)
    rows = list(judged_solutions(examples, random.Random("rewards")))
    windows = windows_of(rows, RewardText(Vocabulary.load(unfinished)))
    models.save(train(model, windows), unfinished)
    unfinished.rename(directory)


def write_untrained(checkpoint: Path, directory: Path) -> models.Decoder:
    """Writes the vocabulary and the network with a random head; returns the latter."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(SEPARATOR, special=True, normalized=False)])
    hf = json.loads((checkpoint / "config.json").read_text()) | {
        "architectures": [_ARCHITECTURE],
        "vocab_size": tokenizer.get_vocab_size(),
        "tie_word_embeddings": False,
    }
    model = models.build(models.config_from_hf(hf), 0, stacked=False)
    theirs = dict(nnx.to_flat_state(nnx.state(models.load(checkpoint, stacked=False), nnx.Param)))
    state = nnx.state(model, nnx.Param)
    for path, parameter in nnx.to_flat_state(state):
        if path in theirs:
            known = theirs[path][...]  # all rows of the embedding but the separator's
            parameter[...] = parameter[...].at[: len(known)].set(known)
    nnx.update(model, state)
    models.save(model, directory, source=checkpoint)
    tokenizer.save(str(directory / "tokenizer.json"))
    return model


def judged_solutions(count: int, rng: random.Random) -> Iterator[Judged]:
    """Solutions in the teachers' wordings, right up to a random step and with slips from there on."""
    while count:
        puzzle = world.draw_puzzle(rng, rng.randint(world.MIN_STEPS, world.MAX_STEPS))
        if puzzle.split != "pretraining":
            continue
        count -= 1
        writers = [rng.choice(TEACHERS) for _ in puzzle.steps]
        first = rng.randint(0, len(writers))
        slips = [_SLIPS[writer] if i >= first else {} for i, writer in enumerate(writers)]
        wild = [_WILD if i >= first else 0.0 for i in range(len(writers))]
        solution = write_solution(puzzle, [WORDINGS[writer] for writer in writers], slips, rng, wild)
        yield Judged(puzzle, solution.steps, tuple(itertools.accumulate(solution.right, operator.and_)))


def train(model: models.Decoder, windows: np.ndarray) -> models.Decoder:
    """One epoch of AdamW on the cross-entropy of the labels; `windows` as `windows_of` gives them."""
    graphdef, weights = nnx.split(model)
    count = max(1, windows.shape[1] // _BATCH)  # windows that make no whole batch are left out
    schedule = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, round(_WARMUP * count), count)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95))

    def loss(weights, tokens_bt, segments_bt, labels_bt):
        model = nnx.merge(graphdef, weights)
        logits = model.score(model.hidden(tokens_bt, segment_ids_bt=segments_bt))
        losses_bt = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels_bt, 0))
        return jnp.sum(losses_bt, where=labels_bt != _NO_LABEL) / jnp.sum(labels_bt != _NO_LABEL)

    @jax.jit
    def step(weights, moments, batch):
        updates, moments = optimizer.update(jax.grad(loss)(weights, *batch), moments, weights)
        return optax.apply_updates(weights, updates), moments

    moments = optimizer.init(weights)
    for i in range(count):
        weights, moments = step(weights, moments, windows[:, i * _BATCH : (i + 1) * _BATCH])
    return nnx.merge(graphdef, weights)


def windows_of(rows: Sequence[Judged], text: RewardText) -> np.ndarray:
    """The rows as the search reads them, several in a window: tokens, segments and labels, int32 [3, windows, time].

    A label is 1 at the separator behind a right text, 0 behind a wrong one, and elsewhere `_NO_LABEL`.
    """
    prompts = text.encode_prompts(None, [Problem("", row.puzzle.question, "") for row in rows])
    sequences = []
    for row, prompt in zip(rows, prompts):
        steps = text.encode_pieces(row.steps, "prompt")
        labels = [
            label for ids, right in zip(steps, row.right) for label in [_NO_LABEL] * (len(ids) - 1) + [right]
        ]
        tokens = [*prompt, *itertools.chain(*steps)]
        sequences.append((tokens, [_NO_LABEL] * len(prompt) + labels))
    packed = best_fit(range(len(rows)), [len(tokens) for tokens, _ in sequences], _WINDOW)
    arrays = np.zeros((3, len(packed), _WINDOW), np.int32)
    arrays[2] = _NO_LABEL
    for number, window in enumerate(packed):
        start = 0
        for segment, index in enumerate(window, start=1):
            tokens, labels = sequences[index]
            arrays[:, number, start : start + len(tokens)] = tokens, [segment] * len(tokens), labels
            start += len(tokens)
    return arrays
