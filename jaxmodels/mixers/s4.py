"""LSSL, S4 and S4D: a time-invariant state-space model per channel."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.common import (
  check_fields,
  check_positive,
  log_uniform,
)
from jaxmodels.layers.hippo import (
  BASES,
  DIAGONALS,
  diagonal_eigenvalues,
  diagonalise,
  hippo,
)
from jaxmodels.layers.state_space import (
  bilinear,
  bilinear_dense,
  bilinear_low_rank,
  low_rank_kernel,
  zero_order_hold,
)
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import long_convolution, state_space
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.checks import is_open
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["LSSL", "S4", "S4D", "StateSpaceState"]

# The published code of S4 starts the decay rates at this value or above.
_SLOWEST = 1e-4

Kernel = Callable[[int], jax.Array]
Matrices = tuple[jax.Array, jax.Array, jax.Array]


@serializable
class StateSpaceState(NamedTuple):
  """The state per channel: [B, D, N], or [B, D, N / 2] complex in S4D."""

  state: jax.Array


class _StateSpace(Mixer):
  """The fields and the equation that the three share.

  A subclass makes the discrete matrices in `_discretise`.
  """

  state_width: int = 64
  step_min: float = 1e-3
  step_max: float = 1e-1

  def mix(
    self,
    x: jax.Array,
    state: StateSpaceState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, StateSpaceState]:
    """Runs the model per channel, then GELU, and a gated projection."""
    self._check_sizes()
    u = x.astype(self.wide)
    before = None if state is None else state.state
    (a, b, c), kernel = self._discretise()
    y, last = self.run(
      state_space, u, a, b, c, state=before, segment_ids=segment_ids
    )
    if kernel is not None and self._is_whole(x, state, segment_ids):
      y = long_convolution(u, kernel(x.shape[1]), reverse=self.reverse)
    return self.skip_and_gate(y, u), StateSpaceState(last)

  @nn.nowrap
  def _discretise(self) -> tuple[Matrices, Kernel | None]:
    """Makes the A, B and C of `state_space`, and the convolution kernel.

    The kernel is a function from L to [L, D]. It is None unless whole sequences
    are convolved.
    """
    raise NotImplementedError

  @nn.nowrap
  def _is_whole(
    self,
    x: jax.Array,
    state: StateSpaceState | None,
    segment_ids: jax.Array | None,
  ) -> bool:
    """Whether x is one whole sequence per row, so that a convolution is right.

    A call for one token, such as the one that finds the state's shapes, is not
    worth a kernel.
    """
    alone = state is None and segment_ids is None and self.axis_name is None
    return alone and not is_open(x.shape[1]) and x.shape[1] > 1

  @nn.nowrap
  def _per_channel(
    self,
    name: str,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    parts: tuple[int, ...] = (),
  ) -> jax.Array:
    """A parameter [*parts, D, *shape], in float32 or wider."""
    return self.wide_param(name, init, (*parts, self.width, *shape))

  @nn.nowrap
  def _complex_per_channel(
    self,
    name: str,
    init: nn.initializers.Initializer,
    parts: tuple[int, ...] = (),
  ) -> jax.Array:
    """A complex parameter [*parts, D, N / 2], stored in two real parts."""
    shape = (self.state_width // 2,)
    value = self._per_channel(name, init, shape, (2, *parts))
    return jax.lax.complex(value[0], value[1])

  @nn.nowrap
  def _eigenvalues(
    self, initial: np.ndarray
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log(-Re lambda), Im lambda and log(dt), each [D, N / 2]."""
    shape = (self.state_width // 2,)
    slowest = np.log(np.maximum(-initial.real, _SLOWEST))
    rate = self._per_channel("log_decay_rate", _rows(slowest), shape)
    frequency = self._per_channel("frequency", _rows(initial.imag), shape)
    return rate, frequency, jnp.broadcast_to(self._log_step(), rate.shape)

  @nn.nowrap
  def _log_step(self) -> jax.Array:
    """log(dt), [D, 1]."""

    def init(key, shape, dtype):
      return jnp.log(
        log_uniform(self.step_min, self.step_max)(key, shape, dtype)
      )

    return self._per_channel("log_step", init, ())[:, None]

  @nn.nowrap
  def _check_sizes(self) -> None:
    name = type(self).__name__
    check_fields(self, "state_width")
    checks.require(
      self.state_width % 2 == 0,
      f"{name}: state_width must be even, got {self.state_width}",
    )
    check_positive(self, "step_min", "step_max")
    checks.require(
      self.step_min <= self.step_max,
      f"{name}: step_min must be at most step_max = {self.step_max}, "
      f"got {self.step_min}",
    )

  @nn.nowrap
  def _check_choice(self, field: str, choices: tuple[str, ...]) -> None:
    value = getattr(self, field)
    checks.require(
      value in choices,
      f"{type(self).__name__}: {field} must be one of {', '.join(choices)}, "
      f"got {value!r}",
    )


class S4D(_StateSpace):
  """A diagonal state-space model per channel, with one input and one output.

  Per channel, with h_t in C^(N/2), one number of each conjugate pair:

    a = exp(lambda dt),  b = (a - 1) / lambda                 (zero-order hold)
    a = (1 + lambda dt / 2) / (1 - lambda dt / 2),
    b = dt / (1 - lambda dt / 2)                                     (bilinear)
    h_t = a * h_{t-1} + b u_t
    y_t = 2 Re(C . h_t) + D u_t

  and over channels out_t = W_o GELU(y_t) * sigmoid(W_g GELU(y_t)). Gu et al.
  2022, "On the Parameterization and Initialization of Diagonal State Space
  Models", arXiv:2206.11893. The initial lambda are S4D-LegS, S4D-Inv or
  S4D-Lin, see `layers.hippo.diagonal_eigenvalues`. The initial C is complex
  normal with variance 1, and the initial dt, one per channel, is log-uniform in
  [step_min, step_max]. The paper's B, initially 1, is left out, because only
  its product with C matters. The model is computed in float32 or wider for any
  dtype. Departures: no bias in W_o and W_g, and LeCun initialisation of both.

  The other fields are those of `Mixer`.

  Attributes:
    state_width: N, the number of real dimensions of the state; even.
    step_min: The smallest initial dt.
    step_max: The largest initial dt.
    basis: The initial lambda: "legs", "inv" or "lin".
    discretisation: "zoh" or "bilinear".
  """

  basis: str = "legs"
  discretisation: str = "zoh"

  @nn.nowrap
  def _discretise(self) -> tuple[Matrices, Kernel | None]:
    self._check_choice("basis", DIAGONALS)
    self._check_choice("discretisation", ("zoh", "bilinear"))
    initial = diagonal_eigenvalues(self.basis, self.state_width)
    discretise = zero_order_hold if self.discretisation == "zoh" else bilinear
    a, b = discretise(*self._eigenvalues(initial))
    c = self._complex_per_channel("C", nn.initializers.normal(0.5**0.5))
    return (a, b, 2 * c), None


class S4(_StateSpace):
  """A state-space model per channel whose matrix is normal plus low rank.

  Per channel, with h_t in R^N and A = Lambda - P P^H in the basis of
  eigenvectors of the normal part of a HiPPO matrix:

    M = (I - dt / 2 A)^-1
    h_t = M (I + dt / 2 A) h_{t-1} + dt M B u_t                     (bilinear)
    y_t = C . h_t + D u_t

  and over channels out_t = W_o GELU(y_t) * sigmoid(W_g GELU(y_t)). Gu et al.
  2021, "Efficiently Modeling Long Sequences with Structured State Spaces",
  arXiv:2111.00396; the bases: Gu et al. 2022, "How to Train Your HiPPO",
  arXiv:2206.12037, see `layers.hippo`; the same P on both sides keeps the model
  stable: Goel et al. 2022, arXiv:2202.09729. M is found by Woodbury's identity.
  The real part of Lambda is stored as the logarithm of its negative, initially
  at least 1e-4 as in the published code. The initial C is complex normal with
  variance 1 in the basis of eigenvectors, and dt, one per channel, log-uniform
  in [step_min, step_max].

  The recurrence runs in chunks by `ops.state_space`, so there is a state, and
  documents can be packed. With `convolution`, a call without a state and
  without segment ids convolves by FFT with the paper's kernel, see
  `layers.state_space.low_rank_kernel`. The model is computed in float32 or
  wider for any dtype. Departures: no bias in W_o and W_g, and LeCun
  initialisation of both.

  The other fields are those of `Mixer`.

  Attributes:
    state_width: N, even.
    step_min: The smallest initial dt.
    step_max: The largest initial dt.
    basis: The initial A: "legs", "legt" or "fout".
    convolution: Whether to convolve whole sequences by FFT. Of 2 x 1,024 tokens
      of width 256, this takes 243 ms of CPU time with a gradient, and the
      recurrence 168.
  """

  basis: str = "legs"
  convolution: bool = False

  @nn.nowrap
  def _discretise(self) -> tuple[Matrices, Kernel | None]:
    self._check_choice("basis", BASES)
    initial = diagonalise(self.basis, self.state_width)
    rate, frequency, log_step = self._eigenvalues(initial.eigenvalues)
    rank = initial.low_rank.shape[1]
    p = self._complex_per_channel(
      "low_rank", _complex_rows(initial.low_rank.T[:, None]), (rank,)
    )
    b = self._complex_per_channel("B", _complex_rows(initial.B))
    c = self._complex_per_channel("C", nn.initializers.normal(0.5**0.5))
    read = 2**0.5 * jnp.concatenate([c.real, -c.imag], -1)
    matrices = (
      *bilinear_low_rank(rate, frequency, p, b, log_step),
      read,
    )
    kernel = functools.partial(
      low_rank_kernel, rate, frequency, p, b, c, log_step
    )
    return matrices, kernel if self.convolution else None


class LSSL(_StateSpace):
  """A state-space model per channel with a full matrix.

  Per channel, with h_t in R^N:

    M = (I - dt / 2 A)^-1
    h_t = M (I + dt / 2 A) h_{t-1} + dt M B u_t                     (bilinear)
    y_t = C . h_t + D u_t

  and over channels out_t = W_o GELU(y_t) * sigmoid(W_g GELU(y_t)). Gu et al.
  2021, "Combining Recurrent, Convolutional, and Continuous-time Models with
  Linear State-Space Layers", arXiv:2110.13985. The channels share A and B,
  which start as a HiPPO matrix, see `layers.hippo`; each channel has its own
  C, D and dt. The initial C is normal with variance 1, and dt log-uniform in
  [step_min, step_max]. Departures: A is trained freely, whereas the paper keeps
  it quasiseparable; one output per channel instead of several; no bias in W_o
  and W_g, and LeCun initialisation of both. The model is computed in float32 or
  wider for any dtype.

  The other fields are those of `Mixer`.

  Attributes:
    state_width: N, even.
    step_min: The smallest initial dt.
    step_max: The largest initial dt.
    basis: The initial A and B: "legs", "legt" or "fout".
  """

  basis: str = "legs"

  @nn.nowrap
  def _discretise(self) -> tuple[Matrices, Kernel | None]:
    self._check_choice("basis", BASES)
    initial = hippo(self.basis, self.state_width)

    def shared(name, value):
      return self.wide_param(name, _rows(value), value.shape)

    a, b = shared("A", initial[0]), shared("B", initial[1])
    c = self._per_channel("C", nn.initializers.normal(1.0), (self.state_width,))
    return (*bilinear_dense(a, b, self._log_step()[:, 0]), c), None


def _rows(value: np.ndarray) -> nn.initializers.Initializer:
  """An initialiser with the same values in every row."""
  return lambda key, shape, dtype: jnp.broadcast_to(
    jnp.asarray(value, dtype), shape
  )


def _complex_rows(value: np.ndarray) -> nn.initializers.Initializer:
  """As `_rows`, with the real and the imaginary part along the first axis."""

  def init(key, shape, dtype):
    parts = (
      _rows(part)(key, shape[1:], dtype) for part in (value.real, value.imag)
    )
    return jnp.stack(list(parts))

  return init
