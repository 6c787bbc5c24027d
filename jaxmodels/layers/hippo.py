"""HiPPO, the initial state matrix of structured state-space models."""

import functools

import numpy as np

__all__ = ["hippo_normal_eigenvalues"]


@functools.cache
def hippo_normal_eigenvalues(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS.

  HiPPO-LegS (Gu et al. 2020, arXiv:2008.07669) is the matrix
  A_nk = -sqrt((2n + 1)(2k + 1)) for n > k, -(n + 1) for n = k, and 0 for n < k.
  It is the sum of a normal matrix and a matrix of rank one:
  A = A_N - p p^T with p_n = sqrt(n + 1/2). A_N is
  -1/2 times the identity plus a skew symmetric matrix. So its eigenvalues have
  the real part -1/2 and come in conjugate pairs, and its eigenvectors are
  orthonormal (Gu et al. 2021, arXiv:2111.00396).

  Args:
    size: The size of the matrix, even.

  Returns:
    The size / 2 eigenvalues with positive imaginary part, ascending, and
    their eigenvectors [size, size / 2], in complex128.
  """
  root = np.sqrt(1 + 2 * np.arange(size))
  hippo = -np.tril(np.outer(root, root), -1) - np.diag(1.0 + np.arange(size))
  p = np.sqrt(np.arange(size) + 0.5)
  normal = hippo + np.outer(p, p)
  skew = normal + 0.5 * np.eye(size)
  # -i times a skew symmetric matrix is Hermitian: a stable eigenproblem.
  imaginary, vectors = np.linalg.eigh(-1j * skew)
  half = size // 2
  return -0.5 + 1j * imaginary[half:], vectors[:, half:]
