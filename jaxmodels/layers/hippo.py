"""HiPPO: state matrices that keep the past as coefficients of a basis.

A state x' = A x + B u holds the coefficients of the past of u in a basis of
functions phi_n, under a weight w:

    x_n(t) = int_0^inf u(t - s) phi_n(s) w(s) ds

  "legs"  phi_n = sqrt(2n + 1) P_n(2 e^-s - 1), w = e^-s: the whole past, fading
  "legt"  phi_n = sqrt(2n + 1) P_n(1 - 2s), w = 1 on [0, 1]: a window
  "fout"  phi = 1, then sqrt(2) cos(2 pi k s) and sqrt(2) sin(2 pi k s) for
          k = 1, 2, ..., w = 1 on [0, 1]: a window

P_n is the Legendre polynomial. "legs" is exact. The bases of a window replace
the input that leaves it, u(t - 1), by the value that the coefficients give, so
they are exact only in the limit of many coefficients. Gu et al. 2020,
arXiv:2008.07669 (LegS, LegT); Gu et al. 2022, arXiv:2206.12037 (FouT, and the
time-invariant form of LegS). The window has the length 1; a step dt makes it
1 / dt tokens.
"""

import functools
from typing import NamedTuple

import numpy as np

__all__ = [
  "BASES",
  "DIAGONALS",
  "Diagonalised",
  "diagonal_eigenvalues",
  "diagonalise",
  "hippo",
  "hippo_normal_eigenvalues",
  "normal_plus_low_rank",
]

BASES = ("legs", "legt", "fout")
DIAGONALS = ("lin", "inv", "legs")


def hippo(basis: str, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The state matrix A and the input vector B of x' = A x + B u.

  The coefficients of "fout" come in pairs of cosine and sine, of the
  frequencies 0, 1, 2, ...; the sine of frequency 0 is always 0.

  Args:
    basis: One of `BASES`.
    size: N; even for "fout".

  Returns:
    A [N, N] and B [N], in float64.
  """
  n = np.arange(size)
  root = np.sqrt(2 * n + 1)
  products = np.outer(root, root)
  if basis == "legs":
    return -np.tril(products, -1) - np.diag(n + 1.0), root
  if basis == "legt":
    alternating = (-1.0) ** (n[:, None] - n)
    return -products * np.where(n[:, None] >= n, 1, alternating), root
  if basis == "fout":
    ends = _ends(size)
    return _rotation(size) - 2 * np.outer(ends, ends), 2 * ends
  raise ValueError(f"hippo: basis must be one of {BASES}, got {basis!r}")


def normal_plus_low_rank(
  basis: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Writes A as a normal matrix less a matrix of low rank: A = S - P P^T.

  The normal matrix S is skew symmetric, plus -1/2 times the identity for
  "legs". The rank R is 1, or 2 for "legt" (Gu et al. 2021, arXiv:2111.00396).

  Args:
    basis: One of `BASES`.
    size: N; even for "fout".

  Returns:
    S [N, N] and P [N, R], in float64.
  """
  matrix, _ = hippo(basis, size)
  n = np.arange(size)
  root = np.sqrt(2 * n + 1)
  if basis == "legs":
    low_rank = np.sqrt(n + 0.5)[:, None]
  elif basis == "legt":
    low_rank = np.stack([root * (n % 2 == 0), root * (n % 2 == 1)], 1)
  else:
    low_rank = np.sqrt(2) * _ends(size)[:, None]
  return matrix + low_rank @ low_rank.T, low_rank


class Diagonalised(NamedTuple):
  """A HiPPO matrix in the basis of the eigenvectors of its normal part.

  A = 2 Re(V diag(eigenvalues) V^H) - P P^T with P = 2 Re(V low_rank), and
  B = 2 Re(V B): one vector of each conjugate pair.

  Attributes:
    eigenvalues: [N / 2] complex, with ascending imaginary parts of at least 0.
    vectors: V [N, N / 2] complex, orthonormal.
    low_rank: V^H P, [N / 2, R] complex.
    B: V^H B, [N / 2] complex.
  """

  eigenvalues: np.ndarray
  vectors: np.ndarray
  low_rank: np.ndarray
  B: np.ndarray


@functools.cache
def diagonalise(basis: str, size: int) -> Diagonalised:
  """Diagonalises the normal part of a HiPPO matrix.

  Args:
    basis: One of `BASES`.
    size: N, even.
  """
  normal, low_rank = normal_plus_low_rank(basis, size)
  real = -0.5 if basis == "legs" else 0.0
  half = size // 2
  if basis == "fout":
    # The eigenvalue 0 is double, so a solver would not return its eigenvectors
    # as a conjugate pair.
    imaginary = 2 * np.pi * np.arange(half)
    vectors = np.kron(np.eye(half), np.array([[1], [-1j]]) / np.sqrt(2))
  else:
    # -i times a skew symmetric matrix is Hermitian: a stable eigenproblem.
    skew = normal - real * np.eye(size)
    values, every = np.linalg.eigh(-1j * skew)
    imaginary, vectors = values[half:], every[:, half:]
  to_basis = vectors.conj().T
  _, b = hippo(basis, size)
  return Diagonalised(
    real + 1j * imaginary, vectors, to_basis @ low_rank, to_basis @ b
  )


def hippo_normal_eigenvalues(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS.

  Their real part is -1/2. S5 and S4D-LegS start from these eigenvalues.

  Args:
    size: The size of the matrix, even.

  Returns:
    The size / 2 eigenvalues with positive imaginary part, ascending, and
    their eigenvectors [size, size / 2], in complex128.
  """
  found = diagonalise("legs", size)
  return found.eigenvalues, found.vectors


def diagonal_eigenvalues(kind: str, size: int) -> np.ndarray:
  """The initial eigenvalues of S4D (Gu et al. 2022, arXiv:2206.11893).

  For n = 0, ..., N / 2 - 1 they are

    "lin":  -1/2 + i pi n
    "inv":  -1/2 + i N / pi (N / (2n + 1) - 1)
    "legs": those of the normal part of HiPPO-LegS, which "inv" approximates

  Args:
    kind: One of `DIAGONALS`.
    size: N, even.

  Returns:
    [N / 2] complex, one of each conjugate pair.
  """
  n = np.arange(size // 2)
  if kind == "lin":
    return -0.5 + 1j * np.pi * n
  if kind == "inv":
    return -0.5 + 1j * size / np.pi * (size / (2 * n + 1) - 1)
  if kind == "legs":
    return hippo_normal_eigenvalues(size)[0]
  raise ValueError(
    f"diagonal_eigenvalues: kind must be one of {DIAGONALS}, got {kind!r}"
  )


def _ends(size: int) -> np.ndarray:
  """The values of the Fourier basis at both ends of the window, [N]."""
  if size % 2:
    raise ValueError(f"hippo: size must be even for 'fout', got {size}")
  ends = np.where(np.arange(size) % 2 == 0, np.sqrt(2), 0)
  ends[0] = 1
  return ends


def _rotation(size: int) -> np.ndarray:
  """The derivatives of the Fourier basis in itself, [N, N]: skew symmetric."""
  upper = np.zeros(size - 1)
  upper[::2] = -2 * np.pi * np.arange(size // 2)
  return np.diag(upper, 1) - np.diag(upper, -1)
