"""Golden data for objectives and samplers, from diffusers' schedulers.

    pip install torch==2.15 diffusers==0.42 safetensors numpy
    python tests/golden/schedulers/generate.py

Every trajectory runs one fixed analytic model, the exact answer for pictures that are normal with mean `in.mean` and
standard deviation 0.5, under the schedule `signal = cos(pi t / 2000)` (for flow: `1 - t / 1000`). It knows nothing but x
and the time that the network is told, so a trajectory is right only if the levels and the told times are.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr
from safetensors.torch import save_file

OUT = Path(__file__).parent
T = 1000
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (1e-4, 0.02)}
NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
VARIANCE = 0.25

tensors = {}
generator = torch.Generator().manual_seed(0)


def given(name, values):
    tensors[f"in.{name}"] = values
    return values


NOISE = given("noise", torch.randn(2, 1, 2, 3, generator=generator))
MEAN = given("mean", torch.randn(1, 1, 2, 3, generator=generator))
# One for each step of an ancestral trajectory.
FRESH = given("fresh", torch.randn(20, 2, 1, 2, 3, generator=generator))


def model(x, t, prediction):
    """t is the told time, 0..1000."""
    t = float(t) / 1000
    signal, noise = (1 - t, t) if prediction == "flow" else (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2))
    total = signal**2 * VARIANCE + noise**2
    z = noise / total * (x - signal * MEAN)
    clean = MEAN + signal * VARIANCE / total * (x - signal * MEAN)
    return {"epsilon": z, "velocity": signal * z - noise * clean, "flow": z - clean}[prediction]


def settings(schedule, zero):
    start, end = BETAS[schedule]
    return dict(
        num_train_timesteps=T, beta_start=start, beta_end=end, beta_schedule=schedule, rescale_betas_zero_snr=zero
    )


def tables():
    for schedule in BETAS:
        for zero in (False, True):
            scheduler = DDPMScheduler(**settings(schedule, zero))
            name = NAMES[schedule] + (".zero" if zero else "")
            tensors[f"out.alpha_bars.{name}"] = scheduler.alphas_cumprod
            # In f32, 1 - alpha_bar has few digits where there is little noise.
            betas = DDPMScheduler(**settings(schedule, False)).betas.double()
            scheduler.alphas_cumprod = torch.cumprod(1 - (rescale_zero_terminal_snr(betas) if zero else betas), 0)
            snr = compute_snr(scheduler, torch.arange(T))
            clipped = torch.clamp(snr, max=5.0)
            if not zero:
                tensors[f"out.min_snr.epsilon.{name}"] = clipped / snr
            tensors[f"out.min_snr.velocity.{name}"] = clipped / (snr + 1)


def shifted(schedule, zero, s):
    """The chain with log-SNR lowered by 2 log s, as betas, and what the network is told at each level."""
    bars = DDPMScheduler(**settings(schedule, zero)).alphas_cumprod.double().numpy()
    moved = bars / (bars + s**2 * (1 - bars))

    def angle(a):
        return np.arctan2(np.sqrt(1 - a), np.sqrt(a))

    told = np.interp(angle(moved), angle(bars), np.arange(T))
    betas = 1 - moved / np.concatenate([[1.0], moved[:-1]])
    return betas, told


def trajectory(name, cls, schedule, zero, prediction, steps, shift=None, **extra):
    kind = {"epsilon": "epsilon", "velocity": "v_prediction"}[prediction]
    config = settings(schedule, zero) | dict(prediction_type=kind, timestep_spacing="trailing") | extra
    told = np.arange(T)
    if shift is not None:
        betas, told = shifted(schedule, zero, shift)
        config |= dict(trained_betas=betas, rescale_betas_zero_snr=False)
    if cls is not DPMSolverMultistepScheduler:
        config["clip_sample"] = False
    scheduler = cls(**config)
    if shift is not None and zero and cls is DPMSolverMultistepScheduler:
        raise ValueError("diffusers has no such chain")
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    x = NOISE
    for i, t in enumerate(scheduler.timesteps):
        output = model(x, told[t], prediction)
        if cls is DDPMScheduler:
            # It draws from the global generator; what it drew is replaced by what the reader knows.
            torch.manual_seed(i)
            after = scheduler.step(output, t, x).prev_sample
            torch.manual_seed(i)
            drawn = torch.randn(x.shape)
            deviation = scheduler._get_variance(t) ** 0.5 if t > 0 else 0.0
            x = after + deviation * (FRESH[i] - drawn)
        else:
            x = scheduler.step(output, t, x).prev_sample
    label = NAMES[schedule] + (".zero" if zero else "") + (f".shift{shift}" if shift else "")
    tensors[f"out.{name}.{prediction}.{label}.{steps}"] = x


def straight(name, scheduler, steps, shift):
    scheduler.set_begin_index(0)
    x = NOISE
    for i, t in enumerate(scheduler.timesteps):
        # Of the scheduler's own sigma: DPM-Solver's timesteps are cut to integers.
        x = scheduler.step(model(x, 1000 * scheduler.sigmas[i], "flow"), t, x).prev_sample
    tensors[f"out.{name}.flow.{shift}.{steps}"] = x


def trajectories():
    for steps in (1, 4, 20, 50):
        trajectory("ddim", DDIMScheduler, "linear", False, "epsilon", steps)
    for steps in (4, 7, 20):
        trajectory("ddpm", DDPMScheduler, "linear", False, "epsilon", steps)
        trajectory("dpm_solver_pp_2m", DPMSolverMultistepScheduler, "linear", False, "epsilon", steps)
    for name, cls in (
        ("ddim", DDIMScheduler),
        ("ddpm", DDPMScheduler),
        ("dpm_solver_pp_2m", DPMSolverMultistepScheduler),
    ):
        trajectory(name, cls, "scaled_linear", False, "epsilon", 10)
        trajectory(name, cls, "squaredcos_cap_v2", False, "velocity", 10)
        trajectory(name, cls, "linear", True, "velocity", 1)
        trajectory(name, cls, "linear", True, "velocity", 5)
        trajectory(name, cls, "scaled_linear", True, "velocity", 20)
        trajectory(name, cls, "scaled_linear", False, "velocity", 10, shift=2.0)
        trajectory(name, cls, "linear", False, "epsilon", 4, shift=0.7)
    for steps in (1, 4, 7, 20):
        for shift in (1.0, 3.0):
            scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
            straight("euler", scheduler, steps, shift)
            scheduler = DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
            )
            scheduler.set_timesteps(steps)
            straight("dpm_solver_pp_2m", scheduler, steps, shift)


def guidance():
    prompted = given("prompted", torch.randn(2, 3, 4, 5, generator=generator) + 0.5)
    empty = given("empty", torch.randn(2, 3, 4, 5, generator=generator))
    guided = empty + 7.5 * (prompted - empty)
    for rescale in (0.0, 0.7, 1.0):
        tensors[f"out.guided.{rescale}"] = rescale_noise_cfg(guided, prompted, rescale)


tables()
trajectories()
guidance()
save_file({k: v.float().contiguous() for k, v in tensors.items()}, OUT / "schedulers.safetensors")
