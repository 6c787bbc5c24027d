TINY = [
  {
    "model_type": "kda",
    "hidden_size": 24,
    "head_dim": 6,
    "num_heads": 2,
    "num_v_heads": 4,
    "expand_v": 1.5,
    "num_hidden_layers": 1,
    "intermediate_size": 40,
    "lower_bound": -5.0,
    "use_short_conv": False,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "kda"}, 1_390_941_568)]
