"""A CVAE on single frames, unrolled over a clip: p(x_t | x_{t-1}, pose_t, z_t).

What a model of this family is made of is four functions (`encode_frame`, `encode_cond`, `posterior`, `decode`);
how a clip runs through them stands here once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lab4_core.losses import gaussian_kld, reparameterize
from lab4_core.models.base import Feed, Unrolled, VideoPredictor


class FrameCVAE(VideoPredictor):
    """Frames are flattened step by step, (S * B, …), so a step's B images lie together."""

    sees_previous_cond = False  # whether `decode` wants the condition of the previous frame too
    logvar_clamp = 20.0  # exp(logvar) stays finite, so beta = 0 times the KL is 0 and not NaN

    def encode_frame(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> features. The posterior sees the target, the decoder the previous frame."""
        return x

    def encode_cond(self, cond: Tensor, groups: int | None = None) -> Any:
        """(M, …) -> features. `groups`: the M images are that many steps of a training clip, one after the other;
        None: each stands alone, as in a rollout."""
        raise NotImplementedError

    def encode_reference(self, frame: Tensor, cond: Tensor) -> Any:
        """(B, C, H, W) and (B, …) -> what `decode` takes as `ref`. Only called where `needs_reference`."""
        raise NotImplementedError

    def posterior(self, h: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """q(z | x_t, c_t): features of the target frame and its condition -> mu, logvar (M, *latent_shape)."""
        raise NotImplementedError

    def decode(self, x_prev: Tensor, h: Tensor, c: Any, z: Tensor, ref: Any = None, c_prev: Any = None) -> Tensor:
        """p(x_t | x_{t-1}, c_t, z_t): previous frame, its features, condition, z -> (M, C, H, W)."""
        raise NotImplementedError

    def unroll(
        self, frames, cond, gt_weight, eps, n_past=1, *,
        detach=True, forced=False, reference=None, feed=None, correct=None,
    ):  # fmt: skip
        b, steps = frames.shape[0], frames.shape[1] - 1
        x = frames.transpose(0, 1)  # (T, B, C, H, W)
        c_prev = None
        if self.sees_previous_cond:
            c_all = self.encode_cond(_flat(cond.transpose(0, 1)), groups=steps + 1)
            c, c_prev = _map(c_all, lambda v: v[b:]), _map(c_all, lambda v: v[:-b])
        else:
            c = self.encode_cond(_flat(cond[:, 1:].transpose(0, 1)), groups=steps)
        ref = self.encode_reference(*reference) if self.needs_reference else None
        # one call for all frames serves both: a teacher-forced input is the target of the step before
        shared = self.encode_frame(_flat(x)) if forced and feed is None else None
        h_next = self.encode_frame(_flat(x[1:])) if shared is None else shared[b:]
        mu, logvar = self.posterior(h_next, c)
        logvar = logvar.clamp(-self.logvar_clamp, self.logvar_clamp)
        z = reparameterize(mu, logvar, _flat(eps.transpose(0, 1)))
        if forced:
            x_pred = self._decode_at_once(x, c, c_prev, z, ref, feed, shared)
        else:
            x_pred = self._decode_in_turn(x, c, c_prev, z, ref, gt_weight, n_past, detach, feed, correct)
        wide = torch.promote_types(mu.dtype, torch.float32)  # exp() of a bf16 would lose the small differences
        kld = gaussian_kld(mu.to(wide), logvar.to(wide)).flatten(1).sum(1)

        def clipwise(v: Tensor) -> Tensor:
            return v.unflatten(0, (steps, b)).transpose(0, 1)

        return Unrolled(clipwise(x_pred), clipwise(kld), clipwise(mu), clipwise(logvar))

    def _decode_at_once(self, x, c, c_prev, z, ref, feed: Feed | None, shared: Tensor | None):
        """Teacher-forced: no step waits for another, so the clip is one batch."""
        steps, b = x.shape[0] - 1, x.shape[1]
        x_in = _flat(x[:-1])
        if feed is not None:
            x_in = feed(x_in, _flat(torch.cat([x[:1], x[:-2]])))
        h = self.encode_frame(x_in) if shared is None else shared[:-b]
        return self.decode(x_in, h, c, z, _map(ref, lambda r: r.repeat(steps, *[1] * (r.dim() - 1))), c_prev)

    def _decode_in_turn(self, x, c, c_prev, z, ref, gt_weight, n_past, detach, feed: Feed | None, correct: Feed | None):
        """Each prediction is, in part or whole, the next input."""
        steps, b = x.shape[0] - 1, x.shape[1]
        out, x_last, x_pred = [], x[0], x[0]
        for t in range(steps):
            x_in = x[t]
            if t >= n_past:
                back = x_pred.detach() if detach else x_pred
                back = correct(back, x_last) if correct else back
                x_in = torch.lerp(back, x[t], gt_weight[:, t].view(b, 1, 1, 1).to(back.dtype))
            if feed is not None:
                x_in = feed(x_in, x_last)
            z_t, c_t, c_last = (_map(v, lambda v, t=t: v[t * b : (t + 1) * b]) for v in (z, c, c_prev))
            x_pred = self.decode(x_in, self.encode_frame(x_in), c_t, z_t, ref, c_last).to(x.dtype)
            x_last = x_in
            out.append(x_pred)
        return torch.cat(out)

    def init_state(self, frames_past, cond_past):
        ref = self.encode_reference(frames_past[:, 0], cond_past[:, 0]) if self.needs_reference else None
        return ref, self.encode_cond(cond_past[:, -1]) if self.sees_previous_cond else None

    def step(self, x_prev, cond_t, z_t, state):
        ref, c_prev = state
        x = self.decode(x_prev, self.encode_frame(x_prev), cond_t, z_t, ref, c_prev).to(x_prev.dtype)
        return x, (ref, cond_t if self.sees_previous_cond else None)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def _map(tree: Any, f) -> Any:
    """f over a tensor, a tuple of tensors, or None."""
    if tree is None:
        return None
    return tuple(f(v) for v in tree) if isinstance(tree, tuple) else f(tree)
