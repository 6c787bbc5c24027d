"""The table of mixers and tasks in `benchmarks/RESULTS.md`.

python -m train.results --processes 2
"""

from train.results import Column, Row, Table

ROWS = (
  Row("delta_net"),
  Row(
    "delta_net, beta to 2",
    "delta_net",
    "--model.mixers.0.negative-eigenvalues True",
  ),
  Row("gated_deltanet"),
  Row(
    "gated_deltanet, beta to 2",
    "gated_deltanet",
    "--model.mixers.0.negative-eigenvalues True",
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
  Row(
    "mamba, -1 to 1", "mamba", "--model.mixers.0.negative-eigenvalues True"
  ),
  Row(
    "mamba2, -1 to 1", "mamba2", "--model.mixers.0.negative-eigenvalues True"
  ),
  Row("sliding_attention", flags="--model.mixers.0.window 16"),
  Row("linoss"),
  Row("s4"),
  Row("rwkv4"),
  Row("transnormer"),
  Row("lightning"),
  Row("fsmn"),
  Row("short_convolution"),
  Row("latent_attention"),
)


def get_table() -> Table:
  """Rows from the most asked for to the least, and one column per task."""
  return Table(
    rows=ROWS,
    columns=(Column("recall", "configs/mqar.py", "accuracy"),),
  )
