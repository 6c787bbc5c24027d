TINY = [
  {
    "model_type": "rwkv7",
    "hidden_size": 16,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "decay_low_rank_dim": 3,
    "a_low_rank_dim": 4,
    "v_low_rank_dim": 5,
    "gate_low_rank_dim": 6,
    "hidden_act": "relu",
    "norm_bias": False,
    "fuse_norm": False,
    "value_dim": [16, 16, 16],
    "vocab_size": 50,
  },
]
PUBLISHED = [
  (
    {
      "model_type": "rwkv7",
      "hidden_size": 768,
      "num_hidden_layers": 12,
      "v_low_rank_dim": 32,
      "vocab_size": 65_536,
    },
    191_034_624,
  ),
]
