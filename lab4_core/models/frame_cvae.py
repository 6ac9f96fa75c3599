"""A CVAE on single frames, unrolled over a clip: p(x_t | x_{t-1}, pose_t, z_t).

A model of this family consists of four functions (`encode_frame`, `encode_cond`, `posterior`, `decode`), and of
`encode_reference` if it needs a reference frame; how a clip runs through them is written here once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lab4_core.losses import gaussian_kld, reparameterize
from lab4_core.models.base import Unrolled, VideoPredictor
from lab4_core.models.pieces import Clip, pieces

FRAMES_AT_ONCE = 32  # known inputs in a piece that is settled on its own: nearly as fast as all, in less memory


class FrameCVAE(VideoPredictor):
    """Frames are flattened step by step, (S * B, …), so the B images of a step are adjacent."""

    splits = True
    sees_previous_cond = False  # whether `decode` needs the condition of the previous frame too
    logvar_clamp = 20.0  # exp(logvar) stays finite, so beta = 0 times the KL is 0 and not NaN

    def encode_frame(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> features. The posterior sees the target, the decoder the previous frame."""
        return x

    def encode_cond(self, cond: Tensor, groups: int | None = None) -> Any:
        """(M, …) -> features. `groups`: the M images are that many steps of a training clip, one after the other;
        None: each is on its own, as in a rollout."""
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
        """As `VideoPredictor.unroll`. Steps with known inputs run as one batch, the others one by one; with `settle`
        each piece runs its backward pass before the next one begins. Returns (B, S, …)."""
        b, steps = gt_weight.shape
        is_known = [forced or t < n_past or bool(known and known[t]) for t in range(steps)]
        x, cond, eps = (v.transpose(0, 1) for v in (frames, cond, eps))
        clip = Clip(x, cond, eps, gt_weight, is_known, (x[0], x[0]), detach, feed, correct)
        ref = self.encode_reference(*reference) if self.needs_reference else None
        if settle is None or not (detach or all(is_known)):
            return self._run(clip, ref, ahead)[0]
        leaf, done = _map(ref, lambda v: v.detach().requires_grad_(v.requires_grad)), []
        for piece in pieces(is_known, max(1, FRAMES_AT_ONCE // b)):
            out, before = self._run(clip.part(piece), leaf)
            settle(out.x_pred, out.kld, piece)
            done.append(Unrolled(*(v.detach() for v in out)))
            clip = replace(clip, before=before)
        _backward(ref, leaf)
        return Unrolled(*(torch.cat(v, 1) for v in zip(*done)))

    def _run(self, clip: Clip, ref: Any, ahead: bool = False) -> tuple[Unrolled, tuple[Tensor, Tensor]]:
        """Run a clip, or a part of one, as one graph. Returns also the `before` of what comes next, without a graph."""
        steps, b = clip.eps.shape[:2]
        c_prev = None
        if self.sees_previous_cond:
            c_all = self.encode_cond(clip.cond.flatten(0, 1), groups=steps + 1)
            c, c_prev = _map(c_all, lambda v: v[b:]), _map(c_all, lambda v: v[:-b])
        else:
            c = self.encode_cond(clip.cond[1:].flatten(0, 1), groups=steps)
        x_in, seen = None, None
        if clip.feed is None and any(clip.known):  # one call for both: a known input is the target of the step before
            seen = self.encode_frame(clip.x.flatten(0, 1))
            h, seen = seen[b:], seen[:-b]
        elif steps == 1:  # the input is there already: one call for it and the target, so few images
            x_in = clip.inputs(slice(0, 1), *clip.before)
            h, seen = self.encode_frame(torch.cat([clip.x[1], x_in])).chunk(2)
        else:
            h = self.encode_frame(clip.x[1:].flatten(0, 1))
        mu, logvar = self.posterior(h, c)
        logvar = logvar.clamp(-self.logvar_clamp, self.logvar_clamp)
        z = reparameterize(mu, logvar, clip.eps.flatten(0, 1))
        wide = torch.promote_types(mu.dtype, torch.float32)  # exp() in bf16 would lose small differences
        kld = gaussian_kld(mu.to(wide), logvar.to(wide)).flatten(1).sum(1)

        if x_in is not None:
            x_pred = self._decode_piece(slice(0, 1), x_in, (c, c_prev, z, seen), ref, b)
        elif ahead and clip.detach and not all(clip.known):
            with torch.no_grad():
                x_in, _ = self._decode_in_pieces(clip, (c, c_prev, z, seen), ref)
            torch.clear_autocast_cache()  # weights cast without a graph must not be used in one
            x_pred = self._decode_piece(slice(0, steps), x_in, (c, c_prev, z, None), ref, b)
        else:
            x_in, x_pred = self._decode_in_pieces(clip, (c, c_prev, z, seen), ref)
        out = (v.unflatten(0, (steps, b)).transpose(0, 1) for v in (x_pred, kld, mu, logvar))
        return Unrolled(*out), (x_pred[-b:].detach(), x_in[-b:].detach())

    def _decode_in_pieces(self, clip: Clip, made: tuple, ref: Any) -> tuple[Tensor, Tensor]:
        """Decode steps with known inputs as one batch, the others one by one. Returns all inputs and predictions
        (S * B, …). made: what the encoders made of the steps, (S * B, …) each."""
        b, x_in, x_pred = clip.x.shape[1], [], []
        last, last_in = clip.before
        for piece in pieces(clip.known, len(clip.known)):
            *by_step, seen = made
            x = clip.inputs(piece, last, last_in)
            y = self._decode_piece(piece, x, (*by_step, seen if clip.known[piece.start] else None), ref, b)
            last, last_in = y[-b:], x[-b:]
            x_in.append(x)
            x_pred.append(y)
        return torch.cat(x_in), torch.cat(x_pred)

    def _decode_piece(self, piece: slice, x_in: Tensor, made: tuple, ref: Any, b: int) -> Tensor:
        """Predictions of a piece's k steps from their inputs (k * B, …) and their rows of what the encoders made."""
        c, c_prev, z, h = _map(made, lambda v: v[piece.start * b : piece.stop * b])
        steps = piece.stop - piece.start
        ref = _map(ref, lambda v: v.repeat(steps, *[1] * (v.dim() - 1)) if steps > 1 else v)
        return self.decode(x_in, self.encode_frame(x_in) if h is None else h, c, z, ref, c_prev).to(x_in.dtype)

    def init_state(self, frames_past, cond_past):
        ref = self.encode_reference(frames_past[:, 0], cond_past[:, 0]) if self.needs_reference else None
        return ref, self.encode_cond(cond_past[:, -1]) if self.sees_previous_cond else None

    def step(self, x_prev, cond_t, z_t, state):
        ref, c_prev = state
        x = self.decode(x_prev, self.encode_frame(x_prev), cond_t, z_t, ref, c_prev).to(x_prev.dtype)
        return x, (ref, cond_t if self.sees_previous_cond else None)


def _map(tree: Any, f) -> Any:
    """Apply f to a tensor, or to those in a tuple of such trees; None stays None."""
    if tree is None:
        return None
    return tuple(_map(v, f) for v in tree) if isinstance(tree, tuple) else f(tree)


def _backward(tree: Any, leaves: Any) -> None:
    """Pass the gradients that have reached the leaves, a tree's tensors cut from its graph, on through that graph."""
    both = zip(tree_leaves(tree), tree_leaves(leaves))
    came = [(v, leaf.grad) for v, leaf in both if leaf is not None and leaf.grad is not None]
    if came:  # in one call: the tensors may share a part of their graph
        torch.autograd.backward(*map(list, zip(*came)))
