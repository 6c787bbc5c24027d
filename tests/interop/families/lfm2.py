TINY = [
  {
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 8,
    "conv_L_cache": 3,
    "conv_bias": True,
    "full_attn_idxs": [1],
    "hidden_size": 24,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "vocab_size": 50,
  }
]


def published(width, hidden, heads):
  return {
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_dim": width,
    "block_ff_dim": hidden,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": width,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "num_attention_heads": heads,
    "num_heads": heads,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "tie_embedding": True,
    "vocab_size": 65_536,
  }


PUBLISHED = [
  (published(1024, 6656, 16), 354_483_968),
  (published(2048, 12_288, 32), 1_170_340_608),
]
