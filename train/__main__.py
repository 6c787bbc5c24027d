"""Trains: `python -m train configs/NAME.py --workdir runs/NAME`.

Any field of the config is a flag, such as `--model.width 256`. The same command
again resumes. On many devices, `--mesh.data -1` splits the batch over them,
`--mesh.fsdp 2` also shards the parameters, and `--mesh.sequence 2` also shards
the sequences. For several processes, one per host, start the same command with
`--distributed` on each host: see train/LAUNCHING.md.

A run resumes only with the data that it started with; `--new-data` allows other
data. `--profile-steps 10,20` writes a trace of steps 10 to 19, numbered
as in `metrics.jsonl`, to `profile/` in the workdir.

`--replicas 8` trains eight seeds in one process, each in a folder of its own,
and `--replica-rates 1e-3 3e-3` trains them with each of these learning rates:
see train/REPLICAS.md.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from train import replicas
from train.command import explain, main_with_errors, warn
from train.config import Config, command_line
from train.config.command_line import Command
from train.devices import distributed, processes
from train.errors import RunError, UserError
from train.generate import continuation
from train.loop import run
from train.metrics import FILE_NAME
from train.replicas import choice
from train.report import write_report
from train.result import Result
from train.streams import log
from train.summary import NOT_LISTED, final_values, markdown


def _run(argv: Sequence[str]) -> int:
  options, argv = distributed.parse(argv)
  with distributed.process_group(options):
    command = command_line.parse(argv, (distributed.Processes(),), __doc__)
    processes.start_jax()
    if command.replicas is not None or command.replica_rates:
      return _run_replicas(command)
    if os.path.lexists(os.path.join(command.workdir, choice.FILE_NAME)):
      raise UserError(
        f"{command.workdir} holds replicas: add --replicas N, or give another"
        " --workdir"
      )
    result = run(
      command.config,
      command.workdir,
      command.profile_steps,
      source=command.source,
      new_data=command.new_data,
    )
  if result.signal is not None:
    return 128 + result.signal
  if processes.is_first():
    _finish(command.config, command.workdir, result)
  return 0


def _run_replicas(command: Command) -> int:
  """Trains replicas, draws their curves, and prints their final values."""
  workdir = command.workdir
  found = replicas.run(
    replicas.replicas_of(
      command.config,
      1 if command.replicas is None else command.replicas,
      command.replica_rates,
    ),
    workdir,
    command.replica_mode,
    command.profile_steps,
    source=command.source,
    new_data=command.new_data,
  )
  if found.signal is not None:
    return 128 + found.signal
  folders = [os.path.join(workdir, name) for name in found.steps]
  report = os.path.join(workdir, "report.png")
  with _optional("report"):
    write_report(folders, report)
    log(f"\n{markdown(final_values(folders))}\ncurves in {report}")
  if found.failures:
    name, reason = next(iter(found.failures.items()))
    count = f"{len(found.failures)} of {len(found.steps)} replicas"
    raise RunError(f"{count} failed; {name}: {reason}")
  return 0


def _finish(config: Config, workdir: str, result: Result) -> None:
  """Draws the curves of a complete run, and prints its summary and sample."""
  report = os.path.join(workdir, "report.png")
  where = f"numbers in {os.path.join(workdir, FILE_NAME)}"
  # The report comes first: sampling may be interrupted.
  with _optional("report"):
    write_report([workdir], report)
    where = f"curves in {report}, {where}"
  with _optional("summary"):
    _summarize(result)
  if config.sample.length:
    with _optional("sample"):
      _show_sample(config, result.variables)
  log(f"\n{where}")


@contextlib.contextmanager
def _optional(name: str) -> Iterator[None]:
  """Turns an error inside into a warning, since the run is complete."""
  line = f"warning: the run is complete, but not its {name}"
  try:
    yield
  except KeyboardInterrupt:
    warn(f"{line}: interrupted")
  except Exception as error:
    warn(f"{line}: {explain(error)[0]}")


def _summarize(result: Result) -> None:
  metrics = result.metrics
  log(f"\nvalidation after {result.step} steps:")
  if "bits_per_token" in metrics:
    # Baselines are in bits per byte.
    is_text = "bits_per_byte" in metrics
    unit = "bits_per_byte" if is_text else "bits_per_token"
    log(f"  this model   {metrics[unit]:.3f} {unit.replace('_', ' ')}")
    for name, value in result.baselines.items():
      log(f"  {name:12} {value:.3f}")
  else:
    for name in metrics:
      if name not in (*NOT_LISTED, "accuracy"):
        log(f"  {name.replace('_', ' '):12} {metrics[name]:.4g}")
  if "accuracy" in metrics:
    log(f"  accuracy     {metrics['accuracy']:.2%}")


def _show_sample(config: Config, variables: Any) -> None:
  prompt = config.sample.prompt
  log(f"\nsample, after {prompt!r}:")
  # Python decodes bytes of a command line that are not UTF-8 as surrogates.
  content = prompt.encode("utf-8", "surrogateescape")
  for text in continuation(config, variables, content, config.sample):
    log(text, end="")
  log("")


if __name__ == "__main__":
  sys.exit(main_with_errors(_run, needs_output=False))
