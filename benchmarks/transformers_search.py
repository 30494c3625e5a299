"""The step-wise beam search (method, section 3) as a competent user of transformers writes it: torch models,
keys and values kept between rounds, rows batched, nothing read twice.

It is the peer that `benchmarks.peer` and `benchmarks.gpu` measure the engine against. Several problems are
searched in lock-step: all beams of all of them, times the proposers of a checkpoint, are one batch. The rows
of chosen beams are gathered from round to round, left padded, and only new tokens are read; the meta-prover
keeps what it has read while it scored; rows that have ended leave the batch. Headings are forced
(segmentation `prompt`), and tokens are the most probable ones (temperature 0), or drawn at temperature 1 with
Gumbel noise that the caller gives, so that another program can draw the same.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from cord_jax.engine.plan import SearchSettings
from cord_jax.engine.tables import ANSWER_CUE
from cord_jax.engine.teachers import distinct_readers
from cord_jax.pool import PoolSpec
from cord_jax.problems import Problem
from cord_jax.text import segmentation
from cord_jax.text.prompt_settings import PromptSettings
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

SEGMENTATION = "prompt"


# Columns that a cache grows by at a time.
ROOM = 64


class Layer(DynamicLayer):
    """Keys and values of a layer with room behind them: a token is written, and not all the others copied."""

    def __init__(
        self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None, columns: int = 0
    ):
        super().__init__()
        self.buffers, self.columns = (keys, values), columns
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        end = self.columns + key_states.shape[2]
        if self.buffers[0] is None or end > self.buffers[0].shape[2]:
            self.buffers = tuple(map(self._roomier, self.buffers, (key_states, value_states)))
        for buffer, new in zip(self.buffers, (key_states, value_states)):
            buffer[:, :, self.columns : end] = new
        self.columns = end
        return tuple(buffer[:, :, :end] for buffer in self.buffers)

    def _roomier(self, buffer, new):
        rows, heads, more, width = new.shape
        roomier = new.new_zeros((rows, heads, self.columns + more + ROOM, width))
        if buffer is not None:
            roomier[:, :, : self.columns] = buffer[:, :, : self.columns]
        return roomier

    def get_seq_length(self) -> int:
        return self.columns


class Past:
    """Keys and values of rows of text.

    Attributes:
      layers: `(keys, values)` of each layer, [rows, heads, columns and room, width].
      seen: bool [rows, columns], the columns that belong to a row's text; they lie in the text's order.
    """

    def __init__(self, layers, seen: torch.Tensor):
        self.layers, self.seen = layers, seen

    def take(self, rows: Sequence[int]) -> "Past":
        """A copy of some rows, without the columns that none of them sees, left padded."""
        index = torch.tensor(rows, device=self.seen.device)
        seen = self.seen[index]
        columns, width = seen.shape[1], int(seen.sum(1).max())
        if width == columns:
            return Past([tuple(x[index, :, :columns] for x in layer) for layer in self.layers], seen)
        order = torch.sort(seen.int(), dim=1, stable=True).indices[:, columns - width :]
        picked = [tuple(x[index[:, None], :, order].transpose(1, 2) for x in layer) for layer in self.layers]
        return Past(picked, seen.gather(1, order))

    def filled(self):
        """The layers without their room."""
        return [tuple(x[:, :, : self.seen.shape[1]] for x in layer) for layer in self.layers]

    @staticmethod
    def together(pasts: Sequence["Past"]) -> "Past":
        """The rows of several, left padded to the longest."""
        width = max(past.seen.shape[1] for past in pasts)

        def padded(x: torch.Tensor, dim: int) -> torch.Tensor:
            shape = list(x.shape)
            shape[dim] = width - shape[dim]
            return torch.cat([x.new_zeros(shape), x], dim)

        layers = [
            tuple(torch.cat([padded(layer[part], 2) for layer in same]) for part in (0, 1))
            for same in zip(*(past.filled() for past in pasts))
        ]
        return Past(layers, torch.cat([padded(past.seen, 1) for past in pasts]))


@dataclasses.dataclass
class Work:
    """What a checkpoint was asked to compute, padding not counted.

    Attributes:
      tokens: that were read; projected: positions whose logits were asked for; context: tokens that the read
        ones looked at.
    """

    tokens: int = 0
    projected: int = 0
    context: int = 0

    def operations(self, config) -> float:
        """Floating-point operations of that, for a network of Llama's kind."""
        d, e = config.hidden_size, config.hidden_size // config.num_attention_heads
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        layer = d * e * (2 * heads + 2 * kv_heads) + 3 * d * config.intermediate_size
        read = config.num_hidden_layers * (2 * layer * self.tokens + 4 * heads * e * self.context)
        return read + 2 * d * config.vocab_size * self.projected


class Reader:
    """A checkpoint with a system prompt: a torch network and a vocabulary."""

    def __init__(self, checkpoint: Path, prompt: PromptSettings, model, vocabulary: Vocabulary):
        self.checkpoint, self.prompt = checkpoint, prompt
        self.model, self.vocabulary = model, vocabulary
        defined = vocabulary.defined(model.config.vocab_size)
        self.undefined = torch.from_numpy(~defined).to(model.device)
        self.work = Work()

    def prompt_ids(self, problem: Problem) -> list[int]:
        text = render_prompt(self.vocabulary, self.prompt, problem.question, problem.context)
        return self.vocabulary.encode_prompt(text)

    def read(self, past: Past | None, ids: Sequence[Sequence[int]], keep: int) -> tuple[Past, torch.Tensor]:
        """Reads more text in every row; returns the logits of the last `keep` places, float32."""
        device = self.model.device
        rows, width = len(ids), max(map(len, ids))
        tokens = np.zeros((rows, width), np.int64)
        is_text = np.zeros((rows, width), bool)
        for row, row_ids in enumerate(ids):
            if row_ids:
                tokens[row, -len(row_ids) :], is_text[row, -len(row_ids) :] = row_ids, True
        seen = torch.from_numpy(is_text).to(device)
        if past is not None:
            seen = torch.cat([past.seen, seen], 1)
        place = seen.cumsum(1)
        mask = seen[:, None, None].expand(-1, 1, width, -1)
        if width > 1:
            earlier = torch.ones((width, seen.shape[1]), dtype=torch.bool, device=device)
            mask = mask & earlier.tril(seen.shape[1] - width)
        cache = DynamicCache()
        if past is None:
            cache.layers = [Layer() for _ in range(self.model.config.num_hidden_layers)]
        else:
            cache.layers = [Layer(*layer, past.seen.shape[1]) for layer in past.layers]
        logits = self.model(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=(place[:, -width:] - 1).clamp(min=0),
            past_key_values=cache,
            logits_to_keep=keep,
        ).logits.float()
        new = is_text.sum(1)
        self.work.tokens += int(new.sum())
        self.work.projected += rows * keep
        self.work.context += int((place[:, -1].cpu().numpy() * new - new * (new - 1) // 2).sum())
        read = Past([layer.buffers for layer in cache.layers], seen)
        return read, logits.masked_fill_(self.undefined, -torch.inf)

    def write(
        self, past: Past, logits: torch.Tensor, limits: Sequence[int], stops, noise: torch.Tensor | None
    ) -> list[tuple]:
        """Writes in every row until EOS, its limit, or `stops(bytes of the row)`.

        Args:
          noise: what is added to logits before the greatest is taken, [rows, tokens, vocabulary].

        Returns: for each row `(ids without EOS, "eos", "boundary" or "limit")`.
        """
        written: list[list[int]] = [[] for _ in limits]
        stopped: list[str | None] = [None] * len(limits)
        spelled = [b""] * len(limits)
        rows, tick = list(range(len(limits))), 0
        while True:
            last = logits[:, -1]
            if noise is not None:
                last = last + noise[rows, tick]
            tick += 1
            tokens = last.argmax(-1).tolist()
            for row, token in zip(rows, tokens):
                if stopped[row] is not None:
                    continue
                if token in self.vocabulary.eos_ids:
                    stopped[row] = "eos"
                    continue
                written[row].append(token)
                spelled[row] += self.vocabulary.token_bytes[token]
                if stops(spelled[row]):
                    stopped[row] = "boundary"
                elif len(written[row]) >= limits[row]:
                    stopped[row] = "limit"
            going = [place for place, row in enumerate(rows) if stopped[row] is None]
            if not going:
                return list(zip(written, stopped))
            # To leave out rows that have ended copies the cache once.
            if 4 * len(going) <= 3 * len(rows):
                past = past.take(going)
                rows = [rows[place] for place in going]
                tokens = [tokens[place] for place in going]
            past, logits = self.read(past, [[token] for token in tokens], 1)


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that a search took: its text, who wrote it, its score, how it ended, its meta-prover tokens."""

    text: str
    proposer: int
    score: float
    ended: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Beam:
    """A hypothesis. `rows` is its row in each reader's `Past` while it is open."""

    steps: tuple[Step, ...] = ()
    complete: bool = False
    row: int = -1

    @property
    def thinking(self) -> int:
        return sum(step.tokens for step in self.steps)


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a problem: the winner's steps, the response (None if the search was stuck)."""

    steps: tuple[Step, ...]
    response: str | None


@dataclasses.dataclass
class Candidate:
    """A step that was proposed and not dropped, and the meta-prover's row that scored it."""

    problem: int
    beam: int
    proposer: int
    text: str
    ended: str
    complete: bool
    ids: list[int]
    score: float = 0.0
    scored_row: int = -1


def boundary_is_decided(body: bytes) -> bool:
    """Whether a proposal can end here, whatever follows."""
    found = segmentation.find_boundary(SEGMENTATION, body)
    if found is None:
        return False
    cut, ended = found
    return ended == "think_end" or cut + len(segmentation.STEP_MARKER) < len(body)


class TransformersSearch:
    """Searches problems in lock-step batches."""

    def __init__(
        self,
        spec: PoolSpec,
        settings: SearchSettings,
        device: str = "cpu",
        dtype=torch.float32,
        noise: Callable[[str, int, int, int], torch.Tensor] | None = None,
    ):
        """Loads every checkpoint once, with scaled-dot-product attention.

        Args:
          noise: of a problem's id, step (0 for its response), beam and proposer, Gumbel noise [tokens, vocabulary] for
            temperature 1; None for temperature 0.
        """
        self.settings, self.noise = settings, noise
        used, self.meta = distinct_readers(spec)
        loaded = {}
        for path in dict.fromkeys(key.checkpoint for key in used):
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
            loaded[path] = model.to(device).eval()
        self.readers = [
            Reader(key.checkpoint, key.prompt, loaded[key.checkpoint], Vocabulary.load(key.checkpoint))
            for key in used
        ]
        self.proposers = list(used.values())  # of each reader
        self.writer = {proposer: index for index, mine in enumerate(self.proposers) for proposer in mine}
        self.num_proposers = len(spec.proposers)

    @torch.inference_mode()
    def search(self, problems: Sequence[Problem], batch: int) -> list[Found]:
        """Searches `batch` problems at a time."""
        found = []
        for start in range(0, len(problems), batch):
            found += self._search_batch(problems[start : start + batch])
        return found

    def _search_batch(self, problems: Sequence[Problem]) -> list[Found]:
        settings = self.settings
        pasts = [None] * len(self.readers)
        unread = [[reader.prompt_ids(problem) for problem in problems] for reader in self.readers]
        beams = {n: [Beam(row=n)] for n in range(len(problems))}
        winners, stash = {}, {}
        for step in range(1, settings.max_steps + 1):
            rows = [(n, b) for n in beams for b, beam in enumerate(beams[n]) if not beam.complete]
            pasts, proposals = self._propose(problems, pasts, unread, beams, rows, step)
            candidates = self._candidates(beams, rows, proposals, step)
            scored = self._score(problems, pasts[self.meta], beams, candidates)
            going_on = []  # open beams: problem, place, candidate, its parent's row
            for n in list(beams):
                selected = self._select(beams[n], [c for c in candidates if c.problem == n])
                if not selected:
                    winners[n] = beams.pop(n)[0]
                    continue
                ends = step == settings.max_steps or all(beam.complete for beam, _ in selected)
                for place, (beam, c) in enumerate(selected):
                    if c is None:
                        continue
                    row = beams[n][c.beam].row
                    if place == 0 if ends else beam.complete:
                        index = self.writer[c.proposer]
                        past, row, ids = self._source(index, pasts, scored, row, c)
                        stash[n, beam.steps] = past.take([row]), ids
                    elif not ends:
                        going_on.append((n, place, c, row))
                beams[n] = [beam for beam, _ in selected]
                if ends:
                    winners[n] = beams.pop(n)[0]
            if not beams:
                break
            sources = [
                [self._source(index, pasts, scored, row, c) for _, _, c, row in going_on]
                for index in range(len(self.readers))
            ]
            pasts = [mine[0][0].take([row for _, row, _ in mine]) for mine in sources]
            unread = [[ids for _, _, ids in mine] for mine in sources]
            for row, (n, place, _, _) in enumerate(going_on):
                beams[n][place] = dataclasses.replace(beams[n][place], row=row)
        responses = self._answer(problems, winners, stash)
        return [Found(winners[n].steps, responses.get(n)) for n in range(len(problems))]

    def _propose(self, problems, pasts, unread, beams, rows, step):
        """Reads what is new, with the heading, and writes proposals from there.

        Returns: the prefixes without headings, and `{(row index, proposer): (ids, stopped)}`.
        """
        limit_of = []
        for n, b in rows:
            left = self.settings.max_thinking_tokens - beams[n][b].thinking
            limit_of.append(min(self.settings.max_step_tokens, left))
        prefixes, proposals = [], {}
        for index, reader in enumerate(self.readers):
            cue = reader.vocabulary.encode(segmentation.heading(SEGMENTATION, step))
            if not self.proposers[index]:
                past = pasts[index]
                prefixes.append(reader.read(past, unread[index], 1)[0] if any(unread[index]) else past)
                continue
            past, logits = reader.read(pasts[index], [[*ids, *cue] for ids in unread[index]], 1)
            seen = past.seen.clone()
            seen[:, -len(cue) :] = False
            prefixes.append(Past(past.layers, seen))
            mine = self.proposers[index]
            if len(mine) > 1:
                repeated = [row for row in range(len(rows)) for _ in mine]
                past, logits = past.take(repeated), logits[repeated]
            limits = [limit for limit in limit_of for _ in mine]
            noise = self._noise((problems[n].id, step, b, k) for n, b in rows for k in mine)
            written = reader.write(past, logits, limits, boundary_is_decided, noise)
            for place, proposal in enumerate(written):
                proposals[place // len(mine), mine[place % len(mine)]] = proposal
        return prefixes, proposals

    def _candidates(self, beams, rows, proposals, step) -> list[Candidate]:
        """The proposals in canonical form, without those that are dropped."""
        settings, candidates = self.settings, []
        meta = self.readers[self.meta].vocabulary
        for row, (n, b) in enumerate(rows):
            beam, seen = beams[n][b], set()
            left = settings.max_thinking_tokens - beam.thinking
            for proposer in range(self.num_proposers):
                ids, stopped = proposals[row, proposer]
                body = self.readers[self.writer[proposer]].vocabulary.join(ids)
                read = segmentation.read_proposal(
                    SEGMENTATION, step, body, stopped, left <= settings.max_step_tokens, step > 1
                )
                if read.dropped is not None:
                    continue
                meta_ids = meta.encode(read.text)
                complete, ended = read.complete, read.ended
                if ended not in ("think_end", "eos") and len(meta_ids) >= left:
                    complete, ended = True, "budget"
                if (read.text, complete) in seen:
                    continue
                seen.add((read.text, complete))
                candidates.append(Candidate(n, b, proposer, read.text, ended, complete, meta_ids))
        return candidates

    def _score(self, problems, past: Past, beams, candidates) -> Past | None:
        """Scores all candidates in one batch; returns the meta-prover's rows of prefix and step."""
        reader = self.readers[self.meta]
        rows, ids, places = [], [], []
        for candidate in candidates:
            candidate.scored_row = len(rows)
            for form in problems[candidate.problem].forms:
                closing, counts = reader.vocabulary.encode_with_answer(self.settings.closing, form)
                rows.append(beams[candidate.problem][candidate.beam].row)
                ids.append([*candidate.ids, *closing])
                places.append((candidate, closing, [i for i, counted in enumerate(counts) if counted]))
        if not rows:
            return None
        keep = max(len(closing) - counted[0] + 1 for _, closing, counted in places)
        scored, logits = reader.read(past.take(rows), ids, keep)
        log_p = logits.log_softmax(-1)
        row_x, place_x, token_x = [], [], []
        for row, (_, closing, counted) in enumerate(places):
            row_x += [row] * len(counted)
            place_x += [keep - len(closing) + i - 1 for i in counted]
            token_x += [closing[i] for i in counted]
        picked = log_p[row_x, place_x, token_x].tolist()
        seen = scored.seen.clone()
        for row, (candidate, closing, counted) in enumerate(places):
            mean = np.float32(np.mean(np.float32(picked[: len(counted)])))
            picked = picked[len(counted) :]
            candidate.score = max(candidate.score, float(np.exp(mean)))
            seen[row, -len(closing) :] = False
        return Past(scored.layers, seen)

    def _select(self, beams: list[Beam], candidates: list[Candidate]):
        """The best of carried beams and candidates, best first: `(new beam, its candidate or None)`."""
        pool = [
            ((-beam.steps[-1].score, 0, b, 0), beam, None) for b, beam in enumerate(beams) if beam.complete
        ]
        for c in candidates:
            step = Step(c.text, c.proposer, c.score, c.ended, len(c.ids))
            beam = Beam((*beams[c.beam].steps, step), c.complete)
            pool.append(((-c.score, 1, c.beam, c.proposer), beam, c))
        pool.sort(key=lambda entry: entry[0])
        return [(beam, candidate) for _, beam, candidate in pool[: self.settings.decoding.places]]

    def _source(self, index: int, pasts, scored: Past | None, row: int, candidate: Candidate):
        """Where a reader finds the past of a candidate's beam: `(past, row, ids that are yet to be read)`."""
        if index == self.meta:
            return scored, candidate.scored_row, []
        return pasts[index], row, self.readers[index].vocabulary.encode(candidate.text)

    def _noise(self, rows) -> torch.Tensor | None:
        """The noise of (problem id, step, beam, proposer) rows."""
        return None if self.noise is None else torch.stack([self.noise(*row) for row in rows])

    def _answer(self, problems, winners, stash) -> dict[int, str]:
        """The winners' responses, each reader's in one batch."""
        responses = {}
        for index, reader in enumerate(self.readers):
            mine = [
                n
                for n, beam in winners.items()
                if (n, beam.steps) in stash and self.writer[beam.steps[-1].proposer] == index
            ]
            if not mine:
                continue
            cue = reader.vocabulary.encode(ANSWER_CUE)
            kept = [stash[n, winners[n].steps] for n in mine]
            past = Past.together([past for past, _ in kept])
            past, logits = reader.read(past, [[*unread, *cue] for _, unread in kept], 1)
            limits = [self.settings.max_answer_tokens] * len(mine)
            noise = self._noise((problems[n].id, 0, 0, winners[n].steps[-1].proposer) for n in mine)
            for n, (ids, _) in zip(mine, reader.write(past, logits, limits, lambda _: False, noise)):
                responses[n] = reader.vocabulary.text(ids)
        return responses
