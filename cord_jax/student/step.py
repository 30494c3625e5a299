"""One optimisation step as one compiled program.

    step, shapes = Step.build(model_config, config, mesh, total_steps)
    state = step.start(params)
    program = step.compile_step(state, batch)
    state, report = program(state, batch)

The gradient is that of the objective's mean over the batch, of target tokens or of pairs, wherever they are: parts of
an accumulated batch and devices add up sums, and the sum is divided by the global count.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import models
from cord_jax.student.batches import Batch
from cord_jax.student.config import StudentConfig
from cord_jax.student.objectives import Objective, objective_of
from models import lora
from models.attention.packed import PackedAttention
from models.config import ModelConfig
from models.decoder import Decoder
from models.sharding import parameter_shardings

# What the backward pass does not keep, as `Decoder.run_layers` takes it. Products with weights have no batch
# axes; those of attention have.
_REMAT = {"none": False, "full": True, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step.

    params: the weights that are learnt, as `nnx.State`, in the run's `param_dtype`: all, or those of adapters.
    frozen: the other weights, in the compute dtype; empty without adapters.
    moments: the optimizer's state: first and second moments, float32, and their count.
    step: int32, optimisation steps taken or skipped.
    skipped: int32, steps whose loss or gradient was not finite.
    """

    params: Any
    frozen: Any
    moments: Any
    step: jax.Array
    skipped: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Report:
    """The report of a step: float32 scalars, and `finite` (bool), false for a skipped step.

    loss: the objective's, in nats. grad_norm: before clipping. figures: the objective's others, by their names in
    metrics.jsonl.
    """

    loss: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array
    finite: jax.Array
    skipped: jax.Array
    figures: dict[str, jax.Array]


def learning_rate(config: StudentConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of step i (from 0), float32.

    It rises linearly over the first w = round(warmup * total_steps) steps, from peak / w, and then falls from the peak
    to zero: step i has the fraction (i - w) / (total_steps - w) of the descent behind it.
    """
    peak, warmup = config.learning_rate, round(config.warmup * total_steps)
    descent = max(total_steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, descent),
        "linear": optax.linear_schedule(peak, 0.0, descent),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak + peak / warmup, warmup)
    return optax.join_schedules([rise, after], [warmup])


def optimizer(config: StudentConfig) -> optax.GradientTransformation:
    """From a gradient to AdamW's direction: all but the learning rate, which follows the steps that are skipped too."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm) if config.max_grad_norm else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
    )


def initial_state(params: nnx.State, frozen: nnx.State, config: StudentConfig) -> TrainState:
    """The state before the first step; call it inside `jax.jit` with `state_shardings` as the output's."""
    return TrainState(
        params=_cast(params, jnp.dtype(config.param_dtype)),
        frozen=_cast(frozen, jnp.dtype(config.compute_dtype)),
        moments=optimizer(config).init(_cast(params, jnp.float32)),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
    )


def state_shardings(
    params_shardings: nnx.State,
    frozen_shardings: nnx.State,
    state: TrainState,
    mesh: Mesh,
    config: StudentConfig,
) -> TrainState:
    """The sharding of every array of a state: moments lie like their parameters, scalars everywhere."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    moments = optax.tree_utils.tree_map_params(
        optimizer(config),
        lambda _, sharding: sharding,
        state.moments,
        params_shardings,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(params_shardings, frozen_shardings, moments, step=everywhere, skipped=everywhere)


def batch_sharding(mesh: Mesh, leading: bool = True) -> NamedSharding:
    """Rows of a batch are spread over `data` and `fsdp`; `leading` is the axis of accumulation."""
    rows = tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)
    return NamedSharding(mesh, PartitionSpec(None, rows) if leading else PartitionSpec(rows))


def token_losses(model: Decoder, x_btd: jax.Array, labels_bt: jax.Array, positions_at_once: int) -> jax.Array:
    """Negative log-likelihood of each label, float32 [b, t], 0 where there is none.

    Only places with a label are projected to logits, `positions_at_once` of each row at a time, and the backward pass
    projects them again: no array of all places times the vocabulary exists in either.
    """
    b, t = labels_bt.shape
    chunk = _divisor(t, positions_at_once)
    # Places with a label first; within a row they keep their order.
    order_bt = jnp.argsort(labels_bt < 0, axis=1, stable=True)
    labels_kbc = jnp.take_along_axis(labels_bt, order_bt, axis=1).reshape(b, t // chunk, chunk).swapaxes(0, 1)
    order_kbc = order_bt.reshape(b, t // chunk, chunk).swapaxes(0, 1)
    graphdef, weights = nnx.split(model)

    @jax.checkpoint
    def project(weights, x_btd, order_bc, labels_bc):
        x_bcd = jnp.take_along_axis(x_btd, order_bc[..., None], axis=1)
        logits_bcv = nnx.merge(graphdef, _cast(weights, x_bcd.dtype)).unembed(x_bcd)
        is_label_bcv = jax.lax.broadcasted_iota(jnp.int32, logits_bcv.shape, 2) == labels_bc[..., None]
        label_logits_bc = jnp.sum(jnp.where(is_label_bcv, logits_bcv, 0), axis=-1)
        losses_bc = jax.nn.logsumexp(logits_bcv, axis=-1) - label_logits_bc
        return jnp.where(labels_bc >= 0, losses_bc, 0)

    def one_chunk(_, chunk):
        order_bc, labels_bc = chunk
        losses_bc = jax.lax.cond(
            jnp.any(labels_bc >= 0),
            project,
            lambda *_: jnp.zeros(labels_bc.shape, jnp.float32),
            weights,
            x_btd,
            order_bc,
            labels_bc,
        )
        return None, losses_bc

    _, losses_kbc = jax.lax.scan(one_chunk, None, (order_kbc, labels_kbc))
    losses_bt = losses_kbc.swapaxes(0, 1).reshape(b, t)
    return jnp.zeros_like(losses_bt).at[jnp.arange(b)[:, None], order_bt].set(losses_bt, unique_indices=True)


@dataclass(frozen=True)
class Step:
    """The functions of a run that are compiled, and what they are compiled for.

    graphdef: of the decoder. params: the weights that are learnt, as shapes. config, total_steps: recipe and length
    of the run. objective: what is minimised. attention: of the layers. mesh, shardings: where the batch and the state lie.
    """

    graphdef: nnx.GraphDef
    params: nnx.State
    config: StudentConfig
    total_steps: int
    objective: Objective
    attention: PackedAttention
    mesh: Mesh
    shardings: TrainState

    @classmethod
    def build(
        cls,
        model_config: ModelConfig,
        config: StudentConfig,
        mesh: Mesh,
        total_steps: int,
    ) -> tuple["Step", TrainState]:
        """The step of a model, and its state as shapes with shardings: nothing is computed, no weight is read."""
        execution = models.execution_of(model_config, mesh)
        model = models.abstract(model_config.for_length(config.max_length), stacked=execution.stacked)
        if config.lora_rank:
            model = lora.attach(model, config.lora_rank, config.lora_alpha)
        graphdef, params, frozen = nnx.split(model, nnx.LoRAParam if config.lora_rank else nnx.Param, ...)
        shapes = jax.eval_shape(lambda *weights: initial_state(*weights, config), params, frozen)
        shardings = state_shardings(
            parameter_shardings(params, mesh), parameter_shardings(frozen, mesh), shapes, mesh, config
        )
        objective = objective_of(config)
        step = cls(graphdef, params, config, total_steps, objective, execution.packed, mesh, shardings)
        return step, jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings
        )

    def start(self, weights: nnx.State) -> TrainState:
        """The state before the first step, from the weights of the student as it was loaded; they are consumed."""

        def start(weights: nnx.State) -> TrainState:
            if not self.config.lora_rank:
                return initial_state(weights, nnx.State({}), self.config)
            adapters = lora.initial(self.params, jax.random.key(self.config.seed))
            return initial_state(adapters, weights, self.config)

        return jax.jit(start, donate_argnums=0, out_shardings=self.shardings)(weights)

    def model(self, params: nnx.State, frozen: nnx.State) -> Decoder:
        """The decoder with weights of a state."""
        return nnx.merge(self.graphdef, params, frozen)

    def losses(self, params: nnx.State, frozen: nnx.State, batch_bt: Batch) -> jax.Array:
        """Negative log-likelihood of every label of a batch [b, t], float32 [b, t], 0 where nothing is learnt.

        Weights are cast to the compute dtype as late as each is used, so that what they get from many places
        (a token's embedding, the head from chunk to chunk) is summed in their own dtype.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        rows = batch_sharding(self.mesh, leading=False)
        kept = self.model(params, frozen)
        x_btd = kept.embed_tokens(batch_bt.tokens).astype(dtype)
        x_btd = jax.lax.with_sharding_constraint(x_btd, rows)
        attend = self.attention(batch_bt.positions, batch_bt.segments)
        x_btd, _ = self.model(_cast(params, dtype), _cast(frozen, dtype)).run_layers(
            x_btd, batch_bt.positions, attend, remat=_REMAT[config.remat]
        )
        x_btd = jax.lax.with_sharding_constraint(x_btd, rows)
        at_once = max(1, config.loss_positions * self._row_shards // x_btd.shape[0])
        return token_losses(kept, x_btd, batch_bt.labels, at_once)

    @property
    def _row_shards(self) -> int:
        return math.prod(self.mesh.shape.get(axis, 1) for axis in ("data", "fsdp"))

    def totals(
        self, params: nnx.State, frozen: nnx.State, batch_bt: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The objective's sums over a batch [b, t]: of its loss, and of its other figures."""
        return self.objective.total(self.losses(params, frozen, batch_bt), batch_bt)

    def gradient(
        self, params: nnx.State, frozen: nnx.State, batch: Batch
    ) -> tuple[jax.Array, nnx.State, dict[str, jax.Array]]:
        """The batch's mean loss, its gradient with respect to `params` and the objective's other means, float32."""
        count = self.objective.count(batch)

        def part(batch_bt: Batch) -> tuple[jax.Array, nnx.State, dict[str, jax.Array]]:
            totals = lambda p: self.totals(p, frozen, batch_bt)  # noqa: E731
            (total, figures), grads = jax.value_and_grad(totals, has_aux=True)(params)
            return total, _cast(grads, jnp.float32), figures

        first = jax.tree.map(lambda a: a[0], batch)
        if batch.labels.shape[0] == 1:
            total, grads, figures = part(first)
        else:
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), jax.eval_shape(part, first))

            def add(sums, batch_bt):
                return jax.tree.map(jnp.add, sums, part(batch_bt)), None

            (total, grads, figures), _ = jax.lax.scan(add, zeros, batch)
        grads = jax.lax.with_sharding_constraint(grads, self.shardings.params)
        return total / count, *jax.tree.map(lambda a: a / count, (grads, figures))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        """Gradient, clipping, AdamW. If the loss or the gradient is not finite, no weight changes."""
        config = self.config
        loss, grads, figures = self.gradient(state.params, state.frozen, batch)
        norm = optax.tree_utils.tree_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        rate = jnp.asarray(learning_rate(config, self.total_steps)(state.step), jnp.float32)
        direction, moments = optimizer(config).update(grads, state.moments, _cast(state.params, jnp.float32))
        params = optax.apply_updates(state.params, jax.tree.map(lambda d: -rate * d, direction))
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
        state = replace(
            state,
            params=keep(params, state.params),
            moments=keep(moments, state.moments),
            step=state.step + 1,
            skipped=state.skipped + jnp.where(finite, 0, 1),
        )
        return state, Report(loss, norm, rate, finite, state.skipped, figures)

    def lower_step(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """`step` for arrays of these shapes, or for their shapes; the state given to it is consumed."""
        return jax.jit(self.step, donate_argnums=0, out_shardings=(self.shardings, None)).lower(state, batch)

    def compile_step(self, state: TrainState, batch: Batch) -> jax.stages.Compiled:
        """`lower_step`, compiled."""
        return self.lower_step(state, batch).compile()


def _decayed(params: nnx.State) -> Any:
    """Marks the parameters that weight decay applies to: not norms and biases."""
    return jax.tree.map_with_path(
        lambda path, _: not any(str(getattr(key, "key", key)) in ("scale", "bias") for key in path), params
    )


def _cast(tree: Any, dtype: jnp.dtype) -> Any:
    return jax.tree.map(lambda a: a.astype(dtype), tree)


def _divisor(n: int, at_most: int) -> int:
    """The largest divisor of n that is not above `at_most`."""
    return max(d for d in range(1, max(1, min(n, at_most)) + 1) if n % d == 0)
