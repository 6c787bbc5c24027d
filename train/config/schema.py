"""What one run is: nested frozen dataclasses, and the check of their values.

A config file is `configs/NAME.py` with a function `get_config() -> Config`.
The model is a Linen module whose fields are its configuration, and the data
are a frozen dataclass that opens its own splits, so nothing is named twice.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from train.config import serialize
from train.config.checks import (
  LEAST,
  MOST,
  MOST_SEED,
  as_float32,
  is_count,
)
from train.config.checks import require as _check
from train.config.optimizer_base import Optimizer
from train.config.optimizers import AdamW
from train.errors import UserError, shown
from train.flags import annotations
from train.losses import Loss, NextToken
from train.trackers import MODULES as TRACKERS

STRATEGIES = ("jit", "pmap")


@dataclasses.dataclass(frozen=True)
class Mesh:
  """How strategy "jit" lays out the devices; -1 stands for the rest of them.

  Whatever the layout, the run computes the same numbers (up to rounding), so
  it may change when a run resumes.

  Attributes:
    data: Devices that take different sequences.
    fsdp: Devices that take different sequences too, and share parameters and
      optimizer state among them, each keeping a piece.
    sequence: Devices that share every sequence, each taking a piece.
  """

  data: int = 1
  fsdp: int = 1
  sequence: int = 1


@dataclasses.dataclass(frozen=True)
class Sample:
  """The sample that is generated after a run.

  Attributes:
    prompt: The text to continue.
    length: Tokens to generate; 0 generates none.
    temperature: Divides the logits; 0 takes the likeliest token.
    top_k: Draws only among that many likeliest tokens; None for all.
    top_p: Draws among the fewest likeliest tokens whose probabilities add up
      to at least this; None for all.
  """

  prompt: str = "\n"
  length: int = 256
  temperature: float = 0.8
  top_k: int | None = None
  top_p: float | None = None


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    model: A module that the loss can call, such as a `LanguageModel`; its
      `dtype` field sets the precision of the computation, `param_dtype` that of
      the parameters.
    data: A dataset of `train.data`, or anything with its `open(split)`.
    optimizer: An optimizer of `train.config`, or another frozen dataclass with
      a method `transformation(steps)` that returns an optax transformation.
    loss: What is minimised: `NextToken`, `Classification`, `Regression` or
      `Distillation` of `train.losses`, or another subclass of its `Loss`.
    steps: Updates in the run.
    batch_size: Sequences per update, over all devices and microbatches.
    accumulation: Microbatches that an update is summed from.
    seed: Of the parameters, the order of the data, and dropout.
    strategy: "jit" (the devices of `mesh`) or "pmap" (all devices of one
      process, each with a whole copy of the state).
    mesh: The devices of strategy "jit"; one by default.
    log_every: Steps between lines of training metrics.
    eval_every: Steps between validations; the last step always has one.
    eval_batches: Batches a validation; None for the whole split.
    checkpoint_every: Steps between checkpoints; the last step has one.
    keep: How many of the latest checkpoints stay, beside the best one.
    best_metric: The validation metric that chooses the best checkpoint, one of
      `loss.best`.
    sample: What is generated at the end.
    trackers: Services that also get the metrics of `metrics.jsonl`:
      "tensorboard", "wandb" (Weights & Biases), or both.
    debug: Checks every value inside the step: slow, but names a wrong one.
    start: Folder of a checkpoint in the Hugging Face layout, whose variables
      are the initial ones; None draws them. Nothing in the folder runs code.
  """

  model: nn.Module
  data: Any
  optimizer: Any = dataclasses.field(default_factory=AdamW)
  loss: Loss = dataclasses.field(default_factory=NextToken)
  steps: int = 1000
  batch_size: int = 32
  accumulation: int = 1
  seed: int = 0
  strategy: str = "jit"
  mesh: Mesh = dataclasses.field(default_factory=Mesh)
  log_every: int = 10
  eval_every: int = 100
  eval_batches: int | None = None
  checkpoint_every: int = 100
  keep: int = 2
  best_metric: str = "loss"
  sample: Sample = dataclasses.field(default_factory=Sample)
  trackers: tuple[str, ...] = ()
  debug: bool = False
  start: str | None = None


def check_types(config: Config) -> None:
  """Raises a UserError that names the first field of a wrong type."""
  annotations.check(config, "config")
  optimizer = config.optimizer
  _check(
    serialize.is_config(optimizer)
    and callable(getattr(optimizer, "transformation", None)),
    "optimizer",
    optimizer,
    "one of train.config, such as AdamW(), or another dataclass with"
    " transformation(steps)",
  )
  annotations.check(optimizer, "config.optimizer")
  is_open = callable(getattr(config.data, "open", None))
  wanted = "one of train.data, or another object with open(split)"
  _check(
    is_open and not isinstance(config.data, type), "data", config.data, wanted
  )


def _is_text(text: str) -> bool:
  """Says whether a text has bytes; some of a command line are surrogates."""
  try:
    text.encode("utf-8", "surrogateescape")
  except UnicodeEncodeError:
    return False
  return True


def _check_model(value: Any, prefix: str) -> None:
  """Checks sizes and dtypes among the fields of a model, inner ones too."""
  if isinstance(value, tuple | list):
    value = dict(enumerate(value))
  is_mapping = isinstance(value, Mapping)
  fields = value if is_mapping else serialize.config_fields(value)
  for name, inner in fields.items():
    key = f"{prefix}.{name}"
    if isinstance(inner, Mapping | tuple | list) or serialize.is_config(inner):
      _check_model(inner, key)
    if isinstance(inner, int):
      _check(abs(inner) <= MOST, key, inner, f"at most {MOST}")
    if str(name) not in ("dtype", "param_dtype"):
      continue
    dtype = serialize.dtype_name(inner)
    if dtype is None:
      continue
    is_real = jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    _check(is_real, key, dtype, "a floating-point dtype")
    _check(
      jax.dtypes.canonicalize_dtype(dtype) == jnp.dtype(dtype),
      key,
      dtype,
      "of at most 32 bits, or JAX_ENABLE_X64=1 set in the environment",
    )


def _check_mesh(config: Config) -> None:
  sizes = dataclasses.asdict(config.mesh)
  for name, size in sizes.items():
    wanted = "positive, or -1 for the rest of the devices"
    _check(size > 0 or size == -1, f"mesh.{name}", size, wanted)
  rests = [name for name, size in sizes.items() if size == -1]
  if len(rests) > 1:
    wanted = f"positive, since config.mesh.{rests[0]} is -1 already"
    _check(False, f"mesh.{rests[1]}", -1, wanted)
  for name, size in sizes.items():
    wanted = f'1 under config.strategy={config.strategy}; a mesh needs "jit"'
    _check(config.strategy == "jit" or size == 1, f"mesh.{name}", size, wanted)
  field = getattr(config.model, "axis_name", None)
  _check(
    field is None,
    "model.axis_name",
    field,
    "None: config.mesh.sequence sets it",
  )


def layout(config: Config, available: int, processes: int = 1) -> Mesh:
  """Returns how many devices a run has along each axis, with no -1 left.

  Args:
    config: The run.
    available: Devices there are.
    processes: That have them. Each must take part, so that several need a
      mesh of all devices.

  Raises:
    UserError: They cannot be laid out as the config says.
  """
  _check_mesh(config)
  if config.strategy != "jit":
    wanted = f'"jit" with a mesh, since there are {processes} processes'
    _check(processes == 1, "strategy", config.strategy, wanted)
    return Mesh(data=available)
  sizes = dataclasses.asdict(config.mesh)
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if available % fixed:
    given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise UserError(
      f"config.mesh is {given}, which makes {fixed} devices, but must divide"
      f" the {available} there are; change one, or set one to -1 for the rest"
    )
  rest = available // fixed
  sizes = {k: rest if v == -1 else v for k, v in sizes.items()}
  count = math.prod(sizes.values())
  if processes > 1 and count < available:
    raise UserError(
      f"config.mesh has {count} of the {available} devices of {processes}"
      " processes, but must have all: set config.mesh.data=-1, or another axis"
    )
  return Mesh(**sizes)


def idle_line(config: Config, mesh: Mesh, available: int) -> str | None:
  """Returns a line on idle devices, and the flag that would use them.

  Args:
    config: The run.
    mesh: Devices along each axis, of `layout`.
    available: Devices there are.

  Returns:
    The line; None where all have work.
  """
  idle = available - math.prod(dataclasses.astuple(mesh))
  if idle <= 0:
    return None
  sharing = available // mesh.sequence * config.accumulation
  line = f"{idle} of {available} devices are idle: --mesh.data=-1 uses"
  line = f"{line} all of them"
  if config.batch_size % sharing:
    line += f", with a config.batch_size that {sharing} divides"
  return line


def check_sample(sample: Sample, prefix: str = "config.sample.") -> None:
  """Raises a UserError that names the first setting that is wrong.

  Args:
    sample: The settings.
    prefix: What stands before their names where the user has set them.
  """

  def check(condition: bool, key: str, wanted: str) -> None:
    if not condition:
      value = shown(getattr(sample, key))
      name = key.replace("_", "-") if prefix == "--" else key
      raise UserError(f"{prefix}{name} is {value}, but must be {wanted}")

  temperature, top_k = as_float32(sample.temperature), sample.top_k
  check(_is_text(sample.prompt), "prompt", "text that UTF-8 can hold")
  check(is_count(sample.length, 0), "length", f"0 to {MOST}")
  check(
    sample.temperature == 0 or LEAST <= temperature < math.inf,
    "temperature",
    "0, or more and finite in float32",
  )
  check(top_k is None or is_count(top_k), "top_k", f"1 to {MOST}, or None")
  check(
    sample.top_p is None or 0 < sample.top_p <= 1,
    "top_p",
    "more than 0 and at most 1, or None",
  )


def validate(
  config: Config,
  *,
  devices: int = 1,
  processes: int = 1,
) -> Mesh:
  """Checks every value of a config that can be wrong.

  Args:
    config: The config.
    devices: Devices there are, of all processes.
    processes: How many these are.

  Returns:
    How many devices the run has along each axis.

  Raises:
    UserError: Names the first key that is wrong, its value, and what it
      must be.
  """
  check_types(config)
  counts = ("batch_size", "accumulation", "log_every", "eval_every")
  wanted = f"1 to {MOST}"
  for key in (*counts, "checkpoint_every", "keep", "steps"):
    count = getattr(config, key)
    _check(is_count(count), key, count, wanted)
  batches, seed = config.eval_batches, config.seed
  _check(
    batches is None or is_count(batches),
    "eval_batches",
    batches,
    f"{wanted}, or None",
  )
  _check(0 <= seed <= MOST_SEED, "seed", seed, f"0 to {MOST_SEED}")
  # Another dataclass checks its own fields.
  if isinstance(config.optimizer, Optimizer):
    config.optimizer.check()
  _check_model(config.model, "model")
  check_sample(config.sample)
  for key, options in (
    ("strategy", STRATEGIES),
    ("best_metric", tuple(config.loss.best)),
  ):
    value = getattr(config, key)
    _check(value in options, key, value, "one of " + ", ".join(options))
  for name in config.trackers:
    _check(name in TRACKERS, "trackers", name, f"one of {', '.join(TRACKERS)}")
  mesh = layout(config, devices, processes)
  sharing = mesh.data * mesh.fsdp
  _check(
    config.batch_size % (config.accumulation * sharing) == 0,
    "batch_size",
    config.batch_size,
    f"divisible by accumulation ({config.accumulation}) times the devices that"
    f" share a batch ({sharing})",
  )
  return mesh


def check_data(
  config: Config, mesh: Mesh, vocab_size: int | None, length: int
) -> None:
  """Checks that the data fit a config.

  Args:
    config: The config.
    mesh: Devices along each axis.
    vocab_size: Of the data; None if they are no tokens, or not known.
    length: Tokens per sequence.

  Raises:
    UserError: Names the key that is wrong, its value, and what it must be.
  """
  _check(
    length % mesh.sequence == 0,
    "mesh.sequence",
    mesh.sequence,
    f"a divisor of the {length} tokens of a sequence: change it, or the length"
    " of the data",
  )
  model_size = getattr(config.model, "vocab_size", None)
  if vocab_size is not None and model_size is not None:
    _check(
      model_size >= vocab_size,
      "model.vocab_size",
      model_size,
      f"at least the {vocab_size} tokens of the data",
    )
