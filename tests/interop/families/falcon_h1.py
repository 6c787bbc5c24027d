TINY = [
  {
    "model_type": "falcon_h1",
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 0.6,
    "embedding_multiplier": 5.65,
    "head_dim": 10,
    "hidden_size": 24,
    "intermediate_size": 20,
    "key_multiplier": 0.39062499999999994,
    "lm_head_multiplier": 0.0390625,
    "mamba_d_ssm": 30,
    "mamba_d_state": 10,
    "mamba_n_heads": 5,
    "mamba_rms_norm": True,
    "max_position_embeddings": 40,
    "mlp_multipliers": [0.8838834764831844, 0.5859375],
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "projectors_bias": True,
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.35, 0.25, 0.3, 0.5, 0.4],
    "ssm_out_multiplier": 0.23,
    "vocab_size": 50,
  }
]
PUBLISHED = [
  (
    {
      "model_type": "falcon_h1",
      "head_dim": 64,
      "hidden_size": 1024,
      "intermediate_size": 2048,
      "mamba_d_head": 64,
      "mamba_d_ssm": 1536,
      "mamba_d_state": 128,
      "mamba_n_heads": 24,
      "num_attention_heads": 8,
      "num_hidden_layers": 36,
      "num_key_value_heads": 2,
      "vocab_size": 32784,
    },
    521_411_104,
  )
]
