"""The LRU, a complex diagonal recurrence that starts on a ring."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import check_fields, check_positive
from jaxmodels.layers.state_space import complex_inputs, real_outputs
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import diagonal_recurrence
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["LRU", "LRUState"]


@serializable
class LRUState(NamedTuple):
  """The state [B, N], complex."""

  state: jax.Array


class LRU(Mixer):
  """A linear recurrent unit: a stable complex diagonal recurrence, and a gate.

  With h_t in C^N:

    a = exp(-exp(nu) + i exp(theta))
    h_t = a * h_{t-1} + gamma * (B u_t)
    y_t = Re(C h_t) + D * u_t
    out_t = W_o GELU(y_t) * sigmoid(W_g GELU(y_t))

  Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long
  Sequences", arXiv:2303.06349. The initial a are uniform on the ring of radii
  radius_min to radius_max, with phases uniform in [0, phase_max]. The initial
  gamma is sqrt(1 - |a|^2), so that for inputs that are white noise h has the
  variance of B u; it is trained as log(gamma). In the names of parameters, nu
  is "log_decay_rate", theta "log_frequency" and log(gamma) "log_gain". The
  recurrence is computed in float32 or wider for any dtype. Departures: no bias
  in W_o and W_g, and LeCun initialisation of both.

  The other fields are those of `Mixer`.

  Attributes:
    state_width: N.
    radius_min: The smallest initial |a|.
    radius_max: The largest initial |a|, at most 1.
    phase_max: The largest initial phase of a.
  """

  state_width: int = 64
  radius_min: float = 0.0
  radius_max: float = 1.0
  phase_max: float = 2 * np.pi

  def mix(
    self, x: jax.Array, state: LRUState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, LRUState]:
    """The equation above."""
    self._check_sizes()
    u = x.astype(self.wide)
    a, gain = self._transition()
    b = self._weights("B", (self.state_width, self.width), 2 * self.width)
    c = self._weights("C", (self.width, self.state_width), self.state_width)
    inputs = complex_inputs(u, gain[:, None] * b)
    h, last = self.run(
      diagonal_recurrence,
      jnp.broadcast_to(a[None, None], inputs.shape),
      inputs,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    return self.skip_and_gate(real_outputs(h, c), u), LRUState(last)

  def _transition(self) -> tuple[jax.Array, jax.Array]:
    """Makes a [N], complex, and gamma [N]."""
    low, high = self.radius_min**2, self.radius_max**2
    shape = (self.state_width,)

    def ring(key, shape, dtype):
      # Above 0, so that the logarithm is finite.
      drawn = jax.random.uniform(key, shape, dtype, 1e-6, 1)
      return jnp.log(-0.5 * jnp.log(drawn * (high - low) + low))

    def phases(key, shape, dtype):
      return jnp.log(
        self.phase_max * jax.random.uniform(key, shape, dtype, 1e-6)
      )

    nu = self.wide_param("log_decay_rate", ring, shape)
    theta = self.wide_param("log_frequency", phases, shape)

    def normalising(key, shape, dtype):
      del key, shape
      return (0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu)))).astype(dtype)

    gain = self.wide_param("log_gain", normalising, shape)
    # Beyond these limits a is 0, and its phase has no correct digits.
    rate = jnp.exp(jnp.minimum(nu, 40))
    largest = float(-np.log(jnp.finfo(theta.dtype).eps))
    phase = jnp.exp(jnp.minimum(theta, largest))
    a = jnp.exp(jax.lax.complex(-rate, phase))
    return a, jnp.exp(gain).astype(a.dtype)

  def _weights(
    self, name: str, shape: tuple[int, int], fan_in: int
  ) -> jax.Array:
    """A complex matrix whose two parts have the variance 1 / fan_in."""
    init = nn.initializers.normal(fan_in**-0.5)
    parts = self.wide_param(name, init, (2, *shape))
    return jax.lax.complex(parts[0], parts[1])

  def _check_sizes(self) -> None:
    check_fields(self, "state_width")
    check_positive(self, "radius_max", "phase_max")
    checks.require(
      0 <= self.radius_min < self.radius_max <= 1,
      "LRU: the radii must be 0 <= radius_min < radius_max <= 1, got "
      f"{self.radius_min} and {self.radius_max}",
    )
