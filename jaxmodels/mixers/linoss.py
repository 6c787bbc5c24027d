"""LinOSS, a linear model of forced harmonic oscillators."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields
from jaxmodels.layers.products import dense_product
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import dense_recurrence
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["LinOSS", "LinOSSState"]


@serializable
class LinOSSState(NamedTuple):
  """The state [B, P, 2]: the velocity and the position of each oscillator."""

  state: jax.Array


class LinOSS(Mixer):
  """Forced harmonic oscillators, y'' = -A y + B u, and a gate.

  With positions y_t and velocities z_t in R^P, A = relu(A') and dt = sigmoid(s)
  per oscillator:

    z_t = z_{t-1} + dt (-A y_t + B u_t),      y_t = y_{t-1} + dt z_t   ("im")
    z_t = z_{t-1} + dt (-A y_{t-1} + B u_t),  y_t = y_{t-1} + dt z_t   ("imex")
    o_t = C y_t + D * u_t
    out_t = W_o GELU(o_t) * sigmoid(W_g GELU(o_t))

  Rusch & Rus 2024, "Oscillatory State-Space Models", arXiv:2410.03943. One step
  is a 2 x 2 matrix per oscillator. "im" solves for y_t and loses energy. "imex"
  is symplectic: without an input it conserves z^2 + A y^2 - dt A y z, which is
  positive as long as dt^2 A < 4. As in the published code, A' and s are
  initially uniform in [0, 1], B and C uniform with the bounds 1 / sqrt(D) and
  1 / sqrt(P), and D normal. The recurrence is computed in float32 or wider for
  any dtype. Departures: B and C are real as in the paper (complex in its code),
  no bias in W_o and W_g, and LeCun initialisation of both.

  The other fields are those of `Mixer`.

  Attributes:
    oscillators: P.
    scheme: "im", implicit, or "imex", implicit and explicit.
  """

  oscillators: int = 64
  scheme: str = "im"

  def mix(
    self, x: jax.Array, state: LinOSSState | None, segment_ids: jax.Array | None
  ) -> tuple[jax.Array, LinOSSState]:
    """The equation above."""
    self._check_sizes()
    u = x.astype(self.wide)
    size, width = self.oscillators, self.width
    matrix, force = self._step()
    b = self.wide_param("B", _uniform(width**-0.5), (size, width))
    c = self.wide_param("C", _uniform(size**-0.5), (width, size))
    write = dense_product(u, b.T)[..., None] * force[None, None]
    states, last = self.run(
      _blocks,
      jnp.broadcast_to(matrix[None, None], (*x.shape[:2], *matrix.shape)),
      write,
      state=None if state is None else state.state,
      segment_ids=segment_ids,
    )
    y = dense_product(states[..., 1], c.T)
    return self.skip_and_gate(y, u), LinOSSState(last)

  def _step(self) -> tuple[jax.Array, jax.Array]:
    """The matrix [P, 2, 2] of a step, and the effect [P, 2] of B u."""
    shape = (self.oscillators,)
    init = nn.initializers.uniform(1.0)
    a = nn.relu(self.wide_param("A", init, shape))
    dt = nn.sigmoid(self.wide_param("step_logit", init, shape))
    one = jnp.ones_like(a)
    if self.scheme == "imex":
      matrix = [[one, -dt * a], [dt, 1 - dt**2 * a]]
      force = [dt, dt**2]
    else:
      s = 1 / (1 + dt**2 * a)
      matrix = [[s, -dt * a * s], [dt * s, s]]
      force = [dt * s, dt**2 * s]
    rows = [jnp.stack(row, -1) for row in matrix]
    return jnp.stack(rows, -2), jnp.stack(force, -1)

  def _check_sizes(self) -> None:
    check_fields(self, "oscillators")
    checks.require(
      self.scheme in ("im", "imex"),
      f"LinOSS: scheme must be im or imex, got {self.scheme!r}",
    )


def _blocks(matrix, write, **options):
  return dense_recurrence(matrix, write, block_diagonal=True, **options)


def _uniform(bound: float) -> nn.initializers.Initializer:
  """Uniform between -bound and bound."""

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
