"""Weights by the gain in score: which token weighs what, loss and gradient beside plain torch, rows that are refused."""

import dataclasses
import json
import math
import random

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import models
from cord_jax.errors import UserError
from cord_jax.mesh import parse_mesh
from cord_jax.miniature import ASSETS
from cord_jax.student import StudentConfig, train
from cord_jax.student.batches import assemble, plan
from cord_jax.student.data import read_examples, show_examples
from cord_jax.student.forward import place
from cord_jax.student.objectives import objective_of
from cord_jax.student.objectives.gain import WeightedLikelihood
from cord_jax.student.step import Step, batch_sharding
from cord_jax.student.weights import Part, token_weights
from cord_jax.text.vocabulary import Vocabulary
from tests.student.students import read_metrics

SETTINGS = dict(max_length=256, learning_rate=6e-3, warmup=0.0, checkpoint_every=0, plot=False, mesh="data:1")
TRACE = {
    "question": "6 * 7?",
    "reasoning": "### Step 1: so.\n\n### Step 2: 42.\n\n",
    "response": "The answer is 42.",
    "steps": [{"text": "### Step 1: so.\n\n", "score": 0.1}, {"text": "### Step 2: 42.\n\n", "score": 0.9}],
}


@pytest.fixture(scope="module")
def traces(rows):
    """Rows with steps whose scores rise and fall at random."""
    rng, found = random.Random(0), []
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        texts = ["### Step" + text for text in row["reasoning"].split("### Step")[1:]]
        row["steps"] = [{"text": text, "score": rng.uniform(0.01, 1)} for text in texts]
        found.append(row)
    return found


def examples_of(rows, directory, **options):
    vocabulary = Vocabulary.load(directory)
    return read_examples(rows, vocabulary, WeightedLikelihood().texts, **{"max_length": 4096, **options})[0]


def expected_weights(pieces, steps):
    """The definition, byte by byte."""
    owners = [number for number, step in enumerate(steps) for _ in step["text"].encode()]
    of_token, place = [], 0
    for piece in pieces:
        of_token.append(owners[place] if place < len(owners) else None)
        place += len(piece)
    gains = [0.0]
    for before, after in zip(steps, steps[1:]):
        gains.append(max(0.0, math.log(after["score"]) - math.log(before["score"])))
    later = [number for number in of_token if number]  # neither None nor the first
    mean = sum(gains[number] for number in later) / max(1, len(later))
    return [gains[number] / mean if number and mean else 1.0 for number in of_token]


def random_row(rng):
    """A trace of steps of any characters; the last may be empty."""
    letters = "### Step 123. =+*\n\nab wait éß中🙂\u2003</think"
    texts = [
        f"### Step {t}"
        + "".join(rng.choice(letters) for _ in range(rng.randrange(1, 30)))
        + rng.choice(["x\n\n", "7\n\n", ""])
        for t in range(1, rng.randrange(2, 7))
    ]
    texts += [""] * rng.randrange(2)
    scores = [rng.choice([rng.random() or 1.0, 1.0, 1e-30]) for _ in texts]
    steps = [{"text": text, "score": score} for text, score in zip(texts, scores)]
    return {"question": "?", "reasoning": "".join(texts), "response": "so\u0301", "steps": steps}


def check_every_token(directory, count):
    vocabulary, rng = Vocabulary.load(directory), random.Random(0)
    rows = [random_row(rng) for _ in range(count)]
    examples = examples_of(rows, directory)
    for row, example in zip(rows, examples, strict=True):
        learnt = example.weights[example.prompt_length :]
        pieces = [vocabulary.token_bytes[i] for i in example.tokens[example.prompt_length :]]
        assert b"".join(pieces).startswith(row["reasoning"].encode() + b"</think>\n\n")
        np.testing.assert_allclose(learnt, expected_weights(pieces, row["steps"]), rtol=1e-5)
        assert learnt.sum() == pytest.approx(len(learnt), rel=1e-5)
        assert not example.weights[: example.prompt_length].any()


@pytest.mark.parametrize("member", ["sums", "products", "shares", "prover", "student"])
def test_every_token_has_the_weight_of_the_step_of_its_first_byte(member):
    check_every_token(ASSETS / member, 150)


@pytest.mark.parametrize("name", ["phi-3", "qwq-32b"])
def test_tokens_of_real_vocabularies(name, shared_dir):
    check_every_token(shared_dir / "tokenizers" / name, 100)


def test_tokens_over_a_seam_and_white_space_that_no_token_spells():
    parts = [Part("ab\n", None), Part("cd \n", 3.0), Part("", 9.0), Part("ef", 1.0)]
    found = token_weights(parts, [b"ab", b"\nc", b"d", b"ef</", b"think>"])  # " \n" before ef is swallowed
    np.testing.assert_array_equal(found, [1, 1, 1.5, 0.5, 1])
    np.testing.assert_array_equal(token_weights([Part("a", 0.0)], [b"a", b"b"]), [1, 1])
    with pytest.raises(ValueError, match="changes the text"):
        token_weights(parts, [b"ab", b"x"])


@pytest.fixture(scope="module")
def examples(student, traces):
    return examples_of(traces, student)


def torch_loss(model, examples):
    """Sum of weight times negative log-likelihood over the sum of weights, one row at a time."""
    total, weights = 0.0, sum(float(example.weights.sum()) for example in examples)
    for example in examples:
        tokens = torch.tensor(example.tokens, dtype=torch.long)[None]
        losses = torch.nn.functional.cross_entropy(
            model(tokens).logits[0, :-1], tokens[0, 1:], reduction="none"
        )
        total = total + (losses * torch.tensor(example.weights[1:])).sum() / weights
    return total


@pytest.fixture(scope="module")
def expected(student, examples):
    """Loss and gradient of all rows, in torch."""
    model = AutoModelForCausalLM.from_pretrained(
        student, dtype=torch.float32, attn_implementation="eager"
    ).train()
    loss = torch_loss(model, examples)
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def gradient(student, examples, output_dir, *, mesh="data:1", accumulation=1, pack=True, objective="gain"):
    """Loss and gradient of all rows in one batch, the latter under the names of transformers."""
    windows, devices = 24 if pack else 60, parse_mesh(mesh)
    settings = dict(batch_size=windows, accumulation=accumulation, objective=objective, mesh=mesh)
    config = StudentConfig(student, "t", output_dir, **{**SETTINGS, **settings}, compute_dtype="float32")
    step, _ = Step.build(models.read_config(student), config, devices, 10)
    state = step.start(nnx.state(models.load(student, devices)))
    lengths = [len(example.tokens) for example in examples]
    run = plan(lengths, epochs=1, batch_size=windows, max_length=256, pack=pack, seed=0)
    assert run.steps == 1 and (run.most_examples > 1) == pack
    batch = assemble(
        examples, run.windows[0], length=run.lengths[0], batch_size=windows, accumulation=accumulation
    )
    loss, grads, _ = jax.jit(step.gradient)(state.params, state.frozen, place(batch, batch_sharding(devices)))
    models.save(step.model(grads, state.frozen), output_dir / objective)
    return float(loss), load_file(output_dir / objective / "model.safetensors")


@pytest.mark.parametrize("mesh, accumulation, pack", [("data:1", 3, False), ("fsdp:2,model:2", 2, True)])
def test_loss_and_gradient_are_those_of_torch(
    mesh, accumulation, pack, student, examples, expected, tmp_path
):
    """Each row alone in a window and in parts; packed and on four devices."""
    loss, found = gradient(student, examples, tmp_path, mesh=mesh, accumulation=accumulation, pack=pack)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert found.keys() == expected[1].keys() - {"lm_head.weight"}
    for name, values in found.items():
        wanted = expected[1][name]
        np.testing.assert_allclose(values, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0, err_msg=name)


def test_weights_of_one_are_supervised_fine_tuning(student, examples, expected, tmp_path):
    ones = [
        dataclasses.replace(e, weights=(np.arange(len(e.tokens)) >= e.prompt_length).astype(np.float32))
        for e in examples
    ]
    without = [dataclasses.replace(e, weights=None) for e in examples]
    loss, found = gradient(student, ones, tmp_path)
    plain_loss, plain = gradient(student, without, tmp_path, objective="sft")
    assert loss == plain_loss != pytest.approx(expected[0], rel=1e-3)
    for name, values in found.items():
        np.testing.assert_array_equal(values, plain[name], err_msg=name)


def test_a_run(student, traces, examples, tmp_path):
    """What it says of held-out rows is what torch says of the exported student."""
    config = StudentConfig(
        student, traces, tmp_path / "out", held_out=traces[:20], objective="gain", max_steps=2, **SETTINGS
    )
    hf = train(config)
    metrics = read_metrics(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    with torch.no_grad():
        wanted = torch_loss(model, examples[:20]).item()
    assert metrics[-1]["held_out_loss"] == pytest.approx(wanted, rel=1e-4)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    shown = (tmp_path / "out" / "first_rows.txt").read_text()
    assert shown == show_examples(examples[:2], Vocabulary.load(student))
    assert f" {examples[0].weights[-1]:6.2f} '<|end|>'" in shown


def test_a_row_that_is_cut_keeps_the_weights_of_the_whole_row(student, traces, examples):
    whole = examples[0]
    (cut,) = examples_of(traces[:1], student, max_length=len(whole.tokens) - 9, overlong="cut")
    np.testing.assert_array_equal(cut.weights, whole.weights[:-9])


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"steps": None}, "has no steps that --objective=gain could weigh: give traces as launch.synthesize"),
        ({"reasoning": None}, "has no steps"),
        ({"question": 1}, "question must be a text"),
        ({"steps": TRACE["steps"][:1]}, "its steps joined are not its reasoning"),
        ({"steps": ["### Step 1"]}, "step 1 has no text"),
        ({"steps": [{"text": "a"}]}, "step 1 has the score None"),
        *(
            (
                {"steps": [TRACE["steps"][0], {"text": "b", "score": score}]},
                f"step 2 has the score {score!r}, ",
            )
            for score in (0, -0.5, 31, math.nan, True, "0.5")
        ),
    ],
)
def test_what_cannot_be_weighed_is_refused(changes, reason, student):
    with pytest.raises(UserError) as caught:
        examples_of([TRACE, TRACE | changes], student)
    assert str(caught.value).startswith("the rows given, row 2: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_other_kinds_are_refused(student):
    for row in ({"prompt": "a", "completion": "b"}, {"messages": []}):
        with pytest.raises(UserError, match="row 1: has no steps that --objective=gain could weigh"):
            examples_of([row], student)
    needed = dict(student="s", traces="t", output_dir="o")
    assert isinstance(objective_of(StudentConfig(**needed, objective="gain")), WeightedLikelihood)
