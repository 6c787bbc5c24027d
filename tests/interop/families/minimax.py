TINY = [
  {
    "model_type": "minimax",
    "block_size": 4,
    "head_dim": 6,
    "hidden_size": 16,
    "intermediate_size": 12,
    "linear_attn_alpha_factor": 1.5,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "num_local_experts": 3,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "vocab_size": 50,
  }
]
# MiniMax-Text-01. Its rotation of half of the channels is left out here: it
# has no parameters.
PUBLISHED = [
  (
    {
      "model_type": "minimax",
      "head_dim": 128,
      "hidden_size": 6144,
      "intermediate_size": 9216,
      "layer_types": (["linear_attention"] * 7 + ["full_attention"]) * 10,
      "num_attention_heads": 64,
      "num_experts_per_tok": 2,
      "num_hidden_layers": 80,
      "num_key_value_heads": 8,
      "num_local_experts": 32,
      "vocab_size": 200_064,
    },
    456_089_655_296,
  )
]
