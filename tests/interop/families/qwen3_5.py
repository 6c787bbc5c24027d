TINY = [
  {
    "model_type": "qwen3_5_text",
    "attention_bias": True,
    "head_dim": 8,
    "hidden_size": 24,
    "intermediate_size": 40,
    "full_attention_interval": 2,
    "linear_key_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 4,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "vocab_size": 50,
  },
]
PUBLISHED = [({"model_type": "qwen3_5_text"}, 8_953_803_264)]
