"""Trains: `python -m train --config=configs/NAME.py --workdir=runs/NAME`.

Any field of the config is a flag, such as `--config.model.width=256`. The
same command again resumes. Many devices: `--config.mesh.data=-1` gives each
other sequences, `--config.mesh.fsdp=2` cuts parameters and `.sequence=2`
sequences too. Several processes, one a host: start the same command on each
with `--distributed`; train/LAUNCHING.md says how.

`--profile_steps=10,20` writes a trace of steps 10 to 19, numbered as in
`metrics.jsonl`, to `profile/` in the workdir.
"""

import os
import sys
from collections.abc import Sequence

from train import distributed, flags, processes
from train.command import main_with_errors
from train.config import Config
from train.errors import UserError
from train.generate import continuation
from train.loop import Result, run
from train.report import write_report


def _run(argv: Sequence[str]) -> int:
  if any(word in ("-h", "--help") for word in argv):
    print(__doc__)
    return 0
  options, argv = distributed.parse(argv)
  with distributed.joined(options):
    command = flags.parse(argv)
    result = run(command.config, command.workdir, command.profile_steps)
  if result.signal is not None:
    return 128 + result.signal
  if processes.is_first():
    _finish(command.config, command.workdir, result)
  return 0


def _finish(config: Config, workdir: str, result: Result) -> None:
  """Says what the run came to, and shows it."""
  bits = result.metrics["bits_per_token"]
  print(f"\nvalidation after {result.step} steps:")
  print(f"  this model   {bits:.3f} bits a token")
  for name, value in result.baselines.items():
    print(f"  {name:12} {value:.3f}")
  print(f"  accuracy     {result.metrics['accuracy']:.2%}")
  if config.sample.length:
    prompt = config.sample.prompt
    print(f"\nsample, after {prompt!r}:")
    pieces = continuation(config, result.params, prompt.encode(), config.sample)
    try:
      for text in pieces:
        print(text, end="", flush=True)
    except UserError as error:
      # The run is complete all the same, and gets its report.
      print(f"none: {error}", end="")
    print()
  report = os.path.join(workdir, "report.png")
  write_report([workdir], report)
  print(f"\ncurves in {report}, numbers in {workdir}/metrics.jsonl")


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
