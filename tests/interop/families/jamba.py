TINY = [
  {
    "model_type": "jamba",
    "attn_layer_offset": 1,
    "attn_layer_period": 3,
    "expert_layer_offset": 0,
    "expert_layer_period": 2,
    "hidden_size": 16,
    "intermediate_size": 12,
    "mamba_conv_bias": False,
    "mamba_d_state": 3,
    "mamba_dt_rank": 5,
    "mamba_proj_bias": True,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 30,
  }
]
PUBLISHED = [({"model_type": "jamba"}, 51_570_323_328)]
