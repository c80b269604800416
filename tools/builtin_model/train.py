"""Train the built-in text-to-video model: `train.py vae | unet | export | evaluate`.

Every stage takes a wall-clock budget (`--minutes`), writes its checkpoint to the work folder once a minute and goes on
from it with `--resume`. See README.md for the recipe.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from typing import Any, Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F

import world

CHANNELS_VAE = (32, 64, 64)     # autoencoder, 64 -> 32 -> 16
CHANNELS = (32, 64, 64)         # UNet, 16 -> 8 -> 4
HEAD, GROUPS = 16, 8
TEXT_WIDTH = 64
BETA_END = 0.02
FRAMES = 8


def autocast() -> Any:
    """bfloat16 arithmetic with float32 master weights, where the processor has it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled="AVX512" in torch.backends.cpu.get_cpu_capability())


def schedule(done: float, peak: float, warm: float = 0.03, floor: float = 0.01) -> float:
    """Cosine learning rate for the done share of the budget."""
    if done < warm:
        return peak * (done / warm * 0.9 + 0.1)
    x = min(1.0, (done - warm) / (1 - warm))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x)))


def save(path: str, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader never sees half of it."""
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def note(work: str, stage: str, **facts: Any) -> None:
    """Remember facts of a stage in training.json; they go into the model card."""
    path, known = f"{work}/training.json", {}
    if os.path.exists(path):
        with open(path) as f:
            known = json.load(f)
    known[stage] = facts
    with open(path, "w") as f:
        json.dump(known, f, indent=1)


# ---------------------------------------------------------------- autoencoder
def make_vae() -> Any:
    from diffusers import AutoencoderKL
    n = len(CHANNELS_VAE)
    vae = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2, block_out_channels=CHANNELS_VAE,
                        layers_per_block=1, sample_size=64, down_block_types=("DownEncoderBlock2D",) * n,
                        up_block_types=("UpDecoderBlock2D",) * n)
    anchor(vae)
    return vae


def anchor(vae: Any, size: float = 1.0) -> None:
    """Give the residual trunk constant features of alternating sign.

    Group norm divides by the spread of a group, which would wipe out the colour of a uniform frame. Constant channels fix
    that spread from the first step, so that colour passes through every norm almost linearly.
    """
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d) and name.split(".")[-1] in ("conv_in", "conv_shortcut", "conv") and "conv_out" not in name:
            sign = 1.0 - 2.0 * (torch.arange(module.out_channels) % 2)
            with torch.no_grad():
                module.bias.add_(size * sign)


@torch.no_grad()
def vae_report(vae: Any, folder: str, seed: int = 991) -> dict[str, float]:
    """Reconstruct unseen frames from the posterior mean: errors per region, recognised contents, a contact sheet."""
    g = torch.Generator().manual_seed(seed)
    c = world.clips(128, 1, g, striped=0.0)
    x, cover = c.video[:, 0], c.cover[:, 0]
    with autocast():
        z = vae.encode(x).latent_dist.mean
        y = vae.decode(z).sample.float()
    z = z.float()
    err = (y - x).abs().mean(1, keepdim=True)
    inner, outer = (F.avg_pool2d(cover, 3, 1, 1) > 0.999).float(), (F.avg_pool2d(cover, 3, 1, 1) < 0.001).float()
    edge = 1 - inner - outer
    share = lambda m: float((err * m).sum() / m.sum())
    r = world.read_frames(y)
    world.save_sheet(torch.stack([x[:24], y[:24]], 1).flatten(0, 1), f"{folder}/vae.png", 12, 2)
    return dict(l1=float(err.mean()), ground=share(outer), subject=share(inner), edge=share(edge),
                colour_ok=float((r["colour"] == c.colour).float().mean()), ground_ok=float((r["ground"] == c.ground).float().mean()),
                shape_ok=float((r["shape"] == c.shape).float().mean()), latent_std=float(z.std()), latent_mean=float(z.mean()),
                latent_max=float(z.abs().max()))


def train_vae(a: argparse.Namespace) -> None:
    """L1 + L2 with weight on the subject and its edge; posterior means first, samples with a small KL later.

    Three latent channels are guided towards the frame's own colours at latent resolution (strongly at first, faintly
    later): the encoder learns at once, and the latents stay smooth, which makes them easy to diffuse.
    """
    torch.manual_seed(a.seed)
    g = torch.Generator().manual_seed(a.seed)
    vae = make_vae()
    opt = torch.optim.AdamW(vae.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=1e-4)
    path, step, spent = f"{a.work}/vae.pt", 0, 0.0
    if a.resume and os.path.exists(path):
        s = torch.load(path)
        vae.load_state_dict(s["vae"]); opt.load_state_dict(s["opt"]); step, spent = s["step"], s["spent"]
        g.manual_seed(a.seed + step)
    start, last, mean = time.time() - spent, time.time() - 30, 0.0
    while (done := (time.time() - start) / (60 * a.minutes)) < 1.0:
        for group in opt.param_groups:
            group["lr"] = schedule(done, a.lr)
        c = world.clips(a.batch, 1, g, striped=0.15, neutral=0.2)
        x, cover = c.video[:, 0], c.cover[:, 0]
        near = F.max_pool2d(cover, 5, 1, 2)
        edge = near * (1 + F.max_pool2d(-cover, 5, 1, 2))            # 1 in a band on both sides of the outline
        weight = 1 + 3 * cover + 3 * edge
        weight = weight / weight.mean()
        with autocast():
            post = vae.encode(x).latent_dist
            z = post.mean if done < 0.25 else post.sample()
            y = vae.decode(z).sample
        diff = y.float() - x
        loss = (weight * (diff.abs() + diff.square())).mean()
        m, lv = post.mean.float(), post.logvar.float()
        penalty = m.square().mean() * 1e-3 if done < 0.25 else 0.5 * (m.square() + lv.exp() - 1 - lv).mean() * a.kl
        guide = (m[:, :3] - 2 * F.avg_pool2d(x, 4)).square().mean() * max(0.02, 1 - 4 * done)
        opt.zero_grad(set_to_none=True)
        (loss + penalty + guide).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        step += 1
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if time.time() - last > 60:
            last = time.time()
            save(path, dict(vae=vae.state_dict(), opt=opt.state_dict(), step=step, spent=time.time() - start))
            print(f"vae {done * a.minutes:5.1f} min step {step} loss {mean:.4f} " + json.dumps({k: round(v, 4) for k, v in vae_report(vae, a.work).items()}), flush=True)
    with torch.no_grad(), autocast():
        z = vae.encode(world.clips(256, 1, g).video[:, 0]).latent_dist.mean.float()
    vae.register_to_config(scaling_factor=round(1 / float(z.std()), 5))
    save(path, dict(vae=vae.state_dict(), opt=opt.state_dict(), step=step, spent=time.time() - start, scaling=vae.config.scaling_factor))
    report = {k: round(v, 4) for k, v in vae_report(vae, a.work).items()}
    note(a.work, "vae", minutes=round((time.time() - start) / 60, 1), steps=step, batch_frames=a.batch, **report)
    print("vae done", step, vae.config.scaling_factor, report, flush=True)


# ---------------------------------------------------------------- tokenizer and text encoder
def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of bytes that CLIP's byte-level BPE uses."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    chars = {b: chr(b) for b in printable}
    for n, b in enumerate(b for b in range(256) if b not in chars):
        chars[b] = chr(256 + n)
    return [chars[b] for b in range(256)]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one symbol."""
    split = [list(w[:-1]) + [w[-1] + "</w>"] for w in words]
    merges: list[tuple[str, str]] = []
    while any(len(s) > 1 for s in split):
        count: dict[tuple[str, str], int] = {}
        for s in split:
            for pair in zip(s, s[1:]):
                count[pair] = count.get(pair, 0) + 1
        best = max(sorted(count), key=lambda p: count[p])
        merges.append(best)
        for i, s in enumerate(split):
            out: list[str] = []
            while s:
                if len(s) > 1 and (s[0], s[1]) == best:
                    out.append(s[0] + s[1]); s = s[2:]
                else:
                    out.append(s[0]); s = s[1:]
            split[i] = out
    return merges


def make_tokenizer(folder: str) -> Any:
    """A CLIP tokenizer: 512 byte symbols and one token for every word of the world."""
    from transformers import CLIPTokenizer
    os.makedirs(folder, exist_ok=True)
    symbols, merges = byte_symbols(), learn_merges(world.WORDS)
    vocab = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    with open(f"{folder}/vocab.json", "w") as f:
        json.dump({v: i for i, v in enumerate(vocab)}, f)
    with open(f"{folder}/merges.txt", "w") as f:
        f.write("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    tok = CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=77)
    tok.save_pretrained(folder)
    for word in world.WORDS:
        assert len(tok(word).input_ids) == 3, word
    return tok


def make_text(tok: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel
    return CLIPTextModel._from_config(CLIPTextConfig(
        vocab_size=len(tok), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="gelu", bos_token_id=len(tok) - 2, eos_token_id=len(tok) - 1, pad_token_id=len(tok) - 1), attn_implementation="eager")


def ids_of(tok: Any, texts: list[str]) -> torch.Tensor:
    return tok(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def hint_loss(head: torch.nn.Module, hidden: torch.Tensor, stated: torch.Tensor) -> torch.Tensor:
    """Padding tokens should carry what the whole caption states: colour, shape and ground, read by a linear head."""
    at = torch.randint(16, 76, (3,)).tolist() + [76]
    logits = head(hidden[:, at].float()).split([len(world.COLOURS) + 1, len(world.SHAPES) + 1, len(world.GROUNDS) + 1], -1)
    return sum(F.cross_entropy(x.flatten(0, 1), stated[:, i].repeat_interleave(len(at))) for i, x in enumerate(logits))


# ---------------------------------------------------------------- UNet
def make_unet() -> Any:
    """The denoiser: temporal layers start as the identity."""
    from diffusers import UNet3DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    n = len(CHANNELS)
    unet = UNet3DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=CHANNELS, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D",) * (n - 1) + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * (n - 1),
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=HEAD, norm_num_groups=GROUPS)
    unet.set_attn_processor(AttnProcessor())      # plain products: the fused kernel is slow backwards on CPU
    for name, module in unet.named_modules():
        if name.split(".")[-1] == "transformer_in" or "temp_attentions" in name and name.endswith(".proj_out"):
            out = module.proj_out if name.endswith("transformer_in") else module
            torch.nn.init.zeros_(out.weight)
            torch.nn.init.zeros_(out.bias)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return unet


def skip_time_for_images() -> None:
    """Bypass every temporal layer when a clip has one frame (the identity they start as)."""
    from diffusers.models.resnet import TemporalConvLayer
    from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel, TransformerTemporalModelOutput
    conv, attention = TemporalConvLayer.forward, TransformerTemporalModel.forward

    def conv_forward(self: Any, hidden_states: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        return hidden_states if num_frames == 1 else conv(self, hidden_states, num_frames)

    def attention_forward(self: Any, hidden_states: torch.Tensor, *args: Any, num_frames: int = 1, return_dict: bool = True, **rest: Any) -> Any:
        if num_frames != 1:
            return attention(self, hidden_states, *args, num_frames=num_frames, return_dict=return_dict, **rest)
        return TransformerTemporalModelOutput(sample=hidden_states) if return_dict else (hidden_states,)

    TemporalConvLayer.forward, TransformerTemporalModel.forward = conv_forward, attention_forward


def make_scheduler() -> Any:
    from diffusers import DDIMScheduler
    return DDIMScheduler(beta_start=0.00085, beta_end=BETA_END, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
                         steps_offset=1, timestep_spacing="leading", prediction_type="epsilon")


class Pool:
    """Encoded clips of the world, slowly replaced by fresh ones while training goes on."""

    def __init__(self, vae: Any, size: int, g: torch.Generator, striped: float, cache: str) -> None:
        self.vae, self.g, self.striped, self.next, self.cache = vae, g, striped, 0, cache
        if os.path.exists(cache):
            self.latents, self.labels = torch.load(cache)
        else:
            parts = [self._draw(16) for _ in range((size + 15) // 16)]
            self.latents = torch.cat([p[0] for p in parts])
            self.labels = torch.cat([p[1] for p in parts])
            self.keep()

    def keep(self) -> None:
        torch.save((self.latents, self.labels), self.cache)

    @torch.no_grad()
    def _draw(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        c = world.clips(n, FRAMES, self.g, striped=self.striped)
        with autocast():
            z = self.vae.encode(c.video.flatten(0, 1)).latent_dist.mean
        z = z.float() * self.vae.config.scaling_factor
        return z.view(n, FRAMES, *z.shape[1:]), torch.stack([c.colour, c.shape, c.ground, c.striped.long()], 1)

    def refresh(self, n: int = 16) -> None:
        z, labels = self._draw(n)
        at = torch.arange(self.next, self.next + n) % len(self.latents)
        self.latents[at], self.labels[at] = z, labels
        self.next = (self.next + n) % len(self.latents)

    def batch(self, n: int, frames: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Latents (n, 4, frames, h, w), captions and what they state."""
        at = torch.randint(len(self.latents), (n,), generator=self.g)
        z = self.latents[at]
        if frames == 1:
            z = z[torch.arange(n), torch.randint(FRAMES, (n,), generator=self.g)][:, None]
        else:
            back = torch.rand(n, generator=self.g) < 0.5                       # clips run backwards as well as forwards
            z = torch.where(back[:, None, None, None, None], z.flip(1), z)
        k, s, b, p = self.labels[at].unbind(1)
        c = world.Clips(z, z, z, s, k, b, p > 0)
        texts, stated = world.captions(c, self.g)
        return z.permute(0, 2, 1, 3, 4).contiguous(), texts, stated


def load_vae(work: str) -> Any:
    vae = make_vae()
    s = torch.load(f"{work}/vae.pt")
    vae.load_state_dict(s["vae"])
    scale = s.get("scaling")
    if scale is None:                                                           # an unfinished autoencoder
        with torch.no_grad(), autocast():
            x = world.clips(256, 1, torch.Generator().manual_seed(5)).video[:, 0]
            scale = round(1 / float(vae.encode(x).latent_dist.mean.float().std()), 5)
    vae.register_to_config(scaling_factor=scale)
    return vae.requires_grad_(False).eval()


@torch.no_grad()
def sample(unet: Any, text: Any, tok: Any, vae: Any, prompts: list[str], frames: int, steps: int, guidance: float, seed: int = 3,
           chunk: int | None = None) -> torch.Tensor:
    """Guided DDIM sampling: clips (N, F, 3, 64, 64)."""
    sched = make_scheduler()
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(prompts), 4, frames, 16, 16, generator=g)
    out: list[torch.Tensor] = []
    chunk = chunk or max(1, 32 // frames)
    for i in range(0, len(prompts), chunk):
        part = prompts[i:i + chunk]
        with autocast():
            context = text(ids_of(tok, part + [""] * len(part))).last_hidden_state
        x = noise[i:i + chunk]
        sched.set_timesteps(steps)
        for t in sched.timesteps:
            with autocast():
                e = unet(torch.cat([x, x]), t, context).sample.float()
            cond, free = e.chunk(2)
            x = sched.step(free + guidance * (cond - free), t, x).prev_sample
        z = x.permute(0, 2, 1, 3, 4).flatten(0, 1) / vae.config.scaling_factor
        with autocast():
            y = vae.decode(z).sample.float()
        out.append(y.view(len(part), frames, *y.shape[1:]))
    return torch.cat(out)


def test_prompts(n: int, seed: int = 77) -> tuple[list[str], torch.Tensor]:
    """Canonical prompts over all colours, shapes and coloured grounds; the acceptance prompt comes first."""
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(len(world.COLOURS), (n,), generator=g)
    s = torch.arange(n) % len(world.SHAPES)
    b = (k + torch.randint(1, len(world.COLOURS), (n,), generator=g)) % len(world.COLOURS)
    k[0], s[0], b[0] = world.COLOURS.index("yellow"), world.SHAPES.index("star"), world.COLOURS.index("blue")
    return [world.caption(int(s[i]), int(k[i]), int(b[i])) for i in range(n)], torch.stack([k, s, b], 1)


def obedience(video: torch.Tensor, want: torch.Tensor) -> dict[str, float]:
    """Shares of frames with the right colour, shape and ground, all three at once, and how smooth the motion is."""
    n, f = video.shape[:2]
    r = world.read_frames(video.flatten(0, 1))
    k, s, b = (want[:, i].repeat_interleave(f) for i in range(3))
    ok = [r["colour"] == k, r["shape"] == s, r["ground"] == b]
    both = (ok[0] & ok[1] & ok[2]).view(n, f).float()
    out = dict(colour=float(ok[0].float().mean()), shape=float(ok[1].float().mean()), ground=float(ok[2].float().mean()),
               all=float(both.mean()), clips=float((both.mean(1) > 0.8).float().mean()), overlap=float(r["overlap"].mean()), area=float(r["area"].mean()))
    if f > 2:
        c = r["centre"].view(n, f, 2)
        v = c[:, 1:] - c[:, :-1]
        out |= dict(step=float(v.norm(dim=-1).mean()), jerk=float((v[:, 1:] - v[:, :-1]).norm(dim=-1).mean()),
                    spread=float((c.amax(1) - c.amin(1)).mean()), moving=float(((c.amax(1) - c.amin(1)).amax(1) > 4).float().mean()))
    return {key: round(x, 4) for key, x in out.items()}


def average(models: list[Any], shadows: list[dict[str, torch.Tensor]], decay: float) -> None:
    """Exponential moving average of the weights."""
    with torch.no_grad():
        for m, shadow in zip(models, shadows):
            names, now = zip(*m.named_parameters())
            torch._foreach_lerp_([shadow[k] for k in names], [p.detach() for p in now], 1 - decay)


def with_average(make: Callable[[], Any], shadow: dict[str, torch.Tensor]) -> Any:
    m = make()
    m.load_state_dict(shadow, strict=False)
    return m.eval()


def share_gradients(parameters: list[torch.nn.Parameter], ranks: int) -> None:
    """Average the gradients over all processes."""
    if ranks > 1:
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([x.flatten() for x in grads])
        dist.all_reduce(flat)
        for x, part in zip(grads, flat.div_(ranks).split([x.numel() for x in grads])):
            x.copy_(part.view_as(x))


def agree(value: float, ranks: int) -> float:
    """The first process's value, in every process."""
    shared = torch.tensor([value], dtype=torch.float64)
    if ranks > 1:
        dist.broadcast(shared, 0)
    return float(shared)


def train_unet(a: argparse.Namespace) -> None:
    """Noise prediction. `--phase image` trains on single frames with all temporal layers bypassed, `--phase video` on clips."""
    torch.manual_seed(a.seed)
    skip_time_for_images()
    if a.ranks > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{a.port}", rank=a.rank, world_size=a.ranks)
    first = a.rank == 0
    g = torch.Generator().manual_seed(a.seed)
    vae, tok = load_vae(a.work), make_tokenizer(f"{a.work}/tokenizer{a.rank or ''}")
    unet, text = make_unet().train(), make_text(tok).train()
    head = torch.nn.Linear(TEXT_WIDTH, len(world.COLOURS) + len(world.SHAPES) + len(world.GROUNDS) + 3)
    models = [unet, text, head]
    path, step, spent, shadows = f"{a.work}/unet.pt", 0, 0.0, None
    temporal = [p for k, p in unet.named_parameters() if "temp_" in k or "transformer_in" in k]
    known = {id(p) for p in temporal}
    rest = [p for m in models for p in m.parameters() if id(p) not in known]
    opt = torch.optim.AdamW([dict(params=rest, share=1.0), dict(params=temporal, share=a.temporal_lr)], lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    if os.path.exists(path) and (a.resume or a.onward):
        s = torch.load(path)
        shadows = s["shadows"]
        for m, w, shadow in zip(models, s["models"], shadows):
            m.load_state_dict(w if a.resume else w | shadow)        # a new stage starts from the averaged weights
        if a.resume:
            opt.load_state_dict(s["opt"]); step, spent = s["step"], s["spent"]
    if shadows is None:
        shadows = [{k: p.detach().clone() for k, p in m.named_parameters()} for m in models]
    g.manual_seed(a.seed + step + 1000 * (a.phase == "video") + 100003 * a.rank)
    begin = time.time()
    pool = Pool(vae, a.pool, g, a.striped, f"{a.work}/pool.pt")
    print(f"pool {tuple(pool.latents.shape)} std {float(pool.latents.std()):.3f} in {time.time() - begin:.0f} s; "
          f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M + {sum(p.numel() for p in text.parameters()) / 1e6:.2f} M parameters", flush=True)
    abar = make_scheduler().alphas_cumprod
    if step == 0 and not a.onward and first:                                       # the text encoder learns what is said first
        for i in range(100):
            _, texts, stated = pool.batch(64, 1)
            with autocast():
                loss = hint_loss(head, text(ids_of(tok, texts)).last_hidden_state, stated)
            opt.zero_grad(set_to_none=True); loss.backward(); opt.step()
        print(f"text hint loss {loss.item():.3f} after {time.time() - begin:.0f} s", flush=True)
    everything = [p for m in models for p in m.parameters()]
    if a.ranks > 1:
        for p in everything:
            dist.broadcast(p.data, 0)
    start, last, looked, mean = time.time() - spent, time.time(), time.time(), 0.0
    while (done := agree((time.time() - start) / (60 * a.minutes), a.ranks)) < 1.0:
        rate = schedule(done, a.lr, 0.02, 0.05)
        for group in opt.param_groups:
            group["lr"] = rate * group["share"]
        image = a.phase == "image" or step % a.image_every == a.image_every - 1
        frames, n = (1, a.batch) if image else (FRAMES, max(1, a.batch // FRAMES))
        z, texts, stated = pool.batch(n, frames)
        u = torch.rand(n, generator=g)
        t = (u * 1000).long().clamp(0, 999)
        e = torch.randn(z.shape, generator=g)
        ab = abar[t][:, None, None, None, None]
        with autocast():
            context = text(ids_of(tok, texts)).last_hidden_state
            out = unet(ab.sqrt() * z + (1 - ab).sqrt() * e, t, context).sample
        each = (out.float() - e).square().flatten(1).mean(1)
        loss = each.mean()
        # An error of the noise becomes an error of the picture 1 / sqrt(alpha-bar) times as large: weigh it by that, up to a limit.
        weight = (1 / abar[t]).clamp_max(a.weight)
        total = (weight * each).mean() * (4 / a.weight) + 0.02 * hint_loss(head, context, stated)
        opt.zero_grad(set_to_none=True)
        total.backward()
        share_gradients(everything, a.ranks)
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        opt.step()
        step += 1
        if first:
            average(models, shadows, min(a.ema, (step + 1) / (step + 10)))
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if step % a.refresh == 0:
            pool.refresh()
        if first and time.time() - last > 60:
            last = time.time()
            save(path, dict(models=[m.state_dict() for m in models], shadows=shadows, opt=opt.state_dict(), step=step, spent=time.time() - start, phase=a.phase))
            band = [round(float(each.detach()[(t >= lo) & (t < lo + 250)].mean()), 4) for lo in (0, 250, 500, 750)]
            print(f"{a.phase} {done * a.minutes:5.1f} min step {step} lr {rate:.2e} loss {mean:.4f} bands {band}", flush=True)
        if first and time.time() - looked > 60 * a.look:
            looked = time.time()
            frames, n = (1, 64) if a.phase == "image" else (FRAMES, 16)
            prompts, want = test_prompts(n)
            v = sample(with_average(make_unet, shadows[0]), with_average(lambda: make_text(tok), shadows[1]), tok, vae, prompts, frames, 15, 7.0)
            world.save_sheet(v.flatten(0, 1), f"{a.work}/{a.phase}.png", 16, 1)
            print(f"   look ({time.time() - looked:.0f} s)", json.dumps(obedience(v, want)), flush=True)
            start += time.time() - looked if a.free_looks else 0
    if not first:
        return
    save(path, dict(models=[m.state_dict() for m in models], shadows=shadows, opt=opt.state_dict(), step=step, spent=time.time() - start, phase=a.phase))
    pool.keep()
    note(a.work, a.phase, minutes=round((time.time() - start) / 60, 1), steps=step, batch_frames=a.batch, loss=round(mean, 4))
    print("done", a.phase, step, f"{mean:.4f}", flush=True)


def load_average(work: str) -> tuple[Any, Any, Any, Any]:
    """The averaged UNet and text encoder with the tokenizer and the autoencoder."""
    vae, tok = load_vae(work), make_tokenizer(f"{work}/tokenizer")
    path = f"{work}/unet.pt"
    if not os.path.exists(path):
        return make_unet().eval(), make_text(tok).eval(), tok, vae
    s = torch.load(path)
    return with_average(make_unet, s["shadows"][0]), with_average(lambda: make_text(tok), s["shadows"][1]), tok, vae


# ---------------------------------------------------------------- evaluate and export
def evaluate(a: argparse.Namespace) -> None:
    """Obedience over test prompts for the given guidance scales and step counts."""
    skip_time_for_images()
    unet, text, tok, vae = load_average(a.work)
    prompts, want = test_prompts(a.prompts)
    table = []
    for steps in a.steps:
        for guidance in a.guidance:
            begin = time.time()
            v = sample(unet, text, tok, vae, prompts, a.frames, steps, guidance)
            world.save_sheet(v[:16].flatten(0, 1), f"{a.work}/eval-{steps}-{guidance:g}.png", 16, 1)
            table.append(dict(steps=steps, guidance=guidance, **obedience(v, want)))
            print(json.dumps(table[-1]), f"{time.time() - begin:.0f} s", flush=True)
    with open(f"{a.work}/evaluation.json", "w") as f:
        json.dump(dict(prompts=len(prompts), frames=a.frames, table=table), f, indent=1)


def finish_folder(out: str, tokenizer: str, tok: Any) -> None:
    """Make the folder look like the published ones whatever the library's version writes.

    Newer libraries drop the `text_model.` prefix of the text encoder's tensors and write `tokenizer.json` only.
    """
    from safetensors.torch import load_file, save_file
    path = f"{out}/text_encoder/model.safetensors"
    tensors = load_file(path)
    save_file({k if k.startswith("text_model.") else f"text_model.{k}": v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    for name in ("vocab.json", "merges.txt"):
        if not os.path.exists(f"{out}/tokenizer/{name}"):
            shutil.copyfile(f"{tokenizer}/{name}", f"{out}/tokenizer/{name}")
    with open(f"{out}/tokenizer/special_tokens_map.json", "w") as f:
        json.dump(dict(bos_token=tok.bos_token, eos_token=tok.eos_token, pad_token=tok.pad_token, unk_token=tok.unk_token), f, indent=2)
    for folder, _, files in os.walk(out):
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)


def export(a: argparse.Namespace) -> None:
    """Write the pipeline folder in diffusers layout with float16 weights, and its model card."""
    from diffusers import TextToVideoSDPipeline
    unet, text, tok, vae = load_average(a.work)
    pipe = TextToVideoSDPipeline(vae, text, tok, unet, make_scheduler()).to(torch.float16)
    pipe.save_pretrained(a.out, safe_serialization=True)
    finish_folder(a.out, f"{a.work}/tokenizer", tok)
    card: dict[str, Any] = dict(
        name="Spectral Motion Studio built-in model", frames=FRAMES, width=64, height=64, latent=[4, FRAMES, 16, 16], fps=8,
        guidance=a.best_guidance, steps=a.best_steps, prompt=world.caption(3, 1, 4),
        colours=world.COLOURS, shapes=world.SHAPES, grounds=world.GROUNDS,
        grammar=[t for _, t in world.TEMPLATES], parameters=dict(unet=sum(p.numel() for p in unet.parameters()),
                                                                 vae=sum(p.numel() for p in vae.parameters()), text=sum(p.numel() for p in text.parameters())),
        licence="Trained from nothing on procedurally drawn clips (tools/builtin_model); weights under MIT OR Apache-2.0.")
    for name in ("evaluation", "training"):
        if os.path.exists(f"{a.work}/{name}.json"):
            with open(f"{a.work}/{name}.json") as f:
                card[name] = json.load(f)
    with open(f"{a.out}/model_card.json", "w") as f:
        json.dump(card, f, indent=1)
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(a.out) for f in fs)
    print(f"{a.out}: {total / 1e6:.2f} MB")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stage", choices=["vae", "unet", "evaluate", "export"])
    p.add_argument("--work", default="build/builtin_model", help="folder of checkpoints and contact sheets")
    p.add_argument("--minutes", type=float, default=15, help="wall-clock budget of the stage")
    p.add_argument("--batch", type=int, default=8, help="frames in a batch (8 for vae, 128 for unet)")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--phase", choices=["image", "video"], default="image")
    p.add_argument("--pool", type=int, default=1024, help="encoded clips kept for training")
    p.add_argument("--refresh", type=int, default=25, help="steps between replacements of 16 clips of the pool")
    p.add_argument("--image-every", type=int, default=5, help="in the video phase every n-th batch is single frames")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--striped", type=float, default=0.0, help="share of striped grounds")
    p.add_argument("--look", type=float, default=5, help="minutes between sampled contact sheets")
    p.add_argument("--free-looks", action="store_true", help="do not count looking as training time")
    p.add_argument("--prompts", type=int, default=64)
    p.add_argument("--frames", type=int, default=FRAMES)
    p.add_argument("--steps", type=int, nargs="+", default=[15, 25])
    p.add_argument("--guidance", type=float, nargs="+", default=[5.0, 7.0, 9.0])
    p.add_argument("--out", default="build/builtin_model/export")
    p.add_argument("--best-guidance", type=float, default=7.0)
    p.add_argument("--best-steps", type=int, default=15)
    p.add_argument("--kl", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--onward", action="store_true", help="start from the averaged weights of the stage before")
    p.add_argument("--weight", type=float, default=16.0, help="limit of the loss weight of noisy steps")
    p.add_argument("--temporal-lr", type=float, default=2.0, help="learning rate of the temporal layers, in units of --lr")
    p.add_argument("--rank", type=int, default=0, help="this process's number when several train together (unet stage)")
    p.add_argument("--ranks", type=int, default=1, help="processes that train together; --batch is per process")
    p.add_argument("--port", type=int, default=29631)
    p.add_argument("--resume", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.work, exist_ok=True)
    {"vae": train_vae, "unet": train_unet, "evaluate": evaluate, "export": export}[a.stage](a)


if __name__ == "__main__":
    main()
