"""Equal to vectors of an independent implementation, where they are there."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.testing import relative_error

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden"
NAMES = {
  "linear_attention": ops.linear_attention,
  "linear_attention_head_decay": ops.linear_attention,
  "linear_attention_key_decay": ops.linear_attention,
  "delta_rule": ops.delta_rule,
  "gated_delta_rule": ops.delta_rule,
  "key_gated_delta_rule": ops.delta_rule,
}
needs_golden = pytest.mark.skipif(
  not GOLDEN.is_dir(), reason="the golden vectors are not beside the checkout"
)


def load(name):
  with np.load(GOLDEN / f"{name}.npz") as file:
    return dict(file)


@needs_golden
@pytest.mark.parametrize(
  "method",
  [
    "recurrent",
    "chunked",
    pytest.param("chunk_parallel", marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("name", NAMES)
def test_matrix_states(name, method):
  golden = load(name)
  inputs = {
    key.removeprefix("in_"): value
    for key, value in golden.items()
    if key.startswith("in_")
  }
  for gate in ("g", "gk"):  # The file's names for a decay per head, a key.
    if gate in inputs:
      inputs["log_decay"] = inputs.pop(gate)
      golden["grad_log_decay"] = golden[f"grad_{gate}"]

  @jax.jit
  def results(inputs):
    outputs, pull_back = jax.vjp(
      lambda inputs: NAMES[name](**inputs, method=method, chunk_size=16),
      inputs,
    )
    cotangents = golden["cot_y"], golden["cot_final_state"]
    return outputs, pull_back(jax.tree.map(jnp.asarray, cotangents))[0]

  (y, state), gradients = results(inputs)
  assert relative_error(y, golden["y"]) < 2e-5
  assert relative_error(state, golden["final_state"]) < 2e-5
  for key, gradient in gradients.items():
    assert relative_error(gradient, golden[f"grad_{key}"]) < 2e-5, key


@needs_golden
@pytest.mark.parametrize(
  "method", ["recurrent", "associative", "chunked", "chunk_parallel"]
)
def test_diagonal(method):
  golden = load("diagonal_recurrence")
  op = functools.partial(ops.diagonal_recurrence, method=method, chunk_size=16)
  y, state = jax.jit(op)(
    jnp.exp(golden["in_log_a"]),
    jnp.asarray(golden["in_b"]),
    jnp.asarray(golden["in_initial_state"]),
  )
  assert relative_error(y, golden["y"]) < 2e-5
  assert relative_error(state, golden["final_state"]) < 2e-5
