"""A wrong formula does not get through: each slip, in a notebook or in the library, fails a check of a notebook.

The notebooks' chains (`student_edition.chain`: parameters, setup, solutions, checks) run in this process.
"""

from __future__ import annotations

import contextlib
import io

import nbformat
import pytest
import torch

from lab4_core import losses, schedules
from lab4_core.pages.student_edition import chain
from lab4_core.paths import NOTEBOOKS

DERIVATION, DRAW, ANNEALING, FORCING = (
    "01_cvae_derivation", "02_reparameterization", "04_kl_annealing", "05_teacher_forcing",
)  # fmt: skip


def run_chain(stem: str, old: str = "", new: str = "") -> None:
    """Execute a notebook's chain, with one text replaced in its solution cells; golden prints have to match too."""
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    stored = {c.source: "".join(o.text for o in c.outputs if o.output_type == "stream")
              for c in notebook.cells if "nbval-check-output" in c.metadata.get("tags", [])}  # fmt: skip
    cells, replaced = chain(notebook, notebook), 0
    space = {"__name__": "__main__"}
    dtype = torch.get_default_dtype()
    try:
        for kind, source in cells:
            text = source
            if kind == "solution" and old:
                replaced += source.count(old)
                text = source.replace(old, new)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(text, f"<{stem}>", "exec"), space)
            if source in stored:
                assert printed.getvalue() == stored[source], "a golden cell prints something else"
    finally:
        torch.set_default_dtype(dtype)
    assert bool(old) == bool(replaced), f"{old!r} is not in the solutions of {stem} any more: this test changes nothing"


@pytest.mark.parametrize("stem", [DERIVATION, DRAW, ANNEALING, FORCING])
def test_as_written_they_pass(stem):
    run_chain(stem)


SLIPS = {
    "sign of the log-variance": (DERIVATION, "logvar.exp() - 1 - logvar)", "logvar.exp() - 1 + logvar)"),
    "factor one half": (DERIVATION, "return 0.5 * (logvar_p - logvar", "return (logvar_p - logvar"),
    "sign of the KL": (DERIVATION, "c, mu, logvar) - kl_to_prior", "c, mu, logvar) + kl_to_prior"),
    "exp(logvar) for sigma in the weights": (DERIVATION, "mu + (0.5 * logvar).exp() * eps", "mu + logvar.exp() * eps"),
    "spread of z forgotten": (DERIVATION, " + (logvar.exp() * (W**2).sum(0)).sum(-1)", ""),
    "log k forgotten": (DERIVATION, " - math.log(k)", ""),
    "exp(logvar) for sigma in the draw": (DRAW, "(0.5 * logvar).exp() * eps", "logvar.exp() * eps"),
    "score function without sigma": (DRAW, "value * eps / sigma, ", "value * eps, "),
    "pathwise without the noise": (DRAW, "slope * eps", "slope"),
    "ramp over the whole period": (ANNEALING, "/ (period * ratio)", "/ period"),
    "mean taken for a sum": (ANNEALING, '(pixels if mse == "mean" else 1)', "1"),
    "KL without its half": (ANNEALING, "(0.5 * (mu**2", "(1.0 * (mu**2"),
    "decay an epoch late": (FORCING, "epoch - max(tfr_sde, 1) + 1", "epoch - max(tfr_sde, 1)"),
    "truth fed with the other's weight": (FORCING, "+ (1 - share) * prediction", "+ share * prediction"),
    "free-running error without its past": (FORCING, "one_step_error(b) / (1 - back)", "one_step_error(b)"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_notebook_fails_its_checks(slip):
    stem, old, new = SLIPS[slip]
    with pytest.raises(AssertionError) as failure:
        run_chain(stem, old, new)
    assert "this test changes nothing" not in str(failure.value)


def wrong_kld(mu, logvar, mu_p=None, logvar_p=None):
    """The KL without its factor 1/2."""
    return 2 * RIGHT["gaussian_kld"](mu, logvar, mu_p, logvar_p)


def wrong_draw(mu, logvar, eps):
    """exp(logvar) taken for the standard deviation."""
    return mu + torch.exp(logvar) * eps


def wrong_ramp(step, total_steps, start, stop, n_cycle, ratio):
    """A ramp that restarts a step late."""
    return RIGHT["cycle_linear"](max(0, step - 1), total_steps, start, stop, n_cycle, ratio)


def wrong_price(self, beta, pixels, n_latent):
    """The effective beta with the roles of the reductions exchanged."""
    return beta / (pixels if self.mse == "mean" else 1) * (n_latent if self.kld == "mean" else 1)


RIGHT = {"gaussian_kld": losses.gaussian_kld, "cycle_linear": schedules.cycle_linear}


@pytest.mark.parametrize(
    ("stem", "owner", "name", "wrong"),
    [
        (DERIVATION, losses, "gaussian_kld", wrong_kld),
        (DRAW, losses, "reparameterize", wrong_draw),
        (ANNEALING, schedules, "cycle_linear", wrong_ramp),
        (ANNEALING, losses.Elbo, "effective_beta", wrong_price),
    ],
    ids=["gaussian_kld", "reparameterize", "cycle_linear", "effective_beta"],
)
def test_a_slip_in_the_library_fails_the_notebook_that_teaches_it(monkeypatch, stem, owner, name, wrong):
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        run_chain(stem)
