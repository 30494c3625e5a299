"""An independent, slow and plain implementation of the method, to compare the engine with.

Written from the semantics and formats of the design alone, with torch and `transformers` and without a
line of `cord_jax` or `models`. Everything is recomputed from text for every sampled token and every score:
there is no cache, no tree, no batch and no automaton.

  text.py    prompts, step boundaries, canonical steps, answers: functions of text, nothing else
  reader.py  one checkpoint: its ids, their bytes, the next token, the probability of an answer
  search.py  step-wise beam search, curation and the final answer; the rows of a trace and of its tree
  tiny.py    small random checkpoints that write steps, markers, `</think>` and end of text often

Sampling is at temperature 0 only: two implementations agree on an argmax, not on a random stream.
"""
