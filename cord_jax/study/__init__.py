"""The study: the paper's tables in the miniature, over several seeds, and the conditions of the method broken one by one.

An *arm* is one way of writing traces (`arms.Writing`) or one student (`arms.Learner`). An arm and a seed make a *cell*,
a small JSON file; several processes may fill the cells of one directory.

* `arms` declares them; `members` finds or makes the models that they need;
* `writing` writes the traces of an arm, `trees` measures what the search recorded, `learning` trains and measures a student;
* `cells` keeps results, `job` decides what is done next;
* `comparisons` pairs results over puzzles and seeds, `tables`, `figures` and `page` show them.
"""
