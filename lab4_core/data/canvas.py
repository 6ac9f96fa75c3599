"""The canvas of the synthetic datasets: shaded capsules painted over one another, with soft edges."""

from __future__ import annotations

import numpy as np

SAMPLES = 3  # subpixels along a pixel's side; edges are soft within a subpixel, so few look like many


class Canvas:
    """Subpixels on which capsules are painted over one another; each touches only the box around it."""

    def __init__(self, height: int, width: int):
        self.paint = np.zeros((height * SAMPLES, width * SAMPLES, 4), np.float32)  # red, green, blue, coverage
        self.y = np.arange(height * SAMPLES, dtype=np.float32)[:, None] + 0.5
        self.x = np.arange(width * SAMPLES, dtype=np.float32)[None] + 0.5

    def capsule(self, a, b, ra: float, rb: float, colour, flat: bool = False) -> None:
        """A limb from point a to point b with radii ra and rb, all in pixels; lit from above unless `flat`."""
        ax, ay, bx, by, ra, rb = (float(v) * SAMPLES for v in (a[0], a[1], b[0], b[1], ra, rb))
        h, w, _ = self.paint.shape
        reach = max(ra, rb) + 1
        left, right = max(0, int(min(ax, bx) - reach)), min(w, int(max(ax, bx) + reach) + 1)
        top, bottom = max(0, int(min(ay, by) - reach)), min(h, int(max(ay, by) + reach) + 1)
        if left >= right or top >= bottom:
            return
        ex, ey = self.x[:, left:right] - ax, self.y[top:bottom] - ay
        dx, dy = bx - ax, by - ay
        along = 1 / (dx * dx + dy * dy + 1e-6)
        t = np.minimum(np.maximum(ex * (dx * along) + ey * (dy * along), 0), 1)  # the nearest point on the axis
        ex, ey, r = ex - t * dx, ey - t * dy, (ra + t * (rb - ra) if ra != rb else ra)
        square = ex * ex + ey * ey
        cover = np.minimum(np.maximum(r + 0.5 - np.sqrt(square), 0), 1)[..., None]
        paint = np.array((*colour, 1), np.float32)
        if not flat:  # a round limb's normal: (ex, ey) / r in the picture, the rest of its length 1 towards the camera
            bulge = np.sqrt(np.maximum(1 - square / (r * r), 0))
            light = 0.62 + 0.46 * bulge - (0.10 * ex + 0.20 * ey) / r
            paint = light[..., None] * paint
            paint[..., 3] = 1
        under = self.paint[top:bottom, left:right]
        paint = paint - under
        paint *= cover
        under += paint

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Averages over each pixel: colour (H, W, 3), already multiplied by coverage, and coverage (H, W, 1)."""
        rows = sum(self.paint[i::SAMPLES] for i in range(SAMPLES))
        pixels = sum(rows[:, i::SAMPLES] for i in range(SAMPLES)) / SAMPLES**2
        return pixels[..., :3], pixels[..., 3:]
