"""Compiles the training step of a config for devices that are not attached."""

import dataclasses
import math
import re
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxmodels.analysis import flops
from jaxmodels.analysis.chips import SLICES, Chip, slice_devices
from jaxmodels.analysis.collectives import Collective, collectives
from jaxmodels.analysis.cycles import expected_cycles
from jaxmodels.analysis.launches import launches
from jaxmodels.models.model_flops import model_flops
from jaxmodels.ops.engine.platform import trace_for
from train import teacher as teachers
from train.config import MOST, Config, check_data, validate
from train.config import schema as configs
from train.data.dataset import example, length_of, sequence_arrays
from train.data.opening import open_split
from train.devices.mesh import batch_specs, check_pieces, on_mesh
from train.devices.parameter_use import layer_axes
from train.devices.strategy import Strategy, make_strategy
from train.errors import RunError, UserError, one_line
from train.losses import NextToken
from train.setup import make_learner, new_state
from train.state import TrainState
from train.step import counted_inputs

# The arrays of examples of tokens.
TOKENS = {
  "inputs": np.int32,
  "targets": np.int32,
  "weights": np.float32,
  "segment_ids": np.int32,
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The compiler's messages about a program that needs too much memory.
_NEEDED = re.compile(r"(?:HLO temporaries \(|[Uu]sed )([\d.]+)([KMGT]?)B?\b")


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes per chip.

  Attributes:
    parameters: The chip's shards of the parameters.
    optimizer: The chip's shards of the rest of the state: moments, counters,
      the key.
    batch: The chip's shard of a batch.
    temporary: Memory that the step allocates while it runs: activations kept
      for the backward pass, gradients, gathered parameters, buffers. The
      compiler's number; None if the compiler gave none.
    program: The code, and results that do not reuse an argument's memory.
    chip: Memory of the chip that a program may use.
    default: The part of `chip` that JAX uses by default.
    teacher: The chip's shards of the variables of a loss's teacher.
  """

  parameters: int
  optimizer: int
  batch: int
  temporary: int | None
  program: int
  chip: int
  default: int
  teacher: int = 0

  @property
  def total(self) -> int | None:
    """The sum of all parts; None if `temporary` is unknown."""
    if self.temporary is None:
      return None
    held = self.parameters + self.optimizer + self.batch + self.teacher
    return held + self.temporary + self.program


@dataclasses.dataclass(frozen=True)
class Flops:
  """Floating-point operations per step of all chips.

  Attributes:
    six_n: 6 times parameters times tokens (Kaplan et al. 2020).
    model: See `jaxmodels.models.model_flops`.
    program: Flops of the traced step, recomputation included (see
      `jaxmodels.analysis.flops`).
    peak: Peak flops per second of all chips.
    unknown: Primitives of unknown flops in the step, which count as
      elementwise (see `jaxmodels.analysis.flops.Flops`), in order.
  """

  six_n: float
  model: float
  program: float
  peak: float
  unknown: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Plan:
  """Memory, collectives and flops of a compiled step.

  Attributes:
    topology: The slice.
    mesh: Devices along each axis, none of them -1.
    tokens: Tokens per step.
    parameters: Number of parameters.
    memory: Bytes per chip.
    fits: Whether the total is at most the memory of a chip.
    collectives: Collectives per step; None if the step does not compile, or its
      text cannot be read.
    flops: Flops per step.
    cycles: Cycles per chip and step that the compiler for TPUs estimates: see
      `jaxmodels.analysis.cycles`; None on a GPU, or as `collectives`.
    launches: Launches per GPU and step, see `jaxmodels.analysis.launches`; None
      on a TPU, or as `collectives`.
    compile_seconds: Seconds until the compiler finished or refused.
  """

  topology: str
  mesh: configs.Mesh
  tokens: int
  parameters: int
  memory: Memory
  fits: bool
  collectives: Sequence[Collective] | None
  flops: Flops
  cycles: int | None
  launches: int | None
  compile_seconds: float


def plan(config: Config, topology: str) -> Plan:
  """Compiles the step that training runs, without arrays, for a slice.

  Args:
    config: The run. Only the sequence length is read from its data.
    topology: The slice, such as "v5e:16x16" or "h100:4x8".

  Raises:
    UserError: The config or the topology is wrong, or the compiler is missing.
    RunError: The compiler refuses the step for another reason than memory.
  """
  try:
    devices = slice_devices(topology)
  except ValueError as error:
    raise UserError(one_line(f"--topology={error}")) from error
  except ModuleNotFoundError as error:
    raise UserError(str(error)) from error
  chip = SLICES[topology.partition(":")[0]]
  first, sequence = example_of(config)
  length = length_of(first, sequence)
  mesh = validate(config, devices=len(devices))
  check_data(config, mesh, None, length)
  if config.strategy != "jit":
    raise UserError(
      f"config.strategy is {config.strategy!r}, but only 'jit' can be planned"
    )
  learner = make_learner(config)._replace(sequence=sequence)
  with trace_for(chip.platform, capability=chip.capability):
    draw, state = new_state(config, learner, first)
    learner = learner._replace(layers=layer_axes(draw, np.uint32(0)))
    if learner.teacher is not None:
      learner = teachers.checked(learner, mesh, state, first, devices)
    variables = {"params": state.params, **state.variables}
    check_pieces(
      mesh, learner.model, variables, first["inputs"], devices, sequence
    )
    strategy = make_strategy("jit", learner, mesh=mesh, devices=devices)
    batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype),
      first,
    )
    arguments = lay_out(strategy, state, batch, sequence)
    # The step is a jitted function; the type of a strategy does not show that.
    step: Any = strategy.step
    traced = step.trace(*arguments)
  begun = time.perf_counter()
  compiled, needed = None, None
  # Compiling a step that is far too large takes long and fails.
  teacher = strategy.frozen.shapes if strategy.frozen else ()
  if _bytes((arguments, teacher)) <= chip.memory:
    compiled, needed = _compile(traced.lower())
  seconds = time.perf_counter() - begun
  memory = _memory(arguments, compiled, needed, chip)
  memory = dataclasses.replace(memory, teacher=_bytes(teacher))
  total = memory.total
  used = math.prod(dataclasses.astuple(mesh))
  text = _text(compiled) if compiled else ""
  is_gpu = chip.platform == "gpu"
  return Plan(
    topology=topology,
    mesh=mesh,
    tokens=config.batch_size * length,
    parameters=_count(state.params),
    memory=memory,
    fits=compiled is not None and total is not None and total <= chip.memory,
    collectives=collectives(text) if text else None,
    flops=_flops(config, state, first, length, traced, chip.peak * used),
    cycles=expected_cycles(text) if text and not is_gpu else None,
    launches=launches(text) if text and is_gpu else None,
    compile_seconds=seconds,
  )


def example_of(config: Config) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns the shapes of an example, and the names of its sequences.

  Tokens with a field `length` are not opened. Other data are opened for their
  first example.
  """
  length = getattr(config.data, "length", None)
  if isinstance(length, int) and type(config.loss) is NextToken:
    if not 1 <= length <= MOST:
      raise UserError(
        f"config.data.length is {length}, but must be 1 to {MOST}"
      )
    tokens = {
      name: jax.ShapeDtypeStruct((length,), dtype)
      for name, dtype in TOKENS.items()
    }
    return tokens, tuple(tokens)
  train = open_split(config.data, "train")
  first = example(train, 0)
  return jax.eval_shape(lambda: dict(first)), sequence_arrays(train, first)


def lay_out(
  strategy: Strategy,
  state: TrainState,
  batch: Mapping[str, Any],
  sequence: Container[str] | None = None,
) -> tuple[Any, Any]:
  """Returns the shapes of a state and a batch, with their shardings.

  Args:
    strategy: The strategy, on one device or a mesh.
    state: The shapes of the state.
    batch: The shapes of a batch.
    sequence: See `train.step.Learner`.
  """
  where = strategy.place(state)
  first = jax.tree.leaves(where)[0]
  where_batch: Any = jax.tree.map(lambda _: first, dict(batch))
  if isinstance(first, NamedSharding):
    where_batch = on_mesh(first.mesh, batch_specs(batch, sequence))

  def lying(x: Any, where: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return (
    jax.tree.map(lying, state, where),
    jax.tree.map(lying, dict(batch), where_batch),
  )


def _compile(lowered: Any) -> tuple[Any, int | None]:
  """Compiles a program.

  Returns:
    The program and None. If it needs too much memory: None and the bytes of
    temporary memory that it needs, None if unknown.
  """
  try:
    return lowered.compile(), None
  except jax.errors.JaxRuntimeError as error:
    text = one_line(error)
    if "RESOURCE_EXHAUSTED" not in text:
      raise RunError(f"the step does not compile: {text[:500]}") from error
  found = _NEEDED.search(text)
  return None, found and round(float(found[1]) * _UNITS[found[2]])


def _text(compiled: Any) -> str:
  """A program's text; "" where this version of XLA fails to write it.

  It fails for some programs of v5p and v6e, with "async-update instruction
  should have 1 operands" (JAX 0.10.2).
  """
  try:
    return compiled.as_text()
  except jax.errors.JaxRuntimeError:
    return ""


def _memory(
  arguments: tuple[Any, Any], compiled: Any, needed: int | None, chip: Chip
) -> Memory:
  state, batch = arguments
  parameters = _bytes(state.params)
  temporary, program = needed, 0
  if compiled is not None:
    found = compiled.memory_analysis()
    temporary = found.temp_size_in_bytes
    program = found.generated_code_size_in_bytes
    program += found.output_size_in_bytes - found.alias_size_in_bytes
  return Memory(
    parameters=parameters,
    optimizer=_bytes(state) - parameters,
    batch=_bytes(batch),
    temporary=temporary,
    program=program,
    chip=int(chip.memory),
    default=int(chip.default_memory),
  )


def _bytes(tree: Any) -> int:
  """Returns the bytes per chip of sharded arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _count(tree: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def _flops(
  config: Config,
  state: TrainState,
  example: Mapping[str, Any],
  length: int,
  traced: Any,
  peak: float,
) -> Flops:
  tokens = config.batch_size * length
  model = model_flops(
    config.model,
    state.params,
    length,
    inputs=counted_inputs(example["inputs"]),
    collections=state.variables,
  )
  program = flops.of_jaxpr(traced.jaxpr.jaxpr)
  return Flops(
    six_n=6.0 * _count(state.params) * tokens,
    model=model.per_token * tokens,
    program=program.total,
    peak=peak,
    unknown=sorted(model.unknown | program.unknown),
  )
