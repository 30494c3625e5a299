"""A complete tiny world: problems, three small teachers that differ in everything, and a student to train.

It lets every command of the project run on a laptop in minutes, with real tokenizers and real checkpoints:

* `world` draws puzzles, chains of 6 to 12 arithmetic steps with an exact answer;
* `wording` writes their solutions as a teacher would, with that teacher's slips, and reads them;
* `vocabularies` makes the byte-level BPE tokenizers and chat templates;
* `recipe` trains the three teachers, the meta-prover and the student and writes everything under `assets/`;
* `conditions` measures whether they can do what a comparison of methods asks of them;
* `quickstart` runs teachers, curation, CoRD with and without a filter, and the students side by side;
* `decomposition` says where traces go right and wrong, `report` and `figure` show it all.
"""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
POOL = ASSETS / "pool.toml"
STUDENT = ASSETS / "student"
TRAIN_PROBLEMS = ASSETS / "train.jsonl"
HELD_OUT_PROBLEMS = ASSETS / "held_out.jsonl"
