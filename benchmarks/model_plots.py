"""Pictures of whole models: training and decoding against length."""

from collections.abc import Sequence

from benchmarks import plots
from benchmarks.lm import SOFTMAX
from benchmarks.model_runs import DecodingRun, TrainingRun, crossing

_COLORS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#882255",
  "#999933",
)
# Of the first mixers, and of those that get the same colours again.
_LINES = ("-", "--", ":")


def models(
  trained: Sequence[TrainingRun], decoded: Sequence[DecodingRun], output: str
) -> None:
  """Draws training speed, decoding speed, and bytes of the state.

  A ring marks the length from which a mixer trains faster than softmax
  attention.

  Args:
    trained: results of `model_runs.train`.
    decoded: results of `model_runs.decode`.
    output: the file to write; its suffix gives the format.
  """
  figure, (speed, writing, memory) = plots.grid(1, 3)
  mixers = list(dict.fromkeys(run.mixer for run in (*trained, *decoded)))
  for number, mixer in enumerate(mixers):
    own = [r for r in trained if r.mixer == mixer and r.tokens_per_second]
    again, place = divmod(number, len(_COLORS))
    style = {
      "color": "#000000" if mixer == SOFTMAX else _COLORS[place],
      "linestyle": "-" if mixer == SOFTMAX else _LINES[again % len(_LINES)],
      "label": mixer,
      "markersize": 3,
      "linewidth": 2.0 if mixer == SOFTMAX else 1.3,
    }
    speeds = [r.tokens_per_second for r in own]
    speed.plot([r.length for r in own], speeds, marker="o", **style)
    _mark(speed, trained, mixer, style["color"])
    own = [r for r in decoded if r.mixer == mixer]
    contexts = [r.context for r in own]
    speeds = [r.tokens_per_second for r in own]
    writing.plot(contexts, speeds, marker="o", **style)
    memory.plot(contexts, [r.state_bytes for r in own], marker="o", **style)
  plots.frame(speed, "Training", "tokens per sequence", "tokens per second")
  plots.frame(writing, "Decoding", "tokens before", "tokens per second")
  plots.frame(memory, "State per sequence", "tokens before", "bytes")
  plots.legend(figure, (speed, writing, memory))
  plots.save(figure, output)


def _mark(axes, trained, mixer, color) -> None:
  """Draws a ring where a mixer overtakes softmax attention."""
  length = crossing(trained, mixer)
  if mixer == SOFTMAX or length is None:
    return
  soft = [r for r in trained if r.mixer == SOFTMAX and r.tokens_per_second]
  height = plots.interpolate(
    length, [r.length for r in soft], [r.tokens_per_second for r in soft]
  )
  axes.plot(
    [length], [height], "o", color=color, markersize=9, fillstyle="none"
  )
