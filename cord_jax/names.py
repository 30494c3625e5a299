"""The names that settings choose from, each with the phrase that `--help` shows for it.

A table here is what users may write; the modules that do the work are found by the same names. Nothing is imported, so
that a misspelt name is told at once.
"""

METHODS = {
    "cord": "the teachers write one trace together, step by step",
    "curation": "each writes beam_width whole traces and the best is taken",
    "integration": "each writes a whole trace and one of them, the integrator, makes one of all",
}
DECODINGS = {
    "beam": "keep the best beam_width traces at every step",
    "greedy": "keep one",
    "mcts": "Monte Carlo tree search, which may go back to any trace",
}
SELECTORS = {
    "predictive_perplexity": "how predictable the answer has become to the meta-prover",
    "process_reward": "what the pool's [reward_model] gives for its steps",
    "binary_judgment": "how often the meta-prover, cut short there, states the right answer",
    "confidence": "how sure the meta-prover, cut short there, is of the answer that it states",
    "random": "a draw",
    "max_length": "the meta-prover's tokens of the reasoning",
}
SEGMENTATIONS = {
    "prompt": "at the next '### Step' heading",
    "line_break": "at a blank line",
    "prefix": "before a word such as 'wait'",
}
OBJECTIVES = {
    "sft": "the learnt text of a row becomes likely (supervised fine-tuning)",
    "gain": "as sft, of traces, each step weighted by the rise of the log of the score over the step before; the weights have "
    "a mean of one, steps without a rise have 0, the first step and the answer have 1",
    "dpo": "of the two continuations of a pair, the chosen one gains over the rejected one (direct preference optimization)",
}
GRADERS = {
    "auto": "words, choices, numbers with units and mathematics, each in their own way",
    "exact": "as text",
    "judge": "by a model that is asked whether the response agrees with the answer (--judge)",
}
