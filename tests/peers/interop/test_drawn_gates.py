"""Families with decays and gates, with options that hypothesis draws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peers.compare import load
from tests.peers.interop.fla_models import check_fla, model_of
from tests.peers.interop.parity import check_family
from tests.peers.interop.test_drawn_delta_rules import (
  COMMON,
  EPSILONS,
  check,
  drawn,
  few,
  sizes,
)
from tests.peers.interop.test_xlstm import rebuilt

pytestmark = pytest.mark.slow

# Triton's kernels take minutes on a CPU.
fewer = settings(few, max_examples=4)
MAPS = ("relu", "sigmoid", "logsigmoid", "silu", "swish", "sqrelu", "gelu")
FLA = COMMON | {
  "num_hidden_layers": sizes(1, 3),
  "norm_eps": EPSILONS,
  "fuse_norm": st.booleans(),
}
GATED = {
  "use_output_gate": st.booleans(),
  "elementwise_affine": st.sampled_from([True, False, None]),
  "feature_map": st.none() | st.sampled_from(MAPS),
  "expand_k": st.sampled_from([0.5, 1.0]),
  "expand_v": st.sampled_from([1.0, 1.5, 2.0]),
}


@st.composite
def heads(draw):
  """Query heads, shared heads, and a width that they divide."""
  shared, group = draw(sizes(1, 3)), draw(sizes(1, 3))
  return {
    "num_heads": shared * group,
    "num_kv_heads": shared if group > 1 else None,
    "hidden_size": 4 * shared * group * draw(sizes(1, 3)),
  }


@fewer
@given(
  drawn(
    FLA
    | GATED
    | {
      "use_short_conv": st.booleans(),
      "conv_size": sizes(2, 5),
      "clamp_min": st.sampled_from([None, -0.5, -0.04]),
    },
    heads(),
  )
)
def test_gla(options):
  check(check_fla, model_of("GLA", **options))


@fewer
@given(
  drawn(
    FLA
    | GATED
    | {
      # The names of transformers, not those of fla.
      "feature_map": st.sampled_from(
        [None, "gelu", "gelu_new", "relu", "relu2", "sigmoid", "swish"]
      )
    },
    heads(),
  )
)
def test_retnet(options):
  check(check_fla, model_of("RetNet", **options))


@fewer
@given(
  drawn(
    FLA
    | {
      "use_short_conv": st.booleans(),
      "conv_size": sizes(2, 5),
      "use_lower_bound": st.booleans(),
      "elementwise_affine": st.booleans(),
      "expand_ratio": st.sampled_from([4, 8]),
      "hidden_size": sizes(1, 4).map(lambda x: 8 * x),
    }
  )
)
def test_hgrn2(options):
  check(check_fla, model_of("HGRN2", **options))


@fewer
@given(
  drawn(
    FLA
    | {
      "num_hidden_layers": sizes(2, 3),
      "head_dim": st.sampled_from([8, 16]),
      "hidden_size": sizes(1, 3).map(lambda x: 16 * x),
      "decay_low_rank_dim": sizes(1, 9),
      "a_low_rank_dim": sizes(1, 9),
      "v_low_rank_dim": sizes(1, 9),
      "gate_low_rank_dim": sizes(1, 9),
      "hidden_act": st.sampled_from(["sqrelu", "relu", "silu"]),
      "norm_bias": st.booleans(),
      "norm_first": st.booleans(),
    }
  )
)
def test_rwkv7(options):
  check(check_fla, model_of("RWKV7", **options))


@few
@given(
  drawn(
    COMMON
    | {
      "attention_hidden_size": st.none() | sizes(3, 20),
      "intermediate_size": st.none() | sizes(5, 40),
      "num_hidden_layers": sizes(2, 6),
      "layer_norm_epsilon": EPSILONS,
      "rescale_every": sizes(-1, 4),
    }
  )
)
def test_rwkv4(options):
  transformers = load("transformers")
  config = transformers.RwkvConfig(**options)
  check(check_family, transformers.RwkvForCausalLM(config))


@st.composite
def xlstm(draw):
  count = draw(sizes(1, 4))
  return {"num_heads": count, "hidden_size": 8 * count * draw(sizes(1, 3))}


@few
@given(
  drawn(
    {
      "vocab_size": sizes(11, 60),
      "num_hidden_layers": sizes(1, 3),
      "qk_dim_factor": st.sampled_from([0.5, 0.75, 1.0]),
      "v_dim_factor": st.sampled_from([1.0, 1.25, 2.0]),
      "use_bias": st.booleans(),
      "norm_eps": EPSILONS,
      "eps": st.sampled_from([1e-6, 1e-3]),
      "gate_soft_cap": st.sampled_from([15.0, 3.0]),
      "output_logit_soft_cap": st.sampled_from([30.0, 1.5]),
      "ffn_proj_factor": st.sampled_from([2.667, 1.3]),
      "ffn_round_up_to_multiple_of": st.sampled_from([1, 8, 64]),
    },
    xlstm(),
  )
)
def test_xlstm(options):
  transformers = load("transformers")
  depth = options["num_hidden_layers"]
  config = transformers.xLSTMConfig(
    **options, num_blocks=depth, autocast_kernel_dtype="float32"
  )

  def checked(model, folder):
    check_family(model, folder, logits=rebuilt)

  check(checked, transformers.xLSTMForCausalLM(config))
