TINY = [
  {
    "model_type": "recurrent_gemma",
    "attention_window_size": 8,
    "block_types": ["recurrent", "attention"],
    "conv1d_width": 4,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 24,
    "intermediate_size": 48,
    "logits_soft_cap": 30.0,
    "lru_width": 36,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
      "partial_rotary_factor": 0.5,
      "rope_theta": 10000.0,
      "rope_type": "default",
    },
    "vocab_size": 50,
  }
]


def published(width, depth, hidden, heads):
  return {
    "model_type": "recurrent_gemma",
    "embeddings_scale_by_sqrt_dim": True,
    "hidden_size": width,
    "intermediate_size": hidden,
    "lru_width": width,
    "num_attention_heads": heads,
    "num_hidden_layers": depth,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "vocab_size": 256_000,
  }


PUBLISHED = [
  (published(2560, 26, 15_360, 10), 2_682_862_080),
  (published(4096, 38, 24_576, 16), 8_579_977_216),
]
