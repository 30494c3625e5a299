"""The decoder of all families: pre-norm layers of rotary grouped-query attention and a gated feed-forward."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from models.attention.dense import NO_WINDOW, causal_mask, dense_attention
from models.attention.kv_cache import Attend, LayerCache
from models.config import ModelConfig
from models.layers import MLP, Embedding, Linear, MixtureOfExperts, RewardHead, RMSNorm
from models.parameters import Axes, Maker
from models.rope import rotary_tables, rotate

# `Attend` for one layer, with its cache and window.
LayerAttend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
# Applies a function of arrays [b, t, ...], in which a token depends on the same token only, to such arrays.
RowWise = Callable[..., Any]


def of_all_rows(function: Callable, *arrays_bt: jax.Array) -> Any:
    """The function of all tokens, the plainest `RowWise`."""
    return function(*arrays_bt)


class Attention(nnx.Module):
    """Projections of one attention layer; the attention itself is an argument of the call."""

    def __init__(self, config: ModelConfig, make: Maker):
        embed = {"embed": config.hidden_size}
        query = {"heads": config.num_heads, "head_dim": config.head_dim}
        key = {"kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
        self.q = Linear(embed, query, make, config.attention_bias)
        self.k = Linear(embed, key, make, config.attention_bias)
        self.v = Linear(embed, key, make, config.attention_bias)
        self.o = Linear(query, embed, make, config.attention_out_bias)
        head = {"head_dim": config.head_dim}
        self.q_norm = _norm(head, config, make) if config.qk_norm else None
        self.k_norm = _norm(head, config, make) if config.qk_norm else None
        # Attention divides logits by the root of the head's width.
        self.query_factor = (config.head_dim / (config.query_scale or config.head_dim)) ** 0.5

    def __call__(self, x_btd: jax.Array, rotary: tuple, attend: LayerAttend, per_row: RowWise):
        q_bthe, k_btge, v_btge = per_row(lambda x_btd: (self.q(x_btd), self.k(x_btd), self.v(x_btd)), x_btd)
        if self.q_norm is not None:
            q_bthe, k_btge = self.q_norm(q_bthe), self.k_norm(k_btge)
        q_bthe, k_btge = rotate(q_bthe, *rotary), rotate(k_btge, *rotary)
        if self.query_factor != 1:
            q_bthe = q_bthe * jnp.asarray(self.query_factor, q_bthe.dtype)
        out_bthe, written = attend(q_bthe, k_btge, v_btge)
        return per_row(self.o, out_bthe), written


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the mlp is a mixture of experts if `sparse`.

    With `post_norms`, what attention and mlp give goes through a norm of its own before it is added.
    """

    def __init__(self, config: ModelConfig, make: Maker, sparse: bool):
        width, post = {"embed": config.hidden_size}, config.post_norms
        self.attention_norm = _norm(width, config, make)
        self.attention = Attention(config, make)
        self.attention_post_norm = _norm(width, config, make) if post else None
        self.mlp_norm = _norm(width, config, make)
        self.mlp_post_norm = _norm(width, config, make) if post else None
        if sparse:
            self.mlp = MixtureOfExperts(config.experts, config.hidden_size, make, config.activation)
        else:
            sizes = config.hidden_size, config.intermediate_size
            self.mlp = MLP(*sizes, make, config.mlp_bias, config.activation)

    def __call__(self, x_btd: jax.Array, rotary: tuple, attend: LayerAttend, per_row: RowWise):
        out_btd, written = self.attention(self.attention_norm(x_btd), rotary, attend, per_row)
        x_btd = x_btd + (out_btd if self.attention_post_norm is None else self.attention_post_norm(out_btd))
        out_btd = per_row(self.mlp, self.mlp_norm(x_btd))
        return x_btd + (out_btd if self.mlp_post_norm is None else self.mlp_post_norm(out_btd)), written


def _norm(axes: Axes, config: ModelConfig, make: Maker) -> RMSNorm:
    return RMSNorm(axes, config.rms_norm_eps, make, config.norm_offset)


class Decoder(nnx.Module):
    """A decoder-only transformer.

    Attributes:
      config: its architecture.
      embed: token embedding.
      layers: nnx.List of `Layer`, or one `Layer` whose parameters have a leading axis "layers", run by
        `lax.scan`. Unrolled layers decode faster on a CPU, scanned ones compile faster and keep memory flat.
      norm: the final norm.
      lm_head: projection to logits; None if tied to the embedding, or for a reward model.
      score: reward head of a process reward model, else None.

    `graphdef, weights = nnx.split(model)` and `nnx.merge(graphdef, weights)` inside `jax.jit` is the way to
    run it with its weights as an argument: no module is shared and nothing is written during a call.
    """

    def __init__(
        self,
        config: ModelConfig,
        rngs: nnx.Rngs | None,
        dtype: jnp.dtype = jnp.float32,
        stacked: bool = False,
        mesh: Mesh | None = None,
        weights: str | None = None,
        outputs_first: bool = False,
    ):
        """Random weights: normal with the config's `initializer_range`, norms 1, biases 0.

        Args:
          config: the architecture.
          rngs: its `params` stream is drawn from; None makes `jax.ShapeDtypeStruct`s.
          dtype: of the parameters and of the computation (norms, softmax and logits are float32).
          stacked: one stacked layer instead of a list.
          mesh: where to place the weights, by the rules of `models.sharding`; None: the default device.
          weights: "int8" keeps the kernels of the layers' projections in int8, with a float32 scale for each
            output; embedding, head, router, norms and biases stay in `dtype`. None: all in `dtype`.
          outputs_first: kernels of floating-point projections lie as [outputs, inputs] (`parameters.Maker`), which
            changes no result, but by rounding.
        """
        if weights not in (None, "int8"):
            raise ValueError(f"weights must be None or 'int8', found {weights!r}")
        self.config = config
        make = Maker(rngs, dtype, config.initializer_range, mesh, outputs_first=outputs_first)
        layers = dataclasses.replace(make, int8=weights == "int8")
        self.embed = Embedding(config.vocab_size, config.hidden_size, make, config.embedding_scale)
        sparse = config.experts.layers if config.experts else (False,) * config.num_layers
        if stacked and len(set(sparse)) > 1:
            raise ValueError("layers with and without experts cannot be stacked: use stacked=False")
        if stacked:
            self.layers = Layer(config, layers.stacked("layers", config.num_layers), sparse[0])
        else:
            self.layers = nnx.List([Layer(config, layers, sparse[i]) for i in range(config.num_layers)])
        width = {"embed": config.hidden_size}
        self.norm = _norm(width, config, make)
        untied = config.head == "language_model" and not config.tie_word_embeddings
        self.lm_head = Linear(width, {"vocab": config.vocab_size}, make) if untied else None
        rewards = config.head == "process_reward"
        self.score = RewardHead(config.hidden_size, config.num_labels, make) if rewards else None

    @property
    def is_stacked(self) -> bool:
        """True if the layers are one stacked `Layer`."""
        return isinstance(self.layers, Layer)

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the computation."""
        return self.embed.embedding.dtype

    def __call__(
        self,
        tokens_bt: jax.Array,
        positions_bt: jax.Array | None = None,
        segment_ids_bt: jax.Array | None = None,
    ) -> jax.Array:
        """Next-token logits, float32 [b, t, v], of whole sequences under dense causal attention.

        Args:
          tokens_bt: int32 token ids.
          positions_bt: int32 position of each token; default: from 0 in each row, and in each segment if
              those are given.
          segment_ids_bt: int32; tokens see only tokens of their own segment. Give padding an id of its own.
        """
        return self.unembed(self.hidden(tokens_bt, positions_bt, segment_ids_bt))

    def hidden(
        self,
        tokens_bt: jax.Array,
        positions_bt: jax.Array | None = None,
        segment_ids_bt: jax.Array | None = None,
        remat: bool = False,
    ) -> jax.Array:
        """The hidden states after the final norm, x_btd; arguments as in `__call__` and `run_layers`."""
        if positions_bt is None:
            positions_bt = default_positions(tokens_bt, segment_ids_bt)

        def attend(q_bthe, k_btge, v_btge, cache, window):
            mask_bts = causal_mask(positions_bt, segment_ids_bt, window)
            return dense_attention(q_bthe, k_btge, v_btge, mask_bts), cache

        return self.run_layers(self.embed_tokens(tokens_bt), positions_bt, attend, remat=remat)[0]

    def embed_tokens(self, tokens: jax.Array) -> jax.Array:
        """int [...] -> x [..., d]."""
        return self.embed(tokens)

    def run_layers(
        self,
        x_btd: jax.Array,
        positions_bt: jax.Array,
        attend: Attend,
        read: Any = None,
        written: Any = None,
        remat: bool | Callable = False,
        per_row: RowWise = of_all_rows,
    ) -> tuple[jax.Array, Any]:
        """Runs all layers and the final norm, with the caller's attention and caches.

        Args:
          x_btd: embedded tokens.
          positions_bt: int32 position of each token, for the rotation.
          attend: `attend(q_bthe, k_btge, v_btge, cache, window) -> (out_bthe, cache.written as it is now)`. Rotation is
            already applied to q and k; scaling by e**-0.5 is not. `cache` is a `kv_cache.LayerCache`, or None
            without `read` and `written`. `window` is None if no layer has a sliding window, else the layer's window
            in positions, `NO_WINDOW` for a layer without (an int, traced if the layers are stacked).
          read, written: what layers read, and what they write too: each a tuple with one pytree a layer, or one pytree
            with leading axis [l] if the layers are stacked, or None.
          remat: recompute each layer in the backward pass instead of keeping what it computed; a policy of
            `jax.checkpoint_policies` says what is kept all the same.
          per_row: how functions of single tokens, which are all but attention, are applied to x.

        Returns:
          x_btd after the final norm, and `written` as it is then.
        """
        rope, local = self.config.rope, self.config.local_rope
        rotary = rotary_tables(rope, positions_bt)
        local_rotary = None if local is None else rotary_tables(local, positions_bt)
        windows = self.config.sliding_windows
        if windows is not None:
            windows = tuple(NO_WINDOW if window is None else window for window in windows)

        def run(layer, x_btd, cache, window):
            tables = rotary
            if local_rotary is not None:
                tables = jax.tree.map(functools.partial(jnp.where, window == NO_WINDOW), rotary, local_rotary)
            return layer(x_btd, tables, _bound(attend, cache, window), per_row)

        layers = self._scan_layers if self.is_stacked else self._unrolled_layers
        x_btd, written = layers(run, x_btd, read, written, windows, remat)
        return self.norm(x_btd), written

    def _unrolled_layers(self, run, x_btd, read, written, windows, remat):
        now_written = []
        for i, layer in enumerate(self.layers):
            graphdef, weights = nnx.split(layer)

            def run_layer(weights, x_btd, cache_l, graphdef=graphdef, i=i):
                window = None if windows is None else windows[i]
                return run(nnx.merge(graphdef, weights), x_btd, cache_l, window)

            run_layer = _rematerialised(run_layer, remat)
            mine = [None if entries is None else entries[i] for entries in (read, written)]
            x_btd, written_l = run_layer(weights, x_btd, _layer_cache(*mine, None))
            now_written.append(written_l)
        return x_btd, None if written is None else tuple(now_written)

    def _scan_layers(self, run, x_btd, read, written, windows, remat):
        graphdef, weights = nnx.split(self.layers)
        windows = None if windows is None else jnp.asarray(windows, jnp.int32)

        def run_layer(carry, per_layer):
            x_btd, written = carry
            weights_l, read_l, window, layer = per_layer
            cache = _layer_cache(read_l, written, layer)
            return run(nnx.merge(graphdef, weights_l), x_btd, cache, window), None

        layers = jnp.arange(self.config.num_layers)
        run_layer = _rematerialised(run_layer, remat)
        return jax.lax.scan(run_layer, (x_btd, written), (weights, read, windows, layers))[0]

    def unembed(self, x: jax.Array) -> jax.Array:
        """x [..., d] after the final norm -> logits, float32 [..., v].

        Raises:
          ValueError: this is a reward model.
        """
        if self.score is not None:
            raise ValueError("a process reward model has no logits of tokens: use `rewards`")
        if self.lm_head is None:
            return self.embed.attend(x)
        return self.lm_head(x, jnp.float32)

    def rewards(
        self,
        tokens_bt: jax.Array,
        positions_bt: jax.Array | None = None,
        segment_ids_bt: jax.Array | None = None,
    ) -> jax.Array:
        """Probability that the text up to each token is right, float32 [b, t]; for process reward models.

        The published models are trained at the separator token that follows each step (`<extra_0>`); the
        values at other tokens mean nothing. Arguments as in `__call__`.

        Raises:
          ValueError: this is not a reward model.
        """
        if self.score is None:
            raise ValueError(f"{self.config.family} language model has no reward head")
        logits = self.score(self.hidden(tokens_bt, positions_bt, segment_ids_bt))
        return jax.nn.softmax(logits, axis=-1)[..., 1]


def default_positions(tokens_bt: jax.Array, segment_ids_bt: jax.Array | None) -> jax.Array:
    """Positions from 0 in each row, or from 0 in each run of equal segment ids, int32 [b, t]."""
    place_bt = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1], dtype=jnp.int32), tokens_bt.shape)
    if segment_ids_bt is None:
        return place_bt
    starts_bt = segment_ids_bt != jnp.pad(segment_ids_bt, ((0, 0), (1, 0)))[:, :-1]
    return place_bt - jax.lax.cummax(jnp.where(starts_bt, place_bt, 0), axis=1)


def _bound(attend: Attend, cache: LayerCache | None, window) -> LayerAttend:
    return lambda q_bthe, k_btge, v_btge: attend(q_bthe, k_btge, v_btge, cache, window)


def _layer_cache(read, written, layer) -> LayerCache | None:
    return None if read is None and written is None else LayerCache(read, written, layer)


def _rematerialised(run: Callable, remat: bool | Callable) -> Callable:
    if not remat:
        return run
    return jax.checkpoint(run, policy=None if remat is True else remat)
