"""The dancer's skeleton: from joint angles to points in space.

World coordinates in metres: x to the right of the picture, y up from the floor, z away from the camera.
"""

from __future__ import annotations

import numpy as np

from lab4_core.data.dancer_motion import smooth

THIGH, SHIN, ANKLE, SPINE, UPPER_ARM, FOREARM = 0.45, 0.43, 0.08, 0.52, 0.29, 0.26
SHOULDER, HIP = 0.19, 0.09  # half widths


def skeleton(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joints (T, 3) in metres from the angles: forward kinematics, then the lowest point is set on the floor."""
    rad = {k: np.radians(v)[:, None] for k, v in a.items() if k not in ("x", "z")}
    up = np.array([0.0, 1.0, 0.0])

    def heading(yaw):
        s, c, o = np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)
        return np.concatenate([s, o, -c], 1), np.concatenate([c, o, s], 1)  # forward, to the person's left

    forward, left = heading(rad["yaw"])
    spine = unit(up + np.tan(rad["lean"].clip(-1.4, 1.4)) * forward + np.tan(rad["bend"]) * left)
    j = {"hips": np.zeros_like(forward)}
    j["neck"] = SPINE * spine
    shoulder_forward, shoulder_left = heading(rad["yaw"] - rad["twist"])
    shoulder_left = unit(shoulder_left - spine * (shoulder_left * spine).sum(1, keepdims=True))
    shoulder_forward = unit(np.cross(shoulder_left, spine))
    shoulder_forward *= np.sign((shoulder_forward * forward).sum(1, keepdims=True) + 1e-9)

    face, ear = heading(rad["yaw"] - rad["look"])
    crown = unit(0.5 * spine + up * np.cos(rad["nod"]) + face * (np.sin(rad["nod"]) + 0.05))
    face = unit(face - crown * (face * crown).sum(1, keepdims=True))
    j["head"] = j["neck"] + 0.175 * crown
    j["chin"] = j["head"] - 0.05 * crown + 0.02 * face
    j["nape"] = j["head"] - 0.055 * face - 0.01 * crown  # the hair is a cap from here
    j["crown"] = j["head"] - 0.020 * face + 0.055 * crown  # to here
    j["nose"] = j["head"] + 0.10 * face
    for side, sign in (("l", 1), ("r", -1)):
        j[f"{side}_eye"] = j["head"] + 0.09 * face + 0.035 * sign * ear + 0.035 * crown
        j[f"{side}_ear"] = j["head"] + 0.085 * sign * ear + 0.01 * crown
        j[f"{side}_shoulder"] = j["neck"] - 0.03 * spine + SHOULDER * sign * shoulder_left
        j[f"{side}_hip"] = HIP * sign * left
        arm = swing(rad[f"{side}_arm"], rad[f"{side}_out"], shoulder_forward, spine, sign * shoulder_left)
        elbow, roll = rad[f"{side}_elbow"], rad[f"{side}_roll"]
        forearm = np.cos(elbow) * arm[0] + np.sin(elbow) * (np.cos(roll) * arm[1] + np.sin(roll) * arm[2])
        j[f"{side}_elbow"] = j[f"{side}_shoulder"] + UPPER_ARM * arm[0]
        j[f"{side}_wrist"] = j[f"{side}_elbow"] + FOREARM * forearm
        j[f"{side}_hand"] = j[f"{side}_wrist"] + 0.13 * forearm
        j[f"{side}_thumb"] = j[f"{side}_wrist"] + 0.08 * forearm + 0.05 * shoulder_forward
        thigh = swing(rad[f"{side}_hip"], rad[f"{side}_apart"], forward, up, sign * left)
        shin_angle = rad[f"{side}_hip"] - rad[f"{side}_knee"]
        shin = swing(shin_angle, rad[f"{side}_apart"] * 0.5, forward, up, sign * left)[0]
        toe = shin_angle - shin_angle.clip(-0.6, 0.45)  # the ankle keeps the foot flat as far as it can
        toe = np.sin(toe) * up + np.cos(toe) * unit(forward + 0.25 * sign * left)
        j[f"{side}_knee"] = j[f"{side}_hip"] + THIGH * thigh[0]
        j[f"{side}_ankle"] = j[f"{side}_knee"] + SHIN * shin
        heel = j[f"{side}_ankle"] - 0.05 * up - 0.05 * toe
        j[f"{side}_heel"], j[f"{side}_toe"] = heel, heel + 0.21 * toe

    floor = [
        -j[f"{s}_{joint}"][:, 1] + r
        for s in "lr"
        for joint, r in (("ankle", ANKLE), ("knee", 0.06), ("toe", 0.03), ("hip", 0.12))
    ]
    height = smooth(np.max(floor, 0), 1.0)
    root = np.stack([a["x"], height, a["z"]], 1)
    return {name: xyz + root for name, xyz in j.items()}


def swing(forwards, sideways, forward, up, out):
    """A hanging limb lifted forwards and sideways: its direction (T, 3), and the two directions perpendicular to it in
    which the next joint can bend (towards the front, towards the body)."""
    plane = -np.cos(forwards) * up + np.sin(forwards) * forward
    across = np.sin(forwards) * up + np.cos(forwards) * forward
    return (
        np.cos(sideways) * plane + np.sin(sideways) * out,
        across,
        np.sin(sideways) * plane - np.cos(sideways) * out,
    )


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=1, keepdims=True)
