"""Preferences: the loss and its gradient beside plain torch, the texts of pairs, what a run keeps and what it refuses."""

import json
import math

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
from cord_jax.student import StudentConfig, train
from cord_jax.student import trainer as trainer_module
from cord_jax.student.batches import assemble, plan
from cord_jax.student.data import Counts, read_examples
from cord_jax.student.forward import place
from cord_jax.student.objectives import objective_of
from cord_jax.student.objectives.dpo import Preference
from cord_jax.student.reference import FILE, Reference
from cord_jax.student.step import Step, batch_sharding
from cord_jax.text.vocabulary import Vocabulary
from tests.student.students import read_metrics

BETA, BATCH = 0.3, 4
SETTINGS = dict(
    objective="dpo",
    max_length=256,
    batch_size=BATCH,
    epochs=5,
    learning_rate=6e-3,
    warmup=0.0,
    mesh="data:1",
    checkpoint_every=2,
    plot=False,
)
PAIR = {"question": "6 * 7?", "reasoning": "### Step 1: so.\n\n", "chosen": "42\n\n", "rejected": "41\n\n"}


def examples_of(rows, student):
    return read_examples(rows, Vocabulary.load(student), Preference(BETA).texts, max_length=256)


@pytest.fixture(scope="module")
def examples(student, pairs):
    return examples_of(pairs, student)[0]


@pytest.fixture(scope="module")
def references(examples):
    """Any numbers: the student was another one when they were computed."""
    return np.random.default_rng(0).uniform(-40, -20, len(examples)).astype(np.float32)


def log_probability(model, example):
    """The sum over the target's tokens, by transformers, of one text alone."""
    tokens = torch.tensor(example.tokens, dtype=torch.long)[None]
    log_probs = model(tokens).logits[0, :-1].log_softmax(-1)
    picked = log_probs.gather(1, tokens[0, 1:, None])[:, 0]
    return picked[example.prompt_length - 1 :].sum()


def torch_dpo(model, pairs, beta):
    """Loss of a batch of (chosen, rejected, reference of chosen, of rejected), as equation 7 of the paper has it."""
    losses, margins = [], []
    for chosen, rejected, *reference in pairs:
        ratios = [log_probability(model, e) - float(r) for e, r in zip((chosen, rejected), reference)]
        margins.append(beta * (ratios[0] - ratios[1]))
        losses.append(-torch.nn.functional.logsigmoid(margins[-1]))
    return torch.stack(losses).mean(), torch.stack(margins)


@pytest.fixture(scope="module")
def expected(student, examples, references):
    """Loss, margins and gradient of all pairs, in torch."""
    model = AutoModelForCausalLM.from_pretrained(
        student, dtype=torch.float32, attn_implementation="eager"
    ).train()
    pairs = zip(examples[::2], examples[1::2], references[::2], references[1::2])
    loss, margins = torch_dpo(model, pairs, BETA)
    loss.backward()
    gradient = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return loss.item(), margins.detach().numpy(), gradient


@pytest.mark.parametrize(
    "mesh, accumulation, pack", [("data:1", 1, True), ("data:1", 3, False), ("fsdp:2,model:2", 2, True)]
)
def test_loss_and_gradient_are_those_of_torch(
    mesh, accumulation, pack, student, examples, references, expected, tmp_path
):
    """All pairs in one batch: packed, each alone in a window, in parts and on four devices."""
    windows = 24 if not pack else 12
    devices = parse_mesh(mesh)
    config = StudentConfig(
        student,
        "t",
        tmp_path,
        **{**SETTINGS, "batch_size": windows, "accumulation": accumulation, "beta": BETA, "mesh": mesh},
        compute_dtype="float32",
    )
    step, _ = Step.build(models.read_config(student), config, devices, 10)
    state = step.start(nnx.state(models.load(student, devices)))
    run = plan(
        [len(e.tokens) for e in examples],
        epochs=1,
        batch_size=windows,
        max_length=256,
        pack=pack,
        seed=0,
        together=2,
    )
    assert run.steps == 1 and (run.most_examples > 2) == pack
    batch = assemble(
        examples,
        run.windows[0],
        length=run.lengths[0],
        batch_size=windows,
        accumulation=accumulation,
        references=references,
        most_examples=run.most_examples,
    )
    batch = place(batch, batch_sharding(devices))
    loss, grads, figures = jax.jit(step.gradient)(state.params, state.frozen, batch)
    expected_loss, margins, gradient = expected
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    assert float(figures["reward_margin"]) == pytest.approx(margins.mean(), rel=1e-5)
    assert float(figures["reward_accuracy"]) == pytest.approx((margins > 0).mean())
    assert float(figures["chosen_reward"] - figures["rejected_reward"]) == pytest.approx(
        margins.mean(), rel=1e-4
    )
    models.save(step.model(grads, state.frozen), tmp_path / "gradient")  # under the names of transformers
    found = load_file(tmp_path / "gradient" / "model.safetensors")
    assert found.keys() == gradient.keys() - {"lm_head.weight"}
    for name, values in found.items():
        wanted = gradient[name]
        np.testing.assert_allclose(values, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0, err_msg=name)


def loss_in_torch(directory, examples, references):
    """The loss of all pairs of an exported student."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    pairs = zip(examples[::2], examples[1::2], references[::2], references[1::2])
    with torch.no_grad():
        return torch_dpo(model, pairs, 0.1)[0].item()


def start(student, pairs, output_dir, progress=None, **changes):
    return train(StudentConfig(student, pairs, output_dir, **{**SETTINGS, **changes}), progress)


@pytest.fixture(scope="module")
def finished(student, pairs, tmp_path_factory):
    """An uninterrupted run."""
    output_dir = tmp_path_factory.mktemp("finished")
    start(student, pairs, output_dir, held_out=pairs, eval_every=3, plot=True)
    return output_dir


def test_a_run_learns_what_is_preferred(finished, student, examples):
    metrics = read_metrics(finished)
    first, last = metrics[0], metrics[-1]
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)  # the student is its own reference
    assert first["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert last["held_out_loss"] < 0.5 * math.log(2) and last["held_out_reward_accuracy"] > 0.9
    assert last["held_out_reward_margin"] == pytest.approx(
        last["held_out_chosen_reward"] - last["held_out_rejected_reward"], rel=1e-3
    )
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (finished / "first_rows.txt").read_text().count("# row 1:") == 2
    kept = load_file(finished / FILE)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    with torch.no_grad():
        wanted = [float(log_probability(model, example)) for example in examples]
    np.testing.assert_allclose(kept["examples"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(kept["held_out"], kept["examples"])
    assert loss_in_torch(finished / "hf", examples, wanted) == pytest.approx(last["held_out_loss"], rel=1e-4)


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step):
    def progress(row):
        if row["step"] == step:
            raise Killed

    return progress


def weights_of(output_dir):
    return (output_dir / "hf" / "model.safetensors").read_bytes()


def test_a_continued_run_keeps_its_reference(finished, student, pairs, tmp_path, monkeypatch):
    changes = dict(held_out=pairs, eval_every=3)
    with pytest.raises(Killed):
        start(student, pairs, tmp_path, killed_at(1), **changes)  # before any state was saved
    file = tmp_path / FILE
    before = file.read_bytes()
    compute = Reference.compute
    monkeypatch.setattr(Reference, "compute", lambda *_: pytest.fail("computed again"))
    with pytest.raises(Killed):
        start(student, pairs, tmp_path, killed_at(4), **changes)
    file.write_bytes(before[:-4])
    with pytest.raises(
        UserError, match=rf"{FILE}: cannot be read \(.*\); remove it, and it is computed again"
    ):
        start(student, pairs, tmp_path, **changes)
    monkeypatch.setattr("cord_jax.student.reference._digest", lambda job: "other")
    file.write_bytes(before)
    with pytest.raises(UserError, match=f"{FILE}: holds log-probabilities of other tokens"):
        start(student, pairs, tmp_path, **changes)
    monkeypatch.undo()
    file.unlink()
    calls = []
    monkeypatch.setattr(Reference, "compute", lambda *arguments: calls.append(1) or compute(*arguments))
    steps = []
    start(student, pairs, tmp_path, lambda row: steps.append(row["step"]), **changes)
    assert calls == [1] and file.read_bytes() == before
    assert steps[0] > 1 and weights_of(tmp_path) == weights_of(finished)


def test_adapters_on_four_devices(finished, student, pairs, examples, tmp_path):
    """The reference is the student without its adapters, on however many devices."""
    changes = dict(lora_rank=4, learning_rate=2e-2, checkpoint_every=0, mesh="fsdp:4", held_out=pairs)
    start(student, pairs, tmp_path, **changes)
    metrics = read_metrics(tmp_path)
    assert metrics[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    references = [load_file(output_dir / FILE)["examples"] for output_dir in (finished, tmp_path)]
    np.testing.assert_allclose(*references, rtol=1e-5)
    assert loss_in_torch(tmp_path / "hf", examples, references[1]) == pytest.approx(
        metrics[-1]["held_out_loss"], rel=1e-4
    )
    assert metrics[-1]["held_out_loss"] < 0.95 * math.log(2)


def test_a_pair_is_the_question_in_the_students_template_and_the_reasoning(student):
    (chosen, rejected), counts = examples_of([PAIR], student)
    vocabulary = Vocabulary.load(student)
    texts = [vocabulary.text(e.tokens[: e.prompt_length]) for e in (chosen, rejected)]
    assert texts == ["<|user|>6 * 7?<|end|><|assistant|><think>\n### Step 1: so.\n\n"] * 2
    assert vocabulary.text(chosen.tokens[chosen.prompt_length :]) == "42\n\n"
    assert vocabulary.text(rejected.tokens[rejected.prompt_length :]) == "41\n\n"
    assert counts == Counts(rows=1, used=1)
    raw = {"prompt": "6 * 7 = ", "chosen": "42", "rejected": "41", "eos": True}
    (chosen, _), _ = examples_of([raw], student)
    assert vocabulary.text(chosen.tokens) == "6 * 7 = 42<|end|>"


@pytest.mark.parametrize("name", ["qwq-32b", "deepseek-r1", "phi-4", "llama-3.1"])
def test_real_vocabularies_read_a_pair_as_the_beginning_of_a_trace(name, shared_dir):
    vocabulary = Vocabulary.load(shared_dir / "tokenizers" / name)
    trace = {
        "question": "6 * 7?",
        "reasoning": PAIR["reasoning"] + "### Step 2: 42.\n\n",
        "response": "42",
    }
    (whole,), _ = read_examples([trace], vocabulary, max_length=256)
    for step in ("### Step 2: 42.\n\n", "### Step 2: 42.\n\n</think>\n\n"):
        (chosen, _), _ = read_examples(
            [PAIR | {"chosen": step}], vocabulary, Preference(BETA).texts, max_length=256
        )
        assert chosen.tokens.tolist() == whole.tokens[: len(chosen.tokens)].tolist()


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"question": "x", "reasoning": "", "response": "y"},
            "line 2: is no pair to learn from: give chosen",
        ),
        ({k: v for k, v in PAIR.items() if k != "rejected"}, "line 2: is no pair to learn from"),
        (
            {k: v for k, v in PAIR.items() if k != "question"},
            "line 2: question must be a text, and is absent",
        ),
        ({"chosen": "a", "rejected": "b"}, "line 2: prompt must be a text, and is absent"),
        ({**PAIR, "chosen": 3}, "line 2: chosen must be a text, and is 3"),
        ({**PAIR, "rejected": ""}, "line 2: rejected is empty"),
        ({**PAIR, "rejected": PAIR["chosen"]}, "line 2: chosen and rejected are the same text"),
        ({**PAIR, "reasoning": None}, "line 2: reasoning must be a text, and is None"),
        ({**PAIR, "margin": math.nan}, "line 2: holds NaN, which is not JSON"),
        ({**PAIR, "margin": None}, "line 2: margin must be a finite number, and is None"),
        ({**PAIR, "margin": "0.1"}, "line 2: margin must be a finite number, and is '0.1'"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, r"line 2: prompt must be a text, and is \[\]"),
        ({"prompt": "", "chosen": "a", "rejected": "b", "eos": 1}, "line 2: eos must be true or false"),
    ],
)
def test_bad_rows_are_named(row, message, student, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"pairs.jsonl, {message}") as caught:
        examples_of(path, student)
    assert "\n" not in str(caught.value)


def test_pairs_for_another_objective_and_long_ones(student, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "_run", lambda *_: pytest.fail("got as far as compiling"))
    with pytest.raises(
        UserError, match="line 1: is a pair of a chosen and a rejected text, which --objective=dpo"
    ):
        start(student, pairs, tmp_path / "out", objective="sft")
    with pytest.raises(UserError, match="no row is left to learn from .*24 too long, dropped"):
        start(student, pairs, tmp_path / "out", max_length=40)
    assert not (tmp_path / "out").exists()


def test_objectives_are_made_of_settings():
    needed = dict(student="s", traces="t", output_dir="o")
    assert objective_of(StudentConfig(**needed, objective="dpo")).beta == 0.1
    assert objective_of(StudentConfig(**needed)).examples == 1
