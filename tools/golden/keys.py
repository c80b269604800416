#!/usr/bin/env python3
"""Makes tests/golden/keys.txt: names and shapes of all weights of published configurations, without their weights.

Run: python3 tools/golden/keys.py tests/golden/keys.txt     (needs torch, diffusers 0.42, transformers 5)

A line `# NAME` opens a network; each following line is a weight's name and its sizes.
"""
import sys

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def networks():
    """The networks this program builds, in their published sizes."""
    yield "zeroscope.unet", UNet3DConditionModel(cross_attention_dim=1024, attention_head_dim=64)
    yield "zeroscope.text", CLIPTextModel(CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"))
    yield "sd15.unet", UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    yield "sd15.controlnet", ControlNetModel(cross_attention_dim=768, attention_head_dim=8)
    yield "sd15.text", CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
    yield "sd15.vae", AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4)


def main() -> None:
    with open(sys.argv[1], "w", encoding="utf-8") as file, torch.device("meta"):
        for name, network in networks():
            file.write(f"# {name}\n")
            for key, tensor in sorted(network.state_dict().items()):
                file.write(" ".join([key, *map(str, tensor.shape)]) + "\n")


if __name__ == "__main__":
    main()
