TINY = [
  {
    "model_type": "bamba",
    "attn_layer_indices": [1],
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 20,
    "mamba_d_head": 8,
    "mamba_d_state": 10,
    "mamba_n_groups": 2,
    "mamba_n_heads": 6,
    "mamba_proj_bias": True,
    "max_position_embeddings": 40,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "time_step_limit": [0.01, {"__float__": "Infinity"}],
    "vocab_size": 50,
  }
]
PUBLISHED = [
  (
    {
      "model_type": "bamba",
      "attn_layer_indices": [9, 18, 27],
      "mamba_d_state": 128,
      "num_hidden_layers": 32,
      "vocab_size": 128256,
    },
    9_780_235_392,
  )
]
