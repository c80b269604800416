#!/usr/bin/env python3
"""Makes tests/golden/depth: a tiny random Depth Anything as Hugging Face publishes it, and what transformers makes of two pictures.

Run: python3 tools/golden/depth.py tests/golden/depth     (needs torch, transformers 5)
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
backbone = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14, out_indices=[1, 2, 3, 4],
                        reshape_hidden_states=False, apply_layernorm=True)
config = DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=24, neck_hidden_sizes=[8, 12, 16, 20], fusion_hidden_size=8,
                             head_hidden_size=6, patch_size=14)
model = DepthAnythingForDepthEstimation(config).eval()
g = torch.Generator().manual_seed(3)
for name, p in sorted(model.named_parameters()):
    with torch.no_grad():
        if p.ndim >= 2:
            p.copy_(torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5)
        else:
            p.copy_(torch.randn(p.shape, generator=g) * 0.1 + (1.0 if name.endswith("weight") or "lambda" in name else 0.0))
    if name == "head.conv3.bias":  # the last activation cuts off what is below zero
        with torch.no_grad():
            p.fill_(1.0)
model.save_pretrained(out)
# As the folders on the hub, which an older version wrote.
later = {".attention.q_proj.": ".attention.attention.query.", ".attention.k_proj.": ".attention.attention.key.",
         ".attention.v_proj.": ".attention.attention.value.", ".attention.o_proj.": ".attention.output.dense."}
def published(name):
    for new, old in later.items():
        name = name.replace(new, old)
    return name
save_file({published(k): v.contiguous() for k, v in model.state_dict().items()}, f"{out}/model.safetensors", metadata={"format": "pt"})
inputs = {"wide": torch.randn(1, 3, 56, 70, generator=g), "square": torch.randn(2, 3, 56, 56, generator=g), "small": torch.randn(1, 3, 28, 42, generator=g)}
with torch.no_grad():
    outputs = {f"{k}.out": model(v).predicted_depth for k, v in inputs.items()}
save_file({k: v.contiguous() for k, v in (inputs | outputs).items()}, f"{out}/golden.safetensors")
print({k: (tuple(v.shape), float(v.min()), float(v.max())) for k, v in outputs.items()}, sorted(model.state_dict())[:12])
