"""The DPLR recurrence holds the delta rule and linear attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.ops import reference
from jaxmodels.testing import relative_error
from tests.ops import draws
from tests.ops.compiled import compiled

LENGTH = 70


def as_float32(drawn):
  return {k: jnp.asarray(x, jnp.float32) for k, x in drawn.items()}


@pytest.mark.parametrize("decay", ["head", "key"])
@pytest.mark.parametrize(
  "method", ["chunked", pytest.param("chunk_parallel", marks=pytest.mark.slow)]
)
def test_delta_rule(decay, method):
  """`(I - beta k k^T) diag(w)` is `diag(w) + a b^T`, a = -beta k, b = w k."""
  drawn = as_float32(draws.delta_rule(decay)(np.random.default_rng(0), LENGTH))
  k, beta = drawn["k"], drawn["beta"][..., None]
  w = jnp.exp(drawn["log_decay"])
  w = w if decay == "key" else w[..., None]
  y, last = compiled("dplr_recurrence")(
    q=drawn["q"],
    k=k,
    v=beta * drawn["v"],
    a=-beta * k,
    b=w * k,
    log_decay=drawn["log_decay"],
    initial_state=drawn["initial_state"],
    method=method,
  )
  y_delta, last_delta = compiled("delta_rule")(**drawn)
  assert relative_error(y, y_delta) < 2e-6
  assert relative_error(last, last_delta) < 2e-6


def test_without_rank_one_term_it_is_linear_attention():
  drawn = as_float32(draws.dplr("key")(np.random.default_rng(1), LENGTH))
  drawn["a"] = jnp.zeros_like(drawn["a"])
  y, last = compiled("dplr_recurrence")(**drawn)
  del drawn["a"], drawn["b"]
  y_linear, last_linear = compiled("linear_attention")(**drawn)
  assert relative_error(y, y_linear) < 1e-6
  assert relative_error(last, last_linear) < 1e-6


def test_no_decay_is_a_decay_of_one():
  drawn = as_float32(draws.dplr("head")(np.random.default_rng(2), LENGTH))
  drawn["log_decay"] = jnp.zeros_like(drawn["log_decay"])
  y, last = compiled("dplr_recurrence")(**drawn)
  y_none, last_none = compiled("dplr_recurrence")(
    **{**drawn, "log_decay": None}
  )
  assert relative_error(y, y_none) < 1e-6
  assert relative_error(last, last_none) < 1e-6


def test_a_decay_of_zero():
  """-inf decays: values; its own gradient is not defined in the equation."""
  rng = np.random.default_rng(4)
  drawn = draws.dplr("head")(rng, LENGTH)
  drawn["log_decay"][:, ::5] = -np.inf
  with jax.enable_x64(True):
    wanted = reference.dplr_recurrence(**drawn)
  for method in ("chunked", "chunk_parallel"):
    got = compiled("dplr_recurrence")(**as_float32(drawn), method=method)
    assert relative_error(got[0], wanted[0]) < 2e-5
    assert relative_error(got[1], wanted[1]) < 2e-5


def test_wrong_arguments_are_named():
  drawn = as_float32(draws.dplr("key")(np.random.default_rng(0), 5))
  for name in ("a", "b"):
    with pytest.raises(ValueError, match=f"{name} must be"):
      ops.dplr_recurrence(**{**drawn, name: drawn[name][..., :3]})
