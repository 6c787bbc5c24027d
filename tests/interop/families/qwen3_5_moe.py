TINY = [
  {
    "model_type": "qwen3_5_moe",
    "text_config": {
      "head_dim": 8,
      "hidden_size": 24,
      "layer_types": ["linear_attention"],
      "linear_key_head_dim": 6,
      "linear_num_key_heads": 2,
      "linear_num_value_heads": 4,
      "linear_value_head_dim": 4,
      "moe_intermediate_size": 8,
      "num_attention_heads": 3,
      "num_experts": 3,
      "num_experts_per_tok": 1,
      "num_hidden_layers": 1,
      "num_key_value_heads": 1,
      "shared_expert_intermediate_size": 12,
      "vocab_size": 50,
    },
    "vision_config": {"depth": 2},
  },
]
PUBLISHED = [({"model_type": "qwen3_5_moe_text"}, 34_660_610_688)]
