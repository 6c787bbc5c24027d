"""The dense recurrence tracks groups exactly and keeps norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 512
FORMS = [
  "recurrent",
  pytest.param("associative", marks=pytest.mark.slow),
  "chunked",
  "chunk_parallel",
]


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize(
  "letters", [3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_permutations_track_words_exactly(letters, method):
  """The state is the word so far, a product in S3 or S5: equal as integers."""
  rng = np.random.default_rng(letters)
  word = np.stack([rng.permutation(letters) for _ in range(LENGTH)])
  matrices = np.eye(letters, dtype=np.float32)[word]  # h -> h[word]
  start = np.arange(letters, dtype=np.float32)
  y, last = compiled("dense_recurrence")(
    jnp.asarray(matrices)[None],
    jnp.zeros((1, LENGTH, letters)),
    jnp.asarray(start)[None],
    method=method,
  )
  wanted, seen = np.arange(letters), []
  for permutation in word:
    wanted = wanted[permutation]
    seen.append(wanted)
  np.testing.assert_array_equal(y[0], np.stack(seen))
  np.testing.assert_array_equal(last[0], wanted)


@pytest.mark.parametrize("method", ["chunked", "chunk_parallel"])
def test_rotations_keep_the_norm(method):
  rng = np.random.default_rng(0)
  angle = rng.uniform(0, 2 * np.pi, (2, LENGTH, 3))
  cos, sin = np.cos(angle), np.sin(angle)
  blocks = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
  state = rng.standard_normal((2, 3, 2))
  y, _ = compiled("dense_recurrence")(
    jnp.asarray(blocks, jnp.float32),
    jnp.zeros((2, LENGTH, 3, 2)),
    jnp.asarray(state, jnp.float32),
    block_diagonal=True,
    method=method,
  )
  norm = np.linalg.norm(state, axis=-1)[:, None]
  np.testing.assert_allclose(
    np.linalg.norm(y, axis=-1), np.broadcast_to(norm, y.shape[:3]), rtol=1e-5
  )
  turn = np.cumsum(angle, axis=1)  # And the angle: they commute.
  cos, sin = np.cos(turn), np.sin(turn)
  first, second = (state[:, None, :, i] for i in (0, 1))
  wanted = np.stack(
    [cos * first - sin * second, sin * first + cos * second], -1
  )
  assert relative_error(y, wanted) < 2e-5


@pytest.mark.parametrize("method", ["chunked", "chunk_parallel"])
def test_blocks_are_the_full_matrix(method):
  drawn = draws.dense(blocks=True)(np.random.default_rng(1), 21)
  A, b, state = (
    jnp.asarray(drawn[k], jnp.float32) for k in ("A", "b", "initial_state")
  )
  y, last = compiled("dense_recurrence")(
    A, b, state, block_diagonal=True, method=method, chunk_size=8
  )
  full = jnp.zeros((2, 21, 8, 8))
  full = full.at[..., :4, :4].set(A[:, :, 0]).at[..., 4:, 4:].set(A[:, :, 1])
  y2, last2 = compiled("dense_recurrence")(
    full, b.reshape(2, 21, 8), state.reshape(2, 8), method=method
  )
  assert relative_error(y, y2.reshape(y.shape)) < 1e-6
  assert relative_error(last, last2.reshape(last.shape)) < 1e-6


@pytest.mark.slow
def test_complex_diagonal_matrices_are_the_diagonal_recurrence():
  drawn = draws.diagonal(complex_=True)(np.random.default_rng(2), 21)
  a, b, state = (
    jnp.asarray(drawn[k], jnp.complex64) for k in ("a", "b", "initial_state")
  )
  y, last = compiled("dense_recurrence")(
    jax.vmap(jax.vmap(jnp.diag))(a), b, state
  )
  y2, last2 = compiled("diagonal_recurrence")(a, b, state)
  assert relative_error(y, y2) < 1e-6
  assert relative_error(last, last2) < 1e-6


def test_wrong_arguments_are_named():
  A, b = jnp.zeros((2, 5, 3, 3)), jnp.zeros((2, 5, 3))
  for wrong, words in [
    ({"A": A[..., :2], "b": b}, r"A must be \[..., L, N, N\]"),
    ({"A": A[0], "b": b, "block_diagonal": True}, r"\[..., L, G, M, M\]"),
    ({"A": A, "b": b, "initial_state": b}, "initial_state must be"),
    ({"A": A.astype("complex64"), "b": b}, "A must be real where b is"),
  ]:
    with pytest.raises(ValueError, match=words):
      ops.dense_recurrence(**wrong)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(
  "method",
  ["chunked", pytest.param("chunk_parallel", marks=pytest.mark.slow)],
)
def test_narrow_blocks_of_an_accelerator_are_those_of_a_cpu(method, complex_):
  """There the axis of blocks is the last one: values and gradients."""
  drawn = draws.dense(blocks=True)(np.random.default_rng(3), 21)
  drawn = {name: jnp.asarray(x, jnp.float32) for name, x in drawn.items()}
  if complex_:
    drawn = {name: jax.lax.complex(x, x / 2) for name, x in drawn.items()}
  ids = jnp.asarray([[0] * 5 + [1] * 16, [0] * 17 + [2] * 4])

  def results(drawn):
    def loss(drawn):
      y, last = ops.dense_recurrence(
        **drawn,
        block_diagonal=True,
        segment_ids=ids,
        reverse=True,
        method=method,
        chunk_size=4,
      )
      total = jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))
      return jnp.real(total), (y, last)

    return jax.jit(jax.grad(loss, has_aux=True))(drawn)

  wanted = results(drawn)
  with trace_for("tpu"):
    got = results(drawn)
  for left, right in zip(
    jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True
  ):
    assert left.shape == right.shape
    assert relative_error(left, right) < 2e-5


def test_no_product_of_an_accelerator_has_narrow_blocks():
  """A TPU's tile has 1,024 places, of which a block of 2 x 2 fills 4."""
  A, b = jnp.zeros((1, 32, 64, 2, 2)), jnp.zeros((1, 32, 64, 2))

  def run(A, b):
    return ops.dense_recurrence(A, b, block_diagonal=True)

  with trace_for("tpu"):
    narrow = str(jax.make_jaxpr(run)(A, b))
  assert "dot_general" not in narrow
  assert "dot_general" in str(jax.make_jaxpr(lambda A, b: run(A, b))(A, b))
