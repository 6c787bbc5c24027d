"""The parts that several runs may share, the writer, and lines at the start."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

from jaxmodels.models.lora import FROZEN
from jaxmodels.models.model_flops import share_of_peak
from jaxmodels.models.sizing import state_bytes
from train import trackers
from train.clock import Clock
from train.config import Config, Mesh, idle_line, serialize
from train.data import baselines
from train.data.dataset import sequence_length
from train.devices import processes
from train.metrics import MetricsWriter, NoWriter
from train.parameters import parameter_table
from train.setup import Shared
from train.step import counted_inputs


@dataclasses.dataclass
class Parts:
  """Data, programs and measurements that several runs may share.

  Attributes:
    shared: Data and programs.
    baselines: Returns the results of simple methods on the data, in bits.
    share_of_peak: See `jaxmodels.models.model_flops.share_of_peak`.
    clocks: The clocks of the runs that take turns.
    compile_seconds: Seconds that the step was compiled in before the runs
      started; None if their first steps compile it.
  """

  shared: Shared
  baselines: Callable[[], Mapping[str, float]]
  share_of_peak: Callable[[], float | None]
  clocks: list[Clock] = dataclasses.field(default_factory=list)
  compile_seconds: float | None = None


def make_parts(
  config: Config, shared: Shared, log: Callable[[str], None]
) -> Parts:
  """Returns the parts of one run, or of runs that take turns.

  Args:
    config: The config of any of the runs.
    shared: What `share` returned for it.
    log: Takes lines for the user.
  """

  def peak() -> float | None:
    return share_of_peak(
      config.model,
      shared.shapes.params,
      sequence_length(shared.train, shared.first),
      shared.strategy.devices,
      log,
      inputs=counted_inputs(shared.first["inputs"]),
      collections=shared.shapes.variables,
    )

  reference = functools.cache(
    lambda: baselines(shared.train, shared.validation)
  )
  return Parts(shared, reference, functools.cache(peak))


def model_sizes(config: Config, shared: Shared) -> dict[str, float]:
  """The sizes of a model, which are written at the start of a run.

  Args:
    config: The run.
    shared: Its programs.

  Returns:
    "parameters", their number; and "state_bytes" of one sequence, where the
    model has a state.
  """
  leaves = jax.tree.leaves(shared.shapes.params)
  sizes = {"parameters": sum(x.size for x in leaves)}
  # A user's own model may raise any error.
  with contextlib.suppress(Exception):
    sizes["state_bytes"] = state_bytes(config.model)
  return sizes


def make_writer(
  config: Config, workdir: str, name: str = ""
) -> MetricsWriter | NoWriter:
  """Returns the writer of a run's metrics, which only process 0 has.

  Args:
    config: The run.
    workdir: Its directory.
    name: See `MetricsWriter`.

  Raises:
    UserError: The package of a tracker is not installed.
  """
  processes.on_process_zero(lambda: trackers.require(config.trackers))
  if not processes.is_first():
    return NoWriter()
  document = serialize.to_json(config)
  found = trackers.openers(config.trackers, workdir, document)
  return MetricsWriter(
    workdir, total_steps=config.steps, trackers=found, name=name
  )


def first_lines(config: Config, mesh: Mesh, shared: Shared) -> list[str]:
  """Says what a run trains, and on which devices.

  Args:
    config: The run.
    mesh: Devices along each axis, of `validate`.
    shared: Its programs.
  """
  lines = [parameter_table(shared.shapes.params)]
  frozen = jax.tree.leaves(shared.shapes.variables.get(FROZEN, {}))
  if frozen:
    lines.append(f"{sum(x.size for x in frozen):,} frozen parameters")
  lines.append(_layout_line(config, mesh))
  idle = idle_line(config, mesh, jax.device_count())
  return lines if idle is None else [*lines, idle]


def _layout_line(config: Config, mesh: Mesh) -> str:
  """Says how an update is divided over devices and microbatches."""
  sharing = mesh.data * mesh.fsdp
  own = config.batch_size // (sharing * config.accumulation)
  sizes = dataclasses.asdict(mesh).items()
  return (
    f"devices {sharing * mesh.sequence}"
    f" ({', '.join(f'{name} {size}' for name, size in sizes)}),"
    f" sequences per update {config.batch_size}, microbatches"
    f" {config.accumulation}, sequences per device and microbatch {own}"
  )


def start_line(config: Config, workdir: str, step: int, evaluated: bool) -> str:
  """Says where a run starts.

  Args:
    config: The run.
    workdir: Its directory.
    step: Updates done.
    evaluated: Whether the state after them was evaluated.
  """
  if step == config.steps and evaluated:
    return f"the run in {workdir} is complete, at step {step}"
  if step:
    return f"resuming at step {step} of {config.steps} in {workdir}"
  return f"training {config.steps} steps in {workdir}"
