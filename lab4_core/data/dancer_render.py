"""The dancer's pictures: a studio, a body of shaded capsules in it, and the pose image of its skeleton.

Sizes are in metres in the room and in picture heights once projected, so that any height x width works.
"""

from __future__ import annotations

import numpy as np

from lab4_core.data.canvas import Canvas

FOCAL = 1.95  # in picture heights: a person of 1.8 m at 5 m fills seven tenths of the height
EYE, HORIZON = 0.98, 0.46  # height of the camera in metres; share of the picture above its axis

LINE = 0.0036  # half the width of a bone, in picture heights

SHIRT, TROUSERS, SHOE = (52, 64, 82), (17, 18, 22), (13, 13, 14)
SKIN, HAIR = (108, 76, 65), (20, 18, 18)

# (from, to, radii at the two ends in metres, colour)
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

# The skeleton of the pose image: mostly cool colours, warm ones for the left leg.
BONES = [
    ("l_shoulder", "r_shoulder", (90, 80, 255)), ("neck", "hips", (100, 85, 255)), ("l_hip", "r_hip", (90, 70, 255)),
    ("r_shoulder", "r_elbow", (60, 110, 255)), ("r_elbow", "r_wrist", (40, 150, 255)),
    ("l_shoulder", "l_elbow", (0, 185, 255)), ("l_elbow", "l_wrist", (0, 215, 255)),
    ("r_wrist", "r_hand", (60, 190, 140)), ("r_wrist", "r_thumb", (190, 90, 160)),
    ("l_wrist", "l_hand", (60, 190, 140)), ("l_wrist", "l_thumb", (190, 90, 160)),
    ("r_hip", "r_knee", (0, 255, 140)), ("r_knee", "r_ankle", (0, 255, 80)),
    ("r_heel", "r_toe", (60, 255, 0)), ("r_ankle", "r_toe", (60, 255, 0)),
    ("l_hip", "l_knee", (255, 80, 70)), ("l_knee", "l_ankle", (255, 120, 50)),
    ("l_heel", "l_toe", (255, 190, 0)), ("l_ankle", "l_toe", (255, 190, 0)),
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
        colour, cover = body({name: p[t] for name, p in points.items()}, height, width)
        picture = picture * (1 - cover) + colour
        picture *= 1 + 0.10 * cover.mean()  # the aperture opens a little for a dark picture
        picture += rng.normal(0, 0.75, picture.shape)
        frames[t] = np.clip(np.rint(picture), 0, 255).transpose(2, 0, 1)
    return frames


def poses(joints: dict[str, np.ndarray], height: int, width: int) -> np.ndarray:
    """Pose images uint8 (T, 3, H, W): thin coloured bones on white; none with an end outside the picture."""
    points = {name: project(xyz, height, width) for name, xyz in joints.items()}
    inside = {n: (p[:, :2] >= 0).all(1) & (p[:, :2] < [width, height]).all(1) for n, p in points.items()}
    images = np.empty((len(joints["hips"]), 3, height, width), np.uint8)
    for t in range(len(images)):
        canvas = Canvas(height, width)
        for a, b, colour in BONES:
            if inside[a][t] and inside[b][t]:
                canvas.capsule(points[a][t], points[b][t], LINE * height, LINE * height, colour, flat=True)
        colour, cover = canvas.pooled()
        images[t] = np.rint(255 * (1 - cover) + colour).transpose(2, 0, 1)
    return images


def project(xyz: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, 3) metres -> (T, 3): x and y in pixels, and pixels per metre at that distance."""
    scale = FOCAL * height / np.maximum(xyz[:, 2], 0.3)
    return np.stack([width / 2 + xyz[:, 0] * scale, HORIZON * height + (EYE - xyz[:, 1]) * scale, scale], 1)


def flesh(j: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Further points of the trunk, between the joints."""

    def between(a, b, share):
        return j[a] * (1 - share) + j[b] * share

    extra = {"belly": between("hips", "neck", 0.24), "chest": between("hips", "neck", 0.72)}
    for s in "lr":
        extra[f"{s}_waist"] = between("hips", f"{s}_hip", 0.55) + (extra["belly"] - j["hips"])
        extra[f"{s}_chest"] = (between("hips", f"{s}_shoulder", 0.6) + between("neck", f"{s}_shoulder", 0.6)) / 2
    return extra


def studio(height: int, width: int) -> np.ndarray:
    """The empty room (H, W, 3), 0..255: lamps under the ceiling, their light on the wall, a paler floor."""
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
    """Share of light on the floor (H, W), 1 where nothing is near: contact shadows and a dull reflection."""
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    light = np.ones((height, width))

    def darken(depth, across, along):
        light[:] *= 1 - depth * np.outer(np.exp(-(along**2)), np.exp(-(across**2)))

    for name, (px, py, scale) in ground.items():
        if name == "hips":
            darken(0.12, (x - px) / (0.55 * scale), (y - py) / (0.13 * scale))
        else:
            darken(0.30, (x - px) / (0.17 * scale), (y - py) / (0.06 * scale))
            below = np.where(y > py, (y - py) / (0.45 * scale), 9)
            darken(0.12, (x - px) / (0.08 * scale), below)
    return light


def body(points: dict[str, np.ndarray], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour (H, W, 3), already multiplied by coverage, and coverage (H, W, 1) of the person in one frame."""
    canvas = Canvas(height, width)
    # pixels per metre grow towards the camera, so this sorts by depth: far parts first
    for a, b, ra, rb, colour in sorted(BODY, key=lambda part: points[part[0]][2] + points[part[1]][2]):
        p, q = points[a], points[b]
        canvas.capsule(p, q, ra * p[2], rb * q[2], colour)
    return canvas.pooled()
