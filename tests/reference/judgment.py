"""Answers that the meta-prover states by itself when it is cut short, by brute force, at temperature 0."""

import numpy as np
import torch

from .reader import Reader


def write(reader: Reader, context: list[int], closing: str, max_tokens: int) -> tuple[str, np.float32]:
    """The text up to EOS, a new line or the last allowed token; and exp of the mean log-probability of its tokens.

    Args:
      context: prompt and reasoning, to which the closing is added without its trailing white space.
    """
    tokens = context + reader.encode(closing.rstrip())
    written: list[int] = []
    log_probabilities: list[float] = []
    for _ in range(max_tokens):
        with torch.no_grad():
            output = reader.model(torch.tensor([tokens + written]), use_cache=False, logits_to_keep=1)
        logits_v = output.logits[0, -1].masked_fill(~reader.defined, -torch.inf)
        token = int(np.argmax(logits_v.numpy()))
        if token in reader.eos:
            break
        written.append(token)
        if b"\n" in reader.pieces[token]:
            break
        log_probabilities.append(torch.log_softmax(logits_v, -1)[token].item())
    said = reader.bytes_of(written).split(b"\n")[0].decode("utf-8", "replace")
    sure = np.float32(np.exp(np.mean(log_probabilities))) if log_probabilities else np.float32(0)
    return said, sure
