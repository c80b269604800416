#!/usr/bin/env python3
"""Makes tests/golden/schedulers.json and schedulers_edges.json: diffusers' DDIM, DDIM inversion and DPM-Solver++ on a number
instead of a picture.

Run: python3 tools/golden/schedulers.py tests/golden   (needs torch and diffusers 0.42)

The stand-in for a network is out(x, t) = 0.1 x + t / 10000 and the sample starts at 1 (sampling) or 0.5 (inversion).
Everything runs in double precision, the tables too, so that a test can be strict; each case lists its configuration, the timesteps and the sample after every step.
"""
import itertools
import json
import sys

import numpy
import torch
from diffusers import (DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler,
                       EulerDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler)

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
    write("schedulers.json", cases)
    write("schedulers_edges.json", dict(files=list(files()), solver=list(solver_edges()), forward=list(forward())))


def write(name: str, content) -> None:
    """Writes a file into the folder named on the command line."""
    with open(f"{sys.argv[1]}/{name}", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=None, separators=(",", ":"))
        file.write("\n")


# As they are published, field by field: Stable Diffusion 1.5, Stable Diffusion 2 (768 pixels), ZeroScope and ModelScope.
PUBLISHED = [
    """{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
 "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true,
 "steps_offset": 1, "trained_betas": null}""",
    """{"_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
 "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "prediction_type": "v_prediction",
 "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null}""",
    """{"_class_name": "DDIMScheduler", "_diffusers_version": "0.15.0.dev0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
 "beta_start": 0.00085, "clip_sample": false, "clip_sample_range": 1.0, "dynamic_thresholding_ratio": 0.995,
 "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false,
 "skip_prk_steps": true, "steps_offset": 1, "thresholding": false, "trained_betas": null}""",
]


def files():
    """scheduler_config.json texts of many classes, and what DDIM and DPM-Solver++ make of them by from_config."""
    noise = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    written = [
        PNDMScheduler(**noise, skip_prk_steps=True, steps_offset=1),
        PNDMScheduler(**noise, prediction_type="v_prediction", timestep_spacing="trailing"),
        DDIMScheduler(**SD, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"),
        DDPMScheduler(**noise, clip_sample=False, variance_type="fixed_small"),
        DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample_range=0.9),
        EulerDiscreteScheduler(**noise, prediction_type="v_prediction", steps_offset=1),
        DPMSolverMultistepScheduler(**noise, prediction_type="v_prediction", solver_order=1),
        DPMSolverMultistepScheduler(**noise, euler_at_final=True, final_sigmas_type="sigma_min"),
        UniPCMultistepScheduler(**noise),
        DEISMultistepScheduler(**noise),
    ]
    for text in PUBLISHED + [scheduler.to_json_string() for scheduler in written]:
        config = json.loads(text)
        if config.get("algorithm_type") == "deis":
            # diffusers refuses the end without noise for such files, by their name for the algorithm alone.
            config["final_sigmas_type"] = "sigma_min"
            text = json.dumps(config)
        case = dict(file=text, dpm=[walk(DPMSolverMultistepScheduler.from_config(config), n, 1.0) for n in (5, 20)])
        # DDIM clips by default; where another class wrote the file, this program deviates (schedulers::SchedulerConfig).
        if "clip_sample" in config:
            case["ddim"] = [walk(DDIMScheduler.from_config(config), n, 1.0) for n in (1, 5)]
        yield case


def solver_edges():
    """DPM-Solver++ with few steps and every way to begin and end."""
    choices = itertools.product((1, 2, 3, 14, 15), (1, 2), (True, False), (True, False), ("zero", "sigma_min"), ("epsilon", "v_prediction"))
    for steps, order, lower, euler, final, prediction in choices:
        config = SD | dict(solver_order=order, lower_order_final=lower, euler_at_final=euler, final_sigmas_type=final,
                           prediction_type=prediction)
        yield dict(config=config, dpm=walk(DPMSolverMultistepScheduler.from_config(config), steps, 1.0))


def forward():
    """Noising and the velocity a network is trained on."""
    scheduler = DDIMScheduler(**SD)
    clean, noise = torch.tensor([0.7]), torch.tensor([-0.4])
    for t in (0, 1, 437, 999):
        at = torch.tensor([t])
        yield dict(t=t, noisy=float(scheduler.add_noise(clean, noise, at)), velocity=float(scheduler.get_velocity(clean, noise, at)))


if __name__ == "__main__":
    main()
