"""Bilinear RNNs: the input chooses the matrix that multiplies the state."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.layers.common import check_fields, divide
from jaxmodels.mixers.mixer import Mixer
from jaxmodels.ops import dense_recurrence, diagonal_recurrence
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.exporting import serializable

__all__ = ["BilinearRNN", "BilinearRNNState"]

TRANSITIONS = ("full", "factorised", "block", "rotation", "diagonal")


@serializable
class BilinearRNNState(NamedTuple):
  """The state [B, N], and the number of earlier tokens, [B]."""

  state: jax.Array
  position: jax.Array


class BilinearRNN(Mixer):
  """A linear RNN whose transition is linear in the input.

  With x_t the input, h_t [N] the state and h_0 a parameter, at the start of
  each document:

    A_t = sum_k x_{t,k} W_k,  h_t = A_t / |A_t| h_{t-1}
    y_t = W_o RMSNorm(h_t)

  `transition` is the form of A_t. The first form can track the largest class of
  languages, and the last form the smallest:

    "full"        [N, N]
    "factorised"  U diag(V x_t) P^T, with U and P [N, R]
    "block"       blocks [M, M] on the diagonal
    "rotation"    blocks [2, 2], rotations by the angles (V x_t)_i
    "diagonal"    [N], of any sign

  Ebrahimi & Memisevic 2025, "Revisiting Bi-Linear State Transitions in
  Recurrent Neural Networks", arXiv:2505.21749. Without additive terms, the
  model is linear in h_0, so the scale of h_t does not matter. The paper divides
  each h_t by its norm. That would make the recurrence nonlinear, so here each
  block of A_t is divided by the root mean square of its rows' norms (and the
  diagonal by its root mean square), which changes each block of h_t by a
  positive factor. Random blocks still shrink the state, by about a factor
  exp(-1 / (2 M)) per token, until it underflows; orthogonal ones do not.

  The other fields are those of `Mixer`.

  Attributes:
    state_width: N, by default D.
    transition: One of the forms above.
    block_width: M, for the transition "block"; it divides N.
    rank: R, for the transition "factorised"; by default N.
    additive: Whether to add W_b x_t to the state. The paper's models have no
      additive terms; with them, scales matter.
  """

  state_width: int | None = None
  transition: str = "block"
  block_width: int = 8
  rank: int | None = None
  additive: bool = False

  def mix(
    self,
    x: jax.Array,
    state: BilinearRNNState | None,
    segment_ids: jax.Array | None,
  ) -> tuple[jax.Array, BilinearRNNState]:
    """The equation above."""
    blocks, size = self._blocks()
    given, entering = (None, None) if state is None else state
    position, after = self.positions(x, entering, segment_ids)
    A = self._transition(x, blocks, size)
    start = self.wide_param(
      "initial", nn.initializers.normal(1), (blocks, size)
    )
    # The recurrence starts from zero, so the first token adds A h_0.
    first = (position == 0)[..., None, None]
    if self.transition == "diagonal":
      b = jnp.where(first, A * start[None, None], 0)
    else:
      b = jnp.where(first, jnp.einsum("blgij,gj->blgi", A, start), 0)
    if self.additive:
      added = self.dense("input", blocks * size, dtype=self.wide)(x)
      b = b + added.reshape(b.shape)
    h, last = self._run_op(A, b, given, segment_ids)
    h = self.new_norm()(h.reshape(*x.shape[:2], blocks * size))
    return self.project_out(h), BilinearRNNState(last, after)

  @nn.nowrap
  def _run_op(self, A, b, given, segment_ids):
    """The states [B, L, G, M], and the last one [B, N]."""
    if given is not None:
      given = given.reshape(b.shape[0], *b.shape[2:])
    op: Any = diagonal_recurrence
    if self.transition != "diagonal":
      op = functools.partial(dense_recurrence, block_diagonal=True)
    h, last = self.run(op, A, b, state=given, segment_ids=segment_ids)
    return h, last.reshape(b.shape[0], b.shape[2] * b.shape[3])

  @nn.nowrap
  def _transition(self, x: jax.Array, blocks: int, size: int) -> jax.Array:
    """[B, L, G, M, M], or [B, L, G, 1] for the transition "diagonal"."""
    lead, width = x.shape[:2], blocks * size

    def linear(features):  # Float32, because the state multiplies it again.
      scale = 1.0 if self.transition == "rotation" else size**-0.5
      return self.dense("transition", features, scale=scale, dtype=self.wide)(x)

    if self.transition == "rotation":
      angle = linear(blocks)
      cos, sin = jnp.cos(angle), jnp.sin(angle)
      A = jnp.stack([cos, -sin, sin, cos], -1)
      return A.reshape(*lead, blocks, 2, 2)
    if self.transition == "factorised":
      rank = self.rank or width
      init = nn.initializers.normal((width * rank) ** -0.25)
      left, right = (
        self.wide_param(name, init, (width, rank)) for name in ("left", "right")
      )
      A = jnp.einsum("ir,blr,jr->blij", left, linear(rank), right)[:, :, None]
    else:
      A = linear(width * size)
      if self.transition == "diagonal":
        return _unit(A, (-1,), width)[..., None]
      A = A.reshape(*lead, blocks, size, size)
    return _unit(A, (-2, -1), size)

  @nn.nowrap
  def _blocks(self) -> tuple[int, int]:
    """G and M, after a check of all fields."""
    check_fields(self, "state_width", "block_width", "rank")
    checks.require(
      self.transition in TRANSITIONS,
      f"BilinearRNN: transition must be one of {TRANSITIONS}, got "
      f"{self.transition!r}",
    )
    checks.require(
      self.rank is None or self.transition == "factorised",
      'BilinearRNN: rank is used by transition "factorised" only, got rank='
      f"{self.rank} with transition={self.transition!r}",
    )
    width = self.state_width or self.width
    if self.transition in ("full", "factorised"):
      return 1, width
    if self.transition == "diagonal":
      return width, 1
    if self.transition == "block":
      return divide(self, "block_width", width, "N"), self.block_width
    checks.require(
      width % 2 == 0,
      'BilinearRNN: N must be even for transition "rotation", got '
      f"state_width = {width}",
    )
    return width // 2, 2


def _unit(A: jax.Array, axes: tuple[int, ...], size: int) -> jax.Array:
  """A over its Frobenius norm, times sqrt(M): the norm of the identity."""
  square = jnp.sum(A * A, axes, keepdims=True) / size
  return A * jax.lax.rsqrt(square + 1e-12)
