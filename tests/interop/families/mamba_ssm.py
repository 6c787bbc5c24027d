"""Mamba and Mamba-2 in the layout of mamba_ssm."""

TINY = [
  {
    "d_model": 24,
    "n_layer": 2,
    "vocab_size": 50,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
  },
  {
    "d_model": 32,
    "d_intermediate": 0,
    "n_layer": 2,
    "vocab_size": 50,
    "ssm_cfg": {
      "layer": "Mamba2",
      "headdim": 16,
      "d_state": 8,
      "ngroups": 2,
      "dt_limit": [0.0, 0.5],
    },
    "attn_layer_idx": [],
    "attn_cfg": {},
    "tie_embeddings": False,
  },
]
PUBLISHED = [
  (
    {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}},
    129_135_360,
  ),
  (
    {
      "d_model": 768,
      "n_layer": 24,
      "vocab_size": 50277,
      "ssm_cfg": {"layer": "Mamba2"},
      "pad_vocab_size_multiple": 16,
    },
    128_989_632,
  ),
]
