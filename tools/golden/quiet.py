#!/usr/bin/env python3
"""Makes NAME/quiet.safetensors: a model's outputs when all activations are about a hundredth of their usual size.

Run: python3 tools/golden/quiet.py tests/golden/micro     (needs torch, diffusers 0.42, transformers 5)

Every weight outside the norms is divided by 100, except those that only steer attention or gates (see STEERING), so
that each norm of the network sees numbers near 0.01. Their variance is then comparable to a norm's epsilon, and a
wrong epsilon anywhere changes the output by percents. Inputs are those of NAME/golden.safetensors.
"""
import sys

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

SCALE = 0.01
STEERING = ("to_q", "to_k", "q_proj", "k_proj", "ff.net.0", "mlp.fc1", "time_embedding")


def quieten(model: torch.nn.Module) -> torch.nn.Module:
    """Divides the weights in place; norms are told by the class of their module."""
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)) or any(part in name for part in STEERING):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.mul_(SCALE)
    return model.eval()


@torch.no_grad()
def main(folder: str) -> None:
    golden = load_file(f"{folder}/golden.safetensors")
    text = quieten(CLIPTextModel.from_pretrained(f"{folder}/model/text_encoder"))
    unet = quieten(UNet3DConditionModel.from_pretrained(f"{folder}/model/unet"))
    vae = quieten(AutoencoderKL.from_pretrained(f"{folder}/model/vae"))
    posterior = vae.encode(golden["vae.in"]).latent_dist
    out = {
        "text": text(golden["ids"])[0],
        "unet.out": unet(golden["unet.in"], golden["unet.t"], golden["text"][:1]).sample,
        "vae.mean": posterior.mean,
        "vae.logvar": posterior.logvar,
        "vae.out": vae.decode(golden["vae.mean"]).sample,
    }
    save_file({key: value.contiguous() for key, value in out.items()}, f"{folder}/quiet.safetensors")
    print({key: tuple(value.shape) for key, value in out.items()})


if __name__ == "__main__":
    main(sys.argv[1])
