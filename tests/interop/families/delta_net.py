TINY = [
  {
    "model_type": "delta_net",
    "hidden_size": 24,
    "num_heads": 3,
    "num_hidden_layers": 3,
    "expand_k": 0.5,
    "use_gate": True,
    "intermediate_size": 40,
    "vocab_size": 50,
    "attn": {"layers": [1], "num_heads": 3, "num_kv_heads": 1},
  },
]
PUBLISHED = [
  (
    {"model_type": "delta_net", "hidden_size": 1024, "num_heads": 8},
    374_362_112,
  ),
  ({"model_type": "delta_net"}, 1_365_677_056),
]
