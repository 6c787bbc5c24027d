DENSE = {
  "model_type": "granitemoehybrid",
  "attention_multiplier": 0.015625,
  "embedding_multiplier": 12,
  "hidden_size": 24,
  "layer_types": ["mamba", "mamba", "attention"],
  "logits_scaling": 49,
  "mamba_d_state": 10,
  "mamba_n_groups": 2,
  "mamba_n_heads": 6,
  "max_position_embeddings": 40,
  "num_attention_heads": 3,
  "num_hidden_layers": 3,
  "num_key_value_heads": 1,
  "num_local_experts": 0,
  "residual_multiplier": 0.22,
  "shared_intermediate_size": 20,
  "vocab_size": 50,
}
TINY = [
  DENSE,
  {
    **DENSE,
    "intermediate_size": 12,
    "num_experts_per_tok": 2,
    "num_local_experts": 3,
    "position_embedding_type": "rope",
  },
]


def published(*attention, width, depth=40, **more):
  kinds = ["attention" if i in attention else "mamba" for i in range(depth)]
  return {
    "model_type": "granitemoehybrid",
    "hidden_size": width,
    "layer_types": kinds,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_heads": 2 * width // 64,
    "num_hidden_layers": depth,
    "position_embedding_type": "nope",
    "tie_word_embeddings": True,
    "vocab_size": 100352,
    **more,
  }


PUBLISHED = [
  (
    published(
      5, 15, 25, 35,
      width=2048,
      num_attention_heads=32,
      num_key_value_heads=8,
      num_local_experts=0,
      shared_intermediate_size=8192,
    ),
    3_191_396_096,
  ),
  (
    published(
      5, 15, 25, 35,
      width=1536,
      intermediate_size=512,
      num_attention_heads=12,
      num_experts_per_tok=6,
      num_key_value_heads=4,
      num_local_experts=64,
      shared_intermediate_size=1024,
    ),
    6_939_037_248,
  ),
]  # fmt: skip
