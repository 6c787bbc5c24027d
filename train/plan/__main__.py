"""Plans a run on TPUs or GPUs that are not there.

  python -m train.plan configs/NAME.py --topology v5e:16x16
  python -m train.plan configs/NAME.py --topology h100:4x8

compiles the training step of the config for a TPU v5e, v5p or v6e slice of any
shape (`pip install jaxmodels[aot]`), or for NVIDIA A100, H100, H200 or B200
GPUs of one host (h100:8) or several (hosts x GPUs per host); these need
`jaxmodels[gpu-aot]`. `--FIELD VALUE` overrides a field. The command prints the
bytes per chip, whether they fit, the collectives between chips, the flops, and
on GPUs the kernels that a step launches. `--json=FILE` also writes these as
JSON; `--json=-` prints only the JSON. If the step does not fit, the command
tries other layouts of the same run, prints the flags of the first that fits,
and exits with code 1. A config with the default mesh is planned for the whole
slice, as with `--mesh.data=-1`.

Collectives are counted per execution: one that a step runs three times counts
three times, each time with the bytes of all arrays that are gathered, reduced
or passed on. A collective in a loop counts once if the compiled program does
not give the loop's number of iterations.
"""

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxmodels.analysis.chips import EXAMPLES
from jaxmodels.analysis.flops import unknown_line
from train.command import main_with_errors, warn
from train.config import Config, Mesh, command_line
from train.config.start import resolved
from train.devices.memory import readable
from train.errors import UserError
from train.files import paths
from train.plan.compile import Plan, plan
from train.streams import emit

# Compiling a large model takes minutes.
_TRIES = 6
_DEFAULT = (
  "the mesh is the default, so the sequences are split over all chips:"
  " --mesh.data=-1 (--mesh.data=1 plans for one chip)"
)


def document(made: Plan) -> dict[str, Any]:
  """Returns a plan as JSON: bytes, seconds, and flops per step of all chips."""
  kinds: dict[str, dict[str, int]] = {}
  for one in made.collectives or ():
    sums = kinds.setdefault(one.kind, {"count": 0, "bytes": 0})
    sums["count"] += one.times
    sums["bytes"] += one.times * one.size
  memory = {**dataclasses.asdict(made.memory), "total": made.memory.total}
  return {
    "topology": made.topology,
    "mesh": dataclasses.asdict(made.mesh),
    "parameters": made.parameters,
    "tokens_per_step": made.tokens,
    "bytes_per_chip": memory,
    "fits": made.fits,
    "collectives_per_step": None if made.collectives is None else kinds,
    "flops_per_step": dataclasses.asdict(made.flops),
    "expected_cycles_per_step": made.cycles,
    "launches_per_step": made.launches,
    "compile_seconds": made.compile_seconds,
  }


def table(made: Plan) -> str:
  """Returns a plan as text."""
  mesh = dataclasses.asdict(made.mesh).items()
  lines = [
    f"{made.parameters:,} parameters on {made.topology}"
    f" ({', '.join(f'{name} {size}' for name, size in mesh)}),"
    f" {made.tokens:,} tokens per step",
    "",
    *_memory_lines(made),
    "",
    *_collective_lines(made),
    "",
    *_flops_lines(made),
    "",
    *_compiler_lines(made),
    f"compiled in {made.compile_seconds:.0f} s",
  ]
  return "\n".join(lines)


def _memory_lines(made: Plan) -> list[str]:
  memory = made.memory
  rows = [
    ("parameters", memory.parameters),
    ("optimizer", memory.optimizer),
    ("batch", memory.batch),
    *([("teacher", memory.teacher)] if memory.teacher else []),
    ("temporary (activations, gradients)", memory.temporary),
    ("program", memory.program),
    ("total", memory.total),
    ("chip", memory.chip),
  ]
  if memory.default < memory.chip:
    rows.append(("JAX's default", memory.default))
  lines = [f"{name:34} {readable(size):>12}" for name, size in rows]
  return [f"{'memory per chip':34}", *lines, _verdict(made)]


def _verdict(made: Plan) -> str:
  memory = made.memory
  if not made.fits or memory.total is None:
    return "it does NOT fit"
  if memory.total <= memory.default:
    return "it fits"
  share = math.ceil(100 * memory.total / memory.chip) / 100
  return (
    "it fits, but not into the memory that JAX takes by default: set"
    f" XLA_CLIENT_MEM_FRACTION={share:.2f} or more"
  )


def _collective_lines(made: Plan) -> list[str]:
  kinds = document(made)["collectives_per_step"]
  if kinds is None:
    return ["collectives unknown"]
  if not kinds:
    return ["no collectives"]
  return [
    f"{'collectives per step':34} {'count':>12} {'bytes':>12}",
    *(
      f"{kind:34} {sums['count']:12,} {readable(sums['bytes']):>12}"
      for kind, sums in sorted(kinds.items())
    ),
  ]


def _flops_lines(made: Plan) -> list[str]:
  flops = made.flops
  rows = [
    ("6 x parameters x tokens", flops.six_n),
    ("model (with mixers, no remat)", flops.model),
    ("program (as traced, with remat)", flops.program),
  ]
  lines = [f"{'flops per step':34} {'':>12} {'s at peak':>12}"]
  for name, number in rows:
    lines.append(f"{name:34} {number:12.3e} {number / flops.peak:12.3f}")
  if flops.unknown:
    lines.append(unknown_line(flops.unknown))
  return lines


def _compiler_lines(made: Plan) -> list[str]:
  """Returns the line of what the compiler tells of a chip's work.

  Cycles are not converted to seconds: the estimate only compares plans for the
  same chip.
  """
  lines = []
  if made.cycles is not None:
    name = "cycles per step, by the compiler"
    lines += [f"{name:34} {made.cycles:12.3e}", ""]
  if made.launches is not None:
    lines += [f"{'launches per step and GPU':34} {made.launches:12,}", ""]
  return lines


def changes(config: Config, made: Plan) -> Iterator[list[str]]:
  """Yields flags that make a step smaller, the mildest first.

  The changes that cost least come first, each by itself: recomputation, then
  parameters sharded over more chips. Then both are combined with smaller
  microbatches and with sharded sequences. The batch per update stays the same.

  Args:
    config: The run that does not fit.
    made: Its plan.
  """
  mesh = made.mesh
  remat: dict[str, Any] = {}
  stronger = {"none": ("dots", "full"), "dots": ("full",)}
  for policy in stronger.get(getattr(config.model, "remat", ""), ()):
    remat = {"model.remat": policy}
    yield _flags(remat)
  shared: dict[str, Any] = {}
  if mesh.data > 1:
    shared = _mesh(1, mesh.fsdp * mesh.data, mesh.sequence)
    yield _flags(shared)
  sharing = mesh.data * mesh.fsdp
  most = config.batch_size // sharing
  if most > config.accumulation:
    yield _flags({**remat, **shared, "accumulation": most})
  pieces = 2
  while sharing % pieces == 0 and hasattr(config.model, "axis_name"):
    own = config.batch_size * pieces // sharing
    yield _flags(
      {
        **remat,
        **_mesh(1, sharing // pieces, mesh.sequence * pieces),
        "accumulation": own,
      }
    )
    pieces *= 2


def _mesh(data: int, fsdp: int, sequence: int) -> dict[str, int]:
  return {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.sequence": sequence}


def _flags(values: dict[str, Any]) -> list[str]:
  return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def suggest(config: Config, made: Plan) -> tuple[list[str], Plan] | None:
  """Searches for a change that makes the step fit.

  Args:
    config: The run that does not fit.
    made: Its plan.

  Returns:
    The first of `changes` that fits, as flags, and its plan; None if none of
    the first few does.
  """
  for words in itertools.islice(changes(config, made), _TRIES):
    try:
      other = plan(command_line.override(config, words), made.topology)
    except UserError as error:
      warn(f"not {' '.join(words)}: {error}")
      continue
    needs = readable(other.memory.total)
    warn(f"tried {' '.join(words)}: {needs} per chip")
    if other.fits:
      return words, other
  return None


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command that are not part of the config.

  Attributes:
    topology: The slice, such as v5e:16x16 or h100:4x8.
    json: The file for the plan as JSON; "-" prints the JSON alone.
  """

  topology: str | None = None
  json: str | None = None


def _run(argv: Sequence[str]) -> int:
  usage = "python -m train.plan configs/NAME.py --topology SLICE ..."
  config, (options,) = command_line.read(argv, (Options(),), usage, __doc__)
  config = resolved(config)
  topology, output = options.topology, options.json
  if topology is None:
    raise UserError(f"--topology=SLICE is missing, such as {EXAMPLES}")
  if output not in (None, "-"):
    # Checked before compilation, which takes minutes.
    output = paths.check_output("--json", output)
  given = any(word.startswith("--mesh.") for word in argv)
  is_default = not given and config.mesh == Mesh() and config.strategy == "jit"
  if is_default:
    config = dataclasses.replace(config, mesh=Mesh(data=-1))
  # Programs for other machines are traced on the CPU, also on one with a GPU.
  jax.config.update("jax_platforms", "cpu")
  try:
    made = plan(config, topology)
  except UserError as error:
    if is_default and "config.batch_size" in str(error):
      raise UserError(f"{error}; {_DEFAULT}") from error
    raise
  if is_default:
    (warn if output == "-" else emit)(_DEFAULT)
  if output != "-":
    emit(table(made))
  found = None if made.fits else suggest(config, made)
  whole = document(made)
  if not made.fits:
    whole["suggestion"] = found and {"flags": found[0], **document(found[1])}
  if output == "-":
    emit(json.dumps(whole, indent=2))
  else:
    _emit_suggestion(made, found)
  if output not in (None, "-"):
    paths.write("--json", output, json.dumps(whole, indent=2).encode())
  return 0 if made.fits else 1


def _emit_suggestion(made: Plan, found: tuple[list[str], Plan] | None) -> None:
  """Prints the suggested layout, if the plan does not fit."""
  if made.fits:
    return
  if found is None:
    emit("\nnone of the layouts that were tried fits: use more chips, fewer")
    emit("sequences per update, or a smaller model")
  else:
    emit(f"\nthis fits: {' '.join(found[0])}\n\n{table(found[1])}")


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
