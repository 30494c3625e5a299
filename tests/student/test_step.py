"""One step: losses of rows, segments, the head in chunks, steps that are skipped, the optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import models
from cord_jax.mesh import parse_mesh
from cord_jax.student import StudentConfig
from cord_jax.student.batches import NO_LABEL, assemble, plan
from cord_jax.student.data import Example
from cord_jax.student.step import Step, learning_rate, token_losses

CONFIG = dict(
    student="s",
    traces="t",
    output_dir="o",
    compute_dtype="float32",
    batch_size=4,
    max_length=128,
    learning_rate=1e-2,
    warmup=0.0,
)
RNG = np.random.default_rng(0)
EXAMPLES = [
    Example(str(i), RNG.integers(0, 300, length, np.int32), 5)
    for i, length in enumerate(RNG.integers(10, 60, 20))
]


def make_step(student, **changes):
    """The step's functions and a fresh state, on one device."""
    mesh = parse_mesh("data:1,model:1")
    step, _ = Step.build(models.read_config(student), StudentConfig(**{**CONFIG, **changes}), mesh, 100)
    return step, step.start(nnx.state(models.load(student, mesh)))


def make_batch(pack=True, batch_size=4, accumulation=1, examples=EXAMPLES):
    run = plan(
        [len(e.tokens) for e in examples], epochs=1, batch_size=batch_size, max_length=128, pack=pack, seed=0
    )
    return assemble(
        examples, run.windows[0], length=run.lengths[0], batch_size=batch_size, accumulation=accumulation
    ), run.windows[0]


def row_losses(program, state, batch, windows):
    """Each example's summed loss, by its index."""
    found = {}
    for part in range(batch.labels.shape[0]):
        batch_bt = jax.tree.map(lambda a: a[part], batch)
        losses_bt = np.asarray(jax.jit(program.losses)(state.params, state.frozen, batch_bt))
        rows = len(batch_bt.labels)
        for row, window in enumerate(windows[part * rows : (part + 1) * rows]):
            for segment, index in enumerate(window, start=1):
                found[index] = losses_bt[row][batch_bt.segments[row] == segment].sum()
    return found


def test_packed_and_unpacked_rows_have_the_same_loss(student):
    program, state = make_step(student)
    packed = row_losses(program, state, *make_batch(pack=True, batch_size=8))
    unpacked = row_losses(program, state, *make_batch(pack=False, batch_size=20))
    assert sorted(packed) == sorted(unpacked) == list(range(20))
    for index, loss in unpacked.items():
        assert packed[index] == pytest.approx(loss, rel=1e-5)


def test_nothing_crosses_a_segment(student):
    program, state = make_step(student)
    batch, windows = make_batch(batch_size=1)
    before = row_losses(program, state, batch, windows)
    changed = [
        Example(e.id, (e.tokens + 7) % 300, 5) if i == windows[0][1] else e for i, e in enumerate(EXAMPLES)
    ]
    after = row_losses(
        program, state, assemble(changed, windows, length=batch.labels.shape[-1], batch_size=1), windows
    )
    for index in windows[0]:
        assert (before[index] == after[index]) == (index != windows[0][1])


@pytest.mark.parametrize("at_once", [1, 16, 50, 1000])
def test_the_head_in_chunks_is_the_head(student, at_once):
    model = models.load(student)
    x_btd = jax.random.normal(jax.random.key(0), (3, 64, model.config.hidden_size))
    labels_bt = jax.random.randint(jax.random.key(1), (3, 64), 0, 300)
    labels_bt = jnp.where(jax.random.bernoulli(jax.random.key(2), 0.4, (3, 64)), labels_bt, NO_LABEL)
    graphdef, weights = nnx.split(model)

    def in_chunks(weights, x_btd):
        return token_losses(nnx.merge(graphdef, weights), x_btd, labels_bt, at_once).sum()

    def at_one_time(weights, x_btd):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            nnx.merge(graphdef, weights).unembed(x_btd), jnp.maximum(labels_bt, 0)
        )
        return jnp.where(labels_bt >= 0, losses, 0).sum()

    ours, theirs = (jax.jit(jax.value_and_grad(f, (0, 1)))(weights, x_btd) for f in (in_chunks, at_one_time))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_no_array_of_all_places_times_the_vocabulary(student):
    program, state = make_step(student, loss_positions=64)
    batch, _ = make_batch(batch_size=8)
    vocabulary = models.read_config(student).vocab_size
    places = batch.labels.size
    text = jax.jit(program.step).lower(state, batch).compile().as_text()
    assert f"[{64 // 8 * 8},{vocabulary}]" in text or f"[8,8,{vocabulary}]" in text
    for shape in (f"[{places},{vocabulary}]", f"[8,{places // 8},{vocabulary}]", f"[{vocabulary},{places}]"):
        assert shape not in text


def test_accumulation_changes_nothing(student):
    steps = {}
    for parts in (1, 4):
        program, state = make_step(student, accumulation=parts, batch_size=8)
        batch, _ = make_batch(batch_size=8, accumulation=parts, pack=False)
        steps[parts] = jax.jit(program.gradient)(state.params, state.frozen, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), steps[1], steps[4])


def test_a_step_that_is_not_finite_changes_no_weight(student):
    program, state = make_step(student)
    batch, _ = make_batch()
    step = jax.jit(program.step)
    state, report = step(state, batch)
    assert report.finite and int(state.skipped) == 0
    broken = program.model(state.params, state.frozen)
    broken.norm.scale[...] = broken.norm.scale[...].at[0].set(jnp.nan)
    broken_state = dataclasses.replace(state, params=nnx.state(broken))
    after, report = step(broken_state, batch)
    assert not report.finite and int(after.skipped) == 1 and int(after.step) == 2
    jax.tree.map(
        np.testing.assert_array_equal,
        (after.params, after.moments),
        (broken_state.params, broken_state.moments),
    )


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.5 * (1 + np.cos(np.pi / 16))]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 15 / 16]),
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1]),
    ],
)
def test_schedules(schedule, expected):
    rate = learning_rate(
        StudentConfig(**{**CONFIG, "schedule": schedule, "warmup": 0.2, "learning_rate": 0.1}), 20
    )
    np.testing.assert_allclose(
        [float(rate(jnp.asarray(i))) for i in range(6)], 0.1 * np.array(expected), rtol=1e-6
    )


def test_weight_decay_spares_norms_and_biases(student):
    batch, _ = make_batch()
    moved = {}
    for decay in (0.0, 0.5):
        program, state = make_step(student, weight_decay=decay)
        state, _ = jax.jit(program.step)(state, batch)
        moved[decay] = {
            jax.tree_util.keystr(path): np.asarray(leaf)
            for path, leaf in jax.tree.leaves_with_path(state.params)
        }
    for path, weight in moved[0.5].items():
        spared = np.array_equal(weight, moved[0.0][path])
        assert spared == ("scale" in path or "bias" in path), path


@pytest.mark.slow
def test_bfloat16(student):
    """bfloat16 compute follows float32 compute; bfloat16 weights keep float32 moments."""
    batch, _ = make_batch(batch_size=8)
    losses = {}
    for name, settings in {
        "float32": {},
        "compute": {"compute_dtype": "bfloat16"},
        "weights": {"compute_dtype": "bfloat16", "param_dtype": "bfloat16"},
    }.items():
        program, state = make_step(student, learning_rate=2e-3, batch_size=8, **settings)
        step = jax.jit(program.step)
        for _ in range(10):
            state, report = step(state, batch)
        losses[name] = float(report.loss)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {
            jnp.dtype(program.config.param_dtype)
        }
        assert {leaf.dtype for leaf in jax.tree.leaves(state.moments)} == {
            jnp.dtype("float32"),
            jnp.dtype("int32"),
        }
    assert losses["compute"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["weights"] == pytest.approx(losses["float32"], rel=0.05)
