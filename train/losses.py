"""Losses: what a run minimises, and the metrics that it reports.

A loss is a frozen dataclass with `sums(outputs, batch)`. Its sums are added
over microbatches and devices, and divided once by the summed weight: a mean of
means would give the tokens of short documents, and padded rows, too much
weight. A batch is a dictionary of arrays, or of dictionaries and tuples of
arrays, whose first axis is that of the examples:

  inputs       what the model reads
  segment_ids  optional, [B, L]: see `LanguageModel`
  targets      what the loss compares the outputs with
  weights      how much each example `[B]`, or token `[B, L]`, counts
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Container, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Batch = Mapping[str, Any]
Sums = dict[str, jax.Array]

POOLINGS = ("none", "mean", "last")


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
  """The weights in float32, with an axis of 1 for each that `like` has more."""
  weights = jnp.asarray(batch["weights"]).astype(jnp.float32)
  more = like.ndim - weights.ndim
  return weights.reshape(*weights.shape, *(1,) * more)


def _weighted(values: Mapping[str, jax.Array], batch: Batch) -> Sums:
  """Weighted sums of arrays of one shape, and their weight."""
  first = next(iter(values.values()))
  weights = jnp.broadcast_to(_weights(batch, first), first.shape)
  found = {name: jnp.sum(x * weights) for name, x in values.items()}
  return {**found, "weight": jnp.sum(weights)}


def _classified(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
  """Cross-entropy and correctness of logits `[..., V]`, targets `[...]`."""
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  right = jnp.argmax(logits, axis=-1) == targets
  return {
    "loss": jax.nn.logsumexp(logits, axis=-1) - picked,
    "accuracy": right.astype(jnp.float32),
  }


def _smoothed(
  found: dict[str, jax.Array], logits: jax.Array, smoothing: float
) -> dict[str, jax.Array]:
  """Mixes the cross-entropy with that of the uniform distribution."""
  if not smoothing:
    return found
  uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
  mixed = (1.0 - smoothing) * found["loss"] + smoothing * uniform
  return {**found, "loss": mixed, "cross_entropy": found["loss"]}


@dataclasses.dataclass(frozen=True)
class NextToken(Loss):
  """Cross-entropy of targets `[B, L]` under logits `[B, L, V]`.

  Attributes:
    label_smoothing: Share of the uniform distribution in the targets, in
      [0, 1); Szegedy et al. 2016, arXiv:1512.00567.
    z_loss: Weight of the squared log of the softmax's denominator, 0 or more;
      Chowdhery et al. 2022 (PaLM), arXiv:2204.02311.
    chunk_size: Tokens per sequence whose logits are in memory at once; None for
      all. The model needs the methods `features` and `logits`, as
      `LanguageModel` has them. The gradient computes the logits of a chunk
      again, so a step takes a fourth product with the output table.
  """

  label_smoothing: float = 0.0
  z_loss: float = 0.0
  chunk_size: int | None = None

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "bits_per_token": "min",
    "accuracy": "max",
  }
  # What the loss reads of a batch.
  _arrays: ClassVar[tuple[str, ...]] = ("targets", "weights")

  def __post_init__(self) -> None:
    _check_smoothing(self.label_smoothing)
    if not 0 <= self.z_loss < math.inf:
      raise ValueError(f"z_loss must be 0 or more, got {self.z_loss}")
    if self.chunk_size is not None and self.chunk_size < 1:
      raise ValueError(f"chunk_size must be positive, got {self.chunk_size}")

  def outputs(
    self, model: Any, variables: Any, batch: Batch, **options: Any
  ) -> tuple[Any, Any]:
    """Returns logits; with a chunk size, features and the function to logits.

    Raises:
      ValueError: There is a chunk size, and the model cannot be cut in two.
    """
    if self.chunk_size is None:
      return super().outputs(model, variables, batch, **options)
    if not hasattr(model, "features") or not hasattr(model, "logits"):
      raise ValueError(
        f"{type(model).__name__} has no methods features and logits, which"
        " the loss calls with a chunk_size: set it to None"
      )
    (features, _), changed = model.apply(
      variables,
      batch["inputs"],
      **keywords(batch),
      **options,
      method="features",
    )
    head = functools.partial(model.apply, variables, method="logits")
    return (features, head), changed

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metrics are "accuracy" and "cross_entropy"."""
    if self.chunk_size is None:
      return self._sums(outputs, batch)
    features, head = outputs
    return _in_chunks(
      lambda x, batch: self._sums(head(x), batch),
      self.chunk_size,
      features,
      {name: batch[name] for name in self._arrays},
    )

  def _sums(self, logits: jax.Array, batch: Batch) -> Sums:
    logits = logits.astype(jnp.float32)
    found = _classified(logits, batch["targets"])
    found = _smoothed(found, logits, self.label_smoothing)
    if self.z_loss:
      found.setdefault("cross_entropy", found["loss"])
      square = jnp.square(jax.nn.logsumexp(logits, axis=-1))
      found["loss"] += self.z_loss * square
    return _weighted(found, batch)

  def means(self, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Adds "bits_per_token", of the cross-entropy alone."""
    values = super().means(sums)
    loss = values.pop("loss")
    bits = values.get("cross_entropy", loss) / math.log(2)
    return {"loss": loss, "bits_per_token": bits, **values}


def _in_chunks(
  function: Callable[[jax.Array, Batch], Sums],
  size: int,
  features: jax.Array,
  batch: Batch,
) -> Sums:
  """Adds up a function of features `[B, L, D]` and arrays `[B, L]` over L.

  The gradient keeps the features and computes each chunk again.
  """
  length = features.shape[1]
  size = max(min(size, length), 1)
  whole = length // size * size
  function = jax.checkpoint(function)

  def part(start: int, stop: int) -> Any:
    return jax.tree.map(lambda x: x[:, start:stop], (features, dict(batch)))

  def cut(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

  def add(total: Sums, chunk: Any) -> tuple[Sums, None]:
    return jax.tree.map(jnp.add, total, function(*chunk)), None

  # The first chunk also gives the types of the sums inside a `shard_map`.
  total = function(*part(0, size))
  if whole > size:
    total, _ = jax.lax.scan(add, total, jax.tree.map(cut, part(size, whole)))
  return add(total, part(whole, length))[0] if whole < length else total


def _pooled(outputs: jax.Array, batch: Batch, pooling: str) -> jax.Array:
  """One vector per sequence of outputs `[B, L, C]`.

  The batch may have a "mask" `[B, L]`: true where a position counts.
  """
  mask = batch.get("mask")
  if pooling == "none":
    return outputs
  if mask is None:
    return outputs[:, -1] if pooling == "last" else jnp.mean(outputs, axis=1)
  if pooling == "last":
    places = jnp.arange(outputs.shape[1])[None]
    last = jnp.max(jnp.where(mask.astype(bool), places, 0), axis=1)
    return jnp.take_along_axis(outputs, last[:, None, None], axis=1)[:, 0]
  share = mask.astype(outputs.dtype)
  share *= inverse(jnp.sum(share, axis=1, keepdims=True))
  return jnp.einsum("blc,bl->bc", outputs, share)


def _check_smoothing(share: float) -> None:
  if not 0 <= share < 1:
    raise ValueError(f"label_smoothing must be in [0, 1), got {share}")


def _check_pooling(pooling: str) -> None:
  if pooling not in POOLINGS:
    raise ValueError(
      f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}"
    )


@dataclasses.dataclass(frozen=True)
class Classification(Loss):
  """Cross-entropy of one class per sequence, targets `[B]`.

  Attributes:
    pooling: How logits `[B, L, C]` become `[B, C]`: "mean" over the sequence,
      or "last", those of its last token. A batch may have a "mask" `[B, L]` of
      the positions that count. "none" for a model that returns `[B, C]`.
    label_smoothing: As in `NextToken`.
  """

  pooling: str = "mean"
  label_smoothing: float = 0.0

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "accuracy": "max",
  }

  @property
  def per_token(self) -> bool:
    """False: a class belongs to a whole sequence."""
    return False

  def __post_init__(self) -> None:
    _check_pooling(self.pooling)
    _check_smoothing(self.label_smoothing)

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metric is "accuracy"."""
    logits = _pooled(outputs.astype(jnp.float32), batch, self.pooling)
    found = _classified(logits, batch["targets"])
    return _weighted(_smoothed(found, logits, self.label_smoothing), batch)


def _huber(error: jax.Array) -> jax.Array:
  """Quadratic up to an error of 1, linear beyond."""
  size = jnp.abs(error)
  return jnp.where(size <= 1.0, 0.5 * jnp.square(error), size - 0.5)


_ERRORS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "squared": jnp.square,
  "absolute": jnp.abs,
  "huber": _huber,
}


@dataclasses.dataclass(frozen=True)
class Regression(Loss):
  """Errors of outputs against real targets, averaged over their channels.

  Attributes:
    error: "squared", "absolute" or "huber" (quadratic up to 1).
    pooling: "none" for targets `[B, L, C]`, of each token; "mean" or "last" for
      targets `[B, C]` of outputs `[B, L, C]`, as in `Classification`.
  """

  error: str = "squared"
  pooling: str = "none"

  best: ClassVar[Mapping[str, str]] = {
    "loss": "min",
    "squared_error": "min",
    "absolute_error": "min",
  }

  def __post_init__(self) -> None:
    if self.error not in _ERRORS:
      raise ValueError(
        f"error must be one of {', '.join(_ERRORS)}, got {self.error!r}"
      )
    _check_pooling(self.pooling)

  @property
  def per_token(self) -> bool:
    """Whether every token has a target of its own."""
    return self.pooling == "none"

  def sums(self, outputs: Any, batch: Batch) -> Sums:
    """See `Loss.sums`; the metrics are squared and absolute errors.

    Raises:
      ValueError: Outputs and targets have different shapes.
    """
    outputs = _pooled(outputs.astype(jnp.float32), batch, self.pooling)
    targets = batch["targets"].astype(jnp.float32)
    if outputs.shape != targets.shape:
      raise ValueError(
        f"the outputs have shape {outputs.shape}, the targets {targets.shape}:"
        " they must be equal"
      )
    error = outputs - targets
    found = {
      "loss": _ERRORS[self.error](error),
      "squared_error": jnp.square(error),
      "absolute_error": jnp.abs(error),
    }
    found = {name: jnp.mean(x, axis=-1) for name, x in found.items()}
    return _weighted(found, batch)


@dataclasses.dataclass(frozen=True)
class Distillation(NextToken):
  """Cross-entropy with a frozen teacher's distribution (Hinton et al. 2015).

  arXiv:1503.02531. The batch holds the teacher's logits `[B, L, V]` as
  "teacher_logits", beside the targets `[B, L]`. The loss is `share * T^2` times
  the divergence KL(teacher / T || student / T), a metric of its own, plus
  `1 - share` times the loss of `NextToken`.

  Attributes:
    temperature: T, by which both logits are divided; more than 0.
    share: Share of the teacher's part, in [0, 1].
  """

  temperature: float = 1.0
  share: float = 0.5

  _arrays: ClassVar[tuple[str, ...]] = ("targets", "weights", "teacher_logits")

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 0 < self.temperature < math.inf:
      raise ValueError(f"temperature must be positive, got {self.temperature}")
    if not 0 <= self.share <= 1:
      raise ValueError(f"share must be in [0, 1], got {self.share}")

  def _sums(self, logits: jax.Array, batch: Batch) -> Sums:
    sums = super()._sums(logits, batch)
    teacher = batch["teacher_logits"].astype(jnp.float32) / self.temperature
    student = logits.astype(jnp.float32) / self.temperature
    known, own = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    divergence = jnp.sum(jnp.exp(known) * (known - own), axis=-1)
    part = _weighted({"divergence": divergence}, batch)["divergence"]
    sums.setdefault("cross_entropy", sums["loss"])
    strength = self.share * self.temperature**2
    loss = strength * part + (1.0 - self.share) * sums["loss"]
    return {**sums, "loss": loss, "divergence": part}
