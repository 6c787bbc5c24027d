"""The model of vectors: a stack between two dense maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import Backbone, VectorModel, count_parameters

BATCH, LENGTH, INPUTS, OUTPUTS = 2, 12, 3, 2
STACK = {
  "width": 8,
  "depth": 2,
  "mixers": (("gated_deltanet", {"heads": 2}), ("s5", {"state_width": 4})),
}
X = np.random.default_rng(0).normal(size=(BATCH, LENGTH, INPUTS))
X = X.astype(np.float32)
IDS = np.stack([np.repeat([0, 1], [5, 7]), np.repeat([0, 3], [11, 1])])


def build(**fields):
  return VectorModel(
    **{"input_width": INPUTS, "output_width": OUTPUTS, **STACK, **fields}
  )


@functools.cache
def drawn():
  """A model, and random parameters, so that none has a special value."""
  model = build()
  params = jax.jit(model.init)(jax.random.key(0), X[:, :1])
  rng = np.random.default_rng(1)
  return model, jax.tree.map(
    lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
  )


@pytest.mark.slow
def test_it_is_the_stack_between_two_dense_maps():
  model, params = drawn()
  own = dict(params["params"])
  first, last = own.pop("input"), own.pop("output")
  stream = X @ first["kernel"] + np.asarray(first["bias"])[None, None]
  features, wanted = jax.jit(Backbone(**STACK).apply)({"params": own}, stream)
  y, state = jax.jit(model.apply)(params, X)
  expected = features @ last["kernel"] + np.asarray(last["bias"])[None, None]
  np.testing.assert_allclose(y, expected, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, state, wanted)
  assert count_parameters(model) == sum(
    leaf.size for leaf in jax.tree.leaves(params)
  )


def test_packed_and_cut_runs_give_the_same_outputs():
  model, params = drawn()
  apply = jax.jit(lambda x, s, i: model.apply(params, x, s, segment_ids=i))
  zero = jax.tree.map(np.asarray, model.init_state(BATCH))
  whole, final = apply(X, zero, IDS)
  state, outputs = zero, []
  for t in range(LENGTH):
    # A new sequence starts from the zero state.
    for row, start in ((0, 5), (1, 11)):
      if t == start:
        state = jax.tree.map(
          lambda old, new, row=row: np.stack(
            [(new if b == row else old)[b] for b in range(BATCH)]
          ),
          jax.tree.map(np.asarray, state),
          zero,
        )
    y, state = apply(X[:, t : t + 1], state, np.zeros((BATCH, 1), int))
    outputs.append(y)
  np.testing.assert_allclose(np.concatenate(outputs, 1), whole, atol=2e-5)
  for got, wanted in zip(
    jax.tree.leaves(state), jax.tree.leaves(final), strict=True
  ):
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_outputs_are_float32_and_start_near_zero():
  model = build(
    width=32, depth=1, output_width=50, mixers=("s5",), dtype=jnp.bfloat16
  )
  (y, _), _ = jax.jit(model.init_with_output)(jax.random.key(0), X)
  assert y.dtype == jnp.float32
  assert 0.05 < np.std(y) < 0.2


@pytest.mark.parametrize(
  ("fields", "x", "match"),
  [
    ({}, X[..., :2], r"VectorModel: x .*input_width"),
    ({}, X.astype(int), "VectorModel: x must be real floating point"),
    ({"output_width": 0}, X, "VectorModel: output_width must be at least 1"),
  ],
)
def test_the_error_names_what_is_wrong(fields, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(build(**fields).init, jax.random.key(0), x)
