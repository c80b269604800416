#!/usr/bin/env python3
"""LoRA files as diffusers writes and reads them, and what its networks make of them.

Make:  python3 tools/golden/lora.py                        writes tests/golden/lora
Check: python3 tools/golden/lora.py --check FILE WEIGHTS   loads what `spectral-motion lora export` wrote into diffusers and
       compares the network with one whose weights had the adapters of the run (WEIGHTS is its final/weights.safetensors, a
       run on tests/golden/micro/model) added by hand

Needs torch, diffusers 0.42, transformers, peft 0.21. Every output is computed from the file, loaded again into a fresh network:
what the file means to diffusers, not what it was made of.
"""
import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet3DConditionModel
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
OUT = GOLDEN / "lora"
STRENGTHS = (0.0, 0.5, 1.0)


class VideoUNet(UNet3DConditionModel, PeftAdapterMixin):
    """diffusers gives its 3-D UNet no loader of its own; this is the one of the 2-D UNet."""


def video() -> VideoUNet:
    return VideoUNet.from_pretrained(GOLDEN / "micro/model/unet").eval().requires_grad_(False)


def image() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(GOLDEN / "sd-micro/model", safety_checker=None)
    pipe.unet.eval()
    pipe.text_encoder.eval()
    return pipe


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """PEFT starts the upper factors at zero; both are drawn here, so that the outputs differ by a tenth or so."""
    for name, tensor in sorted(model.named_parameters()):
        if ".lora_" in name:
            fan = tensor[0].numel() if ".lora_A." in name else 4 * tensor.shape[1]
            tensor.data = torch.randn(tensor.shape, generator=generator) / fan**0.5


def set_strength(model: torch.nn.Module, strength: float) -> None:
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            for adapter in module.scaling:
                module.set_scale(adapter, strength)


def inputs(seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn((1, 7, 16), generator=generator)


def run(unet: torch.nn.Module, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return unet(x, 481, encoder_hidden_states=text).sample.contiguous()


def make_video() -> None:
    """Names as diffusers' savers leave them: `lora.down` beside attention, `lora_A` beside feed-forward layers; alpha is the rank."""
    unet = video()
    ends = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    layers = [n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(tuple(ends)) and "temp_attentions" in n]
    unet.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=layers))
    randomise(unet, torch.Generator().manual_seed(7))
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(OUT, unet_lora_layers=state, weight_name="video.safetensors")
    x, text = inputs(11, (1, 4, 3, 8, 6))
    golden = {"in": x, "text": text}
    unet = video()
    unet.load_lora_adapter(str(OUT), prefix="unet", weight_name="video.safetensors")
    for strength in STRENGTHS:
        set_strength(unet, strength)
        golden[f"out.{strength}"] = run(unet, x, text)
    save_file(golden, OUT / "video-golden.safetensors")


def make_image() -> None:
    """PEFT names with alphas that are not the ranks: linear layers, single pixels, 3x3 kernels, and the text encoder."""
    pipe = image()
    config = LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "time_embedding.linear_2", "conv_out"],
        rank_pattern={"attn2.to_k": 4},
        alpha_pattern={"attn2.to_k": 1, "conv1": 5},
    )
    words = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1"])
    pipe.unet.add_adapter(config)
    pipe.text_encoder.add_adapter(words)
    generator = torch.Generator().manual_seed(8)
    randomise(pipe.unet, generator)
    randomise(pipe.text_encoder, generator)
    # Sets have no JSON form, and the place of the model is nobody's business.
    plain = lambda c: {k: sorted(v) if isinstance(v, set) else v for k, v in c.to_dict().items() if k != "base_model_name_or_path"}
    pipe.save_lora_weights(
        OUT,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="default"),
        weight_name="image.safetensors",
        unet_lora_adapter_metadata=plain(config),
        text_encoder_lora_adapter_metadata=plain(words),
    )
    x, text = inputs(12, (1, 4, 8, 6))
    pipe = image()
    ids = pipe.tokenizer(["the car is running"], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    golden = {"in": x, "text": text, "ids": ids}
    pipe.load_lora_weights(str(OUT), weight_name="image.safetensors")
    for strength in STRENGTHS:
        set_strength(pipe.unet, strength)
        set_strength(pipe.text_encoder, strength)
        golden[f"out.{strength}"] = run(pipe.unet, x, text)
        with torch.no_grad():
            golden[f"words.{strength}"] = pipe.text_encoder(ids)[0]
    save_file(golden, OUT / "image-golden.safetensors")


def walk(model: torch.nn.Module, ancestors: set[str], takes=lambda name: True) -> list[str]:
    """Linear layers below modules of these classes, in the order in which cloneofsimo's `_find_modules_v2` comes by them."""
    found = []
    for prefix, module in model.named_modules():
        if type(module).__name__ in ancestors:
            inside = [f"{prefix}.{n}" for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
            found += [name for name in inside if takes(name)]
    return found


def make_orders() -> None:
    """Of lists without names: cloneofsimo's default targets, and MotionDirector's motion and look."""
    pipe, unet = image(), video()
    branch = lambda name: (".attn" in name or ".ff." in name)
    default = {"Attention", "GEGLU"}
    orders = {
        "image": walk(pipe.unet, default),
        "words": [n.removeprefix("text_model.") for n in walk(pipe.text_encoder, {"CLIPAttention"})],
        "video": walk(unet, default),
        "motion": walk(unet, {"TransformerTemporalModel"}, branch),
        "look": walk(unet, {"Transformer2DModel"}, lambda name: branch(name) and ".attn2." not in name),
    }
    (OUT / "orders.json").write_text(json.dumps(orders, indent=0) + "\n")


def check(file: Path, weights: Path) -> None:
    x, text = inputs(11, (1, 4, 3, 8, 6))
    plain = run(video(), x, text)
    exported = load_file(file)
    unet = video()
    if any(name.startswith("lora_unet_") for name in exported):
        state, alphas = StableDiffusionPipeline.lora_state_dict(str(file.parent), weight_name=file.name)
        unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    else:
        unet.load_lora_adapter(str(file.parent), prefix="unet", weight_name=file.name)
    taken = [n for n, m in unet.named_modules() if isinstance(m, BaseTunerLayer)]
    by_hand, own = video(), load_file(weights)
    modules = dict(by_hand.named_modules())
    for layer in taken:
        down, up = own[f"{layer}.lora_down.weight"], own[f"{layer}.lora_up.weight"]
        modules[layer].weight += up @ down
    pairs = sum(name.endswith((".lora.down.weight", "lora_A.weight", "lora_down.weight")) for name in exported)
    ours, theirs = run(unet, x, text), run(by_hand, x, text)
    scale = (theirs - plain).abs().max()
    print(json.dumps({"pairs": pairs, "layers taken": len(taken), "change": float(scale), "difference": float((ours - theirs).abs().max())}))
    assert pairs == len(taken), "diffusers left layers out"
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() and scale > 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", nargs=2, type=Path, metavar=("FILE", "WEIGHTS"))
    args = parser.parse_args()
    if args.check:
        return check(*args.check)
    OUT.mkdir(exist_ok=True)
    make_video()
    make_image()
    make_orders()
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
