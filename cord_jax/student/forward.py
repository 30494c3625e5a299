"""Passes over all rows of a file without a gradient: what is said of held-out rows, and what a reference says of all."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from cord_jax.student.batches import Batch, assemble, plan
from cord_jax.student.config import StudentConfig
from cord_jax.student.data import Example
from cord_jax.student.step import Step, TrainState, batch_sharding

Windows = tuple[tuple[int, ...], ...]


def place(batch: Batch, sharding: jax.sharding.Sharding) -> Batch:
    """Puts numpy arrays on the devices; every process has all of them and places its own part."""
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), batch
    )


def batches(
    examples: Sequence[Example], config: StudentConfig, together: int, references: np.ndarray | None = None
) -> Iterator[tuple[Windows, Batch]]:
    """All examples, each once: windows, and their arrays [rows, time] in the host's memory, of one shape if packed."""
    rows = config.batch_size // config.accumulation
    run = plan(
        [len(example.tokens) for example in examples],
        epochs=1,
        batch_size=rows,
        max_length=config.max_length,
        pack=config.pack,
        seed=0,
        together=together,
    )
    most_examples = run.most_examples
    for windows, length in zip(run.windows, run.lengths, strict=True):
        batch = assemble(
            examples,
            windows,
            length=length,
            batch_size=rows,
            references=references,
            most_examples=most_examples,
        )
        yield windows, jax.tree.map(lambda a: a[0], batch)


class HeldOut:
    """Rows that are not learnt from."""

    def __init__(self, step: Step, examples: Sequence[Example], references: np.ndarray | None):
        self.step, self.examples, self.references = step, examples, references
        self._totals = jax.jit(step.totals)

    def figures(self, state: TrainState) -> dict[str, float]:
        """The objective's means over the rows: `held_out_loss`, and its others with `held_out_` before their names."""
        objective = self.step.objective
        sums, count = {}, 0.0
        for _, batch in batches(self.examples, self.step.config, objective.examples, self.references):
            count += float(objective.count(batch))
            placed = place(batch, batch_sharding(self.step.mesh, leading=False))
            total, figures = self._totals(state.params, state.frozen, placed)
            for name, value in {"loss": total, **figures}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {f"held_out_{name}": value / count for name, value in sums.items()}
