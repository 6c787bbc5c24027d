TINY = [
  {
    "model_type": "hgrn2",
    "hidden_size": 32,
    "expand_ratio": 8,
    "num_hidden_layers": 3,
    "use_short_conv": True,
    "intermediate_size": 40,
    "vocab_size": 50,
    "attn": {"layers": [1], "num_heads": 4, "window_size": 8},
  },
  {
    "model_type": "hgrn2",
    "hidden_size": 32,
    "expand_ratio": 8,
    "num_hidden_layers": 2,
    "use_lower_bound": False,
    "intermediate_size": 40,
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "hgrn2"}, 1_364_396_032)]
