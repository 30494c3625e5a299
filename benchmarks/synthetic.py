"""Random networks of any shape that write steps of realistic lengths, and a vocabulary and problems for them.

What a trained model says costs as much as what a random one says, so benchmarks of speed need no real
weights; but they need steps that end, and at lengths that scatter. The random networks here are given that
habit: the output rows are tilted so that in every state only words are likely, that a word is mostly
followed by words of its own topic, and that topics differ in how likely they end the step (`### Step` on a
new line), the reasoning (`</think>`) or the response (EOS). Step lengths are then a mixture of geometric
distributions, one a topic: heavy-tailed.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen2Config

MARKER, THINK_END, EOS = "\n### Step", "</think>", "<|end|>"
# "proportioned" networks spend on attention to 1,536 tokens what QwQ-32B does on 16,384: a third of the rest of a layer.
SHAPES = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2),
    "small": dict(hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
                  num_key_value_heads=2),
    "proportioned": dict(hidden_size=128, intermediate_size=2816, num_hidden_layers=3, num_attention_heads=2,
                         num_key_value_heads=1),
    "0.5b": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2),
    "1.5b": dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
                 num_key_value_heads=2),
    "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
               num_key_value_heads=4),
}  # fmt: skip
# Words of a topic, and the logit of what shall not follow.
_WORDS, _NEVER = 100, -15.0
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Habits:
    """How a network's steps end.

    Attributes:
      step_lengths: mean tokens of a step in each topic; a step stays in its topic.
      topic_shares: how likely each topic is at the start of a step.
      last_step: probability that a step ends the reasoning too.
      response: mean tokens of a response.
    """

    step_lengths: tuple[float, ...] = (120, 300, 800)
    topic_shares: tuple[float, ...] = (0.4, 0.4, 0.2)
    last_step: float = 0.1
    response: float = 40


def write_problems(path: Path, count: int) -> Path:
    """Problems with questions of some 30 words and short answers."""
    rows = (
        {
            "id": f"p{i}",
            "question": "".join(f" a{(7 * i + 11 * k) % 97:02}" for k in range(30)),
            "answer": str(10 + i),
        }
        for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_pool(
    directory: Path,
    shape: str,
    habits: Habits,
    *,
    checkpoints: int = 3,
    proposers: int = 3,
    temperature: float = 1.0,
    dtype: str = "float32",
    vocab_size: int | None = None,
) -> Path:
    """Checkpoints of one shape and their pool file; the first one is the meta-prover.

    Args:
      proposers: the checkpoints take turns.
      vocab_size: rows of the embedding; None for as many as the vocabulary has tokens.
    """
    for number in range(checkpoints):
        write_checkpoint(directory / f"m{number}", shape, habits, number, temperature == 0, dtype, vocab_size)
    lines = ['meta_prover = {checkpoint = "m0"}']
    for number in range(proposers):
        name = f'name = "t{number}"\ncheckpoint = "m{number % checkpoints}"'
        lines.append(f"[[proposer]]\n{name}\ntemperature = {float(temperature)}")
    path = directory / "pool.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_checkpoint(
    directory: Path,
    shape: str,
    habits: Habits,
    seed: int,
    greedy: bool,
    dtype: str = "float32",
    vocab_size: int | None = None,
) -> None:
    """A random Qwen2 checkpoint with the habits, at temperature 0 if `greedy` and else at 1."""
    directory.mkdir(parents=True, exist_ok=True)
    classes = _write_vocabulary(directory, len(habits.step_lengths))
    size = 1 + max(token for tokens in classes.values() for token in tokens)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    config = Qwen2Config(
        **SHAPES[shape],
        vocab_size=vocab_size or size,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=classes[EOS][0],
    )
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.div_((2 * config.num_hidden_layers) ** 0.5)
        _tilt(model, classes, habits, greedy, generator)
    model.save_pretrained(directory)


def _write_vocabulary(directory: Path, topics: int) -> dict[str, list[int]]:
    """A byte-level vocabulary with words; returns the ids of each kind of token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = {f"topic {t}": [f" {chr(97 + t)}{i:02}" for i in range(_WORDS)] for t in range(topics)}
    kinds["response"] = [f" r{i:02}" for i in range(_WORDS)]
    kinds |= {text: [text] for text in (MARKER, THINK_END, EOS, "\n\n")}
    other = ["### Step", "The", " final", " answer", " is", "<think>", "<|user|>", "<|assistant|>"]
    for text in [*(text for texts in kinds.values() for text in texts), *other]:
        tokenizer.add_tokens([AddedToken(text, normalized=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "chat_template": _TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    kinds["heading"] = list("0123456789")
    ids = {kind: [tokenizer.token_to_id(text) for text in texts] for kind, texts in kinds.items()}
    return ids | {"other": [tokenizer.token_to_id(text) for text in other]}


def _tilt(model, classes, habits: Habits, greedy: bool, generator: torch.Generator) -> None:
    """Gives the embedding a direction for each kind of token, and the output rows what shall follow each
    kind.

    The rows are solved for: what follows a kind is prescribed for the mean of the hidden states that stand
    behind tokens of the kind, and a random part, orthogonal to those means, makes the choice of words depend
    on the context.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    device, width = embedding.device, embedding.shape[1]

    def normal(*shape):
        return torch.randn(shape, generator=generator, device=device)

    kinds = [kind for kind in classes if kind not in (THINK_END, EOS, "other")]
    values = normal(*embedding.shape)
    for kind in kinds:
        values[classes[kind]] += 1.5 * normal(width)
    embedding.copy_(values)
    hidden = {}
    for kind in kinds:
        picks = torch.randint(len(classes[kind]), (8, 64), generator=generator, device=device)
        tokens = torch.tensor(classes[kind], device=device)[picks]
        hidden[kind] = model.model(tokens).last_hidden_state[:, 8:].flatten(0, 1).float()
    means_kd = torch.stack([hidden[kind].mean(0) for kind in kinds])
    inverse_dk = torch.linalg.pinv(means_kd)
    noise_vd = normal(*head.shape) / width**0.5
    noise_vd -= noise_vd @ inverse_dk @ means_kd
    wanted_vk = torch.full((head.shape[0], len(kinds)), _NEVER, device=device)
    endings = [_endings(kind, classes, habits) for kind in kinds]
    for k, kind in enumerate(kinds):
        for token, logit in _words(kind, classes, habits).items():
            wanted_vk[token, k] = logit
        for token, probability in endings[k].items():
            wanted_vk[token, k] = _logit(probability, greedy)
    for _ in range(1 if greedy else 6):
        rows_vd = wanted_vk @ inverse_dk.T + noise_vd
        # Logits scatter with the context, so that a mean logit does not give the mean probability.
        for k, kind in enumerate(kinds):
            found_v = (hidden[kind] @ rows_vd.T).softmax(-1).mean(0)
            for token, probability in endings[k].items():
                wanted_vk[token, k] += torch.log(probability / found_v[token]) if not greedy else 0
    head.copy_(rows_vd)


def _words(kind: str, classes, habits: Habits) -> dict[int, float]:
    """The logits of the words that may follow a token of a kind."""
    if kind.startswith("topic"):
        return dict.fromkeys(classes[kind], 0.0)
    if kind in ("response", "\n\n"):
        return dict.fromkeys(classes["response"], 0.0)
    shares = {f"topic {t}": float(np.log(share)) for t, share in enumerate(habits.topic_shares)}
    return {token: logit for topic, logit in shares.items() for token in classes[topic]}


def _endings(kind: str, classes, habits: Habits) -> dict[int, float]:
    """The probabilities of what may end a text after a token of a kind."""
    if kind == "response":
        return {classes[EOS][0]: 1 / habits.response}
    if not kind.startswith("topic"):
        return {}
    ends = 1 / habits.step_lengths[int(kind.split()[1])]
    found = {
        classes[MARKER][0]: ends * (1 - habits.last_step),
        classes[THINK_END][0]: ends * habits.last_step,
    }
    return {token: probability for token, probability in found.items() if probability > 0}


def _logit(probability: float, greedy: bool) -> float:
    """The logit of a token that shall come with a probability beside `_WORDS` words, whose logits are
    standard normal; by argmax if `greedy`.
    """
    if not greedy:
        return float(np.log(probability * _WORDS) + 0.5)
    rng = np.random.default_rng(0)
    lead = rng.standard_normal((20000, _WORDS)).max(1) - rng.standard_normal(20000)
    return float(np.quantile(lead, min(probability, 1)))
