"""DeltaProduct and Gated DeltaProduct: several delta rule steps per token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, split_heads
from jaxmodels.mixers.delta_net import DeltaNet
from jaxmodels.ops import householder_product

__all__ = ["DeltaProduct"]


class DeltaProduct(DeltaNet):
  """The delta rule with M steps per token.

  In the letters of `DeltaNet`, with keys k_{t,m}, values v_{t,m} and strengths
  beta_{t,m} for m = 1 ... M per head and token:

    S_{t,0} = a_t S_{t-1}
    S_{t,m} = (I - beta_{t,m} k_{t,m} k_{t,m}^T) S_{t,m-1}
              + beta_{t,m} k_{t,m} v_{t,m}^T
    S_t     = S_{t,M}

  The transition is a product of M generalised Householder matrices. With beta
  in (0, 2) it can be any orthogonal matrix that M reflections make: M = 2 makes
  rotations, and M = n - 1 all permutations of n values.

  Siems et al. 2025, "DeltaProduct: Improving State-Tracking in Linear RNNs via
  Householder Products", arXiv:2502.10297. With the decay "head" it is Gated
  DeltaProduct. The convolution of the key has H M K channels, and that of the
  value H M V, as in the published code, which orders them by step and then by
  head; here the steps of one head are adjacent. Departure: LeCun
  initialisation.

  Attributes:
    steps: M.
    decay: "none", "head" (Gated DeltaProduct) or "key".
    negative_eigenvalues: Whether beta reaches up to 2 in place of 1.
    output_gate: Whether y is gated before the output projection.
  """

  steps: int = 2
  negative_eigenvalues: bool = True
  output_gate: bool = True

  @nn.nowrap
  def _remember(
    self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
  ) -> tuple[jax.Array, jax.Array]:
    def by_step(y):  # [B, L, H, M F] to [B, L, M, H, F].
      return jnp.swapaxes(split_heads(y, self.steps), 2, 3)

    q, k = self._per_value_head(q), self._per_value_head(k)
    strength = self._strength(x, self.heads * self.steps)
    strength = by_step(split_heads(strength, self.heads))[..., 0]
    return self._run_rule(
      householder_product, x, q, by_step(k), by_step(v), strength, **options
    )

  @property
  def _writes(self) -> int:
    check_fields(self, "steps")
    return self.steps
