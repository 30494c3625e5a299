"""Measures of recorded candidates against brute force and trees written by hand."""

import itertools

import numpy as np
import pytest

from cord_jax.miniature import world
from cord_jax.miniature.wording import WORDINGS
from cord_jax.study import trees

PUZZLE = world.Puzzle((world.Step("+", 5, 34), world.Step("/", 3), world.Step("mod", 20, 51)))  # 39, 13, 11
TEXTS = {
    name: [
        WORDINGS[name].write_step(i + 1, world.NAMES[i], equation)
        for i, equation in enumerate(("34 + 5 = 39", "39 / 3 = 13", "51 mod 20 = 11"))
    ]
    for name in ("sums", "products")
}
SLIP = WORDINGS["sums"].write_step(2, "Ben", "39 / 3 = 12")
OTHER_LINE = WORDINGS["sums"].write_step(2, "Cleo", "51 mod 20 = 11")


def row(node, parent, step, text, score, teacher="sums", **changes):
    return {
        "node": node,
        "parent": parent,
        "problem": "p",
        "step": step,
        "beam": 0,
        "teacher": teacher,
        "text": text,
        "score": score,
        "kept": True,
        "rank": 0,
        "dropped": None,
        "ended": "marker",
    } | changes


TREE = [
    row(1, 0, 1, TEXTS["sums"][0], 0.3),
    row(2, 0, 1, TEXTS["products"][0], 0.2, "products"),
    row(3, 1, 2, TEXTS["products"][1], 0.5, "products"),
    row(4, 1, 2, SLIP, 0.4),
    row(5, 1, 2, OTHER_LINE, 0.5),
    row(6, 2, 2, "", None, dropped="arithmetic"),
    row(7, 3, 3, TEXTS["sums"][2], 0.9, ended="think_end"),
    row(8, 3, 3, TEXTS["products"][2], 0.8, "products"),  # goes on after the last line
    row(9, 4, 3, TEXTS["sums"][2], 0.6, ended="think_end"),
]


def test_a_text_is_right_while_all_its_steps_are():
    right = trees.right_nodes(PUZZLE.question, TREE)
    assert {node for node, is_right in right.items() if is_right} == {0, 1, 2, 3, 7}


def test_counts_of_a_tree():
    found = trees.measure([(PUZZLE.question, TREE)], trees.right_nodes, "step")
    # In round 2 node 3 ties with 5 and beats 4; in round 3 node 7 beats 8 and 9.
    assert found["auc"] == [0.75 + 1.0, 2]
    assert found["auc_complete"] == [1.0, 1]
    assert found["ranks"] == {"1": 3}
    assert found["rises"] == {"right": [2, 2], "wrong": [3, 3]}  # of those on node 1 and on node 3
    assert found["wins"] == [1, 3]
    assert found["filtered"] == {"right": 0, "wrong": 1}
    assert found["without"] == {"sums": [2, 3], "products": [2, 3]}
    assert sum(found["histogram"]["right"]) == 4 and sum(found["histogram"]["wrong"]) == 4
    assert found["histogram_complete"]["right"][9] == 1 and found["histogram_complete"]["wrong"][6] == 1


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        right, wrong = rng.integers(0, 5, 6) / 4, rng.integers(0, 5, 9) / 4
        pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(right, wrong)]
        assert trees.auc(right, wrong) == pytest.approx(np.mean(pairs))


def test_whole_traces():
    whole = "".join(TEXTS["sums"])
    slipped = TEXTS["products"][0] + SLIP + TEXTS["products"][2]
    rows = [
        row(1, 0, 1, slipped, 0.9, beam=0, ended="think_end"),
        row(2, 0, 1, whole, 0.8, "products", beam=0, ended="think_end"),
        row(3, 0, 1, whole, 0.95, beam=1, ended="think_end"),
    ]
    puzzles = [(PUZZLE.question, rows)]
    assert trees.right_wholes(PUZZLE.question, rows) == {0: True, 1: False, 2: True, 3: True}
    assert trees.best_of_fewer(puzzles, 2) == [[0], [1]]
    assert trees.measure(puzzles, trees.right_wholes, "step")["auc"] == [0.5, 1]
    alike = trees.similarity(puzzles)["products, sums"]
    assert alike["numbers"] == pytest.approx(2 / 3, abs=1e-4) and 0 < alike["words"] < 1
