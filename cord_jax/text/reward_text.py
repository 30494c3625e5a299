"""Text as process reward models read it: a separator follows every step (method, section 3.13)."""

import re
from collections.abc import Sequence

from cord_jax.errors import UserError
from cord_jax.problems import Problem
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_messages
from cord_jax.text.segmentation import STEP_MARKER
from cord_jax.text.vocabulary import Vocabulary

# What Qwen2.5-Math-PRM's model card puts behind a step; the reward is read off at it.
SEPARATOR = "<extra_0>"
_STEP = re.compile(r"(?<=\n)" + re.escape(STEP_MARKER.decode().removeprefix("\n")) + r"(?![A-Za-z])")


class RewardText:
    """Encodes steps for a process reward model: each without trailing white space, then the separator.

    Attributes:
      vocabulary: the model's.
      separator: id of `<extra_0>`.
    """

    def __init__(self, vocabulary: Vocabulary):
        """Raises: `UserError` if the vocabulary has no separator."""
        self.vocabulary = vocabulary
        found = vocabulary.tokenizer.convert_tokens_to_ids(SEPARATOR)
        if found is None or vocabulary.tokenizer.convert_ids_to_tokens(found) != SEPARATOR:
            raise UserError(
                f"{vocabulary.directory}: the tokenizer has no {SEPARATOR}, at which a process reward model gives its "
                "rewards; name a checkpoint of such a model in [reward_model]"
            )
        self.separator = int(found)

    def encode_pieces(self, texts: Sequence[str], segmentation: str) -> list[list[int]]:
        """Token ids of texts; a whole trace is read as its parts from one step marker to the next."""
        parts = [parts_of(text) for text in texts]
        encoded = iter(self.vocabulary.encode_batch([part.rstrip() for of_one in parts for part in of_one]))
        return [[i for _ in of_one for i in (*next(encoded), self.separator)] for of_one in parts]

    def encode_prompts(self, system_prompt: str | None, problems: Sequence[Problem]) -> list[list[int]]:
        """Each problem's prompt: the model's own template up to where the assistant begins, without `<think>`."""
        system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        prompts = []
        for problem in problems:
            question = PromptSettings().user_turn(problem.question, problem.context)
            turns = [*system, {"role": "user", "content": question}]
            prompts.append(self.vocabulary.encode_prompt(render_messages(self.vocabulary, turns, {})))
        return prompts


def parts_of(text: str) -> list[str]:
    """Cuts a text before every step marker but the first; no part of an empty text."""
    cuts = [0, *(found.start() for found in _STEP.finditer(text)), len(text)]
    return [text[start:end] for start, end in zip(cuts, cuts[1:]) if text[start:end].strip()]
