TINY = [
  {
    "model_type": "olmo_hybrid",
    "hidden_size": 24,
    "intermediate_size": 40,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_value_head_dim": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "rope_parameters": {"rope_theta": None},
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "olmo_hybrid"}, 7_430_870_688)]
