"""A CVAE on single frames, unrolled over a clip: p(x_t | x_{t-1}, pose_t, z_t).

What a model of this family is made of is four functions (`encode_frame`, `encode_cond`, `posterior`, `decode`);
how a clip runs through them stands here once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lab4_core.losses import gaussian_kld, reparameterize
from lab4_core.models.base import Settle, Unrolled, VideoPredictor
from lab4_core.models.pieces import Cut, Inputs, mend, pieces, rows

FRAMES_AT_ONCE = 32  # of known inputs, where each piece goes backward at once: in less memory nearly as fast as all


class FrameCVAE(VideoPredictor):
    """Frames are flattened step by step, (S * B, …), so a step's B images lie together."""

    splits = True
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
        detach=True, forced=False, known=None, reference=None, feed=None, correct=None, settle=None, ahead=False,
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
        # one call for all frames serves both: a known input is the target of the step before
        seen = self.encode_frame(_flat(x)) if feed is None else None
        mu, logvar = self.posterior(self.encode_frame(_flat(x[1:])) if seen is None else seen[b:], c)
        logvar = logvar.clamp(-self.logvar_clamp, self.logvar_clamp)
        z = reparameterize(mu, logvar, _flat(eps.transpose(0, 1)))
        wide = torch.promote_types(mu.dtype, torch.float32)  # exp() of a bf16 would lose the small differences
        kld = gaussian_kld(mu.to(wide), logvar.to(wide)).flatten(1).sum(1)

        made = (c, c_prev, z, None if seen is None else seen[:-b], ref)
        known = [forced or t < n_past or bool(known and known[t]) for t in range(steps)]
        inputs = Inputs(x, gt_weight, known, detach, feed, correct)
        if ahead and detach and not all(known):
            with torch.no_grad():
                x_in, _ = self._decode_in_pieces(inputs, _map(made, Tensor.detach))
            torch.clear_autocast_cache()  # what was cast without a graph must not be used in one
            x_pred = self._decode_piece(slice(0, steps), x_in, (c, c_prev, z, None, ref), b).to(x.dtype)
        elif settle is not None and (detach or all(known)):
            cuts: list[Cut] = []
            _, x_pred = self._decode_in_pieces(inputs, _map(made, lambda v: cuts.append(Cut(v)) or cuts[-1]), settle)
            kld = mend(kld, cuts)
        else:
            _, x_pred = self._decode_in_pieces(inputs, made)

        def clipwise(v: Tensor) -> Tensor:
            return v.unflatten(0, (steps, b)).transpose(0, 1)

        return Unrolled(clipwise(x_pred), clipwise(kld), clipwise(mu), clipwise(logvar))

    def _decode_in_pieces(self, inputs: Inputs, made: tuple, settle: Settle | None = None) -> tuple[Tensor, Tensor]:
        """Steps whose inputs are known as one batch, the others one by one: all inputs and predictions (S * B, …)."""
        b, x_in, x_pred = inputs.x.shape[1], [], []
        last_in = last = inputs.x[0]
        for piece in pieces(inputs.known, len(inputs.known) if settle is None else max(1, FRAMES_AT_ONCE // b)):
            x = inputs(piece, last, last_in)
            c, c_prev, z, seen, ref = made
            y = self._decode_piece(piece, x, (c, c_prev, z, seen if inputs.known[piece.start] else None, ref), b)
            y = y.to(inputs.x.dtype)
            if settle is not None:
                settle(y.unflatten(0, (-1, b)).transpose(0, 1), piece)
                y = y.detach()
            last_in, last = x[-b:], y[-b:]
            x_in.append(x)
            x_pred.append(y)
        return torch.cat(x_in), torch.cat(x_pred)

    def _decode_piece(self, piece: slice, x_in: Tensor, made: tuple, b: int) -> Tensor:
        """The predictions of some steps from their inputs (k * B, …) and the rows of what the encoders made."""
        *by_step, ref = made
        c, c_prev, z, h = _map(tuple(by_step), lambda v: rows(v, piece.start * b, piece.stop * b))
        steps = piece.stop - piece.start
        ref = _map(ref, lambda v: rows(v, 0, b).repeat(steps, *[1] * (v.dim() - 1)) if steps > 1 else rows(v, 0, b))
        return self.decode(x_in, self.encode_frame(x_in) if h is None else h, c, z, ref, c_prev)

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
    """f over a tensor, a tuple of such trees, or None."""
    if tree is None:
        return None
    return tuple(_map(v, f) for v in tree) if isinstance(tree, tuple) else f(tree)
