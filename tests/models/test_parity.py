"""Logits against transformers' torch classes, over random configurations of every family."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import lax
from safetensors.torch import save_file

import models
from models.attention import kv_cache
from models.attention.prefix_tree import NewTokens, Packed, PrefixTree
from models.attention.tree_blocks import TreeBlocks
from models.attention.tree_pieces import TreePieces
from models.attention.tree_triton import TreeTriton
from models.prefill import prefill
from tests.models.references import FAMILIES, TOKENS, load_reference, logits_of, relative_error


def seeds(quick: int) -> list:
    """32 seeds, all but the first `quick` marked as slow."""
    return [pytest.param(seed, marks=() if seed < quick else pytest.mark.slow) for seed in range(32)]


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_whole_sequence(reference, family, seed):
    ref = reference(family, seed)
    logits = logits_of(load_reference(ref, stacked=seed % 2 == 1), ref.tokens)
    assert logits.dtype == jnp.float32
    assert relative_error(logits, ref.logits) < 1e-4, ref.model.config


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_step_by_step_through_the_prefix_tree(reference, family, seed):
    ref = reference(family, seed)
    model = load_reference(ref, stacked=seed % 2 == 0, outputs_first=seed % 4 in (0, 3))
    execution = execution_for(model, TreePieces(), together=1 if model.is_stacked else 4)
    logits = logits_through_tree(model, ref.tokens, execution)
    assert relative_error(logits, ref.logits) < 1e-4, ref.model.config


QUICK = [("qwen2", False), ("mistral", True)]


@pytest.mark.parametrize(
    "family, stacked",
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(FAMILIES, [False, True])
    ],
)
@pytest.mark.parametrize("attention", [TreeBlocks(), TreeTriton(interpret=True)], ids=["blocks", "triton"])
def test_logits_with_the_attention_of_accelerators(reference, family, stacked, attention):
    ref = reference(family, 0)
    model = load_reference(ref, stacked=stacked)
    logits = logits_through_tree(model, ref.tokens, execution_for(model, attention))
    assert relative_error(logits, ref.logits) < 1e-4, ref.model.config


def execution_for(model, attention, together=1):
    """Chunks of 4 tokens; where several are multiplied together, those that are not to be run are left out."""
    execution = models.execution_of(model.config, dtype=model.dtype)
    return dataclasses.replace(execution, tree=attention, chunk=4, together=together, skips_rows=together > 1)


@functools.partial(nnx.jit, static_argnames="execution")
def logits_through_tree(model, tokens_nt, execution):
    """Logits of a prompt of 9 tokens, run in chunks and committed, and of the others one at a time."""
    n, prompt, width = len(tokens_nt), 9, 12
    attention, chunk, together = execution.tree, execution.chunk, execution.together
    blocks = (8, 8)
    cache = kv_cache.empty_pool(model.config, model.is_stacked, n, blocks, jnp.float32)
    column_s, slots_n = jnp.arange(sum(blocks)), jnp.arange(n)
    row_w, place_w = jnp.repeat(slots_n, width), jnp.tile(jnp.arange(width), n)
    chunks = n * width // chunk
    more_k = (0, -chunks % together)
    more_w = (0, chunk * more_k[1])
    packed = Packed(
        token_w=jnp.pad(jnp.pad(tokens_nt[:, :prompt], ((0, 0), (0, width - prompt))).reshape(-1), more_w),
        position_w=jnp.pad(place_w, more_w),
        branch_w=jnp.pad(jnp.zeros(n * width, jnp.int32), more_w),
        segment_w=jnp.pad(jnp.where(place_w < prompt, row_w, -1), more_w, constant_values=-1),
        alternative_w=jnp.pad(jnp.zeros(n * width, jnp.int32), more_w),
        row_k=jnp.pad(row_w[::chunk], more_k),
        chunks=jnp.int32(chunks),
        reach=width,
    )
    nothing_rbs = jnp.zeros((n, 1, sum(blocks)), bool)
    depth_ns = jnp.broadcast_to(column_s, (n, sum(blocks)))
    tree = PrefixTree(cache, slots_n, nothing_rbs, depth_ns)
    scratch, hidden_wd = prefill(model, tree, packed, execution)

    def write(x_n, slot, start, count, new, axis):
        """One column after another."""
        for i in range(chunk):
            column = jnp.clip(start + i, 0, x_n.shape[axis] - 1)
            place = [0] * x_n.ndim
            place[-4], place[axis] = slot, column
            one = lax.slice_in_dim(new, i, i + 1, axis=axis)
            old = lax.dynamic_slice(x_n, place, one.shape)
            inside = (i < count) & (column == start + i)
            x_n = lax.dynamic_update_slice(x_n, jnp.where(inside, one, old), place)
        return x_n

    moves = kv_cache.Moves(
        slot_r=slots_n,
        source_rw=jnp.arange(n * width).reshape(n, width),
        length_r=jnp.full(n, prompt),
        cursor_r=jnp.zeros(n, jnp.int32),
        chunks_r=jnp.full(n, width // chunk),
    )
    pool = kv_cache.commit(model.is_stacked, cache, scratch, moves, chunk, write)
    steps = TOKENS - prompt
    local = kv_cache.empty_rings(model.config, model.is_stacked, (n, 1), steps, jnp.float32)
    seen_nbs = jnp.broadcast_to(column_s < prompt, (n, 1, sum(blocks)))
    branch_nq = jnp.zeros((n, 1), jnp.int32)
    masks = attention.masks(blocks, seen_nbs, branch_nq, depth_ns, slots_n)
    place_nqt = jnp.broadcast_to(prompt + jnp.arange(steps), (n, 1, steps))

    def decode(local, step):
        position_nq = jnp.full((n, 1), prompt + step)
        running_nq = jnp.ones_like(position_nq, bool)
        new = NewTokens(step, position_nq, place_nqt <= prompt + step, place_nqt, running_nq)
        attend = attention.decode(masks, new)
        x_nqd = model.embed_tokens(lax.dynamic_slice_in_dim(tokens_nt, prompt + step, 1, 1))
        x_nqd, local = model.run_layers(x_nqd, position_nq, attend, pool, local)
        return local, x_nqd[:, 0]

    decoded_tnd = lax.scan(decode, local, jnp.arange(steps))[1]
    hidden_nwd = hidden_wd[: n * width].reshape(n, width, -1)
    hidden_ntd = jnp.concatenate([hidden_nwd[:, :prompt], decoded_tnd.swapaxes(0, 1)], axis=1)
    return model.unembed(hidden_ntd)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_to_float32_as_in_torch(reference, family):
    ref = reference(family, 7)
    with torch.no_grad():
        # Norms are in float32 in both; torch rounds its logits too, so its error is the greater one.
        rounded = ref.model.to(torch.bfloat16)(torch.tensor(ref.tokens)).logits.float().numpy()
    logits = logits_of(load_reference(ref, dtype="bfloat16"), ref.tokens)
    assert logits.dtype == jnp.float32
    error = np.sqrt(np.mean((np.asarray(logits) - ref.logits) ** 2))
    torch_error = np.sqrt(np.mean((rounded - ref.logits) ** 2))
    assert 0 < error < 1.25 * torch_error


def test_packed_segments_are_read_as_separate_sequences(reference):
    ref = reference(
        "mistral", 1, sliding_window=5, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    model = load_reference(ref)
    first, second = ref.tokens[0, :10], ref.tokens[1, :13]
    packed = np.concatenate([first, second, [0]])[None]
    segments = np.concatenate([np.full(10, 1), np.full(13, 2), [0]])[None]
    logits = logits_of(model, packed, segment_ids_bt=segments)[0]
    for tokens, found in ((first, logits[:10]), (second, logits[10:23])):
        with torch.no_grad():
            expected = ref.model(torch.tensor(tokens[None])).logits[0].numpy()
        assert relative_error(found, expected) < 1e-4


def test_padding_on_the_left_with_given_positions(reference):
    ref = reference("qwen2", 2, use_sliding_window=True, sliding_window=6, max_window_layers=0)
    model = load_reference(ref)
    mask = np.ones_like(ref.tokens)
    mask[0, :7] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        expected = ref.model(
            torch.tensor(ref.tokens),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    found = np.asarray(logits_of(model, ref.tokens, positions, mask))
    assert relative_error(found[mask == 1], expected[mask == 1]) < 1e-4


def test_gradients_with_and_without_recomputation(reference):
    ref = reference("qwen3", 4, num_hidden_layers=2)
    targets = np.roll(ref.tokens, -1, axis=1)
    loss = torch.nn.functional.cross_entropy(
        ref.model(torch.tensor(ref.tokens)).logits.flatten(0, 1),
        torch.tensor(targets, dtype=torch.long).flatten(),
    )
    loss.backward()
    expected = ref.model.model.layers[0].mlp.up_proj.weight.grad.numpy().T

    for stacked, remat in ((False, True), (True, False)):
        graphdef, weights = nnx.split(models.load(ref.directory, stacked=stacked, max_length=ref.max_length))

        def loss_of(weights, graphdef=graphdef, remat=remat):
            model = nnx.merge(graphdef, weights)
            logits = model.unembed(model.hidden(jnp.asarray(ref.tokens), remat=remat))
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(targets)[..., None], axis=-1)
            return -picked.mean()

        layers = jax.jit(jax.grad(loss_of))(weights)["layers"]
        kernel = layers["mlp"]["up"]["kernel"][...][0] if stacked else layers[0]["mlp"]["up"]["kernel"][...]
        assert relative_error(kernel, expected) < 1e-4


def test_reward_head_against_the_base_model_and_the_published_head(reference):
    ref = reference("qwen2", 5)
    torch.manual_seed(3)
    width = ref.model.config.hidden_size
    head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    with torch.no_grad():
        expected = torch.softmax(head(ref.model.model(torch.tensor(ref.tokens)).last_hidden_state), -1)[
            ..., 1
        ]
    make_reward_checkpoint(ref, head)
    model = load_reference(ref)
    rewards = nnx.jit(lambda model, tokens: model.rewards(tokens))(model, ref.tokens)
    assert relative_error(rewards, expected.numpy()) < 1e-4
    with pytest.raises(ValueError, match="no logits"):
        model(jnp.asarray(ref.tokens))


def make_reward_checkpoint(ref, head) -> None:
    """Turns a Qwen2 checkpoint into one of Qwen2ForProcessRewardModel, a class that transformers has not."""
    tensors = {f"model.{name}": value for name, value in ref.model.model.state_dict().items()}
    tensors |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file(tensors, ref.directory / "model.safetensors")
    config = json.loads((ref.directory / "config.json").read_text())
    config |= {"architectures": ["Qwen2ForProcessRewardModel"], "tie_word_embeddings": False}
    (ref.directory / "config.json").write_text(json.dumps(config))
