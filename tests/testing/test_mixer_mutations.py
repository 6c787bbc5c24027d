"""Faults planted in a mixer: each is caught by `check_mixer`, and named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxmodels.ops import causal_convolution, diagonal_recurrence
from jaxmodels.testing import FORMS, check_mixer


class Mixer(nn.Module):
  """A convolution beside a memory, with one fault."""

  fault: str = ""
  width: int = 6
  method: str = "recurrent"
  chunk_size: int | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, state=None, *, segment_ids=None):
    if self.fault == "sees the next token":
      x = x + jnp.roll(x, -1, 1)
    u = nn.Dense(self.width, dtype=self.dtype)(x)
    tail, memory = (None, None) if state is None else state
    kernel = self.param("kernel", nn.initializers.normal(), (4, self.width))
    near, new_tail = causal_convolution(
      u,
      kernel.astype(self.dtype),
      None if self.fault == "drops the tail" else tail,
      segment_ids=None if self.fault == "leaks the tail" else segment_ids,
    )
    far, new_memory = self._recurrence(u, memory, segment_ids)
    if self.fault == "has an idle parameter":
      self.param("idle", nn.initializers.ones, ())
    if self.fault == "narrows the state":
      new_memory = new_memory.astype(self.dtype)
    y = near + far
    if self.fault == "computes in float32":
      y = y.astype(jnp.float32)
    return y, (new_tail, new_memory)

  def _recurrence(self, u, memory, segment_ids):
    rate = self.param("rate", nn.initializers.normal(), (self.width,))
    if self.fault == "stops a gradient":
      rate = jax.lax.stop_gradient(rate)
    if self.fault == "has another chunked form" and self.method == "chunked":
      rate = rate + 0.1
    a = jnp.broadcast_to(nn.sigmoid(rate), u.shape).astype(self.dtype)
    return diagonal_recurrence(
      a,
      u,
      None if self.fault == "drops the memory" else memory,
      segment_ids=None if self.fault == "leaks the memory" else segment_ids,
      method=self.method,
      chunk_size=self.chunk_size,
    )

  def init_state(self, batch_size):
    """The zero state; with a fault it is not."""
    fill = 1.0 if self.fault == "starts from ones" else 0.0
    tail = jnp.zeros((batch_size, 3, self.width))
    return tail, jnp.full((batch_size, self.width), fill)


FAULTS = {
  "sees the next token": "reads the future: outputs up to token 10 have a "
  "gradient by x of token 11",
  "leaks the tail": "packed against separate: .*; leaked reset: wrong only in "
  "the first 3 tokens of a document",
  "leaks the memory": "packed against separate: .*; leaked reset: wrong to the "
  "end of a document",
  "drops the tail": "cut and continued: .*, first at token 5 .*; lost carry: "
  "wrong only in the first 3 tokens of a piece",
  "drops the memory": "cut and continued: .*; lost carry: wrong to the end",
  "starts from ones": "state None against init_state: y is off",
  "has an idle parameter": "gradient of idle: zero",
  "stops a gradient": "gradient of rate: zero",
  "has another chunked form": 'method "chunked" against "recurrent": y is off',
  "narrows the state": "bfloat16: state 1 is bfloat16",
  "computes in float32": "bfloat16: y has dtype float32",
}


# Other faults are found by the same checks.
SELDOM = ("drops the tail", "stops a gradient", "computes in float32")


@pytest.mark.parametrize(
  "fault",
  [
    pytest.param(fault, marks=pytest.mark.slow if fault in SELDOM else ())
    for fault in FAULTS
  ],
)
def test_a_fault_is_named(fault):
  # Only the faults of a form or of a dtype need these programs.
  methods = ("recurrent", "chunked") if "chunked" in fault else ()
  low = "narrow" in fault or "float32" in fault
  with pytest.raises(AssertionError, match=FAULTS[fault]):
    check_mixer(Mixer(fault), methods=methods, bfloat16=low)


@pytest.mark.slow
def test_a_mixer_without_a_fault_passes():
  check_mixer(Mixer(), methods=FORMS)
