"""Counts how proposals of the tiny checkpoints end and why they are dropped.

Usage: python -m tests.reference.endings [number of seeds]
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from . import tiny
from .search import reference_search
from .settings import Margins

LIMITS = dict(beam_width=3, max_steps=4, max_step_tokens=16, max_thinking_tokens=60, max_answer_tokens=8)


def count(
    seeds: range, segmentation: str = "prompt", method: str = "cord"
) -> tuple[Counter, Counter, Counter, Margins]:
    """Endings and reasons over all proposals, statuses over all traces, and the nearest decisions."""
    endings, reasons, statuses, margins = Counter(), Counter(), Counter(), Margins()
    habits = tiny.PREFIX_HABITS if segmentation == "prefix" else tiny.Habits()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            pool = tiny.write_pool(Path(directory), seed, habits=habits)
            traces = reference_search(
                pool, tiny.PROBLEMS, method=method, segmentation=segmentation, margins=margins, **LIMITS
            )
        for trace, rows in traces:
            statuses[trace["status"]] += 1
            endings.update(row["ended"] for row in rows)
            reasons.update(row["dropped"] for row in rows)
    return endings, reasons, statuses, margins


def main():
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
    runs = (("cord", "prompt"), ("cord", "line_break"), ("cord", "prefix"), ("curation", "prompt"))
    for method, segmentation in runs:
        print(method, segmentation)
        for counts in count(seeds, segmentation, method):
            print("   ", counts)


if __name__ == "__main__":
    main()
