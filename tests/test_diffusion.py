"""The diffusion arithmetic against the package `diffusers`, and what every sampler promises.

`diffusers` is no dependency: it is fetched into a folder of the test's, never installed. Its
alphas are float32, so comparison is relative. It counts timesteps from 0, one below ours. With
timestep_spacing='trailing', and 'leading' at steps_offset=0, its DDIM and DDPM step to the level
that they visit next, as ours do; with 'linspace' they step to another one, so there only the
visited levels are compared. Its DPM-Solver++ agrees on 'trailing', counts one step more in the two
others, and takes any levels handed to it. All but 'trailing' visit t = 1, where 1 minus a float32
alpha is off by 1 %: there its schedulers are given float64 alphas. All end at a sigma of zero:
set_alpha_to_one=True (DDIM), final_sigmas_type='zero' (DPM-Solver++, whose last step is then of
first order).
"""

import importlib
import importlib.util
import sys

import pytest
import torch
from torch import nn

from ctsr.core.errors import CTSRError
from ctsr.models.diffusion import (
    SAMPLERS,
    SPACINGS,
    ImageNoise,
    ddim,
    ddpm,
    dpm_solver,
    draw_gamma,
    image_seed,
    implicit,
    noise_schedule,
    posterior,
    q_sample,
    respace,
    target_of,
    y0_from,
)

T = 2000
STEPS = 20
SHAPE = (1, 12, 12)
BETAS = {
    "linear": dict(beta_schedule="linear", beta_start=1e-6, beta_end=1e-2),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
}


@pytest.fixture(scope="module")
def diffusers(fetched):
    "The package, from a folder of this test's unless it is installed."
    patch = pytest.MonkeyPatch()
    before = set(sys.modules)
    if not importlib.util.find_spec("diffusers"):
        patch.syspath_prepend(str(fetched("diffusers==0.42.0")))
    try:
        yield importlib.import_module("diffusers")
    except ImportError as e:
        pytest.skip(f"the package diffusers does not load here: {e}")
    finally:
        patch.undo()
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "diffusers":
                del sys.modules[name]


@pytest.fixture(scope="module")
def net():
    "A small random network of the noisy image and its noise level."
    torch.manual_seed(0)

    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1)

    body = nn.Sequential(conv(2, 16), nn.SiLU(), conv(16, 16), nn.SiLU(), conv(16, 1))
    return lambda y, gamma: (
        body(torch.cat([y, gamma.view(-1, 1, 1, 1).expand_as(y)], 1)).detach() + 0.3 * y
    )


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def start(seed=1):
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def drawn(seed=2):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(3, *SHAPE, generator=g)


def ours(sampler, net, kind, schedule, spacing="trailing", **kw):
    "Every state of a run, and its result."
    states = []
    alpha_bar = noise_schedule(schedule, T)

    def keep(i, gamma, y, y0):
        return states.append(y)

    end = sampler(
        lambda y, g: y0_from(kind, net(y, g), y, g),
        start(),
        STEPS,
        alpha_bar=alpha_bar,
        spacing=spacing,
        callback=keep,
        **kw,
    )
    return [*states, end]


def theirs(scheduler, net, alpha_bar, **kw):
    "The same of a scheduler whose timesteps are set."
    states = [start()]
    for t in scheduler.timesteps:
        gamma = alpha_bar[t + 1].float().expand(len(states[0]))
        states.append(scheduler.step(net(states[-1], gamma), t, states[-1], **kw).prev_sample)
    return states


@pytest.mark.parametrize("schedule", BETAS)
def test_schedule_and_noising_equal_theirs(diffusers, schedule):
    alpha_bar = noise_schedule(schedule, T)
    theirs = diffusers.DDPMScheduler(T, **BETAS[schedule])
    assert torch.allclose(alpha_bar[1:].float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)
    y0 = start()
    eps = start(9)
    t = torch.tensor([0, 700, 1999])
    assert relative(q_sample(y0, alpha_bar[t + 1], eps), theirs.add_noise(y0, eps, t)) < 1e-5
    assert (
        relative(target_of("v", y0, eps, alpha_bar[t + 1]), theirs.get_velocity(y0, eps, t)) < 1e-5
    )


@pytest.mark.parametrize("steps", [2, 7, 20, 50, 1000, 2000])
def test_visited_levels_equal_theirs(diffusers, steps):
    alpha_bar = noise_schedule("linear", T)
    for spacing in ("leading", "trailing", "linspace"):
        scheduler = diffusers.DDIMScheduler(T, timestep_spacing=spacing, steps_offset=0)
        scheduler.set_timesteps(steps)
        assert torch.equal(
            respace(alpha_bar, steps, spacing)[:-1], alpha_bar[scheduler.timesteps + 1]
        ), spacing


@pytest.mark.parametrize("variance", ["small", "large"])
def test_one_ancestral_step_equals_theirs(diffusers, variance):
    "From t to t - 1 of the whole schedule, at both ends and inside."
    scheduler = diffusers.DDPMScheduler(
        T, variance_type=f"fixed_{variance}", clip_sample=False, **BETAS["linear"]
    )
    alpha_bar = noise_schedule("linear", T)
    for t in (2, 900, 2000):
        y = start()
        eps = start(9)
        expected = scheduler.step(
            eps, t - 1, y, generator=torch.Generator().manual_seed(2)
        ).prev_sample
        c_y, c_y0, sigma = posterior(alpha_bar[t].item(), alpha_bar[t - 1].item(), variance)
        assert (
            relative(
                c_y * y + c_y0 * y0_from("eps", eps, y, alpha_bar[t].item()) + sigma * drawn()(),
                expected,
            )
            < 1e-4
        )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_ddim_step_equals_theirs(diffusers, eta):
    scheduler = diffusers.DDIMScheduler(T, clip_sample=False, **BETAS["linear"])
    alpha_bar = noise_schedule("linear", T)
    scheduler.set_timesteps(STEPS)
    for t in (101, 901, 1901):
        y = start()
        eps = start(9)
        z = start(10)
        expected = scheduler.step(
            eps, t - 1, y, eta=eta, variance_noise=z if eta else None
        ).prev_sample
        c_y, c_y0, sigma = implicit(alpha_bar[t].item(), alpha_bar[t - 100].item(), eta)
        assert (
            relative(
                c_y * y + c_y0 * y0_from("eps", eps, y, alpha_bar[t].item()) + sigma * z, expected
            )
            < 1e-4
        )


@pytest.mark.parametrize(
    "kind,prediction", [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")]
)
@pytest.mark.parametrize("schedule", BETAS)
def test_trajectories_equal_theirs(diffusers, net, schedule, kind, prediction):
    "All 20 steps of DDIM, also with noise, of DDPM and of DPM-Solver++(2M)."
    alpha_bar = noise_schedule(schedule, T)
    common = dict(prediction_type=prediction, **BETAS[schedule])
    worst = {}

    def gen():
        return torch.Generator().manual_seed(2)

    def compare(name, mine, scheduler, **kw):
        "Every state, the image at the end among them."
        expected = theirs(scheduler, net, alpha_bar, **kw)
        assert len(mine) == len(expected) == STEPS + 1 and all(e.isfinite().all() for e in expected)
        worst[name] = max(map(relative, mine, expected))

    for spacing in ("trailing", "leading"):
        steps = dict(timestep_spacing=spacing, steps_offset=0, clip_sample=False)
        for eta in (0.0, 0.6):
            scheduler = diffusers.DDIMScheduler(T, set_alpha_to_one=True, **steps, **common)
            scheduler.set_timesteps(STEPS)
            if spacing == "leading":
                scheduler.alphas_cumprod = alpha_bar[1:]
            mine = ours(ddim, net, kind, schedule, spacing, eta=eta, noise=drawn())
            compare(f"ddim {eta} {spacing}", mine, scheduler, eta=eta, generator=gen())
        scheduler = diffusers.DDPMScheduler(T, variance_type="fixed_small", **steps, **common)
        scheduler.set_timesteps(STEPS)
        if spacing == "leading":
            scheduler.alphas_cumprod = alpha_bar[1:]
        compare(
            f"ddpm {spacing}",
            ours(ddpm, net, kind, schedule, spacing, noise=drawn()),
            scheduler,
            generator=gen(),
        )
    solver = dict(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        **common,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(T, timestep_spacing="trailing", **solver)
    scheduler.set_timesteps(STEPS)
    compare("dpm++ trailing", ours(dpm_solver, net, kind, schedule), scheduler)
    for spacing in ("leading", "linspace", "logsnr"):
        t = torch.tensor(
            [int((alpha_bar == g).nonzero()) for g in respace(alpha_bar, STEPS, spacing)]
        )  # 0 at the end
        scheduler = diffusers.DPMSolverMultistepScheduler(T, **solver)
        scheduler.set_timesteps(timesteps=(t[:-1] - 1).tolist())
        scheduler.sigmas = (1 / alpha_bar[t] - 1).sqrt()
        compare(f"dpm++ {spacing}", ours(dpm_solver, net, kind, schedule, spacing), scheduler)
    print(
        f"{schedule}, {kind}: largest relative difference",
        *(f"{k} {v:.1e};" for k, v in worst.items()),
    )
    assert max(worst.values()) < 1e-4, worst


def sample(name, denoise, seeds, steps=5, **kw):
    noise = ImageNoise(seeds, SHAPE)
    return SAMPLERS[name](denoise, noise(), steps, alpha_bar=noise_schedule(), noise=noise, **kw)


def shrink(y, gamma):
    "Pixel by pixel, so that no order of summation depends on the batch."
    return (y * gamma.view(-1, 1, 1, 1)).tanh()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "kw",
    [{}, dict(eta=0.7), dict(spacing="logsnr")],
    ids="-".join,
)
def test_a_sample_does_not_depend_on_its_batch(name, kw):
    seeds = [image_seed(3, f"image {i}") for i in range(5)]
    batch = sample(name, shrink, seeds, **kw)
    assert torch.equal(sample(name, shrink, seeds, **kw), batch)  # the same seed, the same image
    assert torch.equal(sample(name, shrink, seeds[::-1], **kw), batch.flip(0))
    for i in (0, 4):
        assert torch.equal(sample(name, shrink, seeds[i : i + 1], **kw), batch[i : i + 1])
    assert (
        len({tuple(y.flatten().tolist()) for y in batch}) == 5
    )  # different seeds, different images


def test_seeds_are_those_that_earlier_results_were_made_with():
    assert image_seed(7, "a/b c é.png", 2) == 5791610184401055925
    seeds = [image_seed(s, f"{i}", k) for s in range(5) for i in range(20) for k in range(5)]
    assert len(set(seeds)) == len(seeds) and all(
        isinstance(s, int) and 0 <= s < 2**63 for s in seeds
    )


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_exactly_as_many_evaluations_as_steps(name, spacing):
    seen = []
    states = []

    def denoise(y, gamma):
        seen.append(gamma)
        return shrink(y, gamma)

    def keep(i, gamma, y, y0):
        states.append((i, gamma))

    for steps in (1, 2, 3, 20):
        seen.clear()
        states.clear()
        sample(name, denoise, [1, 2], steps, spacing=spacing, callback=keep)
        levels = respace(noise_schedule(), steps, spacing)
        assert [i for i, _ in states] == list(range(steps)) and [g for _, g in states] == levels[
            :-1
        ].tolist()
        assert (
            torch.equal(torch.stack(seen), levels[:-1, None].float().expand(steps, 2))
            and seen[0].dtype == torch.float32
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_one_estimate(name):
    "With a single step no noise is needed, and the result is what the denoiser says of the start."
    x_T = start()
    y = SAMPLERS[name](shrink, x_T, 1, alpha_bar=noise_schedule())
    assert torch.allclose(
        y, shrink(x_T, torch.full((3,), noise_schedule()[-1].item())), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_stays_in_float32(name):
    "A denoiser in bf16 gets and gives bf16 values, but steps are not rounded; no gradient is kept."
    seen = []
    weight = torch.ones((), requires_grad=True)

    def rounded(y, gamma):
        seen.append(y.dtype)
        return weight.bfloat16() * shrink(y, gamma).bfloat16()

    y = sample(name, rounded, [1, 2], 10)
    same = sample(name, lambda y, gamma: shrink(y, gamma).bfloat16().float(), [1, 2], 10)
    assert (
        set(seen) == {torch.float32}
        and y.dtype == torch.float32
        and not y.requires_grad
        and torch.equal(y, same)
    )
    coarse = SAMPLERS[name](
        rounded, start().bfloat16(), 2, alpha_bar=noise_schedule(), noise=drawn()
    )
    exact = SAMPLERS[name](shrink, start().double(), 2, alpha_bar=noise_schedule(), noise=drawn())
    assert coarse.dtype == torch.float32 and exact.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert sample(name, shrink, [1, 2]).dtype == torch.float32


@pytest.mark.parametrize("name", SAMPLERS)
def test_bad_input_is_refused(name):
    alpha_bar = noise_schedule(T=50)
    noise = drawn()

    def run(denoise=shrink, steps=5, **kw):
        return SAMPLERS[name](
            denoise, start(), steps, **(dict(alpha_bar=alpha_bar, noise=noise) | kw)
        )

    for steps in (0, -1, 51, 2.5, True, "5", None):
        with pytest.raises(
            CTSRError, match="'steps' must be a whole number from 1 to the schedule's 50"
        ):
            run(steps=steps)
    with pytest.raises(CTSRError, match="'spacing' must be one of leading"):
        run(spacing="even")
    with pytest.raises(CTSRError, match=r"must have the shape \(3, 1, 12, 12\)"):
        run(lambda y, gamma: y[:1])
    if name != "dpm++":

        def evaluated(*_):
            return pytest.fail("evaluated before the noise was missed")

        with pytest.raises(CTSRError, match="give 'noise'"):
            run(evaluated, noise=None, eta=1.0)
        with pytest.raises(CTSRError, match="'noise' must give"):
            run(noise=lambda: torch.randn(1, *SHAPE), eta=1.0)
    if name == "ddim":
        with pytest.raises(CTSRError, match="'eta' must be 0 to 1"):
            run(eta=-0.1)
        run(noise=None, eta=None)


def test_bad_levels_and_schedules_are_refused():
    y = start()
    with pytest.raises(CTSRError, match="'variance' must be one of small, large"):
        posterior(0.5, 0.6, "learned")
    for gamma in (0, -0.1, 1.1, float("nan"), torch.ones(2)):
        with pytest.raises(CTSRError, match="'gamma'"):
            q_sample(y, gamma, y)
    with pytest.raises(CTSRError, match="'eps'"):
        q_sample(y, 0.5, y[:1])
    for kw in (
        dict(T=0),
        dict(T=2.0),
        dict(beta=(0.0, 0.0)),
        dict(beta=(0.1, 1.5)),
        dict(kind="logsnr", logsnr=(15.0, -15.0)),
        dict(kind="logsnr", logsnr=(-15.0, 50.0)),
        dict(kind="quadratic"),
    ):
        with pytest.raises(CTSRError, match="^diffusion: "):
            noise_schedule(**kw)


def test_drawn_levels_leave_noise_and_follow_their_generator():
    alpha_bar = noise_schedule()
    a, b = (draw_gamma(alpha_bar, 300_000, torch.Generator().manual_seed(0)) for _ in range(2))
    assert (
        torch.equal(a, b)
        and a.dtype == torch.float32
        and a.max() < 1
        and a.min() >= alpha_bar[-1].float()
    )
    assert (
        abs(a.mean() - (alpha_bar[1:] + alpha_bar[:-1]).mean() / 2) < 0.003
    )  # t uniform, gamma uniform between neighbours
