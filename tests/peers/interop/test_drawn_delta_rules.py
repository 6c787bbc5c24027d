"""Families with delta rules, with sizes and options that hypothesis draws."""

import pathlib
import tempfile

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.peers.interop.fla_models import check_fla, model_of
from tests.peers.interop.hybrids import hybrid
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

EXAMPLES = 3
FULL, LINEAR = "full_attention", "linear_attention"
few = settings(
  max_examples=EXAMPLES,
  deadline=None,
  derandomize=True,
  # Without shrinking, which would take minutes.
  phases=[Phase.explicit, Phase.reuse, Phase.generate],
  suppress_health_check=list(HealthCheck),
)


def sizes(low, high):
  return st.integers(low, high)


@st.composite
def heads_of(draw, theirs, groups):
  """Two numbers of heads, of which the first divides the second."""
  few, group = draw(sizes(1, 3)), draw(sizes(1, 3))
  return {theirs: few, groups: few * group}


# torch multiplies experts whose rows are whole units of 16 bytes only.
FOURS = sizes(1, 3).map(lambda x: 4 * x)
EPSILONS = st.sampled_from([1e-6, 1e-5, 1e-3])
COMMON = {
  "vocab_size": sizes(11, 60),
  "hidden_size": sizes(3, 9).map(lambda x: 4 * x),
  "intermediate_size": sizes(5, 40),
  "tie_word_embeddings": st.booleans(),
}
FLA = COMMON | {
  "num_hidden_layers": sizes(1, 3),
  "conv_size": sizes(2, 5),
  "use_short_conv": st.booleans(),
  "allow_neg_eigval": st.booleans(),
  "norm_eps": EPSILONS,
}
HEADS = {
  "head_dim": sizes(2, 4).map(lambda x: 4 * x),
  "expand_v": st.sampled_from([0.5, 1.0, 1.5, 2.0]),
}
GATED = heads_of("num_heads", "num_v_heads")


def drawn(options, *parts):
  """One mapping of drawn options and of drawn mappings."""
  return st.tuples(st.fixed_dictionaries(options), *parts).map(
    lambda maps: {key: x for part in maps for key, x in part.items()}
  )


DELTA_NET = FLA | {
  "num_heads": st.sampled_from([1, 2, 4]),
  "expand_k": st.sampled_from([0.5, 1.0]),
  "expand_v": st.sampled_from([1.0, 1.5, 2.0]),
  "hidden_size": sizes(1, 4).map(lambda x: 8 * x),
  "use_gate": st.booleans(),
  "use_beta": st.booleans(),
  "qk_norm": st.sampled_from(["l2", "sum"]),
  "qk_activation": st.sampled_from(["silu", "relu", "elu", "identity"]),
}
GATED_DELTANET = (
  FLA
  | HEADS
  | {
    "use_gate": st.booleans(),
    "output_gate_activation": st.sampled_from(["swish", "silu", "sigmoid"]),
  }
)
KDA = FLA | HEADS | {"lower_bound": st.sampled_from([None, -5.0, -0.5])}


@st.composite
def kinds(draw):
  """Layers of both kinds, in any order."""
  layers = draw(st.lists(st.sampled_from([FULL, LINEAR]), max_size=2))
  layers = draw(st.permutations([FULL, LINEAR, *layers]))
  return {"layer_types": layers, "num_hidden_layers": len(layers)}


LENGTH = {"max_position_embeddings": st.sampled_from([37, 64])}
ROPE = st.fixed_dictionaries(
  {
    "rope_type": st.just("default"),
    "rope_theta": st.sampled_from([100.0, 10_000.0, 1e6]),
    "partial_rotary_factor": st.sampled_from([0.25, 0.5, 1.0]),
  }
)
HYBRID = (
  COMMON
  | LENGTH
  | {
    "rms_norm_eps": EPSILONS,
    "linear_conv_kernel_dim": sizes(2, 5),
    "linear_key_head_dim": sizes(2, 9),
    "linear_value_head_dim": sizes(2, 9),
    "attention_bias": st.booleans(),
    "hidden_act": st.sampled_from(["silu", "gelu", "relu"]),
  }
)
LINEAR_HEADS = heads_of("linear_num_key_heads", "linear_num_value_heads")
HEADS_OF = heads_of("num_key_value_heads", "num_attention_heads")
QWEN = HYBRID | {
  "head_dim": st.sampled_from([8, 16, 24]),
  "rope_parameters": st.none() | ROPE,
}
EXPERTS = {
  "moe_intermediate_size": FOURS,
  "shared_expert_intermediate_size": sizes(3, 12),
  "num_experts": sizes(2, 6),
  "num_experts_per_tok": sizes(1, 2),
}


@st.composite
def olmo(draw):
  options = draw(drawn(HYBRID, HEADS_OF, LINEAR_HEADS, kinds()))
  heads = options["num_attention_heads"]
  options["hidden_size"] = heads * draw(st.sampled_from([4, 8]))
  theta = draw(st.sampled_from([None, 10_000.0]))
  return options | {
    "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    "linear_allow_neg_eigval": draw(st.booleans()),
    "pad_token_id": None,
    "eos_token_id": 1,
  }


@st.composite
def kimi(draw):
  own = {
    "linear_head_dim": sizes(2, 8),
    "linear_num_heads": sizes(1, 4),
    "num_attention_heads": sizes(1, 4),
    "q_lora_rank": st.none() | sizes(2, 9),
    "kv_lora_rank": sizes(2, 9),
    "qk_rope_head_dim": sizes(1, 5),
    "qk_nope_head_dim": sizes(1, 6),
    "v_head_dim": sizes(1, 6),
    "n_shared_experts": sizes(1, 2),
    "norm_topk_prob": st.booleans(),
    "moe_intermediate_size": FOURS,
    "num_experts_per_tok": sizes(1, 2),
    "routed_scaling_factor": st.sampled_from([1.0, 2.446]),
  }
  options = draw(drawn(HYBRID | own, kinds()))
  for key in ("linear_key_head_dim", "linear_value_head_dim"):
    del options[key]
  groups = draw(sizes(1, 3))
  depth = options["num_hidden_layers"]
  mlps = st.lists(
    st.sampled_from(["dense", "sparse"]), min_size=depth, max_size=depth
  )
  return options | {
    "num_key_value_heads": options["num_attention_heads"],
    "n_group": groups,
    "topk_group": draw(sizes(1, groups)),
    "num_local_experts": groups * draw(sizes(2, 3)),
    "mlp_layer_types": draw(mlps),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
  }


@few
@given(drawn(DELTA_NET))
def test_delta_net(options):
  check(check_fla, model_of("DeltaNet", **options))


@few
@given(drawn(GATED_DELTANET, GATED))
def test_gated_deltanet(options):
  check(check_fla, model_of("GatedDeltaNet", **options))


@few
@given(drawn(KDA, GATED))
def test_kda(options):
  check(check_fla, model_of("KDA", **options))


@few
@given(drawn(QWEN, HEADS_OF, LINEAR_HEADS, kinds()))
def test_qwen3_5(options):
  check(check_family, hybrid("Qwen3_5", options, "Qwen3_5Text"))


@few
@given(drawn(QWEN | EXPERTS, HEADS_OF, LINEAR_HEADS, kinds()))
def test_qwen3_5_moe(options):
  del options["intermediate_size"]
  check(check_family, hybrid("Qwen3_5Moe", options, "Qwen3_5MoeText"))


@few
@given(
  drawn(
    QWEN | EXPERTS | {"decoder_sparse_step": sizes(1, 3)},
    HEADS_OF,
    LINEAR_HEADS,
    kinds(),
  )
)
def test_qwen3_next(options):
  check(check_family, hybrid("Qwen3Next", options))


@few
@given(olmo())
def test_olmo_hybrid(options):
  check(check_family, hybrid("OlmoHybrid", options))


@few
@given(kimi())
def test_kimi_linear(options):
  check(check_family, hybrid("KimiLinear", options))


def check(checker, model):
  with tempfile.TemporaryDirectory() as folder:
    checker(model, pathlib.Path(folder))
