"""Texts of the searches that are under way; on the host, where the engine and the exchange share them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cord_jax.search.round_record import CandidateText, SettledRound


@dataclasses.dataclass
class _Search:
    """One problem: texts of each round in the order of candidates, the frontiers that they extend, what is replayed, and
    the round that is being judged.
    """

    texts: dict[int, list[CandidateText | None]] = dataclasses.field(default_factory=dict)
    frontiers: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    recorded: Sequence[SettledRound] = ()
    pending: tuple[int, SettledRound] | None = None
    graded: tuple[int, list[bool]] | None = None


class SearchTexts:
    """The canonical steps of all nodes, by problem.

    The engine makes one, tells it where searches begin and takes out what is finished; the exchange notes each round in it.
    Noting a round again changes nothing, so a callback that runs twice does no harm.
    """

    def __init__(self, num_proposers: int, num_candidates: int):
        self._num_proposers, self._num_candidates = num_proposers, num_candidates
        self._searches: dict[int, _Search] = {}

    def begin(self, problem: int, recorded: Sequence[SettledRound] = ()) -> None:
        """Begins a search, whose first rounds an earlier run may have settled."""
        self._searches[problem] = _Search(recorded=recorded)

    def take(self, problem: int, rounds: int) -> list[list[CandidateText | None]]:
        """Takes out a finished problem: the texts of each of its rounds.

        Empty lists in processes that do not run the exchange: it runs in one of a job's.
        """
        texts = self._searches.pop(problem).texts
        return [texts.get(number, []) for number in range(rounds)]

    def recorded(self, problem: int, number: int) -> SettledRound | None:
        """Gives what an earlier run has settled in a round (from 0), None if it has not."""
        rounds = self._searches[problem].recorded
        return rounds[number] if number < len(rounds) else None

    def note(
        self, problem: int, number: int, frontier_b: np.ndarray, texts: list[CandidateText | None]
    ) -> None:
        """Notes the candidates of a round, and the nodes that they extend."""
        search = self._searches[problem]
        search.texts[number], search.frontiers[number] = texts, frontier_b

    def wait(self, problem: int, number: int, settled: SettledRound) -> None:
        """Notes a round that is settled but for its scores, which judgments will give."""
        self._searches[problem].pending = number, settled

    def pending(self, problem: int, number: int) -> SettledRound:
        """Gives the round that waits for its scores."""
        waiting, settled = self._searches[problem].pending
        assert waiting == number
        return settled

    def note_grades(self, problem: int, number: int, right: list[bool]) -> None:
        """Notes whether the judgments of a round are right, those of valid candidates one behind another."""
        self._searches[problem].graded = number, right

    def graded(self, problem: int, number: int) -> list[bool] | None:
        """Gives what `note_grades` was told of the round, None without that."""
        graded = self._searches[problem].graded
        return graded[1] if graded is not None and graded[0] == number else None

    def of_round(self, problem: int, number: int) -> list[CandidateText | None]:
        """The candidates of a round."""
        return self._searches[problem].texts[number]

    def of_node(self, problem: int, node: int) -> str:
        """The canonical step that ends in a node."""
        number, j = divmod(node - 1, self._num_candidates)
        return self._searches[problem].texts[number][j].text

    def trace(self, problem: int, node: int) -> list[str]:
        """The canonical steps from the root to a node."""
        steps = []
        while node > 0:
            steps.append(self.of_node(problem, node))
            number, j = divmod(node - 1, self._num_candidates)
            node = int(self._searches[problem].frontiers[number][j // self._num_proposers])
        return steps[::-1]
