#!/usr/bin/env python3
"""Runs the PyTorch peer with the phase of every real bin in one place.

Run: python3 tools/golden/peer.py PEER.py losses OUT.safetensors     (or any other command of the peer)

Four bins of a real picture's Fourier transform are real (two or one where a side is odd). Where such a bin is negative its phase
is pi or -pi, by the sign of an imaginary part that is zero but for rounding: a single-precision transform tosses a coin, another
processor or library another one, and the phase term jumps by 2 pi a bin. Gradients do not depend on it. Here the imaginary part of
these bins is plus zero, as in this program, so that goldens can be compared to more than three digits.

A training trace can still lie on a kink of the loss: one wavelet coefficient of prediction and target that differ by less than the
prediction's own rounding turns a sign, and with it some thousandths of the gradient. Another --seed has none.
"""
import runpy
import sys

import torch

plain = torch.fft.fft2


def with_real_bins(x, *args, **kwargs):
    y = plain(x, *args, **kwargs)
    h, w = y.shape[-2:]
    real = torch.zeros(h, w, dtype=torch.bool, device=y.device)
    for row in {0, h // 2} if h % 2 == 0 else {0}:
        for column in {0, w // 2} if w % 2 == 0 else {0}:
            real[row, column] = True
    return torch.complex(y.real, torch.where(real, torch.zeros_like(y.imag), y.imag))


torch.fft.fft2 = with_real_bins
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
