"""Recall against bytes of state, the table in `benchmarks/recall/RESULTS.md`.

python -m train.results configs/recall_frontier.py --processes 2
"""

from collections.abc import Iterable
from typing import Any

from train.results import Claim, Column, Row, Table


def sizes(
  mixer: str, field: str, values: Iterable[int], **options: Any
) -> tuple[Row, ...]:
  """Returns a mixer with several sizes of its state.

  Args:
    mixer: Its name.
    field: Its field that sets the size.
    values: Values of that field.
    **options: Its other fields.
  """
  return tuple(
    Row(f"{mixer} ({field} {value})", mixer, {**options, field: value})
    for value in values
  )


KEYS: dict[str, Any] = {"field": "key_width", "heads": 1}
UNGATED: dict[str, Any] = {**KEYS, "output_gate": False}

ROWS = (
  *sizes("delta_net", values=(4, 8, 16), **KEYS),
  *sizes("linear_attention", values=(8, 16, 32, 64), **KEYS),
  *sizes("gated_deltanet", values=(4, 8, 16), **UNGATED),
  *sizes("gla", values=(8, 16, 32, 64), **UNGATED),
  *sizes("based", values=(3, 5), **KEYS),
  *sizes("mesa", values=(4, 8, 16), **KEYS),
  *sizes("mamba2", "state_width", (8, 16, 32)),
  *sizes("rwkv7", "head_width", (8, 16)),
  *sizes("kda", values=(8, 16), **UNGATED),
  *sizes("gated_deltanet2", values=(8, 16), **UNGATED),
  *sizes("mamba", "state_width", (8, 16)),
  *sizes("mamba3", "state_width", (8, 16)),
  *sizes("mlstm", values=(8, 16), **KEYS),
  *sizes("mixture_of_memories", values=(4, 8), **UNGATED),
  *sizes("log_linear", values=(4, 8), levels=6, **UNGATED),
  *sizes("sliding_attention", "window", (8, 16), heads=1),
  *sizes("softmax_attention", "max_length", (40,), heads=1),
)

COLUMN = Column(
  "recall",
  "configs/tasks/recall.py",
  "accuracy at the queries of 8 pairs",
  rates=(5e-3, 1e-2),
  best_seed=True,
  shows_costs=True,
)


def claim(text: str, paper: str, *rows: str, **conditions: Any) -> Claim:
  """Returns a claim about rows of the table."""
  return Claim(text, paper, COLUMN.name, rows, **conditions)


CLAIMS = (
  claim(
    "softmax attention recalls all pairs",
    "Arora et al. 2023, arXiv:2312.04927",
    "softmax_attention (max_length 40)",
    bound=0.99,
  ),
  claim(
    "the delta rule recalls more than linear attention of a larger state",
    "Schlag et al. 2021, arXiv:2102.11174",
    "delta_net (key_width 8)",
    above=("linear_attention (key_width 16)",),
    margin=0.05,
  ),
  claim(
    "linear attention recalls more with a larger state",
    "Arora et al. 2024, arXiv:2402.18668",
    "linear_attention (key_width 64)",
    above=("linear_attention (key_width 16)",),
    margin=0.05,
  ),
  claim(
    "Based's feature map recalls more than linear attention of a larger state",
    "Arora et al. 2024, arXiv:2402.18668",
    "based (key_width 3)",
    above=("linear_attention (key_width 16)",),
    margin=0.05,
  ),
  claim(
    "a gate leaves the delta rule its recall",
    "Yang et al. 2024, arXiv:2412.06464",
    "gated_deltanet (key_width 8)",
    above=("delta_net (key_width 8)",),
    margin=-0.03,
  ),
  claim(
    "the delta rule recalls more than Mamba-2 of the same size",
    "Yang et al. 2024, arXiv:2412.06464",
    "gated_deltanet (key_width 8)",
    above=("mamba2 (state_width 8)",),
  ),
  claim(
    "a decay per channel of the key recalls more than one per head",
    "Kimi Team 2025, arXiv:2510.26692",
    "kda (key_width 8)",
    above=("gated_deltanet (key_width 8)",),
  ),
  claim(
    "gates of their own for erasing and writing recall more than one",
    "Hatamizadeh et al. 2026, arXiv:2605.22791",
    "gated_deltanet2 (key_width 8)",
    above=("kda (key_width 8)",),
  ),
  claim(
    "least squares recall more than the delta rule of the same size",
    "von Oswald et al. 2025, arXiv:2506.05233",
    "mesa (key_width 4)",
    above=("delta_net (key_width 4)",),
    margin=0.02,
  ),
  claim(
    "several memories recall more than one",
    "Du et al. 2025, arXiv:2502.13685",
    "mixture_of_memories (key_width 8)",
    above=("gla (key_width 8)",),
    margin=0.02,
  ),
  claim(
    "one state per level recalls more than a single one",
    "Guo et al. 2025, arXiv:2506.04761",
    "log_linear (key_width 8)",
    above=("gla (key_width 8)",),
    margin=0.02,
  ),
)

ABOUT = """
What a linear-time mixer can look up later is bounded by its state. This page
measures it: multi-query associative recall (MQAR; Arora et al. 2023, "Zoology",
arXiv:2312.04927), 8 pairs in rows of 40 tokens, against the bytes of the state,
as in Arora et al. 2024 ("Based", arXiv:2402.18668). Guessing among the values
of a row gives 0.125.

    python -m train.results configs/recall_frontier.py --processes 2

trains what is missing and writes this page from `results.json`.

![Accuracy over bytes of state](results.png)

The first layer of the model is a gated short convolution, the second one is the
mixer, of width 64 with one head (`configs/tasks/recall.py`). The bytes are the
state of the whole model, with the tails of its convolutions. Output gates are
off where a field allows it: with its SiLU gate and a rate of 5e-3, the gated
delta rule stayed at 0.127 in 400 steps, and without it reached 0.994 (one
seed). Mamba's layers have such a gate always.

The best seed counts, since the question is what a state can hold: the others
may still be learning after 600 steps, and so may a mixer whose three seeds are
all low. At a rate of 1.5e-2, six of ten mixers stayed below 0.14 in 400 steps
(one seed), so it is not among the rates.
"""


def get_table() -> Table:
  """One row per size of a mixer's state."""
  return Table(
    rows=ROWS,
    columns=(COLUMN,),
    claims=CLAIMS,
    title="Recall against memory",
    about=ABOUT,
    output="benchmarks/recall",
    over_state=True,
  )
