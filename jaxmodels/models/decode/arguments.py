"""Checks of what a decoder is given: tokens, and which of them it may draw."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import checks

__all__ = ["check_tokens", "mask_of"]


def mask_of(
  allowed: int | Sequence[bool] | np.ndarray | None, vocab_size: int
) -> jax.Array | None:
  """Whether each token may be drawn, [V] bool; None if all may.

  Args:
    allowed: A bool for each token, or n for the tokens below n, or None.
    vocab_size: V.
  """
  if allowed is None:
    return None
  if isinstance(allowed, int | np.integer):
    checks.require(
      1 <= int(allowed) <= vocab_size,
      f"Decoder: allowed must be 1 to {vocab_size} tokens, got {allowed}",
    )
    below = np.arange(vocab_size) < allowed
    return None if below.all() else jnp.asarray(below)
  mask = np.asarray(allowed)
  checks.require(
    mask.shape == (vocab_size,) and mask.dtype == bool and bool(mask.any()),
    f"Decoder: allowed must be {vocab_size} bools of which one is true, got "
    f"{mask.dtype}{list(mask.shape)}",
  )
  return jnp.asarray(mask)


def check_tokens(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
  """Raises a ValueError for a token that is not in [0, vocab_size)."""
  for row in prompts:
    wrong = [token for token in row if not 0 <= token < vocab_size]
    checks.require(
      not wrong,
      f"Decoder: tokens must be in [0, {vocab_size}), got {wrong[:1]}",
    )
