"""The numbers everything else rests on, each against something independent."""

import math

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from skimage.metrics import structural_similarity

from lab4_core.losses import Elbo, gaussian_kld, reparameterize
from lab4_core.metrics import baselines, brightness_per_frame, psnr_per_frame, ssim_per_frame
from lab4_core.scores import Score


def test_closed_form_kl_is_the_monte_carlo_kl():
    torch.manual_seed(0)
    mu, logvar, mu_p, logvar_p = torch.tensor([0.7, -1.2, 0.3, -0.4]).double()
    for prior in ((None, None), (mu_p, logvar_p)):
        q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
        p = torch.distributions.Normal(*((0.0, 1.0) if prior[0] is None else (mu_p, (0.5 * logvar_p).exp())))
        z = reparameterize(mu, logvar, torch.randn(400_000).double())
        ratios = q.log_prob(z) - p.log_prob(z)
        error = ratios.std() / math.sqrt(len(ratios))
        assert abs(gaussian_kld(mu, logvar, *prior) - ratios.mean()) < 4 * error
        exact = torch.distributions.kl_divergence(q, p) if prior[0] is not None else None
        assert exact is None or gaussian_kld(mu, logvar, *prior) == pytest.approx(float(exact))


def test_kl_is_zero_only_at_the_prior():
    assert gaussian_kld(torch.zeros(3), torch.zeros(3)).sum() == 0
    assert (gaussian_kld(torch.randn(99), torch.randn(99)) > 0).all()


def test_elbo_conventions_by_hand():
    x, pred = torch.zeros(2, 3, 1, 2, 2), torch.full((2, 3, 1, 2, 2), 0.5)
    kld = torch.full((2, 3), 8.0)  # 4 latent numbers of 2 nats
    lab = Elbo()(pred, x, kld, 4, torch.tensor(0.1))
    assert lab["mse"] == pytest.approx(3 * 0.25) and lab["kld"] == pytest.approx(3 * 8)
    assert lab["loss"] == pytest.approx(0.75 + 0.1 * 24)
    other = Elbo(mse="sum", kld="mean", l1=1.0)(pred, x, kld, 4, torch.tensor(0.1))
    assert other["mse"] == pytest.approx(3 * 4 * 0.25) and other["kld"] == pytest.approx(3 * 2)
    assert other["loss"] == pytest.approx(3 + 0.1 * 6 + 3 * 4 * 0.5)


def test_the_log_likelihood_is_the_psnr_that_is_scored():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 3, 8, 8)
    pred = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    terms = Elbo(mse="log")(pred, x, torch.zeros(2, 3), 4, torch.tensor(1.0))
    psnr = psnr_per_frame(pred, x).mean()
    assert terms["loss"] == pytest.approx(-float(psnr) * 3 / (20 / math.log(10)), rel=1e-3)
    assert terms["mse"] == pytest.approx(float((pred - x).square().mean()) * 3), "reported as it is everywhere"
    assert torch.isfinite(Elbo(mse="log")(x, x, torch.zeros(2, 3), 4, torch.tensor(1.0))["loss"])
    assert Elbo(mse="log").effective_beta(1 / 192, 192, 4) == 1, "the evidence lower bound itself"


def test_effective_beta_makes_the_conventions_one():
    """Scaled by its effective beta, every convention has the gradient of summed error + that beta x summed KL."""
    lab = Elbo().effective_beta(1.0, pixels=3 * 32 * 64, n_latent=24576)
    assert lab == 6144, "beta = 1 of the lab outweighs the summed error by 6,144"
    for elbo in (Elbo(), Elbo(mse="sum"), Elbo(kld="mean"), Elbo(mse="sum", kld="mean")):
        pred = torch.rand(2, 3, 1, 4, 4, requires_grad=True)
        kld = torch.rand(2, 3, requires_grad=True)
        elbo(pred, torch.zeros_like(pred), kld, 7, torch.tensor(0.3))["loss"].backward()
        per_error = pred.grad / (2 * pred.detach())
        assert torch.allclose(kld.grad / per_error.mean(), torch.tensor(elbo.effective_beta(0.3, 16, 7)))


def test_no_nan_where_the_lab_has_nan():
    """beta = 0 and a huge log-variance: 0 * inf. The models clamp, so the KL is finite."""
    from lab4_core.models.frame_cvae import FrameCVAE

    logvar = torch.tensor([1e4]).clamp(-FrameCVAE.logvar_clamp, FrameCVAE.logvar_clamp)
    assert torch.isfinite(0.0 * gaussian_kld(torch.zeros(1), logvar)).all()


def test_psnr_by_hand():
    truth = torch.full((1, 3, 3, 8, 8), 0.5)
    pred = truth + torch.tensor([0.1, 0.01, 0.0]).view(1, 3, 1, 1, 1)
    assert psnr_per_frame(pred, truth)[0].tolist() == pytest.approx([20.0, 40.0, 100.0], abs=1e-3)
    assert psnr_per_frame(torch.full_like(truth, 9.0), truth)[0, 0] == pytest.approx(10 * math.log10(4))


def test_ssim_is_scikit_images():
    rng = np.random.default_rng(0)
    truth = rng.random((2, 5, 3, 32, 64)).astype(np.float32)
    pred = np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    ours = ssim_per_frame(torch.from_numpy(pred), torch.from_numpy(truth)).numpy()
    for n in range(2):
        for t in range(5):
            theirs = structural_similarity(
                truth[n, t], pred[n, t], channel_axis=0, data_range=1.0, gaussian_weights=True,
                use_sample_covariance=False, sigma=1.5,
            )  # fmt: skip
            assert ours[n, t] == pytest.approx(theirs, abs=2e-4)


def test_baselines():
    truth = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 3, 12, 12)
    base = baselines(truth)
    assert base["copy_previous"]["psnr"][0].tolist() == pytest.approx([-20 * math.log10(0.25)] * 4, abs=1e-3)
    assert base["repeat_first"]["psnr"][0].tolist() == pytest.approx(
        [-20 * math.log10(0.25 * k) for k in (1, 2, 3, 4)], abs=1e-3
    )


def test_psnr_of_channels_by_hand():
    """The BAIR lab's: decibels of each channel, then their mean. One pixel, squared errors 0.01, 0.1 and 0.0001."""
    truth = torch.full((1, 1, 3, 1, 1), 0.5)
    pred = torch.tensor([0.6, 0.5 + 0.1**0.5, 0.51]).view(1, 1, 3, 1, 1)
    assert psnr_per_frame(pred, truth, "channel").item() == pytest.approx((20 + 10 + 40) / 3, abs=1e-3)
    assert psnr_per_frame(pred, truth).item() == pytest.approx(10 * math.log10(3 / 0.1101), abs=1e-3)
    x, y = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8)
    assert (psnr_per_frame(x, y, "channel") >= psnr_per_frame(x, y) - 1e-4).all()


def test_a_score_in_a_page_names_its_rows_and_columns_and_says_how_it_was_measured():
    curve, protocol = np.full((2, 3), 20.0), {"scored_frames": "1..3", "z": "N(0, I) x 1"}
    score = Score(curve, curve, {"repeat_first": {"psnr": curve, "ssim": curve}}, protocol)
    page = BeautifulSoup(score._repr_html_(), "html.parser")
    numbers, how = page.find_all("table")
    assert [th.text for th in numbers.thead.find_all("th", scope="col")] == ["predictor", "PSNR (dB)", "SSIM"]
    assert [th.text for th in numbers.tbody.find_all("th", scope="row")] == ["this model", "repeat first"]
    assert numbers.caption is None and page.p.text == "Mean over 2 clips of 3 predicted frames."
    rows = {tr.find("th", scope="row").text: tr.td.text for tr in how.find_all("tr")}
    assert rows == {"scored_frames": "1..3", "z": "N(0, I) x 1"}
    assert how.parent.name == "details" and how.parent.has_attr("open"), "on paper nobody can open it"
    assert "details" not in Score(curve, curve, {})._repr_html_()


def test_drift_is_a_slope_and_a_brightness():
    frames = np.arange(629)
    psnr = np.stack([35 - 0.01 * frames, 33 - 0.02 * frames]).astype(np.float32)
    brightness = np.zeros((2, 629), np.float32)
    brightness[:, -100:] = -2 / 255
    score = Score(psnr, psnr / 40, {}, brightness=brightness)
    assert score.drift == {"psnr": pytest.approx(-1.5, abs=1e-4), "brightness": pytest.approx(-2, abs=1e-3)}
    assert score.drift_text == "-1.50 dB per 100 frames, brightness of the last 100 frames -2.0 of 255 grey levels"
    assert score.drift_text in score._repr_html_() and score.summary()["drift"] == {"psnr": -1.5, "brightness": -2.0}
    short = Score(psnr[:, :50], psnr[:, :50], {})
    assert short.drift == {} and short.drift_text == "" and "drift" not in short.summary()

    truth = torch.full((1, 3, 3, 4, 4), 0.5)
    fading = truth + torch.tensor([0.0, 0.1, 0.9]).view(1, 3, 1, 1, 1)
    assert torch.allclose(brightness_per_frame(fading, truth), torch.tensor([[0.0, 0.1, 0.5]])), "clipped, as the PSNR"
