"""A table, a few objects on it and an arm that pushes them: the mechanics of the robot twin.

Lengths are in metres, as in the BAIR release: x away from the robot's base and so towards the camera, y to the
camera's right, z up, with the fingertips on the table at z = 0.2. One step is one frame. The arm's motion follows from
its position and the action alone, that of the objects from the arm's: the same actions give the same clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

REACH = np.array([[0.44, -0.17], [0.68, 0.17]])  # where the end effector may go: smallest and largest (x, y)
TABLE = np.array([[0.41, -0.21], [0.72, 0.21]])  # where the objects may be: rims keep them in
DOWN, UP = 0.20, 0.26  # height of the end effector while it pushes and while it is lifted
TOUCH = 0.225  # below this height the fingers meet objects
FOLLOW = 0.65  # share of the commanded displacement that a step covers
CLIMB = 0.6  # share of the way to the target height that a step covers
FINGERS = 0.020  # radius of the pushing hand
SUBSTEPS = 6  # per step, so that a fast hand does not jump over an object


@dataclass(frozen=True)
class Scene:
    """The start of a clip: the hand at effector (3,), and objects at objects (K, 2) with radii (K,) and looks (K,)."""

    effector: np.ndarray
    objects: np.ndarray
    radii: np.ndarray
    looks: np.ndarray  # which of the renderer's looks each object has


class Motion(NamedTuple):
    """A clip of T frames: actions (T, 4), which are dx, dy, turn of the wrist and lift, effector (T, 3), turn (T,),
    objects (T, K, 2). The action of frame t leads to frame t + 1; that of the last one is recorded, not carried out."""

    actions: np.ndarray
    effector: np.ndarray
    turn: np.ndarray
    objects: np.ndarray


def new_scene(rng: np.random.Generator, looks: int) -> Scene:
    """A hand and four to seven objects that do not touch one another."""
    effector = np.array([*rng.uniform(*REACH), DOWN])
    radii, objects = rng.uniform(0.020, 0.034, rng.integers(4, 8)), []
    for radius in radii:
        for _ in range(200):
            place = rng.uniform(TABLE[0] + radius, TABLE[1] - radius)
            taken = [*zip(objects, radii), (effector[:2], FINGERS)]
            if all(np.hypot(*(place - other)) > radius + r + 0.004 for other, r in taken):
                break
        else:
            return new_scene(rng, looks)  # no room for one more: another scene
        objects.append(place)
    return Scene(effector, np.array(objects), radii, rng.choice(looks, len(radii), replace=False))


def push(hand: np.ndarray, down: bool, objects: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Objects (K, 2) moved out of the hand's way, out of one another's, and back on the table.

    Quasi-static: nothing keeps sliding. What overlaps is moved apart along the line of centres: from the hand an object
    moves all the way, of two objects each moves half.
    """
    for _ in range(4):
        before, objects = objects, objects.copy()
        if down:
            objects += _apart(objects - hand, radii + FINGERS)
        between = objects[:, None] - objects[None]
        objects += 0.5 * _apart(between, radii[:, None] + radii[None], skip=np.eye(len(radii), dtype=bool)).sum(1)
        objects = np.clip(objects, TABLE[0] + radii[:, None], TABLE[1] - radii[:, None])
        if (objects == before).all():
            break
    return objects


def _apart(offset: np.ndarray, touching: np.ndarray, skip: np.ndarray | bool = False) -> np.ndarray:
    """Displacements (…, 2) that move centres `offset` apart to the distance `touching` where they are closer."""
    distance = np.hypot(offset[..., 0], offset[..., 1])
    overlap = np.where(skip, 0, np.maximum(touching - distance, 0))
    direction = np.where(distance[..., None] > 1e-9, offset / np.maximum(distance, 1e-9)[..., None], [1.0, 0.0])
    return overlap[..., None] * direction


def step(effector: np.ndarray, objects: np.ndarray, radii: np.ndarray, action: np.ndarray):
    """The next effector (3,) and objects (K, 2) after one action (4,)."""
    goal = np.append(np.clip(effector[:2] + FOLLOW * action[:2], *REACH), 0)
    goal[2] = effector[2] + CLIMB * ((UP if action[3] > 0 else DOWN) - effector[2])
    for share in np.arange(1, SUBSTEPS + 1) / SUBSTEPS:
        hand = effector + share * (goal - effector)
        objects = push(hand[:2], hand[2] < TOUCH, objects, radii)
    return goal, objects


def simulate(scene: Scene, actions: np.ndarray) -> Motion:
    """The clip that follows from a scene and actions (T, 4)."""
    effector, objects = [scene.effector], [scene.objects]
    for action in actions[:-1]:
        e, o = step(effector[-1], objects[-1], scene.radii, action)
        effector.append(e)
        objects.append(o)
    turn = np.concatenate([[0], np.cumsum(actions[:-1, 2])])
    return Motion(actions, np.array(effector), turn, np.array(objects))


def wander(scene: Scene, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Actions (T, 4) of a robot that pushes at random: anywhere, towards an object, or lifted.

    As in the real recordings, each action is held for two frames.
    """
    effector, objects, actions = scene.effector, scene.objects, []
    while len(actions) < frames:
        action = np.array([*rng.normal(0, 0.038, 2), rng.normal(0, 0.15), 2.0 * (rng.random() < 0.1)])
        if rng.random() < 0.6:  # towards an object and on through it
            to = objects[rng.integers(len(objects))] - effector[:2]
            action[:2] = to / max(np.hypot(*to), 1e-6) * rng.uniform(0.02, 0.065)
        action[:2] = np.clip(action[:2], -0.08, 0.08)
        for _ in range(2):
            actions.append(action)
            effector, objects = step(effector, objects, scene.radii, action)
    return np.array(actions[:frames])
