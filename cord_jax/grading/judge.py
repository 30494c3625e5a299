"""The grader `judge`: a language model that is asked whether a response agrees with the gold answer.

Nothing is sampled: a response is right if `Yes` is more probable than `No` as the first token of the judge's answer.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.errors import UserError
from cord_jax.grading.grader import Grader, Submission
from cord_jax.text.prompts import THINK_END, THINK_START, render_messages
from cord_jax.text.vocabulary import Vocabulary

_TURN = """Here are a question, its correct answer and a response to it. Does the response give the correct answer? \
It may be written in another form.

### Question
{question}

### Correct answer
{forms}

### Response
{response}

Answer with one word, Yes or No."""

_LONGEST_RESPONSE = 12_000  # characters, from its end, where the answer is
_SHORTEST = 128  # tokens of a row; longer ones are padded to a power of two
_BATCH_TOKENS = 8192


class Judge(Grader):
    """Asks a checkpoint. In a job of several processes all of them grade the same responses, in the same order."""

    needs_devices = True

    def __init__(self, *, checkpoint: str | Path, mesh: Mesh):
        """Args:
          checkpoint: Hugging Face directory of the judge.
          mesh: devices that it is laid out on.

        Raises: `UserError` or `models.CheckpointError` if it cannot judge or cannot be loaded.
        """
        self.vocabulary, yes, no = read_judge(checkpoint)
        execution = models.execution_of(models.read_config(checkpoint), mesh)
        model = models.load(checkpoint, mesh, stacked=execution.stacked)
        self.vocabulary.defined(model.config.vocab_size)
        graphdef, self._weights = nnx.split(model)
        self._rows = mesh.shape["data"]
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._margins = jax.jit(
            partial(_margins, graphdef, yes, no),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
            compiler_options=execution.compiler_options,
        )

    def grade_responses(self, submissions: Sequence[Submission]) -> list[bool]:
        """Whether the judge finds that each response agrees with the gold answer; one without an answer never does."""
        asked = [i for i, submission in enumerate(submissions) if submission.predicted is not None]
        prompts = {i: self._prompt(submissions[i]) for i in asked}
        right = [False] * len(submissions)
        for batch in _batches(prompts, self._rows):
            token_bt, last_b = _pad([prompts[i] for i in batch], self._rows)
            margin_b = np.asarray(self._margins(self._weights, self._place(token_bt), self._place(last_b)))
            for i, margin in zip(batch, margin_b):
                right[i] = bool(margin > 0)
        return right

    def _prompt(self, submission: Submission) -> list[int]:
        text = judge_prompt(self.vocabulary, submission)
        return self.vocabulary.encode_prompt(text)

    def _place(self, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, self._sharding, lambda index: array[index])


GRADER = Judge


def read_judge(checkpoint: str | Path) -> tuple[Vocabulary, int, int]:
    """The judge's vocabulary and its ids of `Yes` and `No`; its weights are not read.

    Raises: `UserError` or `models.CheckpointError` if the checkpoint cannot judge.
    """
    if models.read_config(checkpoint).head != "language_model":
        raise UserError(
            f"--judge={checkpoint}: is a reward model, which answers nothing; give a language model"
        )
    vocabulary = Vocabulary.load(checkpoint)
    yes, no = vocabulary.encode("Yes"), vocabulary.encode("No")
    if len(yes) != 1 or len(no) != 1 or yes == no:
        raise UserError(
            f"--judge={checkpoint}: its vocabulary has no tokens of their own for Yes and No; give another model"
        )
    return vocabulary, yes[0], no[0]


def judge_prompt(vocabulary: Vocabulary, submission: Submission) -> str:
    """The text after which the judge says Yes or No: its own chat template, the thought closed where it opens one."""
    problem = submission.problem
    question = f"{problem.context}\n\n{problem.question}" if problem.context else problem.question
    turn = _TURN.format(
        question=question,
        forms="\nor ".join(problem.forms),
        response=submission.response[-_LONGEST_RESPONSE:],
    )
    arguments = {"enable_thinking": False, "thinking": False}
    text = render_messages(vocabulary, [{"role": "user", "content": turn}], arguments)
    opened = text.rstrip()
    return f"{opened}\n\n{THINK_END}\n\n" if opened.endswith(THINK_START) else text


def _batches(prompts: dict[int, list[int]], rows: int) -> Iterator[list[int]]:
    """Groups of prompts of like length, by their numbers; a multiple of `rows` where there are enough."""
    waiting = sorted(prompts, key=lambda i: (len(prompts[i]), i))
    while waiting:
        length = _width(len(prompts[waiting[-1]]))
        count = max(rows, _BATCH_TOKENS // length // rows * rows)
        yield waiting[-count:]
        waiting = waiting[:-count]


def _width(length: int) -> int:
    return max(_SHORTEST, 1 << (length - 1).bit_length())


def _pad(prompts: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [b, t] tokens and int32 [b] places of the last ones; b is the next power of two times `rows`."""
    parts = -(-len(prompts) // rows)
    count = rows * (1 << (parts - 1).bit_length())
    token_bt = np.zeros((count, _width(max(map(len, prompts)))), np.int32)
    last_b = np.zeros(count, np.int32)
    for row, ids in enumerate(prompts):
        token_bt[row, : len(ids)] = ids
        last_b[row] = len(ids) - 1
    return token_bt, last_b


def _margins(graphdef: nnx.GraphDef, yes: int, no: int, weights: nnx.State, token_bt, last_b) -> jax.Array:
    """log P(Yes) - log P(No) after each prompt, float32 [b]. Only these places are projected to logits."""
    model = nnx.merge(graphdef, weights)
    x_btd = model.hidden(token_bt)
    logits_bv = model.unembed(x_btd[jnp.arange(len(last_b)), last_b])
    return logits_bv[:, yes] - logits_bv[:, no]
