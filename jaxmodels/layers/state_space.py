"""Parts of state-space models: discretisation and projections."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.products import dense_product

__all__ = [
  "bilinear",
  "bilinear_dense",
  "bilinear_low_rank",
  "complex_inputs",
  "low_rank_kernel",
  "real_outputs",
  "zero_order_hold",
]


def complex_inputs(u: jax.Array, weights: jax.Array) -> jax.Array:
  """`B u` of real inputs and complex weights.

  Products of real matrices take half the work of complex ones, and
  `jax.checkpoint` cannot save the result of a complex product.

  Args:
    u: [B, L, D] real.
    weights: [N, D] complex.

  Returns:
    [B, L, N] complex.
  """
  return jax.lax.complex(
    dense_product(u, weights.real.T), dense_product(u, weights.imag.T)
  )


def real_outputs(h: jax.Array, weights: jax.Array) -> jax.Array:
  """`Re(C h)` of complex states and weights, as products of real matrices.

  Args:
    h: [B, L, N] complex.
    weights: [D, N] complex.

  Returns:
    [B, L, D] real.
  """
  y = dense_product(h.real, weights.real.T)
  return y - dense_product(h.imag, weights.imag.T)


def zero_order_hold(
  log_rate: jax.Array, frequency: jax.Array, log_step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Discretises `h' = lambda h + u`, `lambda = -exp(log_rate) + i frequency`.

  The results and their gradients are finite for any finite arguments. The rate
  or the step may overflow by itself although their product does not.

  Args:
    log_rate: [...].
    frequency: [...].
    log_step: [...].

  Returns:
    `a = exp(lambda step)` and `(a - 1) / lambda`, complex [...].
  """
  info = np.finfo(log_step.dtype)
  largest = float(np.log(info.max)) - 2
  step = jnp.exp(jnp.minimum(log_step, largest))
  decay = jnp.exp(jnp.minimum(log_rate + log_step, 40))
  # The phase is 0 if the state has decayed to 0, and limited where it has no
  # correct digits.
  turns = float(4 / info.eps)
  phase = jnp.clip(frequency * step, -turns, turns)
  phase = jnp.where(decay < np.exp(8), phase, 0)
  exponent = jax.lax.complex(-decay, phase)
  # (a - 1) / lambda is computed as step (a - 1) / exponent. If the exponent is
  # large, it is divided by lambda instead; if it is small, a series is used.
  size = jnp.abs(exponent)
  small, large = size < 1e-3, size > 1e3
  near = jnp.where(small, exponent, 0)
  series = 1 + near / 2 * (1 + near / 3 * (1 + near / 4))
  other = jnp.where(small | large, 1, exponent)
  # expm1, because a - 1 is small if the step is small.
  by_step = step.astype(exponent.dtype) * jnp.where(
    small, series, jnp.expm1(other) / other
  )
  # Divide by the larger part of lambda first: its square may overflow.
  log_rate = jnp.clip(log_rate, -largest, largest)
  scale = jnp.maximum(jnp.exp(log_rate), jnp.abs(frequency))
  scale = jax.lax.stop_gradient(jnp.where(large, scale, 1))
  unit = jax.lax.complex(
    -jnp.exp(jnp.where(large, log_rate - jnp.log(scale), 0)), frequency / scale
  )
  by_rate = jnp.expm1(exponent) / jnp.where(large, unit, 1)
  by_rate = by_rate / scale.astype(unit.dtype)
  return jnp.exp(exponent), jnp.where(large, by_rate, by_step)


def bilinear(
  log_rate: jax.Array, frequency: jax.Array, log_step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The bilinear form of `h' = lambda h + u`, with the arguments of ZOH.

  Args:
    log_rate: [...]; lambda = -exp(log_rate) + i frequency.
    frequency: [...].
    log_step: [...].

  Returns:
    `(1 + z) / (1 - z)` and `step / (1 - z)` with z = lambda step / 2, complex
    [...]; finite for any finite arguments.
  """
  step, z = _half_step(log_rate, frequency, log_step)
  inverse = 1 / (1 - z)
  return 2 * inverse - 1, step.astype(z.dtype) * inverse


def bilinear_low_rank(
  log_rate: jax.Array,
  frequency: jax.Array,
  low_rank: jax.Array,
  B: jax.Array,
  log_step: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The bilinear form of `h' = (Lambda - P P^H) h + B u`, in real numbers.

  The arguments have one number of each conjugate pair. A complex vector z
  becomes the real vector sqrt(2) (Re z, Im z), which has the same norm as z and
  its conjugate together. Woodbury's identity inverts a matrix [R, R] in place
  of one [N, N].

  Args:
    log_rate: [D, N / 2]; Lambda = -exp(log_rate) + i frequency.
    frequency: [D, N / 2].
    low_rank: P, [R, D, N / 2] complex.
    B: [D, N / 2] complex.
    log_step: [D, N / 2], the same for all states of a channel.

  Returns:
    `M (I + step / 2 A)` [D, N, N] and `step M B` [D, N], real, with
    M = (I - step / 2 A)^-1.
  """
  step, z = _half_step(log_rate, frequency, log_step)
  inverse = 1 / (1 - z)
  p = jnp.moveaxis(low_rank, 0, -1)  # [D, N / 2, R].
  left = _real_vector(inverse[..., None] * p, 1)  # [D, N, R].
  right = _real_vector(inverse.conj()[..., None] * p, 1)
  product = jnp.einsum("dnr,dns->drs", _real_vector(p, 1), left)
  same = np.eye(p.shape[-1], dtype=bool)[None]
  product = product + jnp.where(same, 2 / step[:, :1, None], 0)
  right = jnp.linalg.solve(product, jnp.swapaxes(right, 1, 2))  # [D, R, N].
  diagonal = 2 * inverse - 1
  # Each complex number is the matrix (re, -im; im, re).
  here, there = _on_diagonal(diagonal.real), _on_diagonal(diagonal.imag)
  matrix = jnp.concatenate(
    [
      jnp.concatenate([here, -there], -1),
      jnp.concatenate([there, here], -1),
    ],
    -2,
  )
  matrix = matrix - 2 * left @ right
  write = _real_vector(inverse * B, -1)
  coupled = jnp.einsum("drn,dn->dr", right, _real_vector(B, -1))
  write = write - jnp.einsum("dnr,dr->dn", left, coupled)
  return matrix, step[:, :1] * write


def low_rank_kernel(
  log_rate: jax.Array,
  frequency: jax.Array,
  low_rank: jax.Array,
  B: jax.Array,
  C: jax.Array,
  log_step: jax.Array,
  length: int,
) -> jax.Array:
  """The impulse response of a bilinear model by its values at roots of unity.

  The algorithm of S4 (Gu et al. 2021, arXiv:2111.00396): Woodbury's identity
  turns the generating function of a diagonal plus low rank matrix into sums
  1 / (w - lambda), and an inverse FFT gives the kernel. It takes O(L N) flops
  per channel, and 2 N^3 log2(L) for the terms beyond the length. The roots are
  those of w^L = -1, not of 1, because an eigenvalue near 0 would be a pole
  beside w = 1.

  Args:
    log_rate: As for `bilinear_low_rank`, as are the next three.
    frequency: [D, N / 2].
    low_rank: [R, D, N / 2] complex.
    B: [D, N / 2] complex.
    C: [D, N / 2] complex; the model reads 2 Re(C h).
    log_step: [D, N / 2].
    length: L.

  Returns:
    [L, D], for `ops.long_convolution`.
  """
  matrix, _ = bilinear_low_rank(log_rate, frequency, low_rank, B, log_step)
  step, z = _half_step(log_rate, frequency, log_step)
  # One channel's vectors: P and B to the right, P^H and C to the left.
  right = jnp.concatenate([low_rank, B[None]])
  left = jnp.concatenate(
    [low_rank.conj(), (C + _read_later(C, matrix, length))[None]]
  )
  # Of each conjugate pair of roots only one.
  root = np.exp(-2j * np.pi * (np.arange((length + 1) // 2) + 0.5) / length)
  vectors = (
    z,
    jnp.swapaxes(right, 0, 1) * step[:, None].astype(z.dtype),
    jnp.swapaxes(left, 0, 1),
  )

  def channel(own):
    z, right, left = own
    return _at_roots(z, right, left, root.astype(z.dtype))

  spectrum = jax.lax.map(channel, vectors, batch_size=16)
  other = jnp.flip(spectrum[:, : length // 2].conj(), -1)
  kernel = jnp.fft.ifft(jnp.concatenate([spectrum, other], -1)).T
  turned = np.exp(1j * np.pi * np.arange(length) / length).astype(z.dtype)
  return (kernel * turned[:, None]).real


def _read_later(C, matrix, length):
  """C A^length, of complex C [D, N / 2] and real matrices A [D, N, N]."""
  read = 2**0.5 * jnp.concatenate([C.real, -C.imag], -1)
  for bit in range(length.bit_length()):
    if length >> bit & 1:
      read = _product(read[:, None], matrix)[:, 0]
    matrix = _product(matrix, matrix)
  half = C.shape[-1]
  return jax.lax.complex(read[:, :half], -read[:, half:]) * 0.5**0.5


def _at_roots(z, right, left, root):
  """The generating function of one channel at roots [K].

  Args:
    z: lambda step / 2, [N / 2].
    right: P and B, times the step, [R + 1, N / 2].
    left: P^H and C, [R + 1, N / 2].
    root: [K] complex.
  """
  plus, minus = (1 + root)[:, None], (1 - root)[:, None]
  terms = left[:, None] * right[None] / 2  # [R + 1, R + 1, N / 2].
  sums = jnp.einsum("kn,ijn->kij", 1 / (minus - plus * z[None]), terms)
  sums = sums + jnp.einsum(
    "kn,ijn->kij", 1 / (minus - plus * z.conj()[None]), terms.conj()
  )
  rank = len(right) - 1
  plus = plus[..., None]
  coupled = plus * sums[:, :rank, :rank] + np.eye(rank, dtype=z.dtype)[None]
  solved = jnp.linalg.solve(coupled, sums[:, :rank, rank:])
  read = plus[..., 0] * sums[:, rank, :rank]
  return 2 * (sums[:, rank, rank] - jnp.sum(read * solved[..., 0], -1))


def _product(A, B):
  """`A B` at full precision: a TPU would round the factors to bfloat16."""
  return jnp.matmul(A, B, precision=jax.lax.Precision.HIGHEST)


def bilinear_dense(
  A: jax.Array, B: jax.Array, log_step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The bilinear form of `h' = A h + B u` at one step size per channel.

  Args:
    A: [N, N] real.
    B: [N] real.
    log_step: [D].

  Returns:
    `M (I + step / 2 A)` [D, N, N] and `step M B` [D, N], with
    M = (I - step / 2 A)^-1.
  """
  step = jnp.exp(log_step)[:, None, None]
  identity = np.eye(len(B), dtype=B.dtype)[None]
  half = step / 2 * A[None]
  right = jnp.concatenate(
    [
      identity + half,
      step * jnp.broadcast_to(B[None, :, None], half[..., :1].shape),
    ],
    -1,
  )
  both = jnp.linalg.solve(identity - half, right)
  return both[..., :-1], both[..., -1]


def _half_step(log_rate, frequency, log_step):
  """The step, and lambda step / 2; limited so that both are finite."""
  info = np.finfo(log_step.dtype)
  largest = float(np.log(info.max)) - 2
  step = jnp.exp(jnp.minimum(log_step, largest))
  decay = jnp.exp(jnp.minimum(log_rate + log_step, largest / 4))
  limit = float(np.exp(largest / 4))
  phase = jnp.clip(frequency * step, -limit, limit)
  return step, jax.lax.complex(-decay / 2, phase / 2)


def _real_vector(z: jax.Array, axis: int) -> jax.Array:
  """Complex vectors along an axis as real ones of twice the size."""
  return 2**0.5 * jnp.concatenate([z.real, z.imag], axis)


def _on_diagonal(x: jax.Array) -> jax.Array:
  """Matrices [..., N, N] with x [..., N] on the diagonal."""
  same = np.eye(x.shape[-1], dtype=bool)
  same = np.expand_dims(same, tuple(range(x.ndim - 1)))
  return jnp.where(same, x[..., None], 0)
