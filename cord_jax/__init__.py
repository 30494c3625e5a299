"""CoRD: several reasoning models write one trace together, step by step, and a student learns from it.

Each noun of the method is a module of its name: problems, pool, prompts, vocabulary, segmentation, synthesis,
traces, evaluation, statistics, ... It imports `models` (the networks) and never `launch` (the entry points).
"""
