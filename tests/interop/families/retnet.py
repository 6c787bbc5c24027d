TINY = [
  {
    "model_type": "retnet",
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "expand_k": 0.5,
    "num_hidden_layers": 2,
    "feature_map": "silu",
    "elementwise_affine": None,
    "intermediate_size": 40,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "retnet"}, 1_351_727_104)]
