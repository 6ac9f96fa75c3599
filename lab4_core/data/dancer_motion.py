"""The dancer's motion: a choreography of joint angles.

Positions in metres, x towards the right of the picture, z away from the camera; angles in degrees, yaw 0 faces the
camera and 90 the right edge of the picture; time in frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

REST = {
    "x": 0.0, "z": 5.0, "yaw": 0.0,  # where on the floor, facing where
    "lean": 2.0, "bend": 0.0, "twist": 0.0, "nod": 0.0, "look": 0.0,  # spine forward, sideways; shoulders; head
} | {f"{side}_{angle}": value for side in "lr" for angle, value in {
    "arm": 0.0, "out": 9.0, "elbow": 14.0, "roll": 10.0,  # upper arm forward, sideways; forearm, and into which plane
    "hip": 0.0, "apart": 3.0, "knee": 2.0,  # thigh forward, sideways; shin back
}.items()}  # fmt: skip
PLACE = ("x", "z", "yaw")

STRIDE = 1.45  # metres per cycle of two steps
TEMPO = 1.15  # factor on all durations; makes neighbouring frames differ as much as real ones do


class Choreography:
    """Keyframes written in order of time: `to` adds one, `hold` repeats the last."""

    def __init__(self, start: dict[str, float]):
        self.state = REST | start
        self.frames, self.keys = [0], [self.state]

    @property
    def length(self) -> int:
        return self.frames[-1]

    def to(self, frames: float, **changes: float) -> None:
        """Change the state in this way within frames x TEMPO frames. `arm=`, `hip=` and so on mean both sides."""
        both = {f"{side}_{k}": v for k, v in changes.items() if k not in REST for side in "lr"}
        self.state = self.state | both | {k: v for k, v in changes.items() if k in REST}
        self.frames.append(self.frames[-1] + max(1, round(frames * TEMPO)))
        self.keys.append(self.state)

    def rest(self, frames: float) -> None:
        """Return to standing with arms down, in the same place and direction."""
        self.to(frames, **{k: v for k, v in REST.items() if k not in PLACE})

    def hold(self, frames: float) -> None:
        self.to(frames)

    def face(self, yaw: float) -> None:
        """Turn on the spot, the short way, at about 4 degrees per frame."""
        turn = (yaw - self.state["yaw"] + 180) % 360 - 180
        self.to(6 + abs(turn) / 4.5, yaw=self.state["yaw"] + turn)

    def walk(self, x: float, z: float, speed: float) -> None:
        """Turn towards a place and walk there, at `speed` metres per frame (before TEMPO)."""
        dx, dz = x - self.state["x"], z - self.state["z"]
        if np.hypot(dx, dz) > 0.1:
            self.face(np.degrees(np.arctan2(dx, -dz)))
            self.to(np.hypot(dx, dz) / speed, x=x, z=z)


# ------------------------------------------------------------------ what the dancer can do
# Each adds one action; draws from `rng` vary its side, size and timing.


def raise_arms(c, rng):
    up = rng.uniform(135, 168)
    c.to(rng.integers(14, 24), out=up, elbow=rng.uniform(5, 60), roll=-90)
    c.hold(rng.integers(6, 18))
    if rng.random() < 0.5:
        c.to(12, bend=rng.choice([-14, 14]))
        c.to(14, bend=0)
    c.rest(rng.integers(14, 22))


def wave(c, rng):
    s = rng.choice(["l", "r"])
    c.to(16, **{f"{s}_out": 80, f"{s}_roll": -90, f"{s}_elbow": 70})
    for _ in range(rng.integers(2, 4)):
        c.to(8, **{f"{s}_elbow": 110})
        c.to(8, **{f"{s}_elbow": 45})
    c.rest(16)


def spread(c, rng):
    for _ in range(rng.integers(1, 3)):
        c.to(13, out=rng.uniform(75, 95), elbow=6)
        c.hold(rng.integers(3, 10))
        c.to(13, out=12, arm=rng.uniform(0, 60), elbow=rng.uniform(20, 90))
    c.rest(12)


def reach(c, rng):
    s = rng.choice([90.0, -90.0, 0.0, 50.0, -50.0])
    c.face(s)
    c.to(20, lean=rng.uniform(35, 65), arm=rng.uniform(50, 110), elbow=8, hip=rng.uniform(5, 25), knee=25, nod=10)
    c.hold(rng.integers(6, 14))
    c.rest(20)


def hands_forward(c, rng):
    c.face(rng.choice([90.0, -90.0, 0.0]))
    c.to(15, arm=rng.uniform(20, 50), elbow=rng.uniform(60, 95), roll=30, out=5)
    for _ in range(rng.integers(1, 3)):
        c.to(9, arm=rng.uniform(50, 85), elbow=25)
        c.to(9, arm=25, elbow=90)
    c.rest(14)


def lift_knee(c, rng):
    if rng.random() < 0.6:
        c.face(rng.choice([90.0, -90.0, 0.0]))
    for s in rng.permutation(["l", "r"])[: rng.integers(1, 3)]:
        other = "r" if s == "l" else "l"
        c.to(13, **{f"{s}_hip": rng.uniform(60, 95), f"{s}_knee": rng.uniform(70, 105), f"{other}_arm": 40})
        if rng.random() < 0.4:
            c.to(8, **{f"{s}_knee": 15})
        c.to(13, **{f"{s}_hip": 0, f"{s}_knee": 2, f"{other}_arm": 0})


def squat(c, rng):
    c.to(20, hip=rng.uniform(70, 105), knee=rng.uniform(95, 120), lean=25, arm=rng.uniform(20, 80), apart=12)
    c.hold(rng.integers(5, 14))
    c.rest(20)


def sit(c, rng):
    c.face(rng.choice([90.0, -90.0, 40.0, -40.0]))
    c.to(28, hip=122, knee=116, lean=8, arm=35, elbow=40)
    c.hold(rng.integers(15, 30))
    c.rest(28)


def lunge(c, rng):
    c.face(rng.choice([90.0, -90.0]))
    front, back = rng.permutation(["l", "r"])
    deep = rng.uniform(0.6, 1)
    step = 0.35 * np.sign(np.sin(np.radians(c.state["yaw"])))
    c.to(18, x=c.state["x"] + step, lean=22 * deep, **{
        f"{front}_hip": 78 * deep, f"{front}_knee": 75 * deep, f"{back}_hip": -38 * deep, f"{back}_knee": 35 * deep,
        f"{back}_arm": 45, f"{front}_arm": -30, f"{back}_elbow": 60})  # fmt: skip
    c.hold(rng.integers(8, 16))
    c.rest(18)


def kneel(c, rng):
    c.face(rng.choice([90.0, -90.0, 30.0]))
    front, back = rng.permutation(["l", "r"])
    c.to(24, lean=rng.uniform(5, 30), elbow=40, **{
        f"{front}_hip": 88, f"{front}_knee": 88, f"{back}_hip": -4, f"{back}_knee": 92,
        f"{front}_arm": 30})  # fmt: skip
    c.hold(rng.integers(12, 24))
    c.rest(24)


def turn(c, rng):
    for yaw in rng.permutation([0.0, 90.0, 180.0, 270.0])[:2]:
        c.face(yaw)
        c.hold(rng.integers(6, 14))


def sway(c, rng):
    for s in (1, -1) * int(rng.integers(1, 3)):
        c.to(13, x=c.state["x"] + 0.13 * s, bend=9 * s, twist=15 * s, arm=20, l_out=30, r_out=30)
    c.rest(12)


def walk(c, rng):
    x = rng.uniform(0.6, 2.0) * (-1 if c.state["x"] > rng.uniform(-0.4, 0.4) else 1)
    c.walk(x, rng.uniform(4.3, 5.5), rng.uniform(0.03, 0.05))
    if rng.random() < 0.7:
        c.face(rng.choice([0.0, 0.0, 30.0, -30.0]))


def pace(c, rng):
    c.walk(c.state["x"] + rng.uniform(0.2, 0.5) * (-1 if c.state["x"] > 0 else 1), c.state["z"], 0.03)
    c.face(rng.choice([0.0, 0.0, 30.0, -30.0]))


def approach(c, rng):
    back = c.state["x"], c.state["z"]
    c.walk(rng.uniform(-0.3, 0.3), rng.uniform(1.6, 2.6), 0.045)
    c.face(rng.choice([0.0, 25.0, -25.0]))
    c.hold(rng.integers(8, 20))
    c.walk(*back, 0.045)
    c.face(0)


def leave(c, rng):
    side = -1 if c.state["x"] < rng.uniform(-0.5, 0.5) else 1
    c.walk(3.0 * side, rng.uniform(4.6, 5.2), 0.05)
    c.hold(rng.integers(3, 8))
    c.walk(rng.uniform(-0.8, 0.8), rng.uniform(4.5, 5.2), 0.05)
    c.face(0)


ON_THE_SPOT = (raise_arms, wave, spread, reach, hands_forward, lift_knee, squat, sit, lunge, kneel, turn, sway)
ACROSS = (walk, approach, leave, walk, approach)
CALM = (raise_arms, wave, spread, hands_forward, lift_knee, squat, turn, sway, reach), (pace,)


def choreograph(frames: int, rng: np.random.Generator, calm: bool = False) -> dict[str, np.ndarray]:
    """Angles and positions (T,) of one clip: two actions on the spot for each one across the floor. `rng` shuffles both
    lists and goes through a whole list before it shuffles it again.

    calm: fewer kinds of actions, none of which goes far, comes close to the camera or leaves the picture.
    """
    spot, across = (shuffled(actions, rng) for actions in (CALM if calm else (ON_THE_SPOT, ACROSS)))
    x = rng.uniform(-0.7, 0.7) * (0.4 if calm else 1)
    c = Choreography({"x": x, "z": rng.uniform(4.7, 5.2), "yaw": rng.uniform(-15, 15)})
    c.hold(rng.integers(4, 12))
    while c.length < frames:
        for actions in (spot, across, spot):
            next(actions)(c, rng)
    time = np.arange(frames)
    curves = {k: np.interp(time, c.frames, [key[k] for key in c.keys]) for k in REST}
    curves = {k: smooth(v, 3.0) for k, v in curves.items()}
    return breathe(step(curves), rng)


def shuffled(actions: tuple, rng: np.random.Generator) -> Iterator[Callable]:
    while True:
        yield from (actions[i] for i in rng.permutation(len(actions)))


def smooth(curve: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter over time: the corners at keyframes become the starts and stops of a body with mass."""
    n = int(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-n, n + 1) / sigma) ** 2)
    return np.convolve(np.pad(curve, n, mode="edge"), kernel / kernel.sum(), mode="valid")


def step(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the steps of walking: the phase of the gait follows the distance covered."""
    vx, vz = np.gradient(a["x"]), np.gradient(a["z"])
    speed = np.hypot(vx, vz)
    yaw = np.radians(a["yaw"])
    phase = np.cumsum(speed * np.where(vx * np.sin(yaw) - vz * np.cos(yaw) < 0, -1, 1)) * 2 * np.pi / STRIDE
    turning = np.clip(np.abs(np.gradient(a["yaw"])) / 4, 0, 1)  # small steps on the spot
    phase += np.cumsum(turning) * 2 * np.pi / 24
    size = smooth(np.clip(speed / 0.025, 0, 1) + 0.3 * turning, 2.0).clip(0, 1)
    out = dict(a)
    for side, p in (("l", phase), ("r", phase + np.pi)):
        out[f"{side}_hip"] = a[f"{side}_hip"] + size * 27 * np.sin(p)
        out[f"{side}_knee"] = a[f"{side}_knee"] + size * (6 + 48 * np.maximum(0, np.cos(p)) ** 1.5)
        out[f"{side}_arm"] = a[f"{side}_arm"] - size * 20 * np.sin(p)
        out[f"{side}_elbow"] = a[f"{side}_elbow"] + size * 12
    out["twist"] = a["twist"] - size * 5 * np.sin(phase)
    out["lean"] = a["lean"] + size * 3
    return out


def breathe(a: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Nobody stands quite still: small slow waves on every angle."""
    time = np.arange(len(a["x"]))
    size = {"x": 0.012, "z": 0.01, "yaw": 2.5, "look": 6, "nod": 3}
    wave = {k: np.sin(2 * np.pi * time / rng.uniform(50, 110) + rng.uniform(0, 6.3)) for k in a}
    return {k: v + size.get(k, 1.2) * wave[k] for k, v in a.items()}
