"""Questions to finished runs: what another selector, meta-prover, width or part of the pool would have chosen among the
candidates that `tree.jsonl` records (docs/method.md, section 5.7).

`recorded_tree` and `search` search a recorded tree again, `shares` asks what each teacher is worth; they are plain Python.
`scoring` has the engine read recorded texts and score them. `job` does what `launch.rescore` is asked for.
"""
