"""What all losses share: the base class, and sums over a batch."""

import dataclasses
from collections.abc import Container, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Batch = Mapping[str, Any]
Sums = dict[str, jax.Array]


def is_sequence(name: str, array: Any, names: Container[str] | None) -> bool:
  """Whether an array of a batch is `[B, L, ...]`.

  Args:
    name: Its path: for an array inside of a dictionary or tuple, the names
      joined by slashes, such as "inputs/tokens".
    array: The array, or its shape and dtype.
    names: The paths of such arrays; the path of a dictionary or tuple stands
      for all arrays in it. None for all arrays with two axes or more.
  """
  if names is None:
    return array.ndim >= 2
  parts = name.split("/")
  return any("/".join(parts[: i + 1]) in names for i in range(len(parts)))


def inverse(weight: Any) -> Any:
  """Returns 1 / weight, and 1 where there is no weight."""
  return 1.0 / (weight + (weight == 0).astype(weight.dtype))


@dataclasses.dataclass(frozen=True)
class Loss:
  """The base of losses; a user's own subclass gives `sums`.

  The class attribute `best` has the metrics that can choose the best
  checkpoint, each with "min" or "max".
  """

  best: ClassVar[Mapping[str, str]] = {"loss": "min"}

  @property
  def per_token(self) -> bool:
    """Whether the loss is a sum of terms of one position each.

    Otherwise `sums` gets outputs of whole sequences, also where a mesh shards
    the sequences.
    """
    return True

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """Calls the model.

    Args:
      model: A module whose call takes inputs, and the keyword `segment_ids` if
        the batch has them; it returns the outputs and a state.
      variables: Its variables, parameters among them.
      batch: Arrays `[B, ...]`.
      **options: `rngs` and `mutable` of Flax's `apply`.

    Returns:
      The outputs, and the variables that the call changed.
    """
    result, changed = model.apply(
      variables, batch["inputs"], **keywords(batch), **options
    )
    return result[0] if isinstance(result, tuple) else result, changed

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """Adds up over the examples or tokens of a batch.

    Args:
      outputs: The outputs of the model.
      batch: Arrays `[B, ...]`.

    Returns:
      Float32 scalars: "loss", which is minimised, metrics by name, and
      "weight", the summed weight that all of them are divided by.
    """
    raise NotImplementedError(f"{type(self).__name__} has no sums")

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Turns sums into metrics; without any weight they are zeros.

    Args:
      sums: What `sums` returned, added up; arrays of JAX or numpy.

    Returns:
      Each sum divided by "weight", and "targets", that weight.
    """
    weight = sums["weight"]
    scale = inverse(weight)
    values = {name: x * scale for name, x in sums.items() if name != "weight"}
    # The loss first: a compiled function returns its sums by name.
    return {"loss": values.pop("loss"), **values, "targets": weight}


def keywords(batch: Batch) -> dict[str, Any]:
  """Returns what a model is called with, beside the inputs."""
  return {"segment_ids": batch["segment_ids"]} if "segment_ids" in batch else {}


def _weights(batch: Batch, like: jax.Array) -> jax.Array:
  """The weights in float32, with axes of size 1 up to the rank of `like`."""
  weights = jnp.asarray(batch["weights"]).astype(jnp.float32)
  more = like.ndim - weights.ndim
  return weights.reshape(*weights.shape, *(1,) * more)


def weighted(values: Mapping[str, jax.Array], batch: Batch) -> Sums:
  """Weighted sums of arrays of one shape, and their weight."""
  first = next(iter(values.values()))
  weights = jnp.broadcast_to(_weights(batch, first), first.shape)
  found = {name: jnp.sum(x * weights) for name, x in values.items()}
  return {**found, "weight": jnp.sum(weights)}


def classified(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
  """Cross-entropy and correctness of logits `[..., V]`, targets `[...]`."""
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  right = jnp.argmax(logits, axis=-1) == targets
  return {
    "loss": jax.nn.logsumexp(logits, axis=-1) - picked,
    "accuracy": right.astype(jnp.float32),
  }


def smoothed(
  found: dict[str, jax.Array], logits: jax.Array, smoothing: float
) -> dict[str, jax.Array]:
  """Mixes the cross-entropy with that of the uniform distribution."""
  if not smoothing:
    return found
  uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
  mixed = (1.0 - smoothing) * found["loss"] + smoothing * uniform
  return {**found, "loss": mixed, "cross_entropy": found["loss"]}


def check_smoothing(share: float) -> None:
  """Raises a ValueError for a share of smoothing outside [0, 1)."""
  if not 0 <= share < 1:
    raise ValueError(f"label_smoothing must be in [0, 1), got {share}")
