"""The table of mixers and tasks in `benchmarks/RESULTS.md`.

python -m train.results --processes 2
"""

from train.results import Column, Row, Table

ROWS = (
  Row("delta_net"),
  Row(
    "delta_net, beta to 2",
    "delta_net",
    {"negative_eigenvalues": True},
  ),
  Row("gated_deltanet"),
  Row(
    "gated_deltanet, beta to 2",
    "gated_deltanet",
    {"negative_eigenvalues": True},
  ),
  Row("mamba"),
  Row("mamba2"),
  Row("gla"),
  Row("linear_attention"),
  Row("softmax_attention"),
  Row("rwkv7"),
  Row("delta_product"),
  Row("kda"),
  Row("mamba3"),
  Row("s4d"),
  Row("s5"),
  Row("mlstm"),
  Row("based"),
  Row("retnet"),
  Row("mesa"),
  Row("hgrn2"),
  Row("rg_lru"),
  Row("lru"),
  Row("gated_deltanet2"),
  Row("mixture_of_memories"),
  Row("log_linear"),
  Row("rwkv6"),
  Row("gated_slot"),
  Row("bilinear_rnn"),
  Row("ttt_linear"),
  Row("mamba, -1 to 1", "mamba", {"negative_eigenvalues": True}),
  Row("mamba2, -1 to 1", "mamba2", {"negative_eigenvalues": True}),
  Row("rwkv7, -1 to 1", "rwkv7", {"negative_eigenvalues": True}),
  Row("sliding_attention", options={"window": 16}),
  Row("linoss"),
  Row("s4"),
  Row("rwkv4"),
  Row("transnormer"),
  Row("lightning"),
  Row("fsmn"),
  Row("short_convolution"),
  Row("latent_attention"),
)


# A short convolution counts the last tokens without the state, and most layers
# that have one learn nothing else of a state that is to be tracked.
DELTA = ("delta_net", "gated_deltanet")
TRACKING = {
  **{
    name: {"kernel_width": None}
    for name in (
      *(row for rule in DELTA for row in (rule, f"{rule}, beta to 2")),
      *("gated_deltanet2", "kda", "delta_product", "mixture_of_memories"),
      "log_linear",
    )
  },
  **{
    name: {"kernel_width": 1}
    for name in (
      *(
        row
        for rule in ("mamba", "mamba2")
        for row in (rule, f"{rule}, -1 to 1")
      ),
      *("mesa", "rg_lru"),
    )
  },
}
# As in the paper on delta products: the activation is on the values alone.
REFLECTIONS = {"qk_activation": "identity", "output_gate": False}

COLUMNS = (
  Column(
    "parity",
    "configs/tasks/parity.py",
    "accuracy at 240 bits after training on 40",
    options_of=TRACKING,
  ),
  Column(
    "s3",
    "configs/tasks/s3.py",
    "accuracy at 128 elements of S3 after training on 24",
    options_of={
      row: {**options, **REFLECTIONS} if "delta" in row else options
      for row, options in TRACKING.items()
    },
  ),
)


def get_table() -> Table:
  """Rows from the most asked for to the least, and one column per task."""
  return Table(rows=ROWS, columns=COLUMNS)
