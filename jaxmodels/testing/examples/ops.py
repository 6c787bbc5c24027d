"""One record per op and kind of arguments.

A new op needs its file, its definition in `jaxmodels.ops.reference` and a
record here: tests compare every form with the definition, benchmarks time and
count it, and README's table lists it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing.examples import draws, flops
from jaxmodels.testing.examples.example import ENGINE, OpExample

__all__ = ["OPS"]

_KALMAN = ("auto", "recurrent", "chunk_parallel", "associative")


def _batched(scan: Callable[..., Any]) -> Callable[..., Any]:
  """A Kalman scan over the batch of y."""

  @functools.wraps(scan)
  def call(y: jax.Array, **others: Any) -> Any:
    return jax.vmap(lambda y: scan(y, **others))(y)

  return call


def _from_seven(op: Callable[..., Any]) -> Callable[..., Any]:
  """Log-linear attention from the levels after 7 tokens, without the count."""

  @functools.wraps(op)
  def call(*args: Any, initial_state: Any = None, **options: Any) -> Any:
    if initial_state is not None:
      batch = initial_state.shape[:-4]
      initial_state = initial_state, jnp.full(batch, 7, jnp.int32)
    y, last = op(*args, initial_state=initial_state, **options)
    return y, last.levels

  return call


_RECORDS = (
  OpExample(
    "linear_attention",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("head"),
    flops=flops.linear_attention("head"),
    equation="`S_t = decay_t S_{t-1} + k_t v_t^T`; no decay, or one per head, "
    "key or value channel; with `bonus`, `y_t` reads `S_{t-1}` (RWKV-6)",
  ),
  OpExample(
    "linear_attention_no_decay",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention(),
    flops=flops.linear_attention(None),
  ),
  OpExample(
    "linear_attention_key_decay",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("key"),
    flops=flops.linear_attention("key"),
    flops_on_tpu=flops.linear_attention_on_tpu,
  ),
  OpExample(
    "linear_attention_value_decay",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("value"),
    flops=flops.linear_attention("value"),
    flops_on_tpu=flops.linear_attention_on_tpu,
  ),
  OpExample(
    "linear_attention_bonus",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("key", bonus=True),
    whole=("bonus",),
    flops=flops.linear_attention_bonus,
    flops_on_tpu=flops.linear_attention_on_tpu,
  ),
  OpExample(
    "linear_attention_signed",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("head", signed=True),
  ),
  OpExample(
    "linear_attention_bonus_head_decay",
    ops.linear_attention,
    reference.linear_attention,
    draws.linear_attention("head", bonus=True),
    whole=("bonus",),
  ),
  OpExample(
    "delta_rule",
    ops.delta_rule,
    reference.delta_rule,
    draws.delta_rule("head"),
    flops=flops.delta_rule("head"),
    flops_on_tpu=flops.delta_rule_on_tpu("head"),
    equation="`S_t = (I - beta_t k_t k_t^T) decay_t S_{t-1} + beta_t k_t "
    "v_t^T`, beta in [0, 2], the same decays; with `write_gate`, gates per "
    "channel for the erase and for the write (Gated DeltaNet-2)",
  ),
  OpExample(
    "delta_rule_no_decay",
    ops.delta_rule,
    reference.delta_rule,
    draws.delta_rule(),
    flops=flops.delta_rule(None),
    flops_on_tpu=flops.delta_rule_on_tpu(None),
  ),
  OpExample(
    "delta_rule_key_decay",
    ops.delta_rule,
    reference.delta_rule,
    draws.delta_rule("key"),
    flops=flops.delta_rule("key"),
    flops_on_tpu=flops.delta_rule_on_tpu("key"),
  ),
  OpExample(
    "delta_rule_gates",
    ops.delta_rule,
    reference.delta_rule,
    draws.delta_rule("key", gates=True),
    flops=flops.delta_rule_gates,
    flops_on_tpu=flops.delta_rule_on_tpu("key"),
  ),
  OpExample(
    "delta_rule_gates_head_decay",
    ops.delta_rule,
    reference.delta_rule,
    draws.delta_rule("head", gates=True),
  ),
  OpExample(
    "log_linear_attention",
    _from_seven(ops.log_linear_attention),
    _from_seven(reference.log_linear_attention),
    draws.log_linear("head"),
    equation="`y_t = sum_l scale_t^l S_t^l q_t`, one state of linear attention "
    "or, with beta, of the delta rule per level of a Fenwick tree",
  ),
  OpExample(
    "log_linear_attention_delta_rule",
    _from_seven(ops.log_linear_attention),
    _from_seven(reference.log_linear_attention),
    draws.log_linear("key", delta=True),
  ),
  OpExample(
    "mesa",
    ops.mesa,
    reference.mesa,
    draws.mesa,
    equation="`y_t = G_t^T (H_t + I)^{-1} q_t`, by conjugate gradients; `H_t` "
    "sums `beta_t k_t k_t^T`, and `G_t` sums `beta_t k_t v_t^T`",
  ),
  OpExample(
    "ttt_linear",
    ops.ttt_linear,
    reference.ttt_linear,
    draws.ttt,
    whole=("weight", "norm_scale", "norm_bias"),
    options={"mini_batch": 8},
    methods=("auto", "recurrent", "chunked"),
    equation="`y_t = LN(W_t^T q_t)`; `W_t` takes gradient steps on the squared "
    "error of `LN(W^T k_t)` against `v_t`, in mini-batches of tokens",
  ),
  OpExample(
    "diagonal_recurrence",
    ops.diagonal_recurrence,
    reference.diagonal_recurrence,
    draws.diagonal(),
    flops=flops.diagonal_recurrence,
    equation="`h_t = a_t * h_{t-1} + b_t`, real of any sign, or complex",
  ),
  OpExample(
    "diagonal_recurrence_complex",
    ops.diagonal_recurrence,
    reference.diagonal_recurrence,
    draws.diagonal(complex_=True),
  ),
  OpExample(
    "diagonal_recurrence_sum",
    ops.diagonal_recurrence,
    reference.diagonal_recurrence,
    draws.running_sum,
    options={"a": None},
  ),
  OpExample(
    "dplr_recurrence",
    ops.dplr_recurrence,
    reference.dplr_recurrence,
    draws.dplr("key"),
    flops=flops.dplr_recurrence,
    flops_on_tpu=flops.dplr_on_tpu,
    equation="`S_t = (diag(decay_t) + a_t b_t^T) S_{t-1} + k_t v_t^T` (RWKV-7)",
  ),
  OpExample(
    "dplr_recurrence_head_decay",
    ops.dplr_recurrence,
    reference.dplr_recurrence,
    draws.dplr("head"),
  ),
  OpExample(
    "householder_product",
    ops.householder_product,
    reference.householder_product,
    draws.householder("head"),
    flops=flops.householder_product,
    equation="several delta-rule steps per token (DeltaProduct)",
  ),
  OpExample(
    "normalized_linear_attention",
    ops.normalized_linear_attention,
    reference.normalized_linear_attention,
    draws.normalized(gates=True),
    flops=flops.normalized_linear_attention,
    equation="linear attention over its normaliser, with the stabilised "
    "exponential gates of mLSTM",
  ),
  OpExample(
    "normalized_linear_attention_no_gates",
    ops.normalized_linear_attention,
    reference.normalized_linear_attention,
    draws.normalized(gates=False),
  ),
  OpExample(
    "normalized_linear_attention_bonus",
    ops.normalized_linear_attention,
    reference.normalized_linear_attention,
    draws.normalized(gates=True, bonus=True),
    whole=("log_bonus",),
  ),
  OpExample(
    "normalized_linear_attention_epsilon",
    ops.normalized_linear_attention,
    reference.normalized_linear_attention,
    draws.normalized(gates=True),
    options={"epsilon": 0.1},
  ),
  OpExample(
    "selective_scan",
    ops.selective_scan,
    reference.selective_scan,
    draws.selective_scan,
    whole=("A", "D"),
    flops=flops.selective_scan,
    equation="`h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`, Mamba, states never "
    "held for the whole length",
  ),
  OpExample(
    "selective_scan_negative",
    ops.selective_scan,
    reference.selective_scan,
    draws.selective_scan,
    whole=("A", "D"),
    options={"negative_eigenvalues": True},
  ),
  OpExample(
    "state_space",
    ops.state_space,
    reference.state_space,
    draws.state_space(),
    whole=("A", "B", "C"),
    equation="`h_t = A h_{t-1} + B x_t`, `y_t = Re(C h_t)`, diagonal or full, "
    "the same at every token (LSSL, S4, S4D)",
  ),
  OpExample(
    "state_space_complex",
    ops.state_space,
    reference.state_space,
    draws.state_space(diagonal=True),
    whole=("A", "B", "C"),
  ),
  OpExample(
    "dense_recurrence",
    ops.dense_recurrence,
    reference.dense_recurrence,
    draws.dense(blocks=True),
    options={"block_diagonal": True},
    flops=flops.dense_recurrence,
    equation="`h_t = A_t h_{t-1} + b_t`, full or block-diagonal",
  ),
  OpExample(
    "dense_recurrence_full",
    ops.dense_recurrence,
    reference.dense_recurrence,
    draws.dense(),
  ),
  OpExample(
    "signature",
    ops.signature,
    reference.signature,
    draws.signature,
    equation="`S_t = S_{t-1} (x) exp(dx_t)`: iterated integrals of a path",
  ),
  OpExample(
    "causal_convolution",
    ops.causal_convolution,
    reference.causal_convolution,
    draws.convolution(4),
    whole=("kernel",),
    methods=("auto", "recurrent", "chunk_parallel"),
    flops=flops.causal_convolution,
    equation="short and depthwise, the last inputs as its state",
  ),
  OpExample(
    "attention",
    ops.attention,
    reference.attention,
    draws.stateless(draws.qkv),
    methods=("auto", "recurrent", "chunked", "quadratic"),
    flops=flops.attention,
    equation="softmax, full or sliding window, grouped heads, the cache as its "
    "state",
  ),
  OpExample(
    "bidirectional",
    ops.bidirectional,
    reference.bidirectional,
    draws.stateless(draws.linear_attention("head")),
    methods=(*(form for form in ENGINE if form != "pallas"), "quadratic"),
    flops=flops.bidirectional,
    equation="linear attention from both ends (LION): full = two recurrences "
    "= chunkwise",
  ),
  OpExample(
    "long_convolution",
    ops.long_convolution,
    reference.long_convolution,
    draws.convolution(16),
    whole=("kernel",),
    methods=(),
    equation="FFT, for time-invariant state spaces",
  ),
  OpExample(
    "kalman_filter",
    _batched(ops.kalman_filter),
    _batched(reference.kalman_filter),
    draws.kalman,
    methods=_KALMAN,
    equation="linear Gaussian state spaces, token by token or in parallel",
  ),
  OpExample(
    "kalman_smoother",
    _batched(ops.kalman_smoother),
    _batched(reference.kalman_smoother),
    draws.kalman,
    methods=_KALMAN,
    equation="the same, given all observations",
  ),
)
OPS: dict[str, OpExample] = {record.name: record for record in _RECORDS}
