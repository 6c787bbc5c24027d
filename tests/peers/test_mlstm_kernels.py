"""Equal to the plain JAX kernels of mlstm_kernels, of the xLSTM's authors.

They scale q by 1/sqrt(K) where the paper scales k, add an epsilon to the
normaliser (0 here), and take gates before the forget gate's sigmoid.
"""

import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from tests.ops import draws
from tests.peers.compare import check, jax_peer, load

pytestmark = pytest.mark.slow
FORMS = {
  "chunkwise": "chunkwise.native",
  "parallel": "parallel.native",
  "recurrent": "recurrent.native_sequence_scan",
}
NAMES = {
  "chunkwise": "mlstm_chunkwise__native_autograd",
  "parallel": "mlstm_parallel__native_autograd",
  "recurrent": "mlstm_recurrent_sequence__native_fw",
}


@pytest.fixture
def kernel(request, monkeypatch):
  """A kernel of the package.

  Importing any imports `jax_triton`, which will not be imported without a
  GPU. The plain kernels do not use it: an empty module takes its place.
  """
  empty = types.ModuleType("jax_triton")
  monkeypatch.setitem(sys.modules, "jax_triton", empty)
  name = request.param
  return getattr(load(f"mlstm_kernels.jax.{FORMS[name]}"), NAMES[name])


def inputs(length, state):
  drawn = draws.normalized(gates=True)(np.random.default_rng(0), length)
  S, z, m = drawn.pop("initial_state")
  return drawn | ({"S": S, "z": z, "m": m} if state else {})


def op(q, k, v, log_input_gate, log_forget_gate, S=None, z=None, m=None,
       method="auto"):  # fmt: skip
  state = None if S is None else (S, z, m)
  return ops.normalized_linear_attention(
    q, k, v, log_input_gate, log_forget_gate, state, method=method
  )


def outputs(op):
  return lambda **inputs: op(**inputs)[0]


def mapped(function, **options):
  """The function as one of the op's arguments."""

  def peer(q, k, v, log_input_gate, log_forget_gate, S=None, z=None, m=None):
    i = log_input_gate
    f = log_forget_gate - jnp.log(-jnp.expm1(log_forget_gate))
    q, k, v, i, f = (jnp.swapaxes(x, 1, 2) for x in (q, k, v, i, f))
    q = q * math.sqrt(q.shape[-1])
    if S is not None:
      options.update(c_initial=S, n_initial=z, m_initial=m)
    result = function(q, k, v, i, f, eps=0.0, **options)
    y, state = result if isinstance(result, tuple) else (result, None)
    return jnp.swapaxes(y, 1, 2), state

  return peer


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("kernel", ["chunkwise"], indirect=True)
def test_chunkwise(kernel, state):
  peer = mapped(kernel, return_last_states=True, chunk_size=16)
  check(op, jax_peer(peer), inputs(64, state))


@pytest.mark.parametrize("kernel", ["recurrent"], indirect=True)
def test_recurrent(kernel):
  """Without a state: given one it calls `axis()` of an array, and raises."""
  scan = mapped(kernel, return_last_states=True)

  def peer(**inputs):
    y, (S, z, m) = scan(**inputs)
    return y, (S, z, m[..., 0])

  check(op, jax_peer(peer), inputs(75, state=False))


@pytest.mark.parametrize("kernel", ["parallel"], indirect=True)
def test_parallel(kernel):
  """All scores at once; it has no states."""
  check(outputs(op), jax_peer(outputs(mapped(kernel))), inputs(75, state=False))
