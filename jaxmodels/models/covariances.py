"""Covariance functions of Gaussian processes, as linear state-space models.

A stationary covariance k(lag) with a rational spectrum is that of a linear
stochastic differential equation. Its state moves from one time to another by

    x(t + gap) = F x(t) + w,  w ~ N(0, Q),    f(t) = H x(t)

with F and Q that depend on the gap alone. They are exact for a gap of any size
(Hartikainen & Särkkä 2010, "Kalman filtering and smoothing solutions to
temporal Gaussian process regression models"). Sums and products of covariances
have state-space models too: `Matern(...) + Periodic(...) * Matern(...)`.

A covariance is a pytree whose leaves are its parameters. All of them are
positive numbers.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag
from jax.scipy.special import gammainc, gammaln

__all__ = ["Cosine", "Covariance", "Matern", "Periodic", "Product", "Sum"]

# Terms of the power series of Bessel functions: exact for arguments up to 100.
_TERMS = 200


class Step(NamedTuple):
  """F and Q, both [N, N]."""

  F: jax.Array
  Q: jax.Array


class Covariance:
  """A stationary covariance function; N is the width of its state."""

  def prior(self) -> jax.Array:
    """The covariance of the state at any time, [N, N]."""
    raise NotImplementedError

  def readout(self) -> np.ndarray:
    """H [N]: the value of the process is `H x`."""
    raise NotImplementedError

  def step(self, gap: jax.Array) -> Step:
    """How the state moves over a time `gap` [], at least 0."""
    raise NotImplementedError

  def __call__(self, lag: jax.Array) -> jax.Array:
    """`k(lag)` [], the covariance of two values that are `lag` [] apart."""
    H = jnp.asarray(self.readout(), jnp.result_type(lag))
    step = self.step(jnp.abs(jnp.asarray(lag)))
    return H @ step.F @ self.prior().astype(H.dtype) @ H

  def __add__(self, other: "Covariance") -> "Sum":
    return Sum(self, other)

  def __mul__(self, other: "Covariance") -> "Product":
    return Product(self, other)


def _constant(default: Any) -> Any:
  """A field that is not trained."""
  return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matern(Covariance):
  """Matérn's covariance of half-integer smoothness; N = smoothness + 1/2.

  With r = sqrt(2 smoothness) lag / lengthscale, and divided by the variance:
  `exp(-r)` for 1/2, `(1 + r) exp(-r)` for 3/2, and
  `(1 + r + r^2 / 3) exp(-r)` for 5/2.

  The state is (f, f' / rate, f'' / rate^2, ...) with the rate r / lag, so that
  its numbers are of one size. Q is made of incomplete gamma functions, without
  cancellation: a short gap costs no digits.

  Attributes:
    variance: k(0).
    lengthscale: In units of time.
    smoothness: 0.5, 1.5, 2.5, ...; not trained.
  """

  variance: jax.Array | float = 1.0
  lengthscale: jax.Array | float = 1.0
  smoothness: float = _constant(1.5)

  def __post_init__(self) -> None:
    if self.smoothness <= 0 or (self.smoothness - 0.5) % 1:
      raise ValueError(
        f"Matern: smoothness must be 0.5, 1.5, 2.5, ..., got {self.smoothness}"
      )

  def prior(self) -> jax.Array:
    """See `Covariance`."""
    return self.variance * self._constant("prior")

  def readout(self) -> np.ndarray:
    """See `Covariance`."""
    return np.eye(_width(self))[0]

  def step(self, gap: jax.Array) -> Step:
    """See `Covariance`."""
    x = math.sqrt(2 * self.smoothness) / self.lengthscale * gap
    powers = jnp.stack([x**k for k in range(_width(self))])
    F = jnp.exp(-x) * jnp.tensordot(powers, self._constant("powers"), 1)
    Q = jnp.tensordot(self._constant("noise"), _moments(x, _width(self)), 1)
    return Step(F, self.variance * Q)

  def _constant(self, name: str) -> jax.Array:
    dtype = jnp.result_type(float, self.variance)
    return jnp.asarray(_matern(_width(self))[name], dtype)


def _width(matern: Matern) -> int:
  return round(matern.smoothness + 0.5)


@functools.cache
def _matern(width: int) -> dict[str, np.ndarray]:
  """Constants of the state-space model with rate 1 and variance 1.

  The matrix A of `x' = A x + white noise` has the eigenvalue -1 alone, so A + I
  is nilpotent and `exp(A t) = exp(-t) sum_k (A + I)^k t^k / k!`.

  Returns:
    "powers" [N, N, N], the matrices of that sum; "noise" [N, N, 2 N - 1], the
    coefficients of Q in the integrals of `_moments`; "prior" [N, N].
  """
  A = np.eye(width, k=1)
  A[-1] = [-math.comb(width, k) for k in range(width)]
  powers = np.stack(
    [
      np.linalg.matrix_power(A + np.eye(width), k) / math.factorial(k)
      for k in range(width)
    ]
  )
  # The response of each number of the state to an impulse, a polynomial.
  impulse = powers[:, :, -1].T
  noise = np.array([[np.convolve(p, q) for q in impulse] for p in impulse])
  forever = [math.factorial(k) / 2 ** (k + 1) for k in range(2 * width - 1)]
  noise /= noise[0, 0] @ forever
  return {"powers": powers, "noise": noise, "prior": noise @ forever}


def _moments(x: jax.Array, width: int) -> jax.Array:
  """The integrals of `s^k exp(-2 s)` over s in [0, x], k = 0, ..., 2 N - 2.

  The recursion goes down in k, because it only adds positive numbers so.
  """
  top = 2 * width - 1
  complete = math.factorial(top) / 2 ** (top + 1)
  moment = complete * gammainc(jnp.full_like(x, top + 1), 2 * x)
  found = []
  for k in reversed(range(top)):
    moment = (x ** (k + 1) * jnp.exp(-2 * x) + 2 * moment) / (k + 1)
    found.append(moment)
  return jnp.stack(found[::-1])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine(Covariance):
  """`variance * cos(2 pi lag / period)`; N = 2.

  An oscillation whose amplitude and phase are random and stay as they are. The
  product with a `Matern` lets them drift.

  Attributes:
    variance: k(0).
    period: In units of time.
  """

  variance: jax.Array | float = 1.0
  period: jax.Array | float = 1.0

  def prior(self) -> jax.Array:
    """See `Covariance`."""
    return self.variance * jnp.eye(2, dtype=jnp.result_type(self.variance))

  def readout(self) -> np.ndarray:
    """See `Covariance`."""
    return np.eye(2)[0]

  def step(self, gap: jax.Array) -> Step:
    """See `Covariance`."""
    F = _rotation(2 * math.pi / self.period * gap[None])
    return Step(F, jnp.zeros_like(F))


def _rotation(angles: jax.Array) -> jax.Array:
  """Turns pairs of numbers by angles [n], as a matrix [2 n, 2 n]."""
  turn = np.kron(np.eye(len(angles)), [[0, -1], [1, 0]])
  angles = jnp.repeat(angles, 2)[:, None]
  same = jnp.eye(len(angles), dtype=angles.dtype)
  return jnp.cos(angles) * same + jnp.sin(angles) * turn.astype(angles.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Periodic(Covariance):
  """The periodic covariance of MacKay (1998), as a sum of cosines.

    variance * exp(-2 sin^2(pi lag / period) / lengthscale^2)

  is a series of cosines with the weights `2 exp(-z) I_j(z)`, z =
  lengthscale^-2, of the Bessel functions I_j (Solin & Särkkä 2014, "Explicit
  link between periodic covariance functions and state space models"). The sum
  stops at `harmonics`; what it leaves out is at most the sum of the weights
  left out: of a variance of 1, 4e-5 at lengthscale 1 with 6 harmonics. N = 1 +
  2 harmonics. The product with a `Matern` is quasi-periodic: its shape drifts.

  Attributes:
    variance: k(0), up to what the sum leaves out.
    lengthscale: In radians of the phase; at least 0.1.
    period: In units of time.
    harmonics: Number of cosines; not trained.
  """

  variance: jax.Array | float = 1.0
  lengthscale: jax.Array | float = 1.0
  period: jax.Array | float = 1.0
  harmonics: int = _constant(6)

  def __post_init__(self) -> None:
    if self.harmonics < 1:
      raise ValueError(
        f"Periodic: harmonics must be at least 1, got {self.harmonics}"
      )

  def prior(self) -> jax.Array:
    """See `Covariance`."""
    weights = self.variance * self._weights()
    return jnp.diag(jnp.concatenate([weights[:1], jnp.repeat(weights[1:], 2)]))

  def readout(self) -> np.ndarray:
    """See `Covariance`."""
    return np.array([1.0] + [1.0, 0.0] * self.harmonics)

  def step(self, gap: jax.Array) -> Step:
    """See `Covariance`."""
    angle = 2 * math.pi / self.period * gap
    multiples = jnp.arange(1, self.harmonics + 1, dtype=angle.dtype)
    F = _rotation(multiples * angle)
    F = block_diag(jnp.ones((1, 1), F.dtype), F)
    return Step(F, jnp.zeros_like(F))

  def _weights(self) -> jax.Array:
    """`exp(-z) I_0(z)`, and `2 exp(-z) I_j(z)` for the harmonics j.

    The power series of I_j has positive terms alone, which are exponentials of
    sums of logarithms, so the smallest weights are exact too.
    """
    dtype = jnp.result_type(float, self.lengthscale)
    j, n = np.arange(self.harmonics + 1)[:, None], np.arange(_TERMS)[None]
    order = jnp.asarray(2 * n + j, dtype)
    factorials = gammaln(jnp.asarray(n + 1, dtype)) + gammaln(
      jnp.asarray(n + j + 1, dtype)
    )
    z = jnp.asarray(self.lengthscale, dtype) ** -2
    weights = jnp.exp(order * jnp.log(z / 2) - factorials - z).sum(1)
    return weights * jnp.asarray(np.where(j[:, 0] == 0, 1, 2), dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Covariance):
  """The sum of two independent processes: their states side by side.

  Attributes:
    first: A covariance.
    second: A covariance.
  """

  first: Covariance
  second: Covariance

  def prior(self) -> jax.Array:
    """See `Covariance`."""
    return block_diag(self.first.prior(), self.second.prior())

  def readout(self) -> np.ndarray:
    """See `Covariance`."""
    return np.concatenate([self.first.readout(), self.second.readout()])

  def step(self, gap: jax.Array) -> Step:
    """See `Covariance`."""
    pair = zip(self.first.step(gap), self.second.step(gap), strict=True)
    return Step(*(block_diag(a, b) for a, b in pair))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Product(Covariance):
  """The product of two covariances: the Kronecker product of their states.

  Attributes:
    first: A covariance of width N.
    second: A covariance of width M; the product has the width N M.
  """

  first: Covariance
  second: Covariance

  def prior(self) -> jax.Array:
    """See `Covariance`."""
    return jnp.kron(self.first.prior(), self.second.prior())

  def readout(self) -> np.ndarray:
    """See `Covariance`."""
    return np.kron(self.first.readout(), self.second.readout())

  def step(self, gap: jax.Array) -> Step:
    """See `Covariance`; Q is a sum of positive terms."""
    first, second = self.first.step(gap), self.second.step(gap)
    # P = F P F^T + Q in both, and the same holds for the product.
    moved = second.F @ self.second.prior() @ second.F.T
    Q = jnp.kron(self.first.prior(), second.Q) + jnp.kron(first.Q, moved)
    return Step(jnp.kron(first.F, second.F), Q)
