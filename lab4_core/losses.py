"""The evidence lower bound as the lab trains it: reconstruction + beta x KL, in each of the usual conventions.

For one predicted frame, with the previous frame and the pose as condition c (Kingma and Welling 2014,
arXiv 1312.6114, eq. 10; Sohn et al. 2015 for the condition):

    -ELBO = E_q[-log p(x | z, c)] + KL(q(z | x, c) || p(z))

A Gaussian likelihood of variance s^2 makes the first term the summed squared error / (2 s^2), so that
against the *summed* squared error the KL has weight 2 s^2. That weight is what `effective_beta` reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lab4_core.registry import check, register

HALF_GREY_LEVEL = 0.5 / 255


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """z = mu + sigma * eps, with eps ~ N(0, I) drawn by the caller; all of one shape. The gradient flows
    through mu and logvar, not through the draw (Kingma and Welling 2014, section 2.4)."""
    return mu + torch.exp(0.5 * logvar) * eps


def gaussian_kld(mu: Tensor, logvar: Tensor, mu_p: Tensor | None = None, logvar_p: Tensor | None = None) -> Tensor:
    """KL(N(mu, e^logvar) || N(mu_p, e^logvar_p)) of diagonal Gaussians, in nats, for every latent number.

    Same shape as `mu`; the prior is N(0, I) when none is given (Kingma and Welling 2014, appendix B).
    """
    if mu_p is None:
        return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return 0.5 * (logvar_p - logvar + (logvar.exp() + (mu - mu_p).square()) / logvar_p.exp() - 1)


class Loss:
    """Base of the registered losses."""

    sums_over_steps = False  # True: a clip's loss is the sum of the losses of its steps, each computed alone

    def __init_subclass__(cls, **kwargs: Any):
        """`sums_over_steps` is not inherited: a subclass's formula may mix the steps."""
        super().__init_subclass__(**kwargs)
        cls.sums_over_steps = cls.__dict__.get("sums_over_steps", False)

    def __call__(self, x_pred: Tensor, x: Tensor, kld: Tensor, n_latent: int, beta: Tensor) -> dict[str, Tensor]:
        """x_pred, x: (B, S, C, H, W) of S predicted frames.  kld: (B, S), summed over the n_latent numbers.

        Returns the scalars loss (what is differentiated), mse and kld (sums over S, for the log)."""
        raise NotImplementedError

    def effective_beta(self, beta: float, pixels: int, n_latent: int) -> float | None:
        """The KL's weight against the squared error summed over pixels; None if the loss has no such weight."""
        return None


@register("loss", "elbo")
@dataclass(frozen=True, kw_only=True)
class Elbo(Loss):
    """Reconstruction and KL of a clip, both summed over its predicted frames.

    mse: "mean" over the pixels of a frame (the lab), "sum" over them, or "log": half the logarithm of a frame's mean.
         Up to a constant, that is the negative Gaussian log-likelihood in nats per pixel value, with each frame's own
         best variance s^2 = MSE (Rybkin et al. 2021, arXiv 2006.13202, eq. 8), and -1 / 8.69 of the frame's PSNR in
         dB, which is what the score averages.
    kld: "sum" over the latent numbers of a frame (the lab) or "mean" over them.
    l1: weight of the absolute error added to the squared one: its mean over pixels, or sum where `mse` is "sum".
    Clips are averaged in every case.
    """

    mse: Literal["mean", "sum", "log"] = "mean"
    kld: Literal["sum", "mean"] = "sum"
    l1: float = 0.0
    sums_over_steps = True

    def __post_init__(self):
        check(self.l1 >= 0, "elbo loss: l1", self.l1, "0 or more")

    def __call__(self, x_pred: Tensor, x: Tensor, kld: Tensor, n_latent: int, beta: Tensor) -> dict[str, Tensor]:
        """As `Loss`. With mse = "log", or an l1 above 0, the loss is more than mse + beta kld."""
        pixels = 1 if self.mse == "sum" else x[0, 0].numel()
        clips = x.shape[0]
        error = x_pred - x  # x is fp32, and so is the difference
        mse = error.square().sum() / (pixels * clips)
        kl = kld.sum() / (clips * (n_latent if self.kld == "mean" else 1))
        reconstruction = mse
        if self.mse == "log":  # the floor, an error of half a grey level, keeps a perfect frame from dominating
            frame = error.square().flatten(2).mean(2)
            reconstruction = 0.5 * torch.log(frame + HALF_GREY_LEVEL**2).sum() / clips
        loss = reconstruction + beta * kl
        if self.l1:
            loss = loss + self.l1 * error.abs().sum() / (pixels * clips)
        return {"loss": loss, "mse": mse, "kld": kl}

    def effective_beta(self, beta: float, pixels: int, n_latent: int) -> float:
        """The weight of the KL summed over latents against the squared error summed over pixels, which puts all
        conventions on one scale: 2 s^2 in the Gaussian likelihood above. With "log", where s^2 is each frame's
        own, it is the KL's weight against that likelihood: 1 is the evidence lower bound itself."""
        return beta * (1 if self.mse == "sum" else pixels) / (n_latent if self.kld == "mean" else 1)
