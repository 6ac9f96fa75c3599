"""Where one clip ends and the next begins, found from the pictures, since the LAB4 layout does not say."""

from __future__ import annotations

import itertools

import numpy as np

NEIGHBOURS = 10  # frames on either side, which show how much mere motion changes the picture
RATIO = 15  # a cut changes it more than this many times as much as any of them
FLOOR = 30.0  # and by more than this mean squared difference (of 255 levels): noise is no cut


def frame_changes(frames: np.ndarray) -> np.ndarray:
    """Mean squared difference (N-1,) of neighbouring frames (N, C, H, W) uint8, in squared levels."""
    pairs = itertools.pairwise(frames)
    return np.array([np.square(after - before.astype(np.float32)).mean() for before, after in pairs], np.float64)


def find_cuts(frames: np.ndarray) -> list[int]:
    """Indices of the first frame after each cut of the recording.

    A cut is a single jump amid calm: its change is more than RATIO times as large as any of the NEIGHBOURS before
    and after it. Motion, however fast, has fast neighbours. In four clips of the lab's own frames the cuts stand out
    39 and 183 times, the strongest other frame (a person turning close to the camera) 6.6 times.
    """
    change = frame_changes(frames)
    if len(change) < 2:
        return []
    padded = np.pad(change, NEIGHBOURS)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1).copy()
    around[:, NEIGHBOURS] = 0
    cut = (change > FLOOR) & (change > RATIO * around.max(1))
    return (np.flatnonzero(cut) + 1).tolist()


def find_starts(frames: np.ndarray, numbers: np.ndarray, usual: int) -> tuple[int, ...]:
    """The first frames of the clips of a training set, from three kinds of evidence:

    1. cuts in the picture (`find_cuts`);
    2. gaps in the file numbers (a step larger than the median), where frames are missing;
    3. if there are cuts, all at multiples of `usual` (the length of the validation clip), and the total length is a
       multiple of it too, the set is a row of clips of that length. A continuous recording that was divided shows
       nothing in the picture, as at frame 1260 of the lab's own.
    """
    cuts = find_cuts(frames)
    if len(frames) % usual == 0 and cuts and all(c % usual == 0 for c in cuts):
        cuts += range(usual, len(frames), usual)
    steps = np.diff(numbers)
    if len(steps):
        cuts += (np.flatnonzero(steps > np.median(steps)) + 1).tolist()
    return tuple(sorted({0, *cuts}))
