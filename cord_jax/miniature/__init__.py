"""A complete tiny world: problems, three small teachers that differ in everything, and a student to train.

It lets every command of the project run on a laptop in minutes, with real tokenizers and real checkpoints:

* `world` draws lock puzzles, chains of 2 to 12 arithmetic steps with an exact integer answer;
* `wording` writes their solutions as a teacher would, with that teacher's slips, and finds wrong equations;
* `vocabularies` makes the byte-level BPE tokenizers and chat templates;
* `recipe` trains the three teachers and the student and writes everything under `assets/`;
* `quickstart` runs teachers, curation, CoRD and the students side by side and reports.
"""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
POOL = ASSETS / "pool.toml"
STUDENT = ASSETS / "student"
TRAIN_PROBLEMS = ASSETS / "train.jsonl"
HELD_OUT_PROBLEMS = ASSETS / "held_out.jsonl"
