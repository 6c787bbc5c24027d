"""Ops whose outputs are their states: gradients of any order, low memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import dense, reference
from jaxmodels.testing import relative_error, tolerance
from tests.ops import draws

CASES = {
  "diagonal_recurrence": draws.diagonal(),
  "dense_recurrence": draws.dense(),
}
IDS = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 4, 4], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]])


def change_of_gradient(op):
  """The derivative of the gradient in a direction: forward over reverse."""

  def loss(inputs):
    y, last = op(**inputs)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2)

  return jax.jit(
    lambda inputs, along: jax.jvp(jax.value_and_grad(loss), [inputs], [along])
  )


@pytest.mark.parametrize(
  ("method", "reverse"),
  [
    pytest.param("recurrent", False, marks=pytest.mark.slow),
    ("chunked", True),
    ("chunk_parallel", False),
    ("associative", True),
  ],
)
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_equal_those_of_the_definition(
  name, method, reverse
):
  rng = np.random.default_rng(0)
  inputs, along = (CASES[name](rng, IDS.shape[1]) for _ in range(2))
  inputs, along = jax.tree.map(jnp.float32, (inputs, along))

  def op(**inputs):
    return getattr(ops, name)(
      **inputs, segment_ids=IDS, reverse=reverse, method=method, chunk_size=4
    )

  def definition(**inputs):
    return getattr(reference, name)(**inputs, segment_ids=IDS, reverse=reverse)

  found = change_of_gradient(op)(inputs, along)
  expected = change_of_gradient(definition)(inputs, along)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert relative_error(one, other) < tolerance(np.float32)


def test_a_family_with_a_tangent_and_a_step_has_the_right_gradient():
  """The scan of the tangent is transposed, so it must not use `step`."""

  def step(token, masks, state):
    one = dense.FAMILY.summarize(token, masks)
    state = dense.FAMILY.advance(one, state)
    return state[None], state

  family = dense.FAMILY._replace(step=step)
  stepping = ops.make_op("stepping", family, dense.Tokens)
  drawn = jax.tree.map(
    jnp.float32,
    draws.dense(blocks=True, sizes={"heads": 1})(np.random.default_rng(0), 6),
  )

  def loss(drawn):
    padding = jnp.zeros(drawn["b"].shape[:3])
    y, last = stepping(**drawn, padding=padding, method="recurrent")
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2)

  def defined(drawn):
    y, last = reference.dense_recurrence(**drawn, block_diagonal=True)
    return jnp.sum(jnp.sin(y)) + jnp.sum(last**2)

  found, expected = (jax.jit(jax.grad(f))(drawn) for f in (loss, defined))
  for name, gradient in expected.items():
    assert relative_error(found[name], gradient) < tolerance(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_narrow_tokens_use_wide_states(name):
  """The tangent reads the states before they are rounded to the dtype of y."""
  rng = np.random.default_rng(0)
  inputs = jax.tree.map(jnp.bfloat16, CASES[name](rng, 16))
  state = inputs.pop("initial_state").astype(jnp.float32)

  def last(inputs):
    return jnp.sum(getattr(ops, name)(**inputs, initial_state=state)[1])

  wide = jax.tree.map(jnp.float32, inputs)
  gradient = jax.jit(jax.grad(last))
  expected = jax.tree.map(jnp.bfloat16, gradient(wide))
  found = gradient(inputs)
  for key, narrow in found.items():
    assert relative_error(narrow, expected[key]) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_stores_only_inputs_and_outputs(name):
  """For a batch of one, no other array of their size is stored."""
  drawn = jax.tree.map(jnp.float32, CASES[name](np.random.default_rng(0), 512))
  inputs = {key: x[:1] for key, x in drawn.items()}
  y, _ = getattr(ops, name)(**inputs)

  def pulled(inputs, cotangent):
    op = lambda inputs: getattr(ops, name)(**inputs)[0]  # noqa: E731
    return jax.vjp(op, inputs)[1](cotangent)

  memory = jax.jit(pulled).lower(inputs, y).compile().memory_analysis()
  # y, the tangent of b and a little more. Stored states would be one more.
  assert memory.temp_size_in_bytes < 2.5 * y.nbytes
