"""The table of mixers and tasks in `benchmarks/RESULTS.md`.

python -m train.results --processes 2
"""

from train.results import Claim, Column, Row, Table

ROWS = (
  Row("delta_net"),
  Row(
    "delta_net (beta to 2)",
    "delta_net",
    {"negative_eigenvalues": True},
  ),
  Row("gated_deltanet"),
  Row(
    "gated_deltanet (beta to 2)",
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
  Row("mamba (-1 to 1)", "mamba", {"negative_eigenvalues": True}),
  Row("mamba2 (-1 to 1)", "mamba2", {"negative_eigenvalues": True}),
  Row("rwkv7 (-1 to 1)", "rwkv7", {"negative_eigenvalues": True}),
  Row("sliding_attention", options={"window": 16}),
  Row("linoss"),
  Row("s4"),
  Row("rwkv4"),
  Row("transnormer"),
  Row("lightning"),
  Row("fsmn"),
  Row("short_convolution"),
  Row("latent_attention"),
  Row("gated_deltanet + attention", "gated_deltanet,softmax_attention"),
  Row("mamba2 + attention", "mamba2,softmax_attention", {"head_width": 16}),
  Row("gla + attention", "gla,softmax_attention"),
  Row("s5 + attention", "s5,softmax_attention"),
  Row(
    "window of 64 + gated_deltanet",
    "sliding_attention,gated_deltanet",
    {"window": 64},
  ),
)
HYBRIDS = tuple(row.name for row in ROWS if "," in row.mixers)


# A short convolution counts the last tokens without the state, and most layers
# that have one learn nothing else of a state that is to be tracked.
DELTA = ("delta_net", "gated_deltanet")
TRACKING = {
  **{
    name: {"kernel_width": None}
    for name in (
      *(row for rule in DELTA for row in (rule, f"{rule} (beta to 2)")),
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
        for row in (rule, f"{rule} (-1 to 1)")
      ),
      *("mesa", "rg_lru"),
    )
  },
}
# As in the paper on delta products: the activation is on the values alone.
REFLECTIONS = {"qk_activation": "identity", "output_gate": False}

# A SiLU gate of the output delays recall: with it, the gated delta rule needs
# 1,600 steps for what it recalls after 400 without.
UNGATED = {
  name: {"output_gate": False}
  for name in (
    *("gated_deltanet", "gated_deltanet (beta to 2)", "gated_deltanet2"),
    *("gla", "delta_product", "kda", "retnet", "mixture_of_memories"),
    "log_linear",
  )
}

# Widths at which the models of `configs/tasks/byte_text.py` have about 250,000
# parameters: `python -m train.equal_width`. Without a row: that of the config.
EQUAL_WIDTHS = {
  "gated_deltanet": 92,
  "gated_deltanet (beta to 2)": 92,
  "mamba": 85,
  "mamba (-1 to 1)": 85,
  "mamba2": 80,
  "mamba2 (-1 to 1)": 80,
  "mamba3": 80,
  "rwkv7": 88,
  "rwkv7 (-1 to 1)": 88,
  "delta_product": 88,
  "kda": 92,
  "s4d": 99,
  "s5": 104,
  "based": 80,
  "retnet": 88,
  "rg_lru": 100,
  "lru": 94,
  "gated_deltanet2": 84,
  "mixture_of_memories": 72,
  "log_linear": 92,
  "rwkv6": 78,
  "gated_slot": 92,
  "bilinear_rnn": 80,
  "linoss": 99,
  "s4": 94,
  "lightning": 92,
  "short_convolution": 97,
  "mamba2 + attention": 88,
  "s5 + attention": 104,
}
NARROW_HEADS = {
  name: {"head_width": 32} for name in ("mamba2", "mamba2 (-1 to 1)", "mamba3")
}

COLUMNS = (
  Column(
    "parity",
    "configs/tasks/parity.py",
    "accuracy at 240 bits after training on 40",
    options_of=TRACKING,
    without=HYBRIDS,
  ),
  Column(
    "s3",
    "configs/tasks/s3.py",
    "accuracy at 128 elements of S3 after training on 24",
    options_of={
      row: {**options, **REFLECTIONS} if "delta" in row else options
      for row, options in TRACKING.items()
    },
    without=HYBRIDS,
  ),
  Column(
    "recall",
    "configs/tasks/recall.py",
    "accuracy at the queries of 8 pairs",
    options_of=UNGATED,
    without=HYBRIDS,
  ),
  Column(
    "copying",
    "configs/tasks/selective_copying.py",
    "accuracy at 4 symbols among 28 tokens of noise",
  ),
  Column(
    "induction",
    "configs/tasks/induction.py",
    "accuracy at 256 tokens after training on 32",
  ),
  Column(
    "digits",
    "configs/tasks/digits.py",
    "accuracy on 360 images, read pixel by pixel",
    rates=(2e-3, 8e-3),
    chance=0.967,
    chance_is="logistic regression",
    without=HYBRIDS,
  ),
  Column(
    "permuted",
    "configs/tasks/digits_permuted.py",
    "the same with the pixels in one random order",
    rates=(2e-3, 8e-3),
    chance=0.967,
    chance_is="logistic regression",
    without=HYBRIDS,
  ),
  Column(
    "listops",
    "configs/tasks/listops.py",
    "accuracy on 1,000 expressions of 4 to 32 tokens",
    options_of=NARROW_HEADS,
  ),
  Column(
    "text",
    "configs/tasks/byte_text.py",
    "bits per byte after 614,400 bytes, at 0.25M parameters",
    metric="bits_per_byte",
    lower_is_better=True,
    seeds=1,
    seeds_of={"gla": 3, "gated_deltanet": 3, "mamba2": 3},
    widths=EQUAL_WIDTHS,
    options_of=NARROW_HEADS,
    chance=2.23,
    chance_is="gzip -9",
    shows_costs=True,
  ),
)

CLAIMS = (
  Claim(
    "with eigenvalues from -1 a delta rule computes parity beyond the length of"
    " its training, and from 0 it does not",
    "Grazzi et al. 2024, arXiv:2411.12537",
    "parity",
    rows=("delta_net (beta to 2)", "gated_deltanet (beta to 2)"),
    above=("delta_net", "gated_deltanet"),
    bound=0.99,
    worst=0.6,
  ),
  Claim(
    "the same for Mamba",
    "Grazzi et al. 2024, arXiv:2411.12537",
    "parity",
    rows=("mamba (-1 to 1)",),
    above=("mamba",),
    bound=0.99,
    worst=0.6,
  ),
  Claim(
    "the same for RWKV-7",
    "Peng et al. 2025, arXiv:2503.14456",
    "parity",
    rows=("rwkv7 (-1 to 1)",),
    above=("rwkv7",),
    bound=0.99,
    worst=0.6,
    tried="with heads of 16 channels it reaches 0.971 (0.920 to 1.000) at 1,000"
    " bits, and 0.874 (0.800 to 1.000) after twice the steps",
  ),
  Claim(
    "the rotations of Mamba-3 compute parity",
    "Lahoti et al. 2026, arXiv:2603.15569",
    "parity",
    rows=("mamba3",),
    bound=0.99,
    tried="after training on longer and longer words it reaches 0.985 (0.967 to"
    " 1.000) at 256 bits: `configs/tasks/parity_curriculum.py`",
  ),
  Claim(
    "two reflections per token follow S3, and one does not",
    "Siems et al. 2025, arXiv:2502.10297",
    "s3",
    rows=("delta_product",),
    above=("delta_net (beta to 2)", "gated_deltanet (beta to 2)"),
    bound=0.99,
    worst=0.6,
  ),
  Claim(
    "softmax attention recalls",
    "Arora et al. 2023, arXiv:2312.04927",
    "recall",
    rows=("softmax_attention",),
    bound=0.99,
  ),
  Claim(
    "the delta rule recalls more than linear attention",
    "Schlag et al. 2021, arXiv:2102.11174",
    "recall",
    rows=("delta_net",),
    above=("linear_attention",),
    margin=0.05,
  ),
  Claim(
    "the gated delta rule recalls more than Mamba-2",
    "Yang et al. 2024, arXiv:2412.06464",
    "recall",
    rows=("gated_deltanet",),
    above=("mamba2",),
  ),
  Claim(
    "layers whose step depends on the token copy selectively, and S4D does not",
    "Gu and Dao 2023, arXiv:2312.00752",
    "copying",
    rows=("mamba", "mamba2"),
    above=("s4d",),
    bound=0.95,
    worst=0.9,
  ),
  Claim(
    "Mamba finds induction heads far beyond the length of its training, and"
    " attention does not",
    "Gu and Dao 2023, arXiv:2312.00752",
    "induction",
    rows=("mamba",),
    above=("softmax_attention", "s4d"),
    bound=0.9,
    worst=0.7,
  ),
  Claim(
    "state spaces classify images that are read pixel by pixel",
    "Smith et al. 2023, arXiv:2208.04933",
    "digits",
    rows=("s5", "s4d"),
    bound=0.95,
  ),
  Claim(
    "gated linear attention models text better than linear attention",
    "Yang et al. 2023, arXiv:2312.06635",
    "text",
    rows=("gla",),
    above=("linear_attention",),
  ),
)


ABOUT = """
`python -m train.results --processes 2` trains what is missing in these tables
and writes this page from `results.json`.
"""


def get_table() -> Table:
  """Rows from the most asked for to the least, and one column per task."""
  return Table(rows=ROWS, columns=COLUMNS, claims=CLAIMS, about=ABOUT)
