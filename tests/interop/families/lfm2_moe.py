TINY = [
  {
    "model_type": "lfm2_moe",
    "conv_L_cache": 3,
    "conv_bias": False,
    "hidden_size": 24,
    "intermediate_size": 20,
    "layer_types": ["conv", "full_attention", "conv"],
    "max_position_embeddings": 64,
    "moe_intermediate_size": 8,
    "norm_eps": 1e-5,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_dense_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "routed_scaling_factor": 1.0,
    "use_expert_bias": True,
    "vocab_size": 50,
  }
]

PUBLISHED = [
  (
    {
      "model_type": "lfm2_moe",
      "hidden_size": 2048,
      "intermediate_size": 7168,
      "layer_types": [
        "full_attention" if i in (2, 6, 10, 14, 18, 21) else "conv"
        for i in range(24)
      ],
      "moe_intermediate_size": 1792,
      "num_dense_layers": 2,
      "num_experts": 32,
      "num_experts_per_tok": 4,
      "num_hidden_layers": 24,
      "rope_theta": 1000000.0,
      "vocab_size": 65_536,
    },
    # 8,339,929,856 parameters, and a bias per expert in 22 layers, which is a
    # buffer of transformers.
    8_339_929_856 + 22 * 32,
  )
]
