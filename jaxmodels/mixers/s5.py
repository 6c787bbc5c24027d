"""S5, a diagonal state-space model with many inputs and outputs."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  divide,
  log_uniform,
)
from jaxmodels.layers.hippo import hippo_normal_eigenvalues
from jaxmodels.layers.state_space import (
  complex_inputs,
  real_outputs,
  zero_order_hold,
)
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import diagonal_recurrence
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["S5", "S5State"]


@serializable
class S5State(NamedTuple):
  """The state [B, N / 2], complex: one number of each conjugate pair."""

  state: jax.Array


class S5(Mixer):
  """A multi-input multi-output diagonal state-space model with a gate.

  With h_t in C^(N/2), one number of each conjugate pair:

    a = exp(lambda dt),  b = (a - 1) / lambda                 (zero-order hold)
    h_t = a * h_{t-1} + b * (B u_t)
    y_t = 2 Re(C h_t) + D * u_t
    out_t = GELU(y_t) * sigmoid(W GELU(y_t))

  Smith et al. 2022, "Simplified State Space Layers for Sequence Modeling",
  arXiv:2208.04933. A new segment starts from h = 0, like the resets of Lu et
  al. 2023, arXiv:2303.03982. The initial lambda are the eigenvalues of the
  normal part of HiPPO-LegS (`blocks` copies of a smaller matrix). The initial B
  and C are normal in the basis of its eigenvectors, and the initial dt, one per
  state, is log-uniform in [step_min, step_max]. Departures: the real part of
  lambda is stored as the logarithm of its negative, so that training cannot
  make it unstable. The state-space model is computed in float32 or wider for
  any dtype; only the gate is computed in dtype.

  The other fields are those of `Mixer`. `output_scale` is a factor on the
  initial C and D.

  Attributes:
    state_width: N, the number of real dimensions of the state; even.
    blocks: The number of blocks of the initial matrix, a divisor of N / 2.
    step_min: The smallest initial dt.
    step_max: The largest initial dt.
  """

  state_width: int = 64
  blocks: int = 1
  step_min: float = 1e-3
  step_max: float = 1e-1

  def mix(
    self, x: jax.Array, state: S5State | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, S5State]:
    """The equation above."""
    self._check_sizes()
    u = x.astype(self.wide)
    decay, drive, read, skip = self._discretise(u.dtype)
    inputs = complex_inputs(u, drive)
    h, last = self.run(
      diagonal_recurrence,
      jnp.broadcast_to(decay[None, None], inputs.shape),
      inputs,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = 2 * real_outputs(h, read)
    y = nn.gelu(y + skip[None, None] * u).astype(self.dtype)
    gate = self.dense("gate", self.width)(y)
    return y * nn.sigmoid(gate), S5State(last)

  def _discretise(
    self, dtype: jnp.dtype
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Makes a [N/2], b B [N/2, D], C [D, N/2] and D [D]; `dtype` is real."""
    eigenvalues, vectors = self._basis()
    count, inputs = eigenvalues.size, (self.state_width, self.width)
    normal = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)

    def in_basis(key, shape, dtype):
      drawn = normal(key, inputs, jnp.float32).astype(jnp.complex64)
      b = vectors.conj().T @ drawn
      return jnp.stack([b.real, b.imag]).astype(dtype)

    def out_of_basis(key, shape, dtype):
      c = normal(key, (2, self.width, self.state_width), jnp.float32)
      c = jax.lax.complex(c[0], c[1]) @ vectors
      c = c * (self.output_scale * 0.5**0.5)
      return jnp.stack([c.real, c.imag]).astype(dtype)

    def constant(value):
      return lambda key, shape, dtype: jnp.asarray(value, dtype)

    def parameter(name, init, shape):
      return self.param(name, init, shape, self.param_dtype).astype(dtype)

    real = parameter(
      "log_decay_rate", constant(np.log(-eigenvalues.real)), (count,)
    )
    imaginary = parameter("frequency", constant(eigenvalues.imag), (count,))
    log_step = parameter("log_step", self._log_steps, (count,))
    b = parameter("B", in_basis, (2, count, self.width))
    c = parameter("C", out_of_basis, (2, self.width, count))
    skip = parameter(
      "D", nn.initializers.normal(self.output_scale), (self.width,)
    )
    decay, gain = zero_order_hold(real, imaginary, log_step)
    drive = gain[:, None] * jax.lax.complex(b[0], b[1])
    return decay, drive, jax.lax.complex(c[0], c[1]), skip

  def _log_steps(self, key, shape, dtype):
    return jnp.log(log_uniform(self.step_min, self.step_max)(key, shape, dtype))

  def _basis(self) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [N/2] and eigenvectors [N, N/2] of the initial matrix."""
    size = 2 * divide(self, "blocks", self.state_width // 2, "state_width / 2")
    eigenvalues, vectors = hippo_normal_eigenvalues(size)
    return (
      np.tile(eigenvalues, self.blocks),
      np.kron(np.eye(self.blocks), vectors).astype(np.complex64),
    )

  def _check_sizes(self) -> None:
    """Checks all fields; `_basis` checks that blocks divides N / 2."""
    check_fields(self, "state_width", "blocks")
    checks.require(
      self.state_width % 2 == 0,
      f"S5: state_width must be even, got {self.state_width}",
    )
    check_positive(self, "step_min", "step_max")
    checks.require(
      self.step_min <= self.step_max,
      f"S5: step_min must be at most step_max = {self.step_max}, "
      f"got {self.step_min}",
    )
