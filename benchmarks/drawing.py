"""Readers of the transformers search (`benchmarks.transformers_search`) that draw and count their tokens."""

from collections.abc import Sequence

import torch

from benchmarks.transformers_search import Past, Reader


class DrawingReader(Reader):
    """A reader that writes at temperature 1, or the most probable tokens.

    Attributes:
      written: tokens that have been written, EOS included.
    """

    def __init__(self, reader: Reader, greedy: bool):
        super().__init__(reader.checkpoint, reader.prompt, reader.model, reader.vocabulary)
        self.greedy, self.written = greedy, 0
        self.generator = torch.Generator(reader.model.device).manual_seed(0)

    def read(self, past: Past | None, ids: Sequence[Sequence[int]], keep: int) -> tuple[Past, torch.Tensor]:
        """As before, but the greatest of the last place's logits is a draw. Scores, which take more than
        the last place, stay as they are.
        """
        past, logits = super().read(past, ids, keep)
        if keep == 1 and not self.greedy:
            # The greatest sum of a logit and a number of a Gumbel distribution is a draw from the softmax.
            logits -= torch.empty_like(logits).exponential_(generator=self.generator).log_()
        return past, logits

    def write(
        self, past: Past, logits: torch.Tensor, limits: Sequence[int], stops, noise=None
    ) -> list[tuple]:
        """As before."""
        written = super().write(past, logits, limits, stops, noise)
        self.written += sum(len(ids) + (stopped == "eos") for ids, stopped in written)
        return written
