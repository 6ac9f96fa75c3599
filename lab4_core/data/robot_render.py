"""The robot twin's pictures: a camera in front of the table, the arm reaching in from above, as in the BAIR frames."""

from __future__ import annotations

import numpy as np

from lab4_core.data.canvas import Canvas
from lab4_core.data.robot_world import DOWN, TABLE, Motion, Scene

EYE = np.array([1.06, 0.0, 0.64])  # the camera, metres; the table is at height 0
LOOK_AT = np.array([0.60, 0.0, 0.02])
FOCAL = 1.62  # in picture heights

STEEL, DARK, RED, BLUE = (62, 60, 62), (30, 27, 29), (126, 34, 42), (70, 96, 128)
# body and trim colour of each kind of object: a ball, or a can that lies (long) or stands (tall)
LOOKS = [
    ((92, 190, 40), (40, 110, 30), "ball"), ((240, 158, 36), (250, 190, 90), "ball"),
    ((222, 216, 204), (196, 70, 52), "ball"), ((66, 122, 186), (230, 230, 226), "tall"),
    ((64, 40, 34), (150, 92, 60), "long"), ((190, 48, 54), (238, 206, 120), "long"),
    ((236, 212, 74), (60, 140, 150), "tall"), ((120, 70, 140), (228, 190, 220), "ball"),
    ((40, 150, 140), (220, 240, 236), "long"), ((148, 148, 154), (70, 70, 78), "tall"),
]  # fmt: skip


def project(xyz: np.ndarray, height: int, width: int) -> np.ndarray:
    """(…, 3) metres -> (…, 3): x and y in pixels, and pixels per metre at that distance. A pinhole camera at EYE."""
    ahead = (LOOK_AT - EYE) / np.linalg.norm(LOOK_AT - EYE)
    right = np.array([0.0, 1.0, 0.0])
    up = np.cross(right, ahead)
    from_eye = np.asarray(xyz) - EYE
    scale = FOCAL * height / np.maximum(from_eye @ ahead, 0.1)
    x, y = width / 2 + (from_eye @ right) * scale, height / 2 - (from_eye @ up) * scale
    return np.stack([x, y, scale], -1)


def render(scene: Scene, motion: Motion, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Frames uint8 (T, 3, H, W) of a clip. `rng` draws the clip's light and the film noise."""
    light = rng.uniform(0.94, 1.05) * (1 + rng.normal(0, 0.012, 3))
    room = table(height, width)
    frames = np.empty((len(motion.effector), 3, height, width), np.uint8)
    for t in range(len(frames)):
        picture = room * shadows(scene, motion, t, height, width)[..., None]
        colour, cover = things(scene, motion, t, height, width)
        picture = (picture * (1 - cover) + colour) * light + rng.normal(0, 1.0, picture.shape)
        frames[t] = np.clip(np.rint(picture), 0, 255).transpose(2, 0, 1)
    return frames


def table(height: int, width: int) -> np.ndarray:
    """The empty scene (H, W, 3), 0..255: a wooden table top with its grain, a board in front of it, bins behind."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    (left, back, _), (_, front, _) = (project([a, b, 0], height, width) for a, b in TABLE)
    u, v = (x - width / 2) / (width / 2 - left), (y - back) / (front - back)  # -1..1 and 0..1 over the table
    grain = 5 * np.sin(9 * u + 2.2 * np.sin(3 * v)) + 3 * np.sin(23 * u + 1.5 * v)
    wood = np.stack([212 + grain, 190 + grain, 160 + 1.2 * grain], -1) * (1.03 - 0.10 * np.abs(u) - 0.06 * v)[..., None]
    picture = wood

    def lay(cover, colour):
        nonlocal picture
        cover = np.clip(cover, 0, 1)[..., None]
        picture = picture * (1 - cover) + np.array(colour, float) * cover

    pixel = height / 64
    lay((y - front) / pixel + 0.5, (224, 226, 230))  # the white board, and the dark edge below it
    lay((y - 0.95 * height) / pixel + 0.5, (96, 74, 56))
    lay((back - y) / pixel + 0.5, (232, 214, 176))  # the light wall behind, with the bins' sloping sides
    slope = 0.16 * (y - 0.4 * height)
    lay((left + slope - 5 * pixel - x) / pixel + 0.5, (146, 162, 172))
    lay((x - (width - left) + slope - 5 * pixel) / pixel + 0.5, (160, 176, 186))
    lay((0.05 * height - y) / pixel + 0.5, (110, 52, 48))
    glow = np.exp(-(((x / width - 0.4) / 0.5) ** 2) - ((y / height - 0.85) / 0.5) ** 2)
    return picture * (0.93 + 0.11 * glow)[..., None]


def shadows(scene: Scene, motion: Motion, t: int, height: int, width: int) -> np.ndarray:
    """Share of light on the table (H, W), 1 where nothing is near."""
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    light = np.ones((height, width))
    hand = motion.effector[t]
    above = hand[2] - DOWN  # a lifted hand throws a wider, fainter shadow
    spots = [(*place, 1.35 * r, 0.34) for place, r in zip(motion.objects[t], scene.radii)]
    spots.append((hand[0], hand[1], 0.034 + 0.3 * above, 0.34 - 2 * above))
    for px, py, radius, depth in spots:
        cx, cy, scale = project([px, py, 0], height, width)
        across, along = (x - cx) / (radius * scale), (y - cy) / (0.62 * radius * scale)
        light *= 1 - depth * np.outer(np.exp(-(along**2)), np.exp(-(across**2)))
    return light


def things(scene: Scene, motion: Motion, t: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour (H, W, 3), times coverage, and coverage (H, W, 1) of the objects and the arm, painted far to near."""
    canvas = Canvas(height, width)

    def limb(a, b, ra, rb, colour):
        p, q = project(a, height, width), project(b, height, width)
        canvas.capsule(p, q, ra * p[2], rb * q[2], colour)

    def lay(k):
        (px, py), r = motion.objects[t, k], scene.radii[k]
        body, trim, shape = LOOKS[scene.looks[k]]
        if shape == "ball":
            limb([px, py, r], [px, py, r], r, r, body)
            limb([px, py - 0.45 * r, 1.35 * r], [px, py + 0.45 * r, 1.35 * r], 0.28 * r, 0.28 * r, trim)
        elif shape == "long":
            limb([px, py - 0.6 * r, 0.7 * r], [px, py + 0.6 * r, 0.7 * r], 0.68 * r, 0.68 * r, body)
            limb([px, py, 0.75 * r], [px, py + 0.2 * r, 0.75 * r], 0.5 * r, 0.5 * r, trim)
        else:
            limb([px, py, 0.6 * r], [px, py, 2.4 * r], 0.85 * r, 0.85 * r, body)
            limb([px, py, 2.7 * r], [px, py, 2.7 * r], 0.55 * r, 0.5 * r, trim)

    def arm():
        x, y, z = motion.effector[t]
        tip = z - DOWN + 0.006
        spread = 0.006 + 0.016 * abs(np.cos(motion.turn[t]))
        limb([x - 0.24, 0.6 * y, tip + 0.62], [x - 0.03, y, tip + 0.26], 0.034, 0.030, DARK)  # the forearm
        limb([x - 0.03, y, tip + 0.26], [x, y, tip + 0.12], 0.027, 0.024, STEEL)
        limb([x, y - 0.022, tip + 0.110], [x, y + 0.022, tip + 0.110], 0.013, 0.013, RED)
        limb([x, y - 0.019, tip + 0.086], [x, y + 0.019, tip + 0.086], 0.014, 0.014, BLUE)
        for side in (-1, 1):
            limb([x, y + side * spread, tip + 0.078], [x, y + side * spread, tip], 0.009, 0.007, DARK)

    hand_at = motion.effector[t, 0]
    order = np.argsort(motion.objects[t, :, 0])
    for k in order[motion.objects[t, order, 0] <= hand_at]:
        lay(k)
    arm()
    for k in order[motion.objects[t, order, 0] > hand_at]:
        lay(k)
    return canvas.pooled()
