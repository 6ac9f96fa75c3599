"""LPIPS and FVD: what they compute, the weights they take, and that without weights nothing is fetched."""

import dataclasses
import json
import shlex
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

import lab4_core as l4
from lab4_core import cli
from lab4_core.errors import Lab4Error
from lab4_core.perceptual import fvd
from lab4_core.perceptual.fvd import Fvd, frechet_distance, load_fvd
from lab4_core.perceptual.i3d import I3D, Unit, pad_same
from lab4_core.perceptual.lpips import CHANNELS, TAPS, load_lpips
from lab4_core.presets import load_config


def constant(state):
    """The same names and shapes, each tensor one number in the file: large weights in no time."""
    return {k: torch.full((), 0.01).to(v.dtype).expand(v.shape) for k, v in state.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights as others publish them: random linear layers and AlexNet, apart and in the one file of the package lpips;
    r3d_18; I3D."""
    folder = tmp_path_factory.mktemp("weights")
    g = torch.Generator().manual_seed(0)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=g) for i, c in enumerate(CHANNELS["alexnet"])}
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None).features
    net = {f"features.{k}": v for k, v in alexnet.state_dict().items()}
    torch.save(heads, folder / "lin.pth")
    torch.save(net | {"classifier.1.weight": torch.zeros(2)}, folder / "alexnet.pth")
    slices = {f"net.slice{1 + sum(int(k.split('.')[0]) > t for t in TAPS['alexnet'])}.{k}": v
              for k, v in alexnet.state_dict().items()}  # fmt: skip
    again = {k.replace("lin", "lins."): v for k, v in heads.items()}
    torch.save({"scaling_layer.shift": torch.zeros(1, 3, 1, 1), **slices, **heads, **again}, folder / "whole.pth")
    with torch.device("meta"):
        r3d, vgg = torchvision.models.video.r3d_18(weights=None), torchvision.models.vgg16(weights=None)
    torch.save(constant(r3d.state_dict()), folder / "r3d.pth")
    layers = {f"lin{i}.model.1.weight": torch.ones(1, c, 1, 1) for i, c in enumerate(CHANNELS["vgg16"])}
    torch.save(layers | constant(vgg.state_dict()), folder / "vgg.pth")
    torch.save(I3D().state_dict(), folder / "i3d.pt")
    return folder


def clips(n=2, t=2, size=40, seed=0):
    return torch.rand(n, t, 3, size, size, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------- LPIPS


def plainly(heads, net, x, y):
    """Zhang et al. 2018, eq. 1, for one pair of images: layer by layer, place by place."""
    total = 0.0
    for k, tap in enumerate(TAPS["alexnet"]):
        a, b = (net[: tap + 1]((2 * v[None] - 1 - torch.tensor([-0.03, -0.088, -0.188]).view(3, 1, 1))
                               / torch.tensor([0.458, 0.448, 0.45]).view(3, 1, 1))[0] for v in (x, y))  # fmt: skip
        w, (_, height, width) = heads[f"lin{k}.model.1.weight"].flatten(), a.shape
        for i in range(height):
            for j in range(width):
                u, v = (f[:, i, j] / (f[:, i, j].norm() + 1e-10) for f in (a, b))
                total += float((w * (u - v) ** 2).sum()) / (height * width)
    return total


def test_lpips_is_the_papers_formula(files):
    measure = load_lpips([files / "lin.pth", files / "alexnet.pth"])
    x, y = clips(), clips(seed=1)
    found = measure(x, y)
    assert found.shape == (2, 2) and measure.net in measure.protocol
    net = torchvision.models.alexnet(weights=None).features
    net.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(files / "alexnet.pth").items()
                         if "features" in k})  # fmt: skip
    with torch.no_grad():
        wanted = plainly(torch.load(files / "lin.pth"), net, x[1, 0], y[1, 0])
    assert found[1, 0].item() == pytest.approx(wanted, rel=1e-4) and wanted > 0.01
    torch.testing.assert_close(found, measure(y, x))
    assert (measure(x, x) == 0).all()
    assert torch.equal(measure(x * 3, y), measure((x * 3).clamp(0, 1), y)), "predictions are clipped"


def test_lpips_takes_the_one_file_and_vgg_too(files):
    x, y = clips(), clips(seed=1)
    apart, whole = load_lpips([files / "lin.pth", files / "alexnet.pth"]), load_lpips([files / "whole.pth"])
    assert torch.equal(apart(x, y), whole(x, y))
    vgg = load_lpips([files / "vgg.pth"])
    assert vgg.net == "vgg16" and torch.isfinite(vgg(clips(1, 1), clips(1, 1, seed=1))).all()


def test_small_frames_are_refused(files):
    measure = load_lpips([files / "whole.pth"])
    with pytest.raises(Lab4Error, match=r"LPIPS: frames of \(3, 16, 16\); expected 3 colours, 32 pixels"):
        measure(clips(size=16), clips(size=16))


# ------------------------------------------------------------------------------------------------------------- FVD


def with_moments(mean, cov, n, seed):
    """n vectors whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(x @ np.linalg.cholesky(np.atleast_2d(cov)).T + mean)


def test_the_frechet_distance_of_gaussians_worked_by_hand():
    a, b = (torch.tensor([[m - s], [m + s]]) / 1.0 for m, s in ((0.0, 1 / 2**0.5), (3.0, 2 / 2**0.5)))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (1 - 2) ** 2), "N(0, 1) and N(3, 4)"
    # diagonal covariances: |m|^2 + the sum of (sigma_a - sigma_b)^2
    a = with_moments([0.0, 0, 0], np.diag([1.0, 4, 9]), 40, 0)
    b = with_moments([1.0, 2, 0], np.diag([4.0, 4, 1]), 25, 1)
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4)


def test_the_frechet_distance_by_the_eigenvalues_of_the_product():
    c, d = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    a, b = with_moments([0.0, 1.0], c, 30, 0), with_moments([0.5, 0.0], d, 50, 1)
    wanted = 0.25 + 1 + np.trace(c + d) - 2 * np.sqrt(np.linalg.eigvals(c @ d)).sum()
    assert frechet_distance(a, b) == pytest.approx(wanted) == pytest.approx(frechet_distance(b, a))


def test_the_same_clips_are_at_no_distance_though_there_are_fewer_than_features():
    a = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a) < 1e-9 < frechet_distance(a, a.roll(1, 1))
    with pytest.raises(Lab4Error, match="expected 2 clips or more"):
        frechet_distance(a[:1], a)


def test_i3d_has_the_published_size_and_pads_as_tensorflow():
    with torch.device("meta"):
        model = I3D()
    assert sum(p.numel() for p in model.parameters()) == 12_697_264
    assert [n for n, _ in model.named_children()][:3] == ["Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1"]
    for size in (9, 10, 16, 17):  # SAME: ceil(size / stride) places, the odd zero at the end
        x = torch.arange(1.0, size + 1).view(1, 1, size, 1, 1).expand(1, 1, size, 8, 8)
        padded = pad_same(x, (7, 7, 7), (2, 2, 2))
        places = -(-size // 2)
        total = (places - 1) * 2 + 7 - size
        assert padded.shape[2] == size + total and padded[0, 0, total // 2, 3, 3] == 1
        assert Unit(1, 2, 7, 2)(x).shape[2] == places
    x = torch.randn(1, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    unit = Unit(3, 4, 3).eval()
    torch.testing.assert_close(unit(x), F.relu(unit.bn(F.conv3d(x, unit.conv3d.weight, padding=1))))


def test_fvd_by_i3d(files):
    measure = load_fvd(files / "i3d.pt")
    features = measure.features(clips(1, 9, 16))
    assert features.shape == (1, 400) and features.std() > 0 and "I3D at 224" in measure.protocol
    with pytest.raises(Lab4Error, match="expected 9 or more of 3 for I3D"):
        measure.features(clips(1, 8, 16))


# --------------------------------------------------------------------------------------------------- wrong weights


def test_wrong_weights_have_one_error_each(files, tmp_path):
    state = torch.load(files / "lin.pth")
    torch.save({**state, "lin0.model.1.weight": torch.zeros(1, 63, 1, 1)}, tmp_path / "shape.pth")
    torch.save({**state, "lin0.model.1.weight": -state["lin0.model.1.weight"]}, tmp_path / "negative.pth")
    net = torch.load(files / "alexnet.pth")
    torch.save({k: v for k, v in net.items() if k != "features.3.bias"}, tmp_path / "short.pth")
    lin, alexnet = files / "lin.pth", files / "alexnet.pth"
    for given, says in (
        ([lin], "features.0.weight"),
        ([alexnet], "expected the linear layers"),
        ([tmp_path / "shape.pth", alexnet], "expected the linear layers"),
        ([tmp_path / "negative.pth", alexnet], "negative weights"),
        ([lin, tmp_path / "short.pth"], "1 tensors missing"),
        ([files / "r3d.pth"], "expected the linear layers"),
        ([files / "nowhere.pth"], "no such file"),
    ):
        with pytest.raises(Lab4Error, match=says) as e:
            load_lpips(given)
        assert str(given[-1]) in str(e.value)
    i3d = torch.load(files / "i3d.pt")
    torch.save(i3d | {"logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1)}, tmp_path / "600.pt")
    torch.save({k: v for k, v in i3d.items() if "num_batches" not in k}, tmp_path / "old.pt")
    assert load_fvd(tmp_path / "old.pt").network == "I3D"
    for given, says in ((tmp_path / "600.pt", "1 of another shape"), (lin, "expected a state dict of I3D")):
        with pytest.raises(Lab4Error, match=says) as e:
            load_fvd(given)
        assert str(given) in str(e.value)


def test_a_torchscript_file_is_refused_before_torch_sees_it(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "i3d_torchscript.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns when it hands such a file on to torch.jit.load
        with pytest.raises(Lab4Error, match=r"i3d_torchscript\.pt: a TorchScript archive, which holds code"):
            load_fvd(tmp_path / "i3d_torchscript.pt")


# ------------------------------------------------------------------------------------------------------ evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    values = {"model.width": 2, "model.g_dim": 4, "model.z_dim": 2, "model.rnn_size": 4, "n_frames": 5, "steps": 1,
              "data": {"kind": "robot", "clips": 2, "val_clips": 2, "test_clips": 1, "frames": 8, "height": 32,
                       "width": 32}, "epochs": 1, "batch_size": 2, "eval_frames": 6, "device": "cpu"}  # fmt: skip
    return l4.train(load_config("smoke", "svg-compact", overrides=values), out=tmp_path_factory.mktemp("runs"))


def test_without_weights_the_protocol_says_so_and_nothing_is_fetched(run, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert cli.main(shlex.split(f"evaluate {run.dir} --device cpu")) == 0
    said = capsys.readouterr().out
    assert "lpips: no weights given" in said and "fvd: no weights given" in said and "LPIPS" not in said


def test_with_weights_they_stand_beside_psnr_with_their_baselines_and_protocol(run, files, monkeypatch, capsys):
    small = dataclasses.replace(fvd.NETWORKS["r3d_18"], size=32)
    monkeypatch.setitem(fvd.NETWORKS, "r3d_18", small)
    monkeypatch.setattr(Fvd, "features", lambda self, x: x.mean((3, 4)).flatten(1))  # r3d_18 of one number is constant
    line = f"evaluate {run.dir} --samples 2 --device cpu --json {run.dir}/score.json --fvd {files}/r3d.pth"
    assert cli.main(shlex.split(f"{line} --lpips {files}/lin.pth --lpips {files}/alexnet.pth")) == 0
    said = capsys.readouterr().out
    assert "LPIPS" in said and "FVD" in said and "4 predicted against 2 true; 512 features of r3d_18" in said
    summary = json.loads((run.dir / "score.json").read_text())
    assert summary["protocol"]["lpips"].startswith("alexnet") and summary["protocol"]["samples"].startswith("2")
    rows = {"own": summary, "best": summary["best_of"], **summary["baselines"]}
    assert all(0 < row["lpips"] < 10 for row in rows.values()) and rows["best"]["lpips"] <= rows["own"]["lpips"]
    assert {name for name, row in rows.items() if "fvd" in row} == {"own", "repeat_first", "copy_previous"}
    score = l4.evaluate(run, n_samples=2, lpips=[files / "whole.pth"], device="cpu")
    assert score.lpips.shape == score.psnr.shape and score.fvd == {} and "LPIPS" in score._repr_html_()
    assert score.summary()["lpips"] == summary["lpips"]


def test_r3d_18_gives_512_features(files):
    features = load_fvd(files / "r3d.pth").features(clips(1, 2, 16))
    assert features.shape == (1, 512) and torch.isfinite(features).all()
