TINY = [
  {
    "model_type": "xlstm",
    "hidden_size": 16,
    "num_heads": 2,
    "num_blocks": 2,
    "num_hidden_layers": 2,
    "qk_dim_factor": 0.75,
    "use_bias": True,
    "gate_soft_cap": 7.0,
    "norm_eps": 1e-5,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "xlstm"}, 6_865_424_896)]
