"""What weight-only int8 costs in quality: KL divergence of next tokens, and change of predictive-perplexity
scores.

    python -m benchmarks.int8 --checkpoint=DIR --problems=FILE.jsonl

Reads each problem's prompt, reference solution and closing with the answer by the same checkpoint twice: with
all its weights, and with `weights="int8"`. KL is that of the int8 model's next-token distribution from the
full one, in nats, over the tokens of the solution; the score is exp(mean log p) of the answer's tokens after
the solution.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import models
from cord_jax.config import CLOSING
from cord_jax.problems import read_problems
from cord_jax.text.prompts import render_prompt
from cord_jax.text.vocabulary import Vocabulary

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Hugging Face checkpoint directory.", required=True)
PROBLEMS = flags.DEFINE_string("problems", None, "Problem file with solutions.", required=True)
LIMIT = flags.DEFINE_integer("limit", 100, "Number of problems read.")
MAX_LENGTH = flags.DEFINE_integer("max_length", 1024, "Tokens of a problem; longer ones are left out.")
DTYPE = flags.DEFINE_string("dtype", None, "Dtype of what is not int8. Default: the checkpoint's own.")


def compare(full_graphdef, full, int8_graphdef, int8, tokens_t, defined_v):
    """KL(full, int8) and both log-probabilities of the token that follows, each float32 [t - 1]."""

    def log_probabilities(graphdef, weights):
        logits = nnx.merge(graphdef, weights)(tokens_t[None])[0, :-1]
        return jax.nn.log_softmax(jnp.where(defined_v, logits, -jnp.inf))

    first, second = log_probabilities(full_graphdef, full), log_probabilities(int8_graphdef, int8)
    divergence = jnp.sum(jnp.where(defined_v, jnp.exp(first) * (first - second), 0), axis=-1)
    following = tokens_t[1:, None]
    return divergence, *(jnp.take_along_axis(x, following, axis=-1)[:, 0] for x in (first, second))


def main(_) -> None:
    directory = CHECKPOINT.value
    vocabulary = Vocabulary.load(directory)
    full = models.load(directory, dtype=DTYPE.value)
    int8 = models.load(directory, dtype=DTYPE.value, weights="int8")
    defined_v = vocabulary.defined(full.config.vocab_size)
    run = jax.jit(compare, static_argnums=(0, 2))
    divergences, scores = [], []
    problems = [problem for problem in read_problems(PROBLEMS.value) if problem.solution][: LIMIT.value]
    for problem in problems:
        prompt = vocabulary.encode_prompt(render_prompt(vocabulary, None, problem.question, problem.context))
        solution = vocabulary.encode(problem.solution.rstrip() + "\n\n")
        closing, scored = vocabulary.encode_with_answer(CLOSING, problem.answer)
        tokens = [*prompt, *solution, *closing]
        if len(tokens) > MAX_LENGTH.value:
            continue
        padded = np.zeros(MAX_LENGTH.value, np.int32)
        padded[: len(tokens)] = tokens
        divergence, *log_p = map(np.asarray, run(*nnx.split(full), *nnx.split(int8), padded, defined_v))
        start = len(prompt) + len(solution)
        divergences.append(divergence[len(prompt) - 1 : start - 1])
        places = start - 1 + np.flatnonzero(scored)
        scores.append([np.exp(x[places].mean()) for x in log_p])
    if not scores:
        raise app.UsageError(
            f"{PROBLEMS.value}: no problem has a solution and at most {MAX_LENGTH.value} tokens"
        )
    divergence, (first, second) = np.concatenate(divergences), np.asarray(scores).T
    sizes = [sum(x.nbytes for x in jax.tree.leaves(nnx.state(model))) / 1e9 for model in (full, int8)]
    change = np.abs(np.log(second) - np.log(first))
    print(f"{directory}: {len(scores)} problems, {len(divergence)} tokens, {jax.devices()[0].device_kind}")
    print(f"weights: {sizes[0]:.3f} GB in {full.dtype}, {sizes[1]:.3f} GB with int8")
    print(
        f"KL per token: mean {divergence.mean():.2e}, 99th percentile {np.quantile(divergence, 0.99):.2e} "
        f"nats"
    )
    print(f"score: mean {first.mean():.4f} in full, {second.mean():.4f} with int8")
    print(f"|change of ln score|: mean {change.mean():.4f}, greatest {change.max():.4f}")
    print(f"rank correlation of the scores: {rank_correlation(first, second):.4f}")


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation, for values without ties."""
    ranks = [np.argsort(np.argsort(x)) for x in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    app.run(main)
