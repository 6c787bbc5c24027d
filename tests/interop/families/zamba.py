TINY = [
  {
    "model_type": "zamba",
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "hidden_size": 12,
    "intermediate_size": 10,
    "mamba_d_state": 3,
    "mamba_dt_rank": 2,
    "mamba_proj_bias": True,
    "max_position_embeddings": 64,
    "n_mamba_heads": 3,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "vocab_size": 30,
  }
]
PUBLISHED = [({"model_type": "zamba"}, 7_232_490_496)]
