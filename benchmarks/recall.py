"""The frontier of recall and memory: accuracy against bytes of state.

  python -m benchmarks.recall --run     (trains what is not done)
  python -m benchmarks.recall           (reads the runs)

Each line of configs/tasks/recall_frontier.cells is one point: a mixer with one
size of its state. A point is trained with each learning rate of `--rates`, in
one process that compiles once, and the best rate counts. The first command may
be stopped at any time and repeated; with `--replicas 3` it adds seeds. Other
flags, such as `--data.data-dir DIR`, are those of the config. The second
command writes `recall.json`, `recall.png` and the table in `recall.md`, in
benchmarks/results.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxmodels import models
from jaxmodels.mixers.registry import make_module
from train.config import Config, command_line
from train.summary import Run
from train.sweep import cells
from train.sweep.cells import Cell

CONFIG = "configs/tasks/recall.py"
CELLS = "configs/tasks/recall_frontier.cells"
RATES = 2.5e-3, 5e-3, 1.5e-2
RESULTS = pathlib.Path("benchmarks/results")
CLAIM = "Delta rules recall more than additive rules with equal state"
_SECONDS = "processor_seconds.json"
_MARK = "points"
# One colour and marker per mixer.
_COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#e69f00",
  "#cc79a7",
  "#999933",
  "#56b4e9",
  "#882255",
)
_MARKERS = "osD^"


@dataclasses.dataclass(frozen=True)
class Point:
  """A mixer with one size of its state, after training.

  Attributes:
    mixer: Its name.
    fields: The fields that set its size, as in "key_width=16".
    state_bytes: Bytes of its state per sequence.
    rate: The learning rate with the highest mean accuracy.
    seeds: The accuracy of each seed with that rate.
    others: The mean accuracy with each other rate.
    command: The command that trains the point.
    minutes: Processor time of that command.
  """

  mixer: str
  fields: str
  state_bytes: int
  rate: float
  seeds: tuple[float, ...]
  others: dict[float, float]
  command: str
  minutes: float

  @property
  def accuracy(self) -> float:
    """The mean over the seeds."""
    return sum(self.seeds) / len(self.seeds)


def name_of(cell: Cell) -> str:
  """The name of a point: its mixer, and the fields that it sets."""
  texts = [
    value if key == "model.mixers" else f"{key.rpartition('.')[2]}={value}"
    for key, value in cell.values.items()
    if key.startswith("model.")
  ]
  return ",".join(texts)


def train(
  points: Sequence[Cell],
  folder: pathlib.Path,
  rates: Sequence[float],
  replicas: int,
  shared: Sequence[str],
) -> None:
  """Trains the points one after the other; skips those that are complete.

  Args:
    points: The points, the most important first.
    folder: Gets one folder per point.
    rates: The learning rates.
    replicas: Seeds per point and rate.
    shared: Flags of the config for all points.
  """
  config = command_line.load(CONFIG)
  for number, point in enumerate(points, 1):
    workdir = folder / name_of(point)
    steps = command_line.override(config, point.words).steps
    done = _accuracies(workdir, steps)
    if all(len(done.get(rate, ())) >= replicas for rate in rates):
      continue
    print(f"{number}/{len(points)}  {workdir.name}", flush=True)
    words = [*_words(point, rates, replicas), *shared]
    words += ["--workdir", str(workdir)]
    begun = _processor_seconds()
    code = subprocess.run([sys.executable, "-m", "train", *words]).returncode
    if code < 0 or code > 128:
      return  # A signal stopped it.
    if code:
      print(f"{workdir.name} failed", flush=True)
      continue
    seconds = workdir / _SECONDS
    before = json.loads(seconds.read_text()) if seconds.exists() else 0
    spent = before + _processor_seconds() - begun
    seconds.write_text(f"{spent:.1f}\n")


def read(points: Sequence[Cell], folder: pathlib.Path) -> list[Point]:
  """Returns the points that are complete, in their order."""
  config = command_line.load(CONFIG)
  found = (_read(config, point, folder / name_of(point)) for point in points)
  return [point for point in found if point is not None]


def _accuracies(workdir: pathlib.Path, steps: int) -> dict[float, list[float]]:
  """The accuracies of the complete seeds of a point, by learning rate."""
  found: dict[float, list[float]] = {}
  for path in sorted(workdir.glob("learning_rate=*,seed=*/metrics.jsonl")):
    rate = re.match("learning_rate=([^,]*)", path.parent.name)
    run = Run(path.parent, ("accuracy",))
    at, values = run.curve("validation", "accuracy", "step")
    if rate is not None and steps in at:
      found.setdefault(float(rate[1]), []).append(float(values[-1]))
  return found


def _read(config: Config, cell: Cell, workdir: pathlib.Path) -> Point | None:
  config = command_line.override(config, cell.words)
  by_rate = _accuracies(workdir, config.steps)
  seconds = workdir / _SECONDS
  if not by_rate or not seconds.exists():
    return None
  means = {rate: sum(x) / len(x) for rate, x in by_rate.items()}
  best = max(means, key=means.__getitem__)
  mixer, _, fields = name_of(cell).partition(",")
  words = " ".join(_words(cell, sorted(by_rate), len(by_rate[best])))
  return Point(
    mixer,
    fields.replace(",", ", "),
    state_bytes(config),
    best,
    tuple(by_rate[best]),
    {rate: mean for rate, mean in means.items() if rate != best},
    f"python -m train {words}",
    round(json.loads(seconds.read_text()) / 60, 2),
  )


def state_bytes(config: Config) -> int:
  """Bytes of the state of the config's mixer, per sequence."""
  model: Any = config.model
  mixer: Any = make_module(
    "mixer", model.mixers[0], model.mixer_options, {"width": model.width}
  )
  return models.state_bytes(mixer)


def write(points: Sequence[Point], folder: pathlib.Path) -> None:
  """Writes the records and the picture, and the table into `recall.md`."""
  task: Any = command_line.load(CONFIG).data
  records = [
    {
      "mixer": point.mixer,
      "task": "recall",
      "metric": "accuracy",
      "seeds": point.seeds,
      "chance": task.chance(),
      "claim": CLAIM,
      "config": CONFIG,
      "command": point.command,
      "minutes": point.minutes,
      "fields": point.fields,
      "state_bytes": point.state_bytes,
      "learning_rate": point.rate,
      "other_rates": point.others,
    }
    for point in points
  ]
  text = json.dumps(records, indent=1) + "\n"
  (folder / "recall.json").write_text(text)
  draw(points, folder / "recall.png")
  page = folder / "recall.md"
  between = re.compile(rf"(<!-- {_MARK} -->\n).*?(<!-- /{_MARK} -->)", re.S)
  new = between.sub(rf"\g<1>{table(points)}\g<2>", page.read_text())
  page.write_text(new)


def table(points: Sequence[Point]) -> str:
  """One row per point, by mixer and bytes, as Markdown."""
  order = list(dict.fromkeys(point.mixer for point in points))
  lines = [
    "| mixer | fields | state, bytes | accuracy | rate | other rates |",
    "|---|---|---:|---:|---:|---|",
  ]
  for p in sorted(points, key=lambda p: (order.index(p.mixer), p.state_bytes)):
    low, high = min(p.seeds), max(p.seeds)
    spread = f" ({low:.3f} to {high:.3f})" if len(p.seeds) > 1 else ""
    others = ", ".join(f"{x:.3f} at {rate:g}" for rate, x in p.others.items())
    lines.append(
      f"| `{p.mixer}` | {p.fields} | {p.state_bytes:,} |"
      f" {p.accuracy:.3f}{spread} | {p.rate:g} | {others} |"
    )
  return "\n".join(lines) + "\n"


def draw(points: Sequence[Point], output: pathlib.Path) -> None:
  """Draws accuracy over bytes of state, one line per mixer."""
  figure = Figure(figsize=(7.4, 4.4), layout="constrained")
  axes = figure.subplots()
  for number, mixer in enumerate(dict.fromkeys(p.mixer for p in points)):
    own = sorted(
      (p.state_bytes, p.accuracy) for p in points if p.mixer == mixer
    )
    marker = _MARKERS[number // len(_COLORS)]
    axes.plot(
      *zip(*own, strict=True),
      f"{marker}-",
      color=_COLORS[number % len(_COLORS)],
      label=mixer,
      markersize=4.5,
      linewidth=1.4,
    )
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1024:g}"))
  axes.set_xlabel("state per layer and sequence, KiB")
  axes.set_ylabel("accuracy of held-out queries")
  axes.set_ylim(0, 1.03)
  axes.grid(color="#e4e4e4", linewidth=0.7)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(loc="outside right upper", frameon=False, fontsize=8)
  figure.savefig(output, dpi=150)


def _words(cell: Cell, rates: Sequence[float], replicas: int) -> list[str]:
  """The words of `python -m train` for a point, without its folder."""
  seeds = ["--replicas", str(replicas), "--replica-rates", *map(str, rates)]
  return [CONFIG, *cell.words, *seeds]


def _processor_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.recall")
  parser.add_argument("--run", action="store_true", help="train first")
  parser.add_argument("--replicas", type=int, default=1, help="seeds per rate")
  parser.add_argument("--rates", type=float, nargs="+", default=RATES)
  parser.add_argument(
    "--workdir", type=pathlib.Path, default=pathlib.Path("runs/recall")
  )
  parser.add_argument("--cells", default=CELLS, help="the points, one per line")
  options, shared = parser.parse_known_args(arguments)
  points = cells.read_file(options.cells)
  if options.run:
    train(points, options.workdir, options.rates, options.replicas, shared)
  found = read(cells.read_file(CELLS), options.workdir)
  if not found:
    raise SystemExit(f"no complete runs in {options.workdir}: add --run")
  write(found, RESULTS)
  print(table(found))


if __name__ == "__main__":
  main()
