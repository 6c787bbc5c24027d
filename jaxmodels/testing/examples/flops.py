"""Flops per token of the chunked forward passes, as in the docstrings.

Each function takes the chunk size C and returns the flops per token, for all
heads. The figures cover only matrix products and operations on every element of
a state. Tests compare them with the counter of `jaxmodels.analysis.flops`.
"""

import math
from collections.abc import Callable

from jaxmodels.testing.examples.example import Sizes

Formula = Callable[[Sizes, int], float]


def linear_attention(decay: str | None) -> Formula:
  """`2 C (K + V) + 4 K V` per head, and its decays."""

  def flops(sizes: Sizes, C: int) -> float:
    K = V = sizes.width
    more = {None: 0, "head": 2 * C**2}.get(decay, (4 * C + 160) * K)
    return sizes.heads * (2 * C * (K + V) + 4 * K * V + more)

  return flops


def linear_attention_bonus(sizes: Sizes, C: int) -> float:
  """`3 K + 2 V` per head more than with a decay per key channel."""
  return linear_attention("key")(sizes, C) + sizes.heads * 5 * sizes.width


def delta_rule(decay: str | None) -> Formula:
  """`4 C (K + V) + 6 K V + 2/3 C^2` per head, and its decays."""

  def flops(sizes: Sizes, C: int) -> float:
    K = V = sizes.width
    more = {None: 0, "head": 2 * C**2, "key": (4 * C + 320) * K}[decay]
    products = 4 * C * (K + V) + 6 * K * V + 2 / 3 * C**2
    return sizes.heads * (products + more)

  return flops


def delta_rule_gates(sizes: Sizes, C: int) -> float:
  """`K + V` per head more than with a decay per key channel."""
  return delta_rule("key")(sizes, C) + sizes.heads * 2 * sizes.width


def dplr_recurrence(sizes: Sizes, C: int) -> float:
  """`8 K V + 220 K` per head, token by token as on a CPU."""
  del C
  K = V = sizes.width
  return sizes.heads * (8 * K * V + 220 * K)


def dplr_in_chunks(sizes: Sizes, C: int) -> float:
  """`8 C (K + V) + 8 K V + 2/3 C^2` per head, and a decay per key channel."""
  K = V = sizes.width
  products = 8 * C * (K + V) + 8 * K * V + 2 / 3 * C**2
  return sizes.heads * (products + (4 * C + 300) * K)


def householder_product(sizes: Sizes, C: int) -> float:
  """M times the delta rule with a decay per head."""
  return sizes.steps * delta_rule("head")(sizes, C)


def normalized_linear_attention(sizes: Sizes, C: int) -> float:
  """`2 C (K + V) + 4 K V + 4 C^2` per head."""
  K = V = sizes.width
  return sizes.heads * (2 * C * (K + V) + 4 * K * V + 4 * C**2)


def kalman_filter(N: int, M: int) -> float:
  """`14 N^3 + 12 N^2 M + 8 N M^2 + 4 M^3`, token by token."""
  return 14 * N**3 + 12 * N**2 * M + 8 * N * M**2 + 4 * M**3


def kalman_filter_in_parallel(N: int, M: int) -> float:
  """`30 N^3 + 20 N^2 M` more."""
  return kalman_filter(N, M) + 30 * N**3 + 20 * N**2 * M


def diagonal_recurrence(sizes: Sizes, C: int) -> float:
  """12 per element of the state."""
  del C  # A scan of depth log C has O(C) work.
  return 12 * sizes.heads * sizes.width


def selective_scan(sizes: Sizes, C: int) -> float:
  """`7 D N`, token by token as on a CPU."""
  del C
  return 7 * sizes.heads * sizes.width * sizes.small


def dense_recurrence(sizes: Sizes, C: int) -> float:
  """`2 G M^2`."""
  del C
  return 2 * sizes.heads * sizes.small**2


def bidirectional(sizes: Sizes, C: int) -> float:
  """Linear attention from both ends."""
  return 2 * linear_attention("head")(sizes, C)


def causal_convolution(sizes: Sizes, C: int) -> float:
  """`2 W` per element of x, for W = 4 taps."""
  del C
  return 8 * sizes.heads * sizes.width


def attention(sizes: Sizes, C: int) -> float:
  """`2 L (K + V)` per head: a count takes both sides of a tile's condition."""
  del C
  return 4 * sizes.length * sizes.heads * sizes.width


# With the ladders of a TPU, over whole chunks: matrix products, log2(C) times.


def linear_attention_on_tpu(sizes: Sizes, C: int) -> float:
  """`2 C V + 4 K V + 4 C K log2(2 C)` per head, a decay per key channel."""
  K = V = sizes.width
  return sizes.heads * (2 * C * V + 4 * K * V + 4 * C * K * math.log2(2 * C))


def delta_rule_on_tpu(decay: str | None) -> Formula:
  """`4 C^2 log2(C)` per head for the system, `6 C K log2(C)` for key decays."""

  def flops(sizes: Sizes, C: int) -> float:
    K = V = sizes.width
    scores = C * K * (6 * math.log2(C) if decay == "key" else 4)
    scores += 2 * C**2 if decay == "head" else 0
    system = 4 * C**2 * math.log2(C)
    return sizes.heads * (scores + 4 * C * V + 6 * K * V + system)

  return flops


def dplr_on_tpu(sizes: Sizes, C: int) -> float:
  """`8 C V + 8 K V + (10 C K + 4 C^2) log2(C)` per head."""
  K = V = sizes.width
  ladders = (10 * C * K + 4 * C**2) * math.log2(C)
  return sizes.heads * (8 * C * V + 8 * K * V + ladders)
