"""Draw the bundled sample clip: `make_sample.py OUT` writes OUT/red-circle.mp4 and OUT/red-circle.json.

256 x 256 pixels, 8 frames at 8 a second, H.264 (needs ffmpeg). The JSON holds the prompt, the true centre of the subject
per frame in units of a 64-pixel frame, and the centres of a clearly different path for null comparisons.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import torch
from PIL import Image

import world

SIZE, FRAMES, FPS = 256, 8, 8


def centres(path: torch.Tensor) -> list[list[float]]:
    return [[round(float(x), 3), round(float(y), 3)] for x, y in path]


def turns(values: torch.Tensor) -> int:
    """How often a sequence turns back."""
    d = values[1:] - values[:-1]
    return int((d[1:] * d[:-1] < 0).sum())


def main(out: str) -> None:
    os.makedirs(out, exist_ok=True)
    pixels = ((world.sample_clip(SIZE, FRAMES) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    with tempfile.TemporaryDirectory() as folder:
        for i, frame in enumerate(pixels):
            Image.fromarray(frame.numpy()).save(f"{folder}/{i:02d}.png")
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-framerate", str(FPS), "-i", f"{folder}/%02d.png", "-c:v", "libx264", "-crf", "12",
                        "-preset", "veryslow", "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p",
                        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
                        "-movflags", "+faststart", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", f"{out}/red-circle.mp4"], check=True)
    path = world.sample_path(FRAMES)
    facts = {
        "prompt": world.SAMPLE_PROMPT, "edit-prompt": "a yellow star on a blue plain background", "frames": FRAMES, "fps": FPS,
        "size": [SIZE, SIZE], "unit": 64, "radius": world.SAMPLE_RADIUS, "path": centres(path), "other-path": centres(world.other_path(FRAMES)),
        "turns": {"x": turns(path[:, 0]), "y": turns(path[:, 1])},
        "spread": {"x": round(float(path[:, 0].max() - path[:, 0].min()), 2), "y": round(float(path[:, 1].max() - path[:, 1].min()), 2)},
    }
    with open(f"{out}/red-circle.json", "w") as f:
        json.dump(facts, f, indent=2)
        f.write("\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "assets/sample")
