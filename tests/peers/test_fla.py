"""Equal to the plain PyTorch modules of flash-linear-attention (fla-core).

fla scales q by 1/sqrt(K) unless told otherwise, the ops scale nothing: where
its scale cannot be given, the peer multiplies q by sqrt(K) beforehand.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from tests.ops import draws
from tests.peers.compare import check, drawn, load, torch_peer

pytestmark = pytest.mark.slow


def unscaled(q):
  return q * math.sqrt(q.shape[-1])


def heads_first(function):
  """fla's older modules take and give [B, H, L, ...]."""

  def peer(initial_state, **inputs):
    inputs = {name: x.transpose(1, 2) for name, x in inputs.items()}
    y, state = function(**inputs, initial_state=initial_state)
    return y.transpose(1, 2), state

  return peer


def test_linear_attention():
  fla = load("fla.ops.linear_attn.naive")

  def peer(q, k, v, initial_state):
    return fla.naive_recurrent_linear_attn(
      q, k, v, 1.0, initial_state, output_final_state=True
    )

  check(ops.linear_attention, torch_peer(peer), drawn(draws.linear_attention()))


def test_normalized_linear_attention():
  """fla adds 1e-10 to the normaliser, the op bounds it by 1e-6 from below."""
  fla = load("fla.ops.linear_attn.naive")

  def peer(q, k, v):
    y, (S, z) = fla.naive_recurrent_linear_attn(
      q, k, v, 1.0, output_final_state=True, normalize=True
    )
    return y, S, z[:, 0]

  def op(q, k, v, method):
    y, state = ops.normalized_linear_attention(q, k, v, method=method)
    weight = jnp.exp(state.m)  # The op holds e^m (S, z).
    return y, weight[..., None, None] * state.S, weight[..., None] * state.z

  inputs = drawn(draws.normalized(gates=False))
  inputs.pop("initial_state")  # fla's broadcasts z over L against [B, H, K].
  check(op, torch_peer(peer), inputs)


@pytest.mark.parametrize("name", ["recurrent", "chunk"])
def test_linear_attention_head_decay(name):
  fla = load("fla.ops.simple_gla.naive")
  function = getattr(fla, f"naive_{name}_simple_gla")

  def peer(q, k, v, log_decay, initial_state):
    return function(
      q, k, v, log_decay, scale=1.0, initial_state=initial_state,
      output_final_state=True,
    )  # fmt: skip

  inputs = drawn(draws.linear_attention("head"))
  check(ops.linear_attention, torch_peer(peer), inputs)


def test_linear_attention_key_decay():
  fla = load("fla.ops.gla.naive")

  def peer(q, k, v, log_decay, initial_state):
    return fla.naive_recurrent_gla(
      unscaled(q), k, v, log_decay, initial_state, output_final_state=True
    )

  inputs = drawn(draws.linear_attention("key"))
  check(ops.linear_attention, torch_peer(peer), inputs)


def test_delta_rule():
  fla = load("fla.ops.delta_rule.naive")

  @heads_first
  def peer(q, k, v, beta, initial_state):
    return fla.delta_rule_recurrence(unscaled(q), k, v, beta, initial_state)

  check(ops.delta_rule, torch_peer(peer), drawn(draws.delta_rule()))


@pytest.mark.parametrize("name", ["recurrent", "chunk"])
def test_gated_delta_rule(name):
  fla = load("fla.ops.gated_delta_rule.naive")
  function = getattr(fla, f"naive_{name}_gated_delta_rule")

  def peer(q, k, v, beta, log_decay, initial_state):
    return function(
      q, k, v, beta=beta, g=log_decay, scale=1.0, initial_state=initial_state,
      output_final_state=True,
    )  # fmt: skip

  check(ops.delta_rule, torch_peer(peer), drawn(draws.delta_rule("head")))


def kda(function, q, k, v, beta, log_decay, initial_state):
  return function(
    q, k, v, log_decay, beta, scale=1.0, initial_state=initial_state,
    output_final_state=True,
  )  # fmt: skip


def test_key_gated_delta_rule():
  fla = load("fla.ops.kda.naive")
  peer = torch_peer(functools.partial(kda, fla.naive_recurrent_kda))
  check(ops.delta_rule, peer, drawn(draws.delta_rule("key")))


def test_key_gated_delta_rule_in_chunks():
  """Of weak decays: see the next test. fla wants whole chunks of 64 here."""
  fla = load("fla.ops.kda.naive")
  peer = torch_peer(functools.partial(kda, fla.naive_chunk_kda))
  inputs = drawn(draws.delta_rule("key"), 128)
  inputs["log_decay"] *= 0.1
  check(ops.delta_rule, peer, inputs)


def test_strong_decays_break_a_peer():
  """fla's chunks have NaN gradients where its recurrence, and the op, do not.

  Its chunk form exponentiates differences of prefix sums of both signs and
  masks the positive ones afterwards, e^126 at -2 a step over 64 tokens: the
  outputs survive that, 0 times infinity in the gradient does not.
  """
  fla = load("fla.ops.kda.naive")
  inputs = drawn(draws.delta_rule("key"), 128)
  inputs["log_decay"] = np.full_like(inputs["log_decay"], -2.0)
  recurrent = torch_peer(functools.partial(kda, fla.naive_recurrent_kda))
  check(ops.delta_rule, recurrent, inputs)
  chunk = torch_peer(functools.partial(kda, fla.naive_chunk_kda))
  with pytest.raises(AssertionError, match=r"log_decay.*nan"):
    check(ops.delta_rule, chunk, inputs)


def test_householder_product():
  fla = load("fla.ops.gated_delta_product.naive")
  steps = 3

  def peer(q, k, v, beta, log_decay, initial_state):
    # fla lays the steps of a token one after another along L.
    k, v, beta = (x.flatten(1, 2) for x in (k, v, beta))
    return fla.naive_recurrent_gated_delta_product(
      q, k, v, log_decay, beta, 1.0, initial_state=initial_state,
      output_final_state=True, num_householder=steps,
    )  # fmt: skip

  inputs = drawn(draws.householder("head", sizes={"steps": steps}), 40)
  check(ops.householder_product, torch_peer(peer), inputs)


def test_packed_householder_product():
  """fla cuts a row of tokens where documents end, and gives all states."""
  torch, fla = load("torch"), load("fla.ops.gated_delta_product.naive")
  ends = [0, 7, 30, 40]

  def peer(q, k, v, beta, log_decay):
    k, v, beta = (x.flatten(1, 2) for x in (k, v, beta))
    y, states = fla.naive_recurrent_gated_delta_product(
      q, k, v, log_decay, beta, 1.0, torch.tensor(ends),
      output_final_state=True, num_householder=2,
    )  # fmt: skip
    return y, states[-1:]

  inputs = drawn(draws.householder("head"), ends[-1])
  inputs.pop("initial_state")
  inputs = {name: x[:1] for name, x in inputs.items()}
  ids = np.repeat(np.arange(3), np.diff(ends))[None]
  check(ops.householder_product, torch_peer(peer), inputs, segment_ids=ids)


@pytest.mark.parametrize("name", ["recurrence", "chunkwise"])
def test_dplr(name):
  """fla names the vector that reads alpha, the op b, and conversely."""
  fla = load("fla.ops.generalized_delta_rule.dplr.naive")
  function = getattr(fla, f"dplr_{name}")

  @heads_first
  def peer(q, k, v, a, b, log_decay, initial_state):
    return function(
      unscaled(q), k, v, b, a, log_decay, initial_state=initial_state
    )

  inputs = drawn(draws.dplr("key"), 64)  # Whole chunks of 32.
  check(ops.dplr_recurrence, torch_peer(peer), inputs)


def test_diagonal():
  """HGRN takes the logarithm of a."""
  fla = load("fla.ops.hgrn.naive")

  def peer(a, b, initial_state):
    return fla.naive_recurrent_hgrn(
      b, a.log(), initial_state, output_final_state=True
    )

  inputs = drawn(draws.diagonal())
  inputs["a"] = np.abs(inputs["a"])
  check(ops.diagonal_recurrence, torch_peer(peer), inputs)
