#!/usr/bin/env python3
"""Makes tests/golden/canny.json: small pictures and the edges that OpenCV draws in them.

Run: python3 tools/golden/canny.py tests/golden/canny.json     (needs numpy, opencv-python-headless)
"""
import json
import sys

import cv2
import numpy as np


def pictures():
    """Noise, smooth waves with corners, and a photograph-like mixture; odd and even sizes, one pixel wide too."""
    rng = np.random.default_rng(5)
    yield rng.integers(0, 256, (17, 23, 3)), (100, 100)
    yield rng.integers(0, 256, (16, 20, 3)), (300.7, 900.2)
    y, x = np.mgrid[0:40, 0:48]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(y / 4), np.sin((x - y) / 6)], -1) * 60 + 128
    waves[10:25, 12:30] = (220, 40, 30)
    yield waves, (40, 120)
    yield waves + rng.normal(0, 6, waves.shape), (100, 200)
    yield rng.integers(0, 256, (9, 1, 3)), (50, 100)


def main() -> None:
    cases = []
    for picture, (low, high) in pictures():
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        edges = cv2.Canny(picture, low, high)
        height, width = edges.shape
        cases.append({
            "width": width, "height": height, "low": low, "high": high, "rgb": picture.flatten().tolist(),
            "edges": "".join("#" if edge else "." for edge in edges.flatten()),
        })
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"opencv": cv2.__version__, "cases": cases}, file, separators=(",", ":"))


if __name__ == "__main__":
    main()
