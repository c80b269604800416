"""Train the built-in image model: `image_model.py image-unet | controlnet | evaluate | export`.

A model in Stable Diffusion 1.x's layout for the drawn world. Its tokenizer, text encoder and autoencoder are those of the
built-in text-to-video model, byte for byte, and stay as they are. Its UNet begins with that model's spatial layers; its
ControlNet begins with its UNet and learns to follow edges. Every stage takes a budget of minutes in which it really ran
(a process that was stopped for a while does not lose them), writes its checkpoint to the work folder once a minute and goes
on from it with `--resume`. See README.md for the recipe.
"""
from __future__ import annotations

import argparse
import functools
import json
import os
import time
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

import train
import world

HEADS = 4                       # in every attention: all levels but the first as in the text-to-video model
EMBEDDING = (8, 16, 16)         # channels of the ControlNet's embedding; two halvings, as in the autoencoder
CANNY = (100.0, 100.0)          # thresholds the program has where nothing else is asked for
LONGEST_STEP = 10.0             # seconds of a step that count
TOGETHER = 4                    # frames of one clip in a batch


# ---------------------------------------------------------------- parts
class OtherFrames:
    """Self-attention as the methods for clips have it once they inflate the network; norms follow the same switch.

    `own` is the image model's: each frame sees itself. `sparse` is Tune-A-Video's: the first frame and the one before.
    `first` is ControlVideo's: the first frame. A network that never saw another frame in training loses its subject in
    some frames when it is inflated; a large one does not.
    """

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor
        self.mode, self.inner = "own", AttnProcessor()      # plain products: the fused kernel is slow backwards on CPU

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, *args: Any, **rest: Any) -> torch.Tensor:
        if encoder_hidden_states is None and self.mode != "own":
            x = hidden_states.unflatten(0, (-1, TOGETHER))
            first = x[:, :1].expand_as(x)
            keys = first if self.mode == "first" else torch.cat([first, torch.cat([x[:, :1], x[:, :-1]], 1)], 2)
            encoder_hidden_states = keys.flatten(0, 1)
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **rest)


FRAMES_SEEN = OtherFrames()


def pooled_norm(norm: torch.nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    """A group norm over all frames of a clip, as in the inflated network's residual layers and before its output."""
    if FRAMES_SEEN.mode == "own":
        return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    clips = x.unflatten(0, (-1, TOGETHER)).transpose(1, 2)
    return F.group_norm(clips, norm.num_groups, norm.weight, norm.bias, norm.eps).transpose(1, 2).flatten(0, 1)


def inflatable(model: Any) -> Any:
    """The network with attention and norms that can see other frames."""
    model.set_attn_processor(FRAMES_SEEN)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.GroupNorm) and (".resnets." in name or name == "conv_norm_out"):
            module.forward = functools.partial(pooled_norm, module)
    return model


def load_shared(folder: str) -> tuple[Any, Any, Any]:
    """Tokenizer, text encoder and autoencoder of the built-in text-to-video model, frozen."""
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer
    tok = CLIPTokenizer(f"{folder}/tokenizer/vocab.json", f"{folder}/tokenizer/merges.txt", model_max_length=77)
    text = train.make_text(tok)
    bare = lambda key: key.removeprefix("text_model.")
    stored = {bare(k): v.float() for k, v in load_file(f"{folder}/text_encoder/model.safetensors").items()}
    own = text.state_dict()
    text.load_state_dict({k: stored[bare(k)] if bare(k) in stored else v for k, v in own.items()})
    assert {bare(k) for k in own} >= set(stored), "weights of the text encoder that it does not have"
    vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32)
    return tok, text.requires_grad_(False).eval(), vae.requires_grad_(False).eval()


def make_unet() -> Any:
    from diffusers import UNet2DConditionModel
    n = len(train.CHANNELS)
    return inflatable(UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=train.CHANNELS, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * (n - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (n - 1),
        cross_attention_dim=train.TEXT_WIDTH, attention_head_dim=HEADS, norm_num_groups=train.GROUPS))


def take_spatial_layers(unet: Any, folder: str) -> None:
    """Start from the text-to-video model's layers inside frames. Its linear projections are 1 x 1 convolutions here."""
    from safetensors.torch import load_file
    video = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
    unet.load_state_dict({k: video[k].float().view(v.shape) for k, v in unet.state_dict().items()})


def make_controlnet(unet: Any) -> Any:
    """A ControlNet that begins as the UNet's way down and changes nothing."""
    from diffusers import ControlNetModel
    return inflatable(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING))


# ---------------------------------------------------------------- conditions
def clutter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines, boxes and texture over a picture (H, W, 3): films of the real world have edges that belong to no subject."""
    h, w, _ = picture.shape
    point = lambda: (int(rng.integers(-8, w + 8)), int(rng.integers(-8, h + 8)))
    for _ in range(int(rng.integers(1, 7))):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        thick = int(rng.integers(1, 4))
        if rng.random() < 0.6:
            cv2.line(picture, point(), point(), colour, thick)
        else:
            cv2.rectangle(picture, point(), point(), colour, thick if rng.random() < 0.6 else -1)
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(rng.normal(0, 1, picture.shape).astype(np.float32), (0, 0), rng.uniform(0.6, 2.5))
        picture = np.clip(picture + grain * (rng.uniform(10, 45) / grain.std()), 0, 255).astype(np.uint8)
    return picture


def edges(frames: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
    """Edges (N, H, W) bool of frames (N, 3, H, W) in [-1, 1], drawn as the program draws them: OpenCV's Canny on bytes.

    With `rng` a share of the pictures is cluttered, seen with other thresholds, or gives no edges at all.
    """
    pictures = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    out = []
    for picture in pictures:
        low, high = CANNY
        if rng is not None:
            if rng.random() < 0.3:
                picture = clutter(picture.copy(), rng)
            if rng.random() < 0.3:
                low = rng.uniform(40, 160)
                high = low + rng.uniform(0, 150)
        seen = cv2.Canny(picture, low, high) > 0
        out.append(seen & (rng is None or rng.random() > 0.04))
    return torch.from_numpy(np.stack(out))


def as_condition(seen: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [0, 1] of edges (N, H, W)."""
    return seen.float()[:, None].expand(-1, 3, -1, -1)


def redraw(c: world.Clips, shape: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The same places and sizes with these shapes (one a frame) and other colours: frames (N F, 3, S, S) and coverage (N F, S, S)."""
    n = len(shape)
    colour = torch.randint(len(world.COLOURS), (n,), generator=g)
    ground = (colour + torch.randint(1, len(world.COLOURS), (n,), generator=g)) % len(world.COLOURS)
    grey = torch.randint(len(world.COLOURS), len(world.GROUNDS), (n,), generator=g)
    ground = torch.where(torch.rand(n, generator=g) < 0.2, grey, ground)
    back = world.ground_rgb(ground, g)
    video, cover = world.render(c.centre.flatten(0, 1), c.radius.flatten(), c.turn.flatten(), shape, world.subject_rgb(colour, g), back, back)
    return video, cover[:, 0]


def other_shape(shape: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    return (shape + torch.randint(1, len(world.SHAPES), shape.shape, generator=g)) % len(world.SHAPES)


class Scenes:
    """Encoded clips with the edges of the same scenes and of some with another shape, slowly replaced by fresh ones."""

    def __init__(self, vae: Any, size: int, seed: int, controlled: bool) -> None:
        self.vae, self.controlled, self.next = vae, controlled, 0
        self.g, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        parts = [self._draw(16) for _ in range((size + 15) // 16)]
        self.latents, self.labels, self.seen = (torch.cat(part) for part in zip(*parts))

    @torch.no_grad()
    def _draw(self, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c = world.clips(n, TOGETHER, self.g)
        z = self.vae.encode(c.video.flatten(0, 1)).latent_dist.mean * self.vae.config.scaling_factor
        z = z.unflatten(0, (n, TOGETHER))
        labels = torch.stack([c.colour, c.shape, c.ground, c.striped.long()], 1)
        if not self.controlled:
            return z, labels, torch.zeros(n, 2, TOGETHER, 0, 0, dtype=torch.bool)
        shapes = (s.repeat_interleave(TOGETHER) for s in (c.shape, other_shape(c.shape, self.g)))
        seen = [edges(redraw(c, s, self.g)[0], self.rng).unflatten(0, (n, TOGETHER)) for s in shapes]
        return z, labels, torch.stack(seen, 1)

    def refresh(self, n: int = 16) -> None:
        at = torch.arange(self.next, self.next + n) % len(self.latents)
        self.latents[at], self.labels[at], self.seen[at] = self._draw(n)
        self.next = (self.next + n) % len(self.latents)

    def batch(self, n: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Latents (n, 4, h, w) of n frames, always four of a clip, their captions, and the edges (n, H, W) that lead.

        Where the caption names a shape, the edges show another one in 40 of 100 cases: words decide the shape, edges the
        place and the size. Where it names none, the edges decide the shape too.
        """
        clips = n // TOGETHER
        at = torch.randint(len(self.latents), (clips,), generator=self.g)
        k, s, b, p = self.labels[at].unbind(1)
        texts, stated = world.captions(world.Clips(k, k, k, s, k, b, p > 0), self.g)
        named = stated[:, 1] < len(world.SHAPES)
        other = (named & (torch.rand(clips, generator=self.g) < 0.4)).long()
        texts = [text for text in texts for _ in range(TOGETHER)]
        return self.latents[at].flatten(0, 1), texts, self.seen[at, other].flatten(0, 1)


# ---------------------------------------------------------------- training
def fit(a: argparse.Namespace, stage: str, shared: tuple[Any, Any, Any], unet: Any, net: Any | None) -> None:
    """Noise prediction: of the UNet, or of the ControlNet beside a frozen UNet. In a share of the steps the frames see others."""
    tok, text, vae = shared
    model = net if net is not None else unet
    path, step, spent = f"{a.work}/{stage}.pt", 0, 0.0
    new = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
    fresh = [p for k, p in model.named_parameters() if k.startswith(new)]
    rest = [p for k, p in model.named_parameters() if not k.startswith(new)]
    groups = [dict(params=rest, share=1.0)] + ([dict(params=fresh, share=2.0)] if fresh else [])
    opt = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    shadow = {k: p.detach().clone() for k, p in model.named_parameters()}
    if (a.resume or a.onward) and os.path.exists(path):
        s = torch.load(path)
        model.load_state_dict(s["model"] if a.resume else s["model"] | s["shadow"])
        shadow, step = s["shadow"], s["step"]
        if a.resume:
            opt.load_state_dict(s["opt"]); spent = s["spent"]
    torch.manual_seed(a.seed + step)
    g = torch.Generator().manual_seed(a.seed + 7 * step + 1)
    begin = time.time()
    scenes = Scenes(vae, a.pool, a.seed + 13 * step, net is not None)
    print(f"{len(scenes.latents)} clips, std {float(scenes.latents.std()):.3f}, in {time.time() - begin:.0f} s; "
          f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    abar = train.make_scheduler().alphas_cumprod
    keep = lambda: train.save(path, dict(model=model.state_dict(), shadow=shadow, opt=opt.state_dict(), step=step, spent=spent))
    kept = looked = spent
    mean, bands = 0.0, torch.zeros(4)
    while (done := spent / (60 * a.minutes)) < 1.0:
        began = time.time()
        rate = train.schedule(done, a.lr, 0.02, 0.02)
        for group in opt.param_groups:
            group["lr"] = rate * group["share"]
        z, texts, seen = scenes.batch(a.batch)
        t = (torch.rand(a.batch // TOGETHER, generator=g) * 1000).long().clamp(0, 999).repeat_interleave(TOGETHER)
        e = torch.randn(z.shape, generator=g)
        ab = abar[t][:, None, None, None]
        noisy = ab.sqrt() * z + (1 - ab).sqrt() * e
        with torch.no_grad():
            context = text(train.ids_of(tok, texts)).last_hidden_state
        others = ("first",) if net is not None else ("sparse", "first")
        roll = float(torch.rand(1, generator=g))
        FRAMES_SEEN.mode = others[int(roll / a.inflated * len(others))] if roll < a.inflated else "own"
        out = unet(noisy, t, context, **control_of(net, noisy, t, context, as_condition(seen))).sample
        each = (out - e).square().flatten(1).mean(1)
        # As in train.py: an error of the noise counts by what it does to the picture.
        weight = (1 / abar[t]).clamp_max(a.weight)
        opt.zero_grad(set_to_none=True)
        ((weight * each).mean() * (4 / a.weight)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        train.average([model], [shadow], min(a.ema, (step + 1) / (step + 10)))
        FRAMES_SEEN.mode = "own"
        loss = each.detach()
        mean = float(loss.mean()) if step == 1 or mean == 0.0 else 0.98 * mean + 0.02 * float(loss.mean())
        for i in range(4):
            here = loss[t // 250 == i]
            bands[i] = bands[i] * 0.97 + 0.03 * here.mean() if len(here) and bands[i] > 0 else (here.mean() if len(here) else bands[i])
        if step % a.refresh == 0:
            scenes.refresh()
        spent += min(time.time() - began, LONGEST_STEP)
        if spent - kept > 60:
            kept = spent
            keep()
            print(f"{stage} {spent / 60:5.1f} min step {step} lr {rate:.2e} loss {mean:.4f} bands {[round(float(b), 4) for b in bands]}", flush=True)
        if spent - looked > 60 * a.look:
            looked = spent
            averaged = with_average(model, shadow)
            pair = (unet, averaged) if net is not None else (averaged, None)
            print("   look", json.dumps(judge(pair, shared, 32, a.steps[0], a.guidance[0], f"{a.work}/{stage}.png")), flush=True)
    keep()
    train.note(a.work, stage, minutes=round(spent / 60, 1), steps=step, batch_frames=a.batch, loss=round(mean, 4))
    print("done", stage, step, f"{mean:.4f}", flush=True)


def control_of(net: Any | None, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor, condition: torch.Tensor) -> dict[str, Any]:
    """What the ControlNet adds to a pass of the UNet, as its arguments."""
    if net is None:
        return {}
    down, mid = net(noisy, t, context, condition, return_dict=False)
    return dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)


def with_average(model: Any, shadow: dict[str, torch.Tensor]) -> Any:
    """A copy of the network with the averaged weights."""
    copy = inflatable(type(model).from_config(model.config))
    copy.load_state_dict(model.state_dict() | shadow)
    return copy.requires_grad_(False).eval()


def load_average(work: str, stage: str, model: Any) -> Any:
    return with_average(model, torch.load(f"{work}/{stage}.pt")["shadow"])


# ---------------------------------------------------------------- sampling and judging
@torch.no_grad()
def sample(pair: tuple[Any, Any | None], shared: tuple[Any, Any, Any], prompts: list[str], condition: torch.Tensor | None, steps: int,
           guidance: float, seed: int = 3, chunk: int = 32, mode: str = "own") -> torch.Tensor:
    """Guided DDIM sampling of pictures (N, 3, 64, 64), the ControlNet in both branches. Other modes want clips of four frames."""
    (unet, net), (tok, text, vae) = pair, shared
    sched = train.make_scheduler()
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    out = []
    FRAMES_SEEN.mode = mode
    for i in range(0, len(prompts), chunk):
        part, x = prompts[i:i + chunk], noise[i:i + chunk]
        context = text(train.ids_of(tok, part + [""] * len(part))).last_hidden_state
        leads = None if condition is None else condition[i:i + chunk].repeat(2, 1, 1, 1)
        sched.set_timesteps(steps)
        for t in sched.timesteps:
            both = torch.cat([x, x])
            added = {} if leads is None else control_of(net, both, t, context, leads)
            cond, free = unet(both, t, context, **added).sample.chunk(2)
            x = sched.step(free + guidance * (cond - free), t, x).prev_sample
        out.append(vae.decode(x / vae.config.scaling_factor).sample)
    FRAMES_SEEN.mode = "own"
    return torch.cat(out)


def places(n: int, seed: int = 78) -> world.Clips:
    return world.clips(n, 1, torch.Generator().manual_seed(seed))


def judge(pair: tuple[Any, Any | None], shared: tuple[Any, Any, Any], n: int, steps: int, guidance: float, sheet: str) -> dict[str, Any]:
    """Obedience to words over the test prompts; with a ControlNet also to edges, of the named shape and of another one.

    `edges_overlap` is the intersection over union of what was painted with the shape whose edges led, `off` the distance
    of the centres in pixels.
    """
    prompts, want = train.test_prompts(n)
    if pair[1] is None:
        v = sample(pair, shared, prompts, None, steps, guidance)
        clips = [p for p in prompts[:n // TOGETHER] for _ in range(TOGETHER)]
        inflated = sample(pair, shared, clips, None, steps, guidance, mode="sparse")
        world.save_sheet(torch.cat([v[:32], inflated[:32]]), sheet, 16, 1)
        return words(v, want) | dict(inflated=words(inflated, want[:n // TOGETHER].repeat_interleave(TOGETHER, 0)))
    c, g, rows, out = places(n), torch.Generator().manual_seed(79), [], {}
    for name, shape in (("same", want[:, 1]), ("other", other_shape(want[:, 1], g))):
        video, cover = redraw(c, shape, g)
        seen = as_condition(edges(video, None))
        v = sample(pair, shared, prompts, seen, steps, guidance)
        rows += [seen[:16] * 2 - 1, v[:16]]
        mask, led = subject(v), cover > 0.5
        union = (mask | led).flatten(1).sum(1).clamp_min(1)
        off = (world.read_frames(v)["centre"] - c.centre[:, 0]).norm(dim=-1)
        out[f"{name}_shape"] = words(v, want) | dict(
            edges_overlap=round(float(((mask & led).flatten(1).sum(1) / union).mean()), 4), off=round(float(off.mean()), 3))
    world.save_sheet(torch.cat(rows), sheet, 16, 1)
    return out


def words(v: torch.Tensor, want: torch.Tensor) -> dict[str, float]:
    known = train.obedience(v[:, None], want)
    return {k: known[k] for k in ("colour", "shape", "ground", "all", "overlap", "area")}


def subject(frames: torch.Tensor) -> torch.Tensor:
    """What differs from the colour of the border (N, H, W), as `world.read_frames` sees it."""
    rgb = (frames.clamp(-1, 1) + 1) / 2
    border = torch.cat([rgb[:, :, :2].flatten(2), rgb[:, :, -2:].flatten(2), rgb[:, :, :, :2].flatten(2), rgb[:, :, :, -2:].flatten(2)], -1)
    return (rgb - border.median(-1).values[:, :, None, None]).abs().amax(1) > 0.22


# ---------------------------------------------------------------- stages
def train_unet(a: argparse.Namespace) -> None:
    torch.manual_seed(a.seed)
    unet = make_unet()
    take_spatial_layers(unet, a.builtin)
    shared = load_shared(a.builtin)
    if not (a.resume or a.onward):
        print("before", json.dumps(judge((unet.eval(), None), shared, 32, a.steps[0], a.guidance[0], f"{a.work}/before.png")), flush=True)
    fit(a, "image-unet", shared, unet.train(), None)


def train_controlnet(a: argparse.Namespace) -> None:
    torch.manual_seed(a.seed)
    unet = load_average(a.work, "image-unet", make_unet())
    fit(a, "controlnet", load_shared(a.builtin), unet, make_controlnet(unet).train())


def evaluate(a: argparse.Namespace) -> None:
    """What the averaged weights paint, for the given guidance scales and step counts."""
    shared, unet = load_shared(a.builtin), load_average(a.work, "image-unet", make_unet())
    nets: list[tuple[str, Any]] = [("words", None)]
    if os.path.exists(f"{a.work}/controlnet.pt"):
        nets.append(("edges", load_average(a.work, "controlnet", make_controlnet(unet))))
    table = []
    for name, net in nets:
        for steps in a.steps:
            for guidance in a.guidance:
                row = judge((unet, net), shared, a.prompts, steps, guidance, f"{a.work}/eval-{name}-{steps}-{guidance:g}.png")
                table.append(dict(by=name, steps=steps, guidance=guidance, **row))
                print(json.dumps(table[-1]), flush=True)
    with open(f"{a.work}/evaluation.json", "w") as f:
        json.dump(dict(prompts=a.prompts, table=table), f, indent=1)


def export(a: argparse.Namespace) -> None:
    """Write what the text-to-video model does not have: UNet, ControlNet, index and card; weights as float16."""
    unet = load_average(a.work, "image-unet", make_unet())
    net = load_average(a.work, "controlnet", make_controlnet(unet))
    for name, part in (("unet", unet), ("controlnet", net)):
        part.to(torch.float16).save_pretrained(f"{a.out}/{name}", safe_serialization=True)
    with open(f"{a.builtin}/model_index.json") as f:
        index = json.load(f)
    index |= dict(_class_name="StableDiffusionControlNetPipeline", unet=["diffusers", "UNet2DConditionModel"],
                  controlnet=["diffusers", "ControlNetModel"], feature_extractor=[None, None], image_encoder=[None, None],
                  safety_checker=[None, None], requires_safety_checker=False)
    with open(f"{a.out}/model_index.json", "w") as f:
        json.dump(dict(sorted(index.items())), f, indent=2)
    count = lambda m: sum(p.numel() for p in m.parameters())
    card: dict[str, Any] = dict(
        name="Spectral Motion Studio built-in image model", frames=train.FRAMES, width=64, height=64, latent=[4, 16, 16], fps=8,
        guidance=a.guidance[0], steps=a.steps[0], prompt=world.caption(3, 1, 4), parameters=dict(unet=count(unet), controlnet=count(net)),
        shared="The tokenizer, the text encoder, the autoencoder and the schedule are those of the built-in text-to-video model.",
        condition=dict(edges="Canny, OpenCV", thresholds=CANNY, rule="words decide the shape where they name one, edges the place and the size"),
        licence="Trained from nothing on procedurally drawn pictures (tools/builtin_model); weights under MIT OR Apache-2.0.")
    for name in ("evaluation", "training"):
        with open(f"{a.work}/{name}.json") as f:
            card[name] = json.load(f)
    with open(f"{a.out}/model_card.json", "w") as f:
        json.dump(card, f, indent=1)
    for folder, _, files in os.walk(a.out):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(a.out) for f in fs)
    print(f"{a.out}: {total / 1e6:.2f} MB")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stage", choices=["image-unet", "controlnet", "evaluate", "export"])
    p.add_argument("--builtin", default="../../assets/builtin", help="folder of the built-in text-to-video model")
    p.add_argument("--work", default="build/builtin_image", help="folder of checkpoints and contact sheets")
    p.add_argument("--minutes", type=float, default=30, help="budget of the stage; pauses of the process do not count")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--pool", type=int, default=1024, help="encoded clips of four frames kept for training")
    p.add_argument("--refresh", type=int, default=25, help="steps between replacements of 16 clips of the pool")
    p.add_argument("--ema", type=float, default=0.997)
    p.add_argument("--weight", type=float, default=16.0, help="limit of the loss weight of noisy steps")
    p.add_argument("--look", type=float, default=5, help="minutes between sampled contact sheets")
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--steps", type=int, nargs="+", default=[15])
    p.add_argument("--guidance", type=float, nargs="+", default=[7.0])
    p.add_argument("--out", default="../../assets/builtin/image")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--inflated", type=float, default=0.0, help="share of the steps in which frames see other frames of their clip")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--onward", action="store_true", help="start from the averaged weights of an earlier stretch")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.work, exist_ok=True)
    {"image-unet": train_unet, "controlnet": train_controlnet, "evaluate": evaluate, "export": export}[a.stage](a)


if __name__ == "__main__":
    main()
