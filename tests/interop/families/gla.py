TINY = [
  {
    "model_type": "gla",
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "num_hidden_layers": 3,
    "feature_map": "relu",
    "use_short_conv": True,
    "use_output_gate": False,
    "clamp_min": -0.1,
    "intermediate_size": 40,
    "vocab_size": 50,
    "attn": {"layers": [1], "num_heads": 4},
  },
]
PUBLISHED = [
  ({"model_type": "gla", "hidden_size": 1024}, 374_475_776),
  ({"model_type": "gla"}, 1_365_514_240),
]
