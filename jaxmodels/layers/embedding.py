"""Token embeddings, and logits from the same table."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, check_positive, wide
from jaxmodels.layers.products import dense_product
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.explicit import by_letters

__all__ = ["TokenEmbedding", "check_vocabulary"]


def check_vocabulary(module: nn.Module) -> None:
  """Checks the fields of a module with a vocabulary, such as `vocab_size`."""
  check_fields(module, "vocab_size")
  size = getattr(module, "vocab_size", 1)
  checks.require(
    size < 2**31,
    f"{type(module).__name__}: vocab_size must be below 2^31, since tokens "
    f"are int32, got {size}",
  )


@by_letters("B L D", tokens="B L", table="V D")
def _look_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
  return jnp.take(table, tokens, axis=0)


@by_letters("B L V", x="B L D", table="V D")
def _read_out(x: jax.Array, table: jax.Array) -> jax.Array:
  return dense_product(x, table.T, preferred_element_type=wide(x.dtype))


class TokenEmbedding(nn.Module):
  """A table E [vocab_size, width] for embeddings and, if tied, for logits.

  x_t = E[token_t];  logits_t = E x_t. Tied as in Press & Wolf 2017,
  arXiv:1608.05859. If untied, logits have a table of their own. Initial entries
  are normal with deviation 0.02 (GPT-2, Radford et al. 2019). The logits of a
  normed x then have an initial deviation of 0.02 sqrt(width), so the first
  predictions are near uniform. Factors do not change the initial entries.

  The bound of the logits is the soft cap of Gemma 2 (Gemma Team 2024,
  arXiv:2408.00118).

  Attributes:
    vocab_size: The number of tokens, below 2^31: tokens are int32.
    width: D.
    tied: Whether embeddings and logits share the table.
    embedding_scale: Factor on the embeddings. Where a published model rounds
      its factor to a narrow dtype, this is the rounded number.
    logits_scale: Factor on the logits.
    logits_cap: c of c tanh(logits / c), after the factor; None for no bound.
    dtype: The dtype of embeddings, and of the operands of the logits, which are
      summed in float32.
    param_dtype: The dtype of the tables.
  """

  vocab_size: int
  width: int
  tied: bool = True
  embedding_scale: float = 1.0
  logits_scale: float = 1.0
  logits_cap: float | None = None
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """Makes the tables."""
    check_vocabulary(self)
    if self.logits_cap is not None:
      check_positive(self, "logits_cap")
    shape = (self.vocab_size, self.width)
    init = nn.initializers.normal(0.02)
    self.table = self.param("table", init, shape, self.param_dtype)
    if not self.tied:
      self.readout = self.param("readout", init, shape, self.param_dtype)

  def encode(self, tokens: jax.Array) -> jax.Array:
    """Embeds tokens [B, L], integers below vocab_size, to [B, L, D]."""
    name = type(self).__name__
    checks.shape(name, "tokens", tokens, (None, None), "[B, L]")
    checks.dtype(name, "tokens", tokens, jnp.integer, "integers")
    checks.between(name, "tokens", tokens, 0, self.vocab_size - 1)
    x = _look_up(self.table.astype(self.dtype), tokens)
    return x if self.embedding_scale == 1 else x * self.embedding_scale

  def decode(self, x: jax.Array) -> jax.Array:
    """Maps [B, L, D] to logits [B, L, vocab_size] in float32 or wider."""
    table = self.table if self.tied else self.readout
    logits = _read_out(x.astype(self.dtype), table.astype(self.dtype))
    if self.logits_scale != 1:
      logits = logits * self.logits_scale
    if self.logits_cap is not None:
      logits = self.logits_cap * jnp.tanh(logits / self.logits_cap)
    return logits

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Embeds tokens, like `encode`."""
    return self.encode(tokens)
