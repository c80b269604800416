#!/usr/bin/env python3
"""Makes tests/methods/vmc-trace.safetensors: four training steps of VMC with Spectral Motion Alignment on the micro model.

Run: python3 tools/golden/trainer.py     (needs torch, diffusers 0.42)

PyTorch's own autograd, AdamW and gradient clipping, diffusers' UNet; only the losses are written out below. Eight frames and
signed residuals keep the cosine loss well conditioned: with few frames some pixel hardly moves, and the gradient of its
direction is then as uncertain as rounding makes it.
"""
import math
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet3DConditionModel
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
STEPS, LEVELS, LAMBDA_G, LAMBDA_L, DELTA, LEARNING_RATE = 4, 3, 0.4, 0.2, 0.05, 1e-3


def motion(x: torch.Tensor) -> torch.Tensor:
    """Signed differences of frames, `[b, c, f - 1, h, w]`."""
    return x[:, :, 1:] - x[:, :, :-1]


def haar(x: torch.Tensor) -> list[torch.Tensor]:
    """Approximation, then details from the finest, along the last axis; a zero is appended to odd lengths."""
    details = []
    for _ in range(LEVELS):
        if x.shape[-1] % 2:
            x = torch.nn.functional.pad(x, (0, 1))
        even, odd = x[..., ::2], x[..., 1::2]
        details.append((even - odd) / math.sqrt(2))
        x = (even + odd) / math.sqrt(2)
    return [x, *details]


def global_loss(clean: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Sum of the bands' mean absolute differences."""
    bands = [haar(motion(x).movedim(2, -1)) for x in (clean, estimate)]
    return sum((a - b).abs().mean() for a, b in zip(*bands))


def local_loss(clean: torch.Tensor, estimate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean absolute differences of Fourier amplitude and phase."""
    height, width = clean.shape[-2:]
    row, column = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    half = (height / 2, width / 2)
    weight = (half[0] ** 2 + half[1] ** 2) ** DELTA - ((row - half[0]) ** 2 + (column - half[1]) ** 2) ** DELTA + 1
    a, b = (torch.fft.fftshift(torch.fft.fft2(motion(x)), dim=(-2, -1)) for x in (clean, estimate))
    return (weight * (a.abs() - b.abs()).abs()).mean(), (weight * (a.angle() - b.angle()).abs()).mean()


def main() -> None:
    model = ROOT / "tests/golden/micro/model"
    unet = UNet3DConditionModel.from_pretrained(model / "unet").eval().requires_grad_(False)
    alphas = DDIMScheduler.from_pretrained(model / "scheduler").alphas_cumprod
    ends = (".to_q.weight", ".to_k.weight", ".to_v.weight")
    learn = {n: p.requires_grad_(True) for n, p in unet.named_parameters() if "temp_attentions" in n and n.endswith(ends)}
    optimizer = torch.optim.AdamW(learn.values(), lr=LEARNING_RATE, weight_decay=1e-2)
    noise = torch.Generator().manual_seed(11)
    clean = torch.randn(1, 4, 8, 8, 8, generator=noise)
    text = torch.randn(1, 77, 16, generator=noise)
    out = {"v0": clean, "text": text}
    for step in range(STEPS):
        eps = torch.randn(clean.shape, generator=noise)
        t = torch.randint(0, 1000, (1,), generator=noise)
        level = alphas[t].view(-1, 1, 1, 1, 1)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * eps
        predicted = unet(noisy, t, encoder_hidden_states=text).sample
        estimate = (noisy - (1 - level).sqrt() * predicted) / level.sqrt()
        base = 1 - torch.nn.functional.cosine_similarity(motion(predicted), motion(eps), dim=2).mean()
        amplitude, phase = local_loss(clean, estimate)
        terms = {"base": base, "global": global_loss(clean, estimate), "amplitude": amplitude, "phase": phase}
        total = base + LAMBDA_G * terms["global"] + LAMBDA_L * (amplitude + phase)
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(learn.values(), 1.0)
        optimizer.step()
        numbers = terms | {"total": total, "norm": norm}
        out |= {f"{step}.eps": eps, f"{step}.t": t.float()} | {f"{step}.{k}": v.detach() for k, v in numbers.items()}
        print(step, int(t), {k: round(float(v), 5) for k, v in numbers.items()})
    out |= {f"final.{n}": p.detach() for n, p in learn.items()}
    target = ROOT / "tests/methods/vmc-trace.safetensors"
    target.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, target)


if __name__ == "__main__":
    main()
