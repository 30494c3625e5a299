"""The selector `binary_judgment`: how often the meta-prover, cut short, states the right answer (paper, "selection
criteria"; method, section 3.13).
"""

import dataclasses

from cord_jax.config import SynthesisConfig
from cord_jax.search.scorers import Judged, Scorer, Scores


@dataclasses.dataclass(frozen=True)
class BinaryJudgment(Scorer):
    """The share of a candidate's judgments that is right, which the exchange has found.

    Attributes:
      judgments: as in `Scorer`.
    """

    judgments: Judged
    needs_answer = True

    def __call__(self, plan, constants, state, batch, candidates):
        """Scores as `Scorer` says."""
        return Scores(candidates.score_rj)


def scorer(config: SynthesisConfig) -> BinaryJudgment:
    """The scorer of a run; `config` is resolved."""
    return BinaryJudgment(Judged(config.judgments, config.max_judgment_tokens, graded=True))
