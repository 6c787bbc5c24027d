"""The delta rule with an erase gate and a write gate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 70
FORMS = (
  "chunked",
  *(
    pytest.param(form, marks=pytest.mark.slow)
    for form in ("recurrent", "associative", "chunk_parallel")
  ),
)


def drawn(decay, gates):
  draw = draws.delta_rule(decay, gates=gates)
  return jax.tree.map(np.float32, draw(np.random.default_rng(0), LENGTH))


def same(arguments, others, method="chunked", op="delta_rule"):
  wanted = compiled("delta_rule")(**arguments, method=method)
  got = compiled(op)(**others, method=method)
  for a, b in zip(got, wanted, strict=True):
    assert relative_error(a, b) < 2e-6


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("decay", ["head", "key"])
def test_equal_gates_are_the_gated_delta_rule_and_kda(decay, method):
  plain = drawn(decay, gates=False)
  beta = plain["beta"][..., None]
  gates = {
    "beta": np.broadcast_to(beta, plain["k"].shape),
    "write_gate": np.broadcast_to(beta, plain["v"].shape),
  }
  same(plain, plain | gates, method)


def test_one_erase_gate_per_head():
  gated = drawn("key", gates=True)
  beta = gated["beta"][..., 0]
  full = np.broadcast_to(beta[..., None], gated["k"].shape)
  same(gated | {"beta": full}, gated | {"beta": beta})


def test_it_is_a_decay_plus_a_matrix_of_rank_one():
  """`a = -k`, read before the decay by `b = exp(log_decay) beta k`."""
  gated = drawn("key", gates=True)
  erase = np.exp(gated["log_decay"]) * gated.pop("beta") * gated["k"]
  value = gated.pop("write_gate") * gated["v"]
  dplr = gated | {"a": -gated["k"], "b": erase, "v": value}
  same(drawn("key", gates=True), dplr, op="dplr_recurrence")


def test_chunks_make_no_matrix_of_keys_by_keys():
  """Only the summaries of all chunks at once do."""
  keys, values = 40, 6
  shape = (1, 32, 1)
  q = jnp.ones((*shape, keys)) / 5
  v = jnp.ones((*shape, values))

  def loss(method, q, v):
    y, state = ops.delta_rule(
      *(q, q, v, q, -q), write_gate=v, method=method, chunk_size=8
    )
    return jnp.sum(y) + jnp.sum(state)

  programs = {
    method: str(jax.make_jaxpr(jax.grad(functools.partial(loss, method)))(q, v))
    for method in ("chunked", "chunk_parallel")
  }
  assert "40,40]" in programs["chunk_parallel"]
  assert "40,40]" not in programs["chunked"]


def test_an_erase_gate_per_key_needs_a_write_gate():
  gated = drawn("key", gates=True)
  del gated["write_gate"]
  with pytest.raises(ValueError, match=r"beta must .*: give write_gate"):
    ops.delta_rule(**gated)
