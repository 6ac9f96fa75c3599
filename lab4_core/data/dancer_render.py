"""The dancer's pictures: a studio, a body of shaded capsules in it, and the pose image of its skeleton.

Sizes are in metres until the camera, and in picture heights behind it, so that any height x width works.
"""

from __future__ import annotations

import numpy as np

SAMPLES = 4  # subpixels along a side of a pixel, averaged over its area
FOCAL = 1.95  # in picture heights: a person of 1.8 m at 5 m is seven tenths of the picture
EYE, HORIZON = 0.98, 0.46  # height of the camera in metres; where its axis meets the picture, from the top

LINE = 0.0036  # half the width of a bone in picture heights

SHIRT, TROUSERS, SHOE = (52, 64, 82), (17, 18, 22), (13, 13, 14)
SKIN, HAIR = (128, 88, 74), (20, 18, 18)

# (from, to, radius at either end in metres, colour)
BODY = [
    ("l_hip", "l_knee", 0.100, 0.070, TROUSERS), ("r_hip", "r_knee", 0.100, 0.070, TROUSERS),
    ("l_knee", "l_ankle", 0.068, 0.052, TROUSERS), ("r_knee", "r_ankle", 0.068, 0.052, TROUSERS),
    ("l_heel", "l_toe", 0.046, 0.038, SHOE), ("r_heel", "r_toe", 0.046, 0.038, SHOE),
    ("l_hip", "r_hip", 0.115, 0.115, TROUSERS),
    ("l_waist", "l_chest", 0.110, 0.105, SHIRT), ("r_waist", "r_chest", 0.110, 0.105, SHIRT),
    ("belly", "chest", 0.135, 0.140, SHIRT), ("l_shoulder", "r_shoulder", 0.075, 0.075, SHIRT),
    ("l_shoulder", "l_elbow", 0.072, 0.056, SHIRT), ("r_shoulder", "r_elbow", 0.072, 0.056, SHIRT),
    ("l_elbow", "l_wrist", 0.054, 0.042, SHIRT), ("r_elbow", "r_wrist", 0.054, 0.042, SHIRT),
    ("l_wrist", "l_hand", 0.038, 0.036, SKIN), ("r_wrist", "r_hand", 0.038, 0.036, SKIN),
    ("neck", "head", 0.058, 0.056, SKIN), ("chin", "head", 0.072, 0.084, SKIN), ("nape", "crown", 0.096, 0.094, HAIR),
]  # fmt: skip

# The skeleton of the pose image: the right side cool, the left side warm below the hips.
BONES = [
    ("l_shoulder", "r_shoulder", (90, 80, 255)), ("neck", "hips", (100, 85, 255)), ("l_hip", "r_hip", (90, 70, 255)),
    ("r_shoulder", "r_elbow", (60, 110, 255)), ("r_elbow", "r_wrist", (40, 150, 255)),
    ("l_shoulder", "l_elbow", (0, 185, 255)), ("l_elbow", "l_wrist", (0, 215, 255)),
    ("r_wrist", "r_hand", (60, 190, 140)), ("r_wrist", "r_thumb", (190, 90, 160)),
    ("l_wrist", "l_hand", (60, 190, 140)), ("l_wrist", "l_thumb", (190, 90, 160)),
    ("r_hip", "r_knee", (0, 255, 140)), ("r_knee", "r_ankle", (0, 255, 80)),
    ("r_ankle", "r_heel", (60, 255, 0)), ("r_heel", "r_toe", (60, 255, 0)), ("r_ankle", "r_toe", (60, 255, 0)),
    ("l_hip", "l_knee", (255, 80, 70)), ("l_knee", "l_ankle", (255, 120, 50)),
    ("l_ankle", "l_heel", (255, 190, 0)), ("l_heel", "l_toe", (255, 190, 0)), ("l_ankle", "l_toe", (255, 190, 0)),
    ("nose", "r_eye", (120, 0, 170)), ("nose", "l_eye", (170, 0, 150)),
    ("r_eye", "r_ear", (150, 30, 220)), ("l_eye", "l_ear", (255, 60, 180)),
]  # fmt: skip


def render(joints: dict[str, np.ndarray], height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 (T, 3, H, W) of a skeleton's joints (T, 3) in metres. `rng` draws the film noise."""
    joints = joints | flesh(joints)
    points = {name: project(xyz, height, width) for name, xyz in joints.items()}
    ground = {s: project(joints[s] * [1, 0, 1], height, width) for s in ("hips", "l_ankle", "r_ankle")}
    background = studio(height, width)
    frames = np.empty((len(joints["hips"]), 3, height, width), np.uint8)
    for t in range(len(frames)):
        picture = background * shadow({k: p[t] for k, p in ground.items()}, height, width)[..., None]
        dark = lay(picture, *body({name: p[t] for name, p in points.items()}))
        picture *= 1 + 0.10 * dark  # the camera opens a little when darkness fills its picture
        picture += rng.normal(0, 0.75, picture.shape)
        frames[t] = np.clip(np.rint(picture), 0, 255).transpose(2, 0, 1)
    return frames


def poses(joints: dict[str, np.ndarray], height: int, width: int) -> np.ndarray:
    """Pose images uint8 (T, 3, H, W): thin coloured bones on white. A bone with an end outside is not drawn."""
    points = {name: project(xyz, height, width) for name, xyz in joints.items()}
    a, b = (np.stack([points[bone[end]] for bone in BONES], 1) for end in (0, 1))  # (T, bones, 3)
    colours = np.array([bone[2] for bone in BONES], np.float32)
    seen = ((a[..., :2] >= 0) & (a[..., :2] < [width, height]) & (b[..., :2] >= 0) & (b[..., :2] < [width, height])).all(2)
    images = np.empty((len(a), 3, height, width), np.uint8)
    for t in range(len(images)):
        picture = np.full((height, width, 3), 255.0)
        radius = np.full(seen[t].sum(), LINE * height)
        lay(picture, a[t, seen[t]], b[t, seen[t]], radius, radius, colours[seen[t]], flat=True)
        images[t] = np.rint(picture).transpose(2, 0, 1)
    return images


def project(xyz: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, 3) metres -> (T, 3): x and y in pixels, and pixels a metre at that distance."""
    scale = FOCAL * height / np.maximum(xyz[:, 2], 0.3)
    return np.stack([width / 2 + xyz[:, 0] * scale, HORIZON * height + (EYE - xyz[:, 1]) * scale, scale], 1)


def flesh(j: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Points of the trunk between the joints."""

    def between(a, b, share):
        return j[a] * (1 - share) + j[b] * share

    extra = {"belly": between("hips", "neck", 0.24), "chest": between("hips", "neck", 0.72)}
    for s in "lr":
        extra[f"{s}_waist"] = between("hips", f"{s}_hip", 0.55) + (extra["belly"] - j["hips"])
        extra[f"{s}_chest"] = between("hips", f"{s}_shoulder", 0.60) * 0.5 + between("neck", f"{s}_shoulder", 0.60) * 0.5
    return extra


def studio(height: int, width: int) -> np.ndarray:
    """The empty room (H, W, 3), 0..255: lamps under the ceiling, their light down the wall, a paler floor."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")

    def glow(cx, cy, sx, sy):
        return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)

    wall = 148 + 14 * x - 10 * np.exp(-(((y - 0.42) / 0.16) ** 2))
    wall += 62 * glow(0.43, -0.05, 0.09, 0.22) + 78 * glow(0.88, -0.02, 0.11, 0.20) + 30 * glow(0.03, -0.05, 0.10, 0.25)
    wall += 22 * glow(0.42, 0.25, 0.10, 0.35) + 26 * glow(0.88, 0.28, 0.16, 0.35)
    wall -= 55 * glow(0.22, -0.04, 0.09, 0.13) + 58 * glow(0.66, -0.04, 0.12, 0.12)
    wall += 34 / (1 + np.exp(-(y - 0.72) / 0.10)) * (0.75 + 0.35 * np.exp(-(((x - 0.68) / 0.35) ** 2)))
    wall -= 14 * glow(0.0, 0.75, 0.25, 0.5)
    return wall[..., None] * np.array([1.006, 1.0, 0.988])


def shadow(ground: dict[str, np.ndarray], height: int, width: int) -> np.ndarray:
    """Light that reaches the floor (H, W), 1 where nothing is near: contact shadows and a dull reflection."""
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    light = np.ones((height, width))

    def darken(depth, across, along):
        light[:] *= 1 - depth * np.outer(np.exp(-(along**2)), np.exp(-(across**2)))

    for name, (px, py, scale) in ground.items():
        if name == "hips":
            darken(0.16, (x - px) / (0.55 * scale), (y - py) / (0.13 * scale))
        else:
            darken(0.30, (x - px) / (0.17 * scale), (y - py) / (0.06 * scale))
            below = np.where(y > py, (y - py) / (0.45 * scale), 9)
            darken(0.12, (x - px) / (0.08 * scale), below)
    return light


def body(points: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The capsules of one frame, near ones first: ends (P, 3), radii in pixels (P,), colours (P, 3)."""
    a, b = (np.stack([points[part[end]] for part in BODY]) for end in (0, 1))
    radii, colours = np.array([part[2:4] for part in BODY]), np.array([part[4] for part in BODY], np.float32)
    # pixels a metre grow towards the camera, so sorting by them is sorting by depth
    order = np.argsort(-(a[:, 2] + b[:, 2]), kind="stable")
    ra, rb = radii[:, 0] * a[:, 2], radii[:, 1] * b[:, 2]
    return a[order], b[order], ra[order], rb[order], colours[order]


def lay(picture: np.ndarray, a, b, ra, rb, colours, flat: bool = False) -> float:
    """Lay P capsules, near ones first, over a picture (H, W, 3) in place; returns the share of it they cover.

    a, b: ends (P, 3) in pixels; ra, rb: their radii (P,). Each is lit from above unless `flat`. All are measured on
    one grid of subpixels around them: coverage from the distance to the axis, then front to back
    weight_p = coverage_p * prod_{q before p} (1 - coverage_q).
    """
    height, width, _ = picture.shape
    if not len(a):
        return 0.0
    ends, reach = np.concatenate([a, b])[:, :2], max(ra.max(), rb.max()) + 1
    left, top = np.maximum(np.floor(ends.min(0) - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(ends.max(0) + reach), [width, height]).astype(int)
    if left >= right or top >= bottom:
        return 0.0
    x = (left + (np.arange((right - left) * SAMPLES, dtype=np.float32) + 0.5) / SAMPLES)[None, None]
    y = (top + (np.arange((bottom - top) * SAMPLES, dtype=np.float32) + 0.5) / SAMPLES)[None, :, None]
    ax, ay, dx, dy, ra, dr = (
        v.astype(np.float32)[:, None, None] for v in (a[:, 0], a[:, 1], *(b - a)[:, :2].T, ra, rb - ra)
    )
    ex, ey = x - ax, y - ay
    t = np.clip((ex * dx + ey * dy) / (dx * dx + dy * dy + 1e-6), 0, 1)
    ex, ey, r = ex - t * dx, ey - t * dy, ra + t * dr
    square = ex * ex + ey * ey
    cover = np.clip((r - np.sqrt(square)) * SAMPLES + 0.5, 0, 1)
    through = np.cumprod(1 - cover, 0)
    cover[1:] *= through[:-1]
    light = cover
    if not flat:  # the normal of a round limb: (ex, ey) / r across, what is left towards the camera
        bulge = np.sqrt(np.clip(1 - square / (r * r), 0, 1))
        light = cover * (0.62 + 0.46 * bulge - (0.10 * ex + 0.20 * ey) / r)
    grid = (bottom - top, SAMPLES, right - left, SAMPLES)
    colour = pooled(np.tensordot(light, colours, (0, 0)).reshape(*grid, 3))
    clear = pooled(through[-1].reshape(*grid))
    inside = picture[top:bottom, left:right]
    inside *= clear[..., None]
    inside += colour
    return float((1 - clear).sum()) / (height * width)


def pooled(x: np.ndarray) -> np.ndarray:
    """(h, s, w, s, …) -> (h, w, …), averages; slices added up are faster than a mean over two short axes."""
    rows = sum(x[:, i] for i in range(x.shape[1]))
    return sum(rows[:, :, i] for i in range(x.shape[3])) / x.shape[1] ** 2
