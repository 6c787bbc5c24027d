"""The base class: fields, steps, and the zero state that a call implies."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.mixers import GLA, MIXERS, Mixer
from jaxmodels.ops import linear_attention
from jaxmodels.ops.engine import checks
from jaxmodels.testing import check_mixer
from jaxmodels.testing.examples.mixers import gla
from tests.mixers import slow_in_matrix

X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)


class Plain(Mixer):
  """A mixer of a user: linear attention without a decay."""

  heads: int = 2

  def mix(self, x, state, segment_ids):
    q, k, v = (self.heads_of(name, x, self.heads, 4) for name in "qkv")
    y, state = self.run(
      linear_attention, q, k, v, None, state=state, segment_ids=segment_ids
    )
    return self.project_out(self.new_norm()(y)), state


class WithArray(Plain):
  """A mixer that cannot be hashed, since a field is an array."""

  factors: np.ndarray | None = None

  def mix(self, x, state, segment_ids):
    y, state = super().mix(x, state, segment_ids)
    return y * jnp.asarray(self.factors), state


def test_a_mixer_of_a_user_keeps_the_contract():
  check_mixer(Plain(8), methods=())
  state = Plain(8, 2).init_state(3)
  assert (state.shape, state.dtype) == ((3, 2, 4, 4), jnp.float32)
  # Shared fields are keywords, so that a mixer's own follow the width.
  assert Plain(8, 2).heads == 2


def test_a_mixer_without_an_equation_is_named():
  class Empty(Mixer):
    pass

  with pytest.raises(NotImplementedError, match="Empty must define mix"):
    Empty(8).init_state(1)


def test_fields_that_are_arrays_have_a_zero_state_too():
  layer = WithArray(8, factors=np.ones((1, 1, 8), np.float32))
  wanted = Plain(8).init_state(2)
  np.testing.assert_array_equal(layer.init_state(2), wanted)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"norm_epsilon": 0.0}, "Plain: norm_epsilon must be a number above 0"),
    ({"width": -1}, "Plain: width must be at least 1, got -1"),
    ({"dtype": jnp.int8}, "Plain: dtype must be a real floating-point"),
  ],
)
def test_wrong_shared_fields_are_named(fields, match):
  layer = Plain(8).clone(**fields)
  for call in (
    lambda: layer.init(jax.random.key(0), X),
    lambda: layer.init_state(1),
  ):
    with pytest.raises(ValueError, match=match):
      call()


def test_equal_mixers_are_traced_once_for_their_zero_states():
  traced = []

  class Counted(Plain):
    def mix(self, x, state, segment_ids):
      traced.append(x.shape)
      return super().mix(x, state, segment_ids)

  for _ in range(3):
    Counted(8).init_state(2)
  # Also while a model is traced, sharded or with its numbers guarded.
  jax.jit(lambda: Counted(8, parent=None).init_state(2))()
  Counted(8, axis_name="s").init_state(2)
  with checks.numerics():
    Counted(8).init_state(2)
  assert traced == [(2, 1, 8)]
  Counted(8, norm_epsilon=1e-5).init_state(2)
  Counted(8).init_state(1)
  assert traced == [(2, 1, 8), (2, 1, 8), (1, 1, 8)]


def test_a_zero_state_under_the_numeric_guards():
  layer = Plain(8)
  params = jax.jit(layer.init)(jax.random.key(0), X)
  wanted = jax.jit(layer.apply)(params, X)

  def apply(params, x):
    return layer.apply(params, x, layer.init_state(2))

  with checks.numerics():
    got = chex.chexify(jax.jit(apply), async_check=False)(params, X)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", slow_in_matrix(MIXERS))
@pytest.mark.parametrize("length", [0, 3])
def test_the_zero_state_has_the_dtype_of_wide_computations(name, length):
  """float64 states of float64 mixers, and of any length that entered."""
  small = {"head_width": 8}
  options = {"mamba2": small, "mamba3": small}.get(name, {})
  with jax.enable_x64(True):
    layer = MIXERS[name](
      width=16, dtype=jnp.float64, param_dtype=jnp.float64, **options
    )
    x = jax.ShapeDtypeStruct((2, length, 16), jnp.float64)
    state = jax.eval_shape(lambda: layer.init_state(2))
    _, after = jax.eval_shape(
      lambda x: layer.init_with_output(jax.random.key(0), x)[0], x
    )
    assert jax.tree.structure(state) == jax.tree.structure(after)
    for a, b in zip(
      jax.tree.leaves(state), jax.tree.leaves(after), strict=True
    ):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
      assert a.dtype in (jnp.float64, jnp.complex128, jnp.int32, bool)


def test_the_epsilon_of_the_norms_is_a_field():
  layer = GLA(8, heads=2, norm_epsilon=0.1)
  params = jax.jit(layer.init)(jax.random.key(0), X)
  y, _ = jax.jit(layer.apply)(params, X)
  exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params["params"])
  wanted = gla.plain(exact, X[0].astype(float), layer)
  np.testing.assert_allclose(y[0], wanted, rtol=1e-4, atol=1e-6)


def test_a_mixer_may_start_elsewhere_than_at_zero():
  class Low(Mixer):
    @nn.compact
    def __call__(self, x, state=None, *, segment_ids=None):
      before = self.init_state(x.shape[0]) if state is None else state
      y = jnp.maximum(jax.lax.cummax(x, axis=1), before[:, None])
      return y, y[:, -1]

    def init_state(self, batch_size):
      return jnp.full((batch_size, self.width), -jnp.inf)

  assert (Low(8).init_state(2) == -jnp.inf).all()
  assert np.isfinite(Low(8).apply({}, X)[0]).all()
