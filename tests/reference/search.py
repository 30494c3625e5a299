"""Step-wise beam search, curation and answers by brute force, at temperature 0.

Every sampled token is one forward pass over the whole text so far; after it, everything sampled is decoded
again and searched for a boundary. Every score is one forward pass over prompt, reasoning, closing and answer.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import judgment, text
from .hypotheses import Candidate, Draft, Hypothesis, Node, Step
from .reader import Reader
from .reward import RewardReader
from .settings import Margins, Pool, Right, Settings, Unwanted, decimal, equals_a_form

# Methods of whole texts, with what stands for their segmentation. "integration" is its second part alone.
WHOLE = {"curation": "whole", "integration": "free"}


class ProblemSearch:
    """The search of one problem."""

    def __init__(
        self,
        pool: Pool,
        teachers: list[Reader],
        meta_prover: Reader,
        problem: dict,
        problems: list[dict],
        settings: Settings,
    ):
        self.problems = problems
        self.pool = pool
        self.teachers = teachers
        self.meta_prover = meta_prover
        self.problem = problem
        self.settings = settings
        self.prompts = [
            teacher.prompt(problem, proposer.system_prompt)
            for teacher, proposer in zip(teachers, pool.proposers)
        ]
        self.meta_prompt = meta_prover.prompt(problem, pool.meta_prover.system_prompt)
        self.rows: list[dict] = []
        self.usage = {
            proposer.name: {"proposed": 0, "committed": 0, "scored": 0} for proposer in pool.proposers
        }

    # What one teacher does

    def context(self, proposer: int, beam: Hypothesis) -> list[int]:
        """A teacher's ids of its prompt and of the steps so far, each encoded by itself."""
        teacher = self.teachers[proposer]
        tokens = list(self.prompts[proposer])
        for step in beam.steps:
            tokens += teacher.encode_piece(step.text)
        return tokens

    def sample(self, proposer: int, tokens: list[int]) -> int:
        token, lead = self.teachers[proposer].next_token(tokens)
        self.settings.margins.token = min(self.settings.margins.token, lead)
        return token

    def propose(
        self, proposer: int, beam: Hypothesis, step: int, segmentation: str, limit: int, stopped_by_limit: str
    ) -> text.Proposal:
        """Samples one proposal of at most `limit` tokens."""
        teacher = self.teachers[proposer]
        forced = text.heading(segmentation, step)
        context = self.context(proposer, beam) + teacher.encode(forced)
        sampled: list[int] = []
        body = b""
        stopped = stopped_by_limit
        while len(sampled) < limit:
            sampled.append(self.sample(proposer, context + sampled))
            if sampled[-1] in teacher.eos:
                stopped = "eos"
                break
            body = teacher.bytes_of(sampled)
            if text.find_boundary(segmentation, body, finished=False):
                break
        self.usage[self.pool.proposers[proposer].name]["proposed"] += len(sampled)
        return text.read_proposal(segmentation, step, body, stopped, has_prefix=bool(beam.reasoning))

    def answer(self, winner: Hypothesis) -> str:
        """The continuation of the teacher of the last step after the thinking."""
        proposer = winner.steps[-1].proposer
        teacher = self.teachers[proposer]
        context = self.context(proposer, winner) + teacher.encode_piece("</think>\n\n")
        sampled: list[int] = []
        while len(sampled) < self.settings.max_answer_tokens:
            token = self.sample(proposer, context + sampled)
            if token in teacher.eos:
                break
            sampled.append(token)
        return teacher.bytes_of(sampled).decode("utf-8", "replace")

    # What the meta-prover does

    def meta_tokens(self, beam: Hypothesis) -> int:
        return sum(step.tokens for step in beam.steps)

    def score(self, proposer: int, beam: Hypothesis, step_text: str) -> np.float32:
        """The score of beam + step: the most probable form of the answer counts."""
        reader = self.meta_prover
        step_tokens = reader.encode_piece(step_text)
        context = list(self.meta_prompt)
        for step in beam.steps:
            context += reader.encode_piece(step.text)
        context += step_tokens
        forms = text.answer_forms(self.problem)
        closing = self.settings.closing
        used = len(step_tokens) + sum(len(reader.encode_answer(closing, form)[0]) for form in forms)
        self.usage[self.pool.proposers[proposer].name]["scored"] += used
        return max(reader.answer_probability(context, closing, form) for form in forms)

    def perplexity(self, winner: Hypothesis, answers: list[str]) -> float | None:
        """The greatest predictive perplexity of answers after a whole trace."""
        if not winner.reasoning or not answers:
            return None
        context = list(self.meta_prompt)
        for step in winner.steps:
            context += self.meta_prover.encode_piece(step.text)
        found = [self.meta_prover.answer_probability(context, self.settings.closing, a) for a in answers]
        return decimal(max(found))

    def judged(self, beam: Hypothesis, step_text: str) -> np.float32:
        """Whether the answer that the meta-prover states after beam + step is right, or how sure it is of it."""
        context = list(self.meta_prompt)
        for piece in [*(step.text for step in beam.steps), step_text]:
            context += self.meta_prover.encode_piece(piece)
        said, sure = judgment.write(
            self.meta_prover, context, self.settings.closing, self.settings.max_judgment_tokens
        )
        if self.settings.selector == "confidence":
            return sure
        return np.float32(self.settings.right(said.strip().removesuffix("."), self.problem))

    # One round

    def drafts(self, beam_number: int, beam: Hypothesis, step: int) -> list[Draft]:
        """What the teachers propose after one beam; the useless and the repeated are marked as dropped."""
        settings = self.settings
        drafts: list[Draft] = []
        for proposer in range(len(self.pool.proposers)):
            left = settings.max_thinking_tokens - self.meta_tokens(beam)
            if settings.method in WHOLE:
                segmentation, limit, stopped = WHOLE[settings.method], left, "budget"
            else:
                segmentation = settings.segmentation
                limit = min(settings.max_step_tokens, left)
                stopped = "budget" if left <= settings.max_step_tokens else "cap"
            proposal = self.propose(proposer, beam, step, segmentation, limit, stopped)
            ended, dropped = proposal.ended, proposal.dropped
            tokens = len(self.meta_prover.encode_piece(proposal.text))
            if (
                dropped is None
                and ended not in ("think_end", "eos")
                and self.meta_tokens(beam) + tokens >= settings.max_thinking_tokens
            ):
                ended = "budget"
            draft = Draft(beam_number, beam, proposer, step, proposal.text, tokens, ended, dropped)
            if dropped is None and settings.method not in WHOLE:
                for earlier in drafts:
                    if (
                        earlier.dropped is None
                        and earlier.text == draft.text
                        and earlier.complete == draft.complete
                    ):
                        draft.dropped = "duplicate"
            drafts.append(draft)
        return drafts

    def filter(self, drafts: list[Draft]) -> None:
        """Marks what the filters drop; none of them may leave nothing."""
        segmentation = WHOLE.get(self.settings.method, self.settings.segmentation)

        def without_heading(step: int, written: str) -> str:
            forced = text.heading(segmentation, step)
            return written[len(forced) :] if written.startswith(forced) else written

        for name, unwanted in self.settings.filters.items():
            valid = [draft for draft in drafts if draft.dropped is None]
            kept = []
            for draft in valid:
                past = [without_heading(n, step.text) for n, step in enumerate(draft.parent.steps, start=1)]
                if not unwanted(without_heading(draft.step, draft.text), past):
                    kept.append(draft)
            if not kept:
                continue
            for draft in valid:
                if all(draft is not other for other in kept):
                    draft.dropped = name

    def judge(self, drafts: list[Draft]) -> list[Candidate]:
        """The candidates that are not dropped, with their scores; every draft leaves a row."""
        candidates: list[Candidate] = []
        for draft in drafts:
            score = None
            if draft.dropped is None:
                score = self.score(draft.proposer, draft.parent, draft.text)
                if self.settings.selector == "max_length":
                    score = np.float32(self.meta_tokens(draft.parent) + draft.tokens)
                if self.settings.selector in ("binary_judgment", "confidence"):
                    score = self.judged(draft.parent, draft.text)
                if self.settings.reward_model is not None:
                    steps = [step.text for step in draft.parent.steps] + [draft.text]
                    score = self.settings.reward_model.reward(self.problem, steps, self.settings.reward_of)
            row = {
                "node": len(self.rows) + 1,
                "parent": draft.parent.node,
                "problem": self.problem["id"],
                "step": draft.step,
                "beam": draft.beam,
                "teacher": self.pool.proposers[draft.proposer].name,
                "text": draft.text,
                "score": decimal(score),
                "kept": False,
                "rank": None,
                "dropped": draft.dropped,
                "ended": draft.ended,
            }
            self.rows.append(row)
            if draft.dropped is None:
                step = Step(draft.text, draft.proposer, score, draft.tokens, draft.ended)
                extended = Hypothesis(draft.parent.steps + (step,), len(self.rows))
                candidates.append(Candidate(extended, draft.beam, draft.proposer, row))
        return candidates

    def select(self, pool: list[Candidate], places: int) -> list[Hypothesis]:
        """The best of a round, best first; their rows learn their rank."""

        def order(candidate: Candidate):
            carried = candidate.row is None
            return (-candidate.hypothesis.score, not carried, candidate.beam, candidate.proposer)

        ranked = sorted(pool, key=order)
        for better, worse in zip(ranked, ranked[1:]):
            difference = float(better.hypothesis.score) - float(worse.hypothesis.score)
            if difference > 0:
                self.settings.margins.score = min(self.settings.margins.score, difference)
        for rank, candidate in enumerate(ranked[:places]):
            if candidate.row is not None:
                candidate.row.update(kept=True, rank=rank)
        return [candidate.hypothesis for candidate in ranked[:places]]

    # The whole search

    def beam_search(self) -> tuple[Hypothesis, str]:
        """The winner and its status."""
        beams = [Hypothesis()]
        for step in range(1, self.settings.max_steps + 1):
            pool = []
            for number, beam in enumerate(beams):
                if beam.complete:
                    pool.append(Candidate(beam, number, -1, None))
                else:
                    drafts = self.drafts(number, beam, step)
                    self.filter(drafts)
                    pool += self.judge(drafts)
            if not pool:
                return beams[0], "stuck"
            beams = self.select(pool, self.settings.beam_width)
            if all(beam.complete for beam in beams):
                break
        # Beams stand in the order of their scores, and what is still open now is closed as it is.
        return beams[0], self.status(beams[0])

    def curation(self) -> tuple[Hypothesis, str]:
        """The best of beam_width whole traces of every proposer."""
        drafts = []
        for number in range(self.settings.beam_width):
            drafts += self.drafts(number, Hypothesis(), 1)
        self.filter(drafts)
        pool = self.judge(drafts)
        if not pool:
            return Hypothesis(), "stuck"
        (winner,) = self.select(pool, 1)
        return winner, self.status(winner)

    def mcts(self) -> tuple[Hypothesis, str]:
        """Monte Carlo tree search, as in the method, section 3.14."""
        settings = self.settings
        root = Node(Hypothesis(), None)
        nodes, barren = [root], None
        for expansion in range(settings.max_expansions):
            complete = [node for node in nodes if node.complete(settings.max_steps)]
            if len({id(node.parent) for node in complete}) >= settings.beam_width:
                break
            if root.closed(settings.max_steps):
                break
            node = root
            while node.children:
                open_children = [c for c in node.children if not c.closed(settings.max_steps)]
                node = max(open_children, key=lambda c: c.bound(settings.exploration))
            drafts = self.drafts(expansion, node.hypothesis, node.depth + 1)
            self.filter(drafts)
            candidates = self.judge(drafts)
            for candidate in candidates:
                candidate.row["kept"] = True
                node.children.append(Node(candidate.hypothesis, node))
            nodes += node.children
            node.expanded = True
            if not candidates and barren is None:
                barren = node
            value = max((c.hypothesis.score for c in candidates), default=np.float32(0))
            while node is not None:
                node.visits, node.value = node.visits + 1, np.float32(node.value + value)
                node = node.parent
        complete = [node for node in nodes if node.complete(settings.max_steps)]
        left = [n for n in nodes[1:] if not n.closed(settings.max_steps) and not n.expanded]
        for found in (complete, left):
            if found:
                winner = max(found, key=lambda node: node.hypothesis.score).hypothesis
                return winner, self.status(winner)
        return barren.hypothesis, "stuck"

    def status(self, winner: Hypothesis) -> str:
        if not winner.complete:
            return "max_steps"
        return "budget" if winner.steps[-1].ended == "budget" else "complete"

    def run(self) -> tuple[dict, list[dict]]:
        search = self.beam_search
        if self.settings.decoding == "mcts":
            search = self.mcts
        if self.settings.method in WHOLE:
            search = self.curation
        winner, status = search()
        response = None if status == "stuck" else self.answer(winner)
        steps = []
        for step in winner.steps:
            name = self.pool.proposers[step.proposer].name
            self.usage[name]["committed"] += len(self.teachers[step.proposer].encode_piece(step.text))
            steps.append(
                {
                    "text": step.text,
                    "teacher": name,
                    "score": decimal(step.score),
                    "tokens": step.tokens,
                    "ended": step.ended,
                }
            )
        trace = {
            "id": self.problem["id"],
            "question": self.problem["question"],
            "answer": self.problem["answer"],
            "status": status,
            "score": decimal(winner.score),
            "reasoning": winner.reasoning,
            "response": response,
            "predicted_answer": None if response is None else text.predicted_answer(response),
            "predictive_perplexity": self.perplexity(winner, text.answer_forms(self.problem)),
            "steps": steps,
            "usage": self.usage,
        }
        if self.settings.decoys:
            answers = self.decoys()
            one_by_one = [self.perplexity(winner, [answer]) for answer in answers]
            trace["decoy_scores"] = (
                one_by_one if winner.reasoning and text.answer_forms(self.problem) else None
            )
        return trace, self.rows

    def decoys(self) -> list[str]:
        """Wrong answers of other problems, in the order of a hash; right is what equals an accepted form."""
        mine = self.problem["id"]

        def digest(other: dict) -> str:
            return hashlib.sha256(f"{self.settings.seed} {mine} {other['id']}".encode()).hexdigest()

        found: list[str] = []
        for other in sorted((p for p in self.problems if p["id"] != mine), key=digest):
            answer = unicodedata.normalize("NFC", other["answer"])
            if answer not in found and answer not in text.answer_forms(self.problem):
                found.append(answer)
        return found[: self.settings.decoys]


def reference_search(
    pool: Pool,
    problems: list[dict],
    *,
    method: str = "cord",
    segmentation: str = "prompt",
    beam_width: int = 4,
    max_steps: int = 8,
    max_step_tokens: int = 32,
    max_thinking_tokens: int = 16384,
    max_answer_tokens: int = 4096,
    closing: str = text.DEFAULT_CLOSING,
    margins: Margins | None = None,
    decoding: str = "beam",
    exploration: float = 0.2,
    max_expansions: int | None = None,
    selector: str = "predictive_perplexity",
    decoys: int = 0,
    seed: int = 0,
    reward_model: Path | None = None,
    reward_of: str = "last",
    max_judgment_tokens: int = 32,
    right: Right = equals_a_form,
    filters: Mapping[str, Unwanted] = {},
) -> list[tuple[dict, list[dict]]]:
    """Searches a trace for every problem.

    Args:
      pool: the proposers, all at temperature 0, and the meta-prover.
      problems: rows of a problem file: `id`, `question`, `answer`, and perhaps `context` and `answers`.
      method: "cord" or "curation" (which has neither steps nor step caps, and ignores the segmentation).
      segmentation: "prompt", "line_break" or "prefix".
      decoding: "beam" or "mcts"; exploration, max_expansions: of the latter.
      selector: "predictive_perplexity", "max_length", "binary_judgment" or "confidence"; a reward model, with `reward_of`,
        takes its place.
      right: whether a judgment is.
      decoys: wrong answers that are scored after the winner's reasoning, chosen by the seed.
      margins: filled, if given, with how near to a tie the run came.
      filters: what drops drafts before they are scored, by name, in their order.

    Returns:
      For every problem its trace row (without `correct` and `seconds`) and its tree rows.
    """
    if any(proposer.temperature != 0 for proposer in pool.proposers):
        raise ValueError("the reference samples at temperature 0 only")
    if method not in ("cord", "curation") or segmentation not in ("prompt", "line_break", "prefix"):
        raise ValueError(f"unknown method or segmentation: {method}, {segmentation}")
    settings = Settings(
        method,
        segmentation,
        beam_width,
        max_steps,
        max_step_tokens,
        max_thinking_tokens,
        max_answer_tokens,
        closing,
        Margins() if margins is None else margins,
        decoding,
        exploration,
        max_expansions or beam_width * max_steps,
        selector,
        decoys,
        seed,
        None if reward_model is None else RewardReader(reward_model),
        reward_of,
        max_judgment_tokens,
        right,
        filters,
    )
    checkpoints = [spec.checkpoint for spec in (*pool.proposers, pool.meta_prover)]
    readers = {Path(checkpoint): Reader(checkpoint) for checkpoint in dict.fromkeys(checkpoints)}
    teachers = [readers[Path(proposer.checkpoint)] for proposer in pool.proposers]
    meta_prover = readers[Path(pool.meta_prover.checkpoint)]
    return [
        ProblemSearch(pool, teachers, meta_prover, problem, problems, settings).run() for problem in problems
    ]
