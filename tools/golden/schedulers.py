#!/usr/bin/env python3
"""Makes tests/golden/schedulers.json: diffusers' DDIM, DDIM inversion and DPM-Solver++ on a number instead of a picture.

Run: python3 tools/golden/schedulers.py tests/golden/schedulers.json   (needs torch and diffusers 0.42)

The stand-in for a network is out(x, t) = 0.1 x + t / 10000 and the sample starts at 1 (sampling) or 0.5 (inversion).
Everything runs in double precision, the tables too, so that a test can be strict; each case lists its configuration, the timesteps and the sample after every step.
"""
import itertools
import json
import sys

import numpy
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler

# diffusers names float32 when it builds its tables; this is the only way to have them in double precision.
torch.float32 = torch.float64
numpy.float32 = numpy.float64
torch.set_default_dtype(torch.float64)

# The file of the tests' `bounded`: ends at the first noise level, and leaves out the faintest ones.
BOUNDED = dict(final_sigmas_type="sigma_min", lambda_min_clipped=-5.1)
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def configurations():
    """Every field that changes DDIM at least twice, without the full product of all."""
    yield SD
    for spacing, prediction in itertools.product(("leading", "trailing", "linspace"), ("epsilon", "v_prediction", "sample")):
        yield SD | dict(timestep_spacing=spacing, prediction_type=prediction)
    yield SD | dict(beta_end=0.02, timestep_spacing="trailing")
    yield SD | dict(set_alpha_to_one=True, steps_offset=0)
    yield SD | dict(clip_sample=True, clip_sample_range=0.8)
    yield dict(beta_schedule="linear", clip_sample=False, set_alpha_to_one=True)
    yield dict(beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=False)
    yield SD | dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    yield {}  # every default of the class


def walk(scheduler, steps: int, x: float) -> dict:
    """Timesteps and samples of one run."""
    scheduler.set_timesteps(steps)
    assert scheduler.alphas_cumprod.dtype == torch.float64
    sample, samples = torch.tensor([x], dtype=torch.float64), []
    for t in scheduler.timesteps:
        sample = scheduler.step(0.1 * sample + float(t) / 10000, int(t), sample).prev_sample
        samples.append(float(sample))
    return dict(steps=steps, timesteps=scheduler.timesteps.tolist(), samples=samples)


def main() -> None:
    cases = []
    for config in configurations():
        for steps in (4, 7, 15):
            case = dict(config=config, ddim=walk(DDIMScheduler(**config), steps, 1.0))
            if config.get("timestep_spacing") != "linspace":
                case["inverse"] = walk(DDIMInverseScheduler(**config), steps, 0.5)
            case["dpm"] = walk(DPMSolverMultistepScheduler.from_config(config), steps, 1.0)
            case["dpm_bounded"] = walk(DPMSolverMultistepScheduler.from_config(config | BOUNDED), steps, 1.0)
            cases.append(case)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(cases, file, indent=None, separators=(",", ":"))
        file.write("\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
