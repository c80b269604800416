"""The drawn world: a procedural source of captioned clips.

Everything is rendered with batched signed-distance functions in torch, anti-aliased by a linear edge of one pixel,
so a batch of thousands of frames costs a few tensor operations. Coordinates are in units of a 64-pixel frame
whatever the real resolution is; x grows to the right, y downwards. Frames have values in [-1, 1].
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

UNIT = 64.0
HUES: dict[str, float] = {"red": 0.0, "yellow": 55.0, "green": 125.0, "cyan": 185.0, "blue": 230.0, "purple": 290.0}
COLOURS: list[str] = list(HUES)
NEUTRALS: dict[str, float] = {"white": 0.88, "gray": 0.5, "black": 0.1}
GROUNDS: list[str] = COLOURS + list(NEUTRALS)
SHAPES: list[str] = ["circle", "square", "triangle", "star"]
GENERIC: list[str] = [
    "a car turning", "a man skiing", "a bear walking", "a butterfly opening its wings", "a dog running", "a bird flying",
    "a person dancing", "a boat on the water", "a cat jumping", "a train", "something moving", "a video", "an object",
    "a shape", "a ball bouncing", "a woman walking in the street", "a fish swimming", "a plane in the sky", "a moving picture",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Every word here is one token of the tokenizer.
WORDS: list[str] = sorted(set(
    COLOURS + GROUNDS + SHAPES + " ".join(GENERIC).split()
    + "a an the on in at and of plain striped background ground moving moves shape colour color orange pink brown large small".split()))


def hsv_to_rgb(h: torch.Tensor, s: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Convert hue in degrees, saturation and value in [0, 1] to rgb in [0, 1] (last axis)."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + h[..., None] / 60.0) % 6.0
    w = torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)
    return v[..., None] * (1.0 - s[..., None] * w)


def rgb_to_hsv(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Convert rgb in [0, 1] (last axis) to hue in degrees, saturation and value."""
    top, low = rgb.amax(-1), rgb.amin(-1)
    d = (top - low).clamp_min(1e-6)
    r, g, b = rgb.unbind(-1)
    h = torch.where(top == r, (g - b) / d % 6.0, torch.where(top == g, (b - r) / d + 2.0, (r - g) / d + 4.0)) * 60.0
    return h, (top - low) / top.clamp_min(1e-6), top


def shape_distance(p: torch.Tensor, radius: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Signed distance (negative inside) of points p (N, H, W, 2) to shapes of the given radius (N) and index (N)."""
    x, y = p.unbind(-1)
    r = radius[:, None, None]
    circle = torch.sqrt(x * x + y * y + 1e-9) - r
    half = 0.86 * r
    square = torch.maximum(x.abs(), y.abs()) - half
    inner = 0.64 * r                                   # inradius of the triangle; its tip points up
    triangle = torch.maximum(y, -0.5 * y + 0.8660254 * x.abs()) - inner
    angle = torch.atan2(x, -y)                         # 0 at the upper tip
    sector = 2.0 * math.pi / 5.0
    a = (angle - sector * torch.round(angle / sector)).abs()
    d = torch.sqrt(x * x + y * y + 1e-9)
    u, v = d * torch.cos(a), d * torch.sin(a)
    outer, notch = 1.27, 0.66                          # radii of the tips and of the notches, in units of r
    ix, iy = notch * math.cos(sector / 2), notch * math.sin(sector / 2)
    nx, ny = iy, outer - ix
    norm = math.hypot(nx, ny)
    star = ((u - outer * r) * nx + v * ny) / norm
    return torch.where(shape[:, None, None] == 0, circle, torch.where(shape[:, None, None] == 1, square,
                       torch.where(shape[:, None, None] == 2, triangle, star)))


def render(centre: torch.Tensor, radius: torch.Tensor, turn: torch.Tensor, shape: torch.Tensor, subject: torch.Tensor,
           ground: torch.Tensor, ground2: torch.Tensor, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw N frames: returns rgb frames (N, 3, size, size) in [-1, 1] and the subject's coverage (N, 1, size, size).

    `ground2` is the second colour of a striped ground (equal to `ground` for a plain one).
    """
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (UNIT / size)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    p = grid[None] - centre[:, None, None, :]
    c, s = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    p = torch.stack([p[..., 0] * c + p[..., 1] * s, p[..., 1] * c - p[..., 0] * s], -1)
    pixel = UNIT / size
    cover = (0.5 - shape_distance(p, radius, shape) / pixel).clamp(0.0, 1.0)[:, None]
    back = ground[:, :, None, None].expand(-1, -1, size, size)
    if not torch.equal(ground, ground2):
        period = 16.0
        wave = (axis % period - period / 2).abs() - period / 4      # vertical stripes, 8 units wide
        mix = (0.5 + wave / pixel).clamp(0.0, 1.0)[None, None, None, :]
        back = back + (ground2 - ground)[:, :, None, None] * mix
    return (back + (subject[:, :, None, None] - back) * cover) * 2.0 - 1.0, cover


# ---------------------------------------------------------------- paths
def _axis_paths(n: int, t: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """N one-dimensional paths over t (F) in [-1, 1]: still, linear, sine, triangle wave or a random smooth curve."""
    def u(lo: float, hi: float) -> torch.Tensor:
        return lo + (hi - lo) * torch.rand(n, 1, generator=g)
    t = t[None]
    sign = torch.where(u(0, 1) < 0.5, -1.0, 1.0)
    linear = sign * (2 * t - 1)
    freq, phase = u(0.3, 1.1), u(0, 1)
    sine = torch.sin(2 * math.pi * (freq * t + phase))
    zigzag = 4 * ((freq * t + phase) % 1.0 - 0.5).abs() - 1
    ease = sign * torch.cos(math.pi * t)
    k = torch.arange(1, 4)[None, :, None].float()
    coef = torch.randn(n, 3, 1, generator=g) / k
    smooth = (coef * torch.cos(math.pi * k * t[:, None] + 2 * math.pi * torch.rand(n, 3, 1, generator=g))).sum(1)
    smooth = smooth - (smooth.amax(1, keepdim=True) + smooth.amin(1, keepdim=True)) / 2
    smooth = smooth / smooth.abs().amax(1, keepdim=True).clamp_min(1e-3)
    kinds = torch.stack([torch.zeros_like(linear), linear, sine, zigzag, ease, smooth], 1)
    pick = torch.multinomial(torch.tensor([0.14, 0.18, 0.22, 0.12, 0.08, 0.26]), n, True, generator=g)
    return kinds[torch.arange(n), pick]


def paths(n: int, frames: int, radius: torch.Tensor, g: torch.Generator, max_step: float = 11.0) -> torch.Tensor:
    """N smooth two-dimensional paths (N, F, 2) that keep a subject of the given radius (N, F) inside the frame."""
    t = torch.linspace(0, 1, frames) if frames > 1 else torch.rand(1, generator=g)
    p = torch.stack([_axis_paths(n, t, g), _axis_paths(n, t, g)], -1)
    ring = torch.rand(n, generator=g) < 0.18                               # circles and arcs
    turns = (torch.rand(n, 1, generator=g) * 0.9 + 0.2) * torch.where(torch.rand(n, 1, generator=g) < 0.5, -1.0, 1.0)
    ang = 2 * math.pi * (turns * t[None] + torch.rand(n, 1, generator=g))
    p = torch.where(ring[:, None, None], torch.stack([torch.cos(ang), torch.sin(ang)], -1), p)
    still = torch.rand(n, generator=g) < 0.04
    p = torch.where(still[:, None, None], torch.zeros_like(p), p)
    room = (UNIT / 2 - 1.05 * radius.amax(1))[:, None]
    amp = room * (0.25 + 0.75 * torch.rand(n, 2, generator=g).sqrt())
    amp = torch.where(ring[:, None], amp.amin(1, keepdim=True), amp)
    if frames > 1:
        step = (p[:, 1:] - p[:, :-1]).norm(dim=-1).amax(1, keepdim=True).clamp_min(1e-3)
        amp = torch.minimum(amp, max_step * 7 / (frames - 1) / step)
    centre = UNIT / 2 + (2 * torch.rand(n, 2, generator=g) - 1) * (room - amp)
    return centre[:, None] + amp[:, None] * p


# ---------------------------------------------------------------- clips
@dataclass
class Clips:
    """A batch of clips and what is in them."""
    video: torch.Tensor       # (N, F, 3, S, S) in [-1, 1]
    cover: torch.Tensor       # (N, F, 1, S, S) subject coverage
    centre: torch.Tensor      # (N, F, 2)
    shape: torch.Tensor       # (N) index into SHAPES
    colour: torch.Tensor      # (N) index into COLOURS
    ground: torch.Tensor      # (N) index into GROUNDS
    striped: torch.Tensor     # (N) bool
    radius: torch.Tensor | None = None    # (N, F)
    turn: torch.Tensor | None = None      # (N, F) radians


def subject_rgb(colour: torch.Tensor, g: torch.Generator, jitter: float = 1.0) -> torch.Tensor:
    """Bright, saturated rgb (N, 3) for colour indices (N)."""
    r = torch.rand(3, len(colour), generator=g)
    hue = torch.tensor(list(HUES.values()))[colour] + jitter * (16 * r[0] - 8)
    return hsv_to_rgb(hue % 360, 1.0 - 0.14 * jitter * r[1], 1.0 - 0.12 * jitter * r[2])


def ground_rgb(ground: torch.Tensor, g: torch.Generator, jitter: float = 1.0) -> torch.Tensor:
    """Darker, muted rgb (N, 3) for ground indices (N); neutral greys for white, gray and black."""
    r = torch.rand(3, len(ground), generator=g) - 0.5
    n = len(COLOURS)
    hue = torch.tensor(list(HUES.values()) + [0.0] * len(NEUTRALS))[ground] + jitter * 16 * r[0]
    sat = torch.where(ground < n, 0.55 + 0.16 * jitter * r[1], torch.zeros(()))
    val = torch.where(ground < n, 0.48 + 0.1 * jitter * r[2], torch.tensor([0.0] * n + list(NEUTRALS.values()))[ground] + 0.08 * jitter * r[2])
    return hsv_to_rgb(hue % 360, sat, val)


def clips(n: int, frames: int, g: torch.Generator, size: int = 64, striped: float = 0.0, neutral: float = 0.12) -> Clips:
    """Draw N random clips of F frames."""
    shape = torch.randint(len(SHAPES), (n,), generator=g)
    colour = torch.randint(len(COLOURS), (n,), generator=g)
    ground = (colour + torch.randint(1, len(COLOURS), (n,), generator=g)) % len(COLOURS)
    grey = torch.randint(len(COLOURS), len(GROUNDS), (n,), generator=g)
    ground = torch.where(torch.rand(n, generator=g) < neutral, grey, ground)
    stripes = torch.rand(n, generator=g) < striped
    r0 = 9.5 + 5.5 * torch.rand(n, 1, generator=g)
    r1 = 9.5 + 5.5 * torch.rand(n, 1, generator=g)
    t = torch.linspace(0, 1, frames)[None]
    zoom = (torch.rand(n, 1, generator=g) < 0.3).float()
    radius = r0 + zoom * (r1 - r0) * t
    turning = (torch.rand(n, 1, generator=g) < 0.4).float()
    a = (torch.rand(n, 2, generator=g) - 0.5) * 0.36
    turn = a[:, :1] * 0.6 + turning * (a[:, 1:] * 2) * (t - 0.5)
    centre = paths(n, frames, radius, g)
    rgb = subject_rgb(colour, g)
    back = ground_rgb(ground, g)
    back2 = torch.where(stripes[:, None], back * 0.45, back)
    rep = lambda x: x.repeat_interleave(frames, 0)
    video, cover = render(centre.reshape(-1, 2), radius.reshape(-1), turn.reshape(-1), rep(shape), rep(rgb), rep(back), rep(back2), size)
    return Clips(video.view(n, frames, 3, size, size), cover.view(n, frames, 1, size, size), centre, shape, colour, ground, stripes,
                 radius.expand(n, frames), turn.expand(n, frames))


# ---------------------------------------------------------------- captions
def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(shape: int, colour: int, ground: int, striped: bool = False) -> str:
    """The canonical caption of a clip."""
    return f"a {COLOURS[colour]} {SHAPES[shape]} on a {GROUNDS[ground]} {'striped' if striped else 'plain'} background"


# Share, template. {k} colour, {s} shape, {b} ground, {p} "plain " (sometimes left out) or "striped ".
TEMPLATES: list[tuple[float, str]] = [
    (0.55, "a {k} {s} on a {b} {p}background"), (0.08, "a {k} {s} moving on a {b} {p}background"), (0.08, "a {k} {s}"),
    (0.05, "{k} {s}, {b} {p}background"), (0.05, "a {s} on a {b} {p}background"), (0.04, "a {k} {s} is moving on the {b} {p}background"),
    (0.04, "the {k} {s} on a {b} {p}ground"), (0.03, "a {k} shape on a {b} {p}background"), (0.03, "a {s}"),
    (0.03, "a {k} {s} moving"), (0.02, "{k} {s}"),
]


def captions(c: Clips, g: torch.Generator, drop: float = 0.12, generic: float = 0.04) -> tuple[list[str], torch.Tensor]:
    """Captions with varied grammar; a share is empty (for classifier-free guidance) and a share says nothing useful.

    Also returns what each caption states (N, 3): indices of colour, shape and ground, or the count where it is unsaid.
    """
    n = len(c.shape)
    roll = torch.rand(n, 3, generator=g).tolist()
    pick = torch.multinomial(torch.tensor([t[0] for t in TEMPLATES]), n, True, generator=g).tolist()
    letters = torch.randint(26, (n, 24), generator=g).tolist()
    counts = torch.tensor([len(COLOURS), len(SHAPES), len(GROUNDS)])
    out, stated = [], counts.repeat(n, 1)
    for i in range(n):
        if roll[i][0] < drop:
            text, template = "", ""
        elif roll[i][0] < drop + generic:
            template = ""
            if roll[i][1] < 0.6:
                text = GENERIC[int(roll[i][2] * len(GENERIC))]
            else:
                ls = "".join(LETTERS[j] for j in letters[i])
                text = " ".join([ls[:4], ls[4:11], ls[11:13], ls[13:18]][: 1 + int(roll[i][2] * 4)])
        else:
            template = TEMPLATES[pick[i]][1]
            plain = "striped " if bool(c.striped[i]) else ("plain " if roll[i][2] < 0.6 else "")
            text = template.format(k=COLOURS[int(c.colour[i])], s=SHAPES[int(c.shape[i])], b=GROUNDS[int(c.ground[i])], p=plain)
        for j, (mark, value) in enumerate((("{k}", c.colour[i]), ("{s}", c.shape[i]), ("{b}", c.ground[i]))):
            if mark in template:
                stated[i, j] = value
        out.append(text)
    return out, stated


# ---------------------------------------------------------------- reading frames back
def _nearest_hue(h: torch.Tensor) -> torch.Tensor:
    d = (h[..., None] - torch.tensor(list(HUES.values())) + 180.0) % 360.0 - 180.0
    return d.abs().argmin(-1)


def read_frames(frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """Recognise what frames (N, 3, S, S) in [-1, 1] show.

    The ground is the median colour of the outer border; the subject is what differs from it. The shape is the best
    overlap with drawn templates of the same centre and area. Returns `colour`, `ground` and `shape` indices, `centre`
    (N, 2), `area` (share of the frame) and `overlap` (intersection over union with the template).
    """
    n, _, size, _ = frames.shape
    rgb = (frames.clamp(-1, 1) + 1) / 2
    border = torch.cat([rgb[:, :, :2].flatten(2), rgb[:, :, -2:].flatten(2), rgb[:, :, :, :2].flatten(2), rgb[:, :, :, -2:].flatten(2)], -1)
    back = border.median(-1).values
    diff = (rgb - back[:, :, None, None]).abs().amax(1)
    mask = (diff > 0.22).float()
    area = mask.flatten(1).mean(1)
    axis = (torch.arange(size) + 0.5) * (UNIT / size)
    total = mask.flatten(1).sum(1).clamp_min(1.0)
    cx = (mask.sum(1) * axis).sum(1) / total
    cy = (mask.sum(2) * axis).sum(1) / total
    core = torch.where(diff > 0.5 * diff.flatten(1).amax(1)[:, None, None], 1.0, float("nan"))
    colour_rgb = torch.stack([(rgb[:, k] * core).flatten(1).nanmedian(1).values for k in range(3)], -1).nan_to_num(0.0)
    h, s, v = rgb_to_hsv(colour_rgb)
    colour = torch.where((s > 0.4) & (v > 0.5), _nearest_hue(h), torch.tensor(-1))
    bh, bs, bv = rgb_to_hsv(back)
    grey = len(COLOURS) + (bv[:, None] - torch.tensor(list(NEUTRALS.values()))).abs().argmin(-1)
    ground = torch.where(bs > 0.25, _nearest_hue(bh), grey)
    # area of each shape in units of r^2, and the centroid shift is zero for all of them by construction
    square_units = torch.tensor([math.pi, 4 * 0.86 ** 2, 3 * math.sqrt(3) * 0.64 ** 2, 5 * 1.27 * 0.66 * math.sin(math.pi / 5)])
    best = torch.full((n,), -1.0)
    shape = torch.zeros(n, dtype=torch.long)
    zero = torch.zeros(n, 3)
    for k in range(len(SHAPES)):
        r = (area * UNIT * UNIT / square_units[k]).sqrt().clamp_min(1.0)
        for turn in (-0.3, -0.15, 0.0, 0.15, 0.3):
            _, cover = render(torch.stack([cx, cy], -1), r, torch.full((n,), turn), torch.full((n,), k), zero, zero, zero, size)
            t = (cover[:, 0] > 0.5).float()
            iou = (t * mask).flatten(1).sum(1) / torch.maximum(t, mask).flatten(1).sum(1).clamp_min(1.0)
            better = iou > best
            best, shape = torch.where(better, iou, best), torch.where(better, torch.tensor(k), shape)
    return dict(colour=colour, ground=ground, shape=shape, centre=torch.stack([cx, cy], -1), area=area, overlap=best)


# ---------------------------------------------------------------- the bundled sample clip
SAMPLE_RADIUS = 11.5
SAMPLE_PROMPT = "a red circle on a green plain background"


def sample_path(frames: int = 8) -> torch.Tensor:
    """The true centres (F, 2) of the sample clip: a hook that turns back once in x and once in y.

    Its mix of frequencies with a fast ripple is not among the formulas of `paths`.
    """
    t = torch.arange(frames, dtype=torch.float64) / (frames - 1)
    ripple = torch.sin(2 * math.pi * 2.2 * t + 1.0)
    x = 32 + 11.5 * torch.sin(2 * math.pi * 0.70 * t) + 0.9 * ripple
    y = 32 - 11.0 * torch.sin(2 * math.pi * (0.72 * t - 0.18)) - 0.9 * ripple
    return torch.stack([x, y], -1).float()


def other_path(frames: int = 8) -> torch.Tensor:
    """A clearly different path (F, 2) for null comparisons: waves up and down while drifting steadily to the left."""
    t = torch.arange(frames, dtype=torch.float64) / (frames - 1)
    return torch.stack([45 - 26 * t, 32 + 9 * torch.sin(2 * math.pi * 1.15 * t + 2.4)], -1).float()


def sample_clip(size: int = 256, frames: int = 8) -> torch.Tensor:
    """The bundled sample clip, a red circle on a green plain ground, as (F, 3, size, size) in [-1, 1]."""
    n = frames
    g = torch.Generator().manual_seed(0)
    rgb = subject_rgb(torch.zeros(1, dtype=torch.long), g, 0.0).expand(n, 3)
    back = ground_rgb(torch.full((1,), COLOURS.index("green")), g, 0.0).expand(n, 3)
    video, _ = render(sample_path(n), torch.full((n,), SAMPLE_RADIUS), torch.zeros(n), torch.zeros(n, dtype=torch.long), rgb, back, back, size)
    return video


def save_sheet(frames: torch.Tensor, path: str, columns: int, zoom: int = 1) -> None:
    """Save frames (N, 3, S, S) in [-1, 1] as one PNG contact sheet."""
    from PIL import Image
    n, c, h, w = frames.shape
    rows = (n + columns - 1) // columns
    sheet = torch.full((rows * (h + 2), columns * (w + 2), 3), 255, dtype=torch.uint8)
    pixels = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    for i in range(n):
        y, x = (i // columns) * (h + 2), (i % columns) * (w + 2)
        sheet[y:y + h, x:x + w] = pixels[i]
    image = Image.fromarray(sheet.numpy())
    image.resize((image.width * zoom, image.height * zoom), Image.NEAREST).save(path)
