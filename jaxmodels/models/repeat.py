"""One round of the pattern of layers, and what a backward pass stores of it."""

from typing import Any

import flax.linen as nn
import jax

from jaxmodels.models.block import Block

__all__ = ["REMAT", "Repeat", "checkpointed"]

State = Any

# What the backward pass stores of a block: everything, the results of products
# with weights, or only the input.
REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Repeat(nn.Module):
  """One round of the pattern of layers: the body of the scan over layers.

  Attributes:
    blocks: Unbound blocks to copy into this scope.
    remat: As in `Backbone`.
  """

  blocks: tuple[Block, ...]
  remat: str

  @nn.compact
  def __call__(
    self,
    carry: tuple[jax.Array, dict[str, jax.Array]],
    states: State,
    index: jax.Array | None,
    segment_ids: jax.Array | None,
  ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], State]:
    """Runs one round.

    Args:
      carry: The stream [B, L, D] and the shared values.
      states: The states of the round's layers, or None.
      index: The index of the round, or None if no layer asks for its index.
      segment_ids: [B, L] or None.

    Returns:
      The carry, and the states.
    """
    x, shared = carry
    after = []
    for i, block in enumerate(self.blocks):
      own = checkpointed(block, self.remat, f"block_{i}", in_scan=True)
      before = None if states is None else states[i]
      layer = None if index is None else index * len(self.blocks) + i
      x, state, shared = own(x, before, segment_ids, shared, layer)
      after.append(state)
    return (x, shared), tuple(after)


def checkpointed(
  block: Block, remat: str, name: str, *, in_scan: bool
) -> nn.Module:
  """A copy of `block` in the scope of the caller, rematerialised if asked.

  Args:
    block: A block that is not bound.
    remat: A key of `REMAT`.
    name: The name of the copy.
    in_scan: Whether the caller is the body of a scan.
  """
  kind = Block
  if remat != "none":
    # A scan cannot merge expressions across iterations anyway.
    kind = nn.remat(Block, policy=REMAT[remat], prevent_cse=not in_scan)
  fields = {
    field: getattr(block, field)
    for field in Block.__dataclass_fields__
    if field not in ("parent", "name")
  }
  return kind(**fields, name=name)
