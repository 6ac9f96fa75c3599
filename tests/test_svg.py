"""The BAIR model: its size, that whole sequences compute what the plain loop computes, and how rollouts relate."""

import pytest
import reference_svg
import torch

from lab4_core import inference, registry
from lab4_core.data import Clips, TestClip, VideoData
from lab4_core.engine import train
from lab4_core.errors import Lab4Error
from lab4_core.free_running import rollout
from lab4_core.layers import StepBatchNorm2d
from lab4_core.losses import Elbo
from lab4_core.models import count_parameters
from lab4_core.presets import load_config

SMALL = {"kind": "svg", "width": 4, "g_dim": 6, "z_dim": 3, "rnn_size": 8}


def build(height=16, width=32, **spec):
    torch.manual_seed(0)
    return registry.build("model", {**SMALL, **spec}).build((3, height, width), (7,))


def clip(model, b=3, t=6, height=16, width=32):
    g = torch.Generator().manual_seed(1)
    frames, cond = torch.rand(b, t, 3, height, width, generator=g), torch.randn(b, t, 7, generator=g)
    return (v.double() for v in (frames, cond, torch.randn(b, t - 1, *model.latent_shape, generator=g)))


def parameters(w=64, g=128, z=64, r=256, k=7, layers=(1, 2), norm=True, learned=False):
    """The count from the layers as they are listed in the paper and the lab's template."""

    def conv(i, o, size=3, bn=True):
        return i * o * size * size + o + 2 * o * bn

    widths = [w, 2 * w, 4 * w, 8 * w]
    encoder = conv(3, w) + conv(w, w) + conv(w, 2 * w) + conv(2 * w, 2 * w)
    encoder += sum(conv(c // 2, c) + 2 * conv(c, c) for c in widths[2:]) + conv(8 * w, g, 4)
    decoder = conv(g, 8 * w, 4)
    decoder += sum(conv(2 * c, c) + conv(c, c) + conv(c, c // 2) for c in widths[:1:-1])
    decoder += conv(4 * w, 2 * w) + conv(2 * w, w) + conv(2 * w, w) + conv(w, 3, bn=False)

    def lstm(i, n):
        return i * r + r + n * (2 * r * 4 * r + 8 * r)

    gaussian = lstm(g, layers[0]) + 2 * (r * z + z)
    predictor = lstm(g + z + k, layers[1]) + r * g + g + 2 * g * norm
    return encoder + decoder + gaussian * (1 + learned) + predictor


def test_the_lab_size_has_22_million_parameters():
    model = registry.build("model", "svg").build((3, 64, 64), (7,))
    assert count_parameters(model) == parameters() == 22_241_539
    learned = registry.build("model", {"kind": "svg", "prior": "learned", "norm": "none"}).build((3, 64, 64), (7,))
    assert count_parameters(learned) == parameters(norm=False, learned=True)


MODES = [(p, s, n) for p in ("fixed", "learned") for s in (False, True) for n in ("batch", "none")]


@pytest.mark.parametrize("feeding", ["forced", "free", "free, detached", "mixed"])
@pytest.mark.parametrize("prior,last_frame_skip,norm", MODES)
def test_a_sequence_at_once_is_the_plain_loop(prior, last_frame_skip, norm, feeding):
    spec = {"prior": prior, "last_frame_skip": last_frame_skip, "norm": norm}
    fast, plain = build(**spec).double(), build(**spec).double()
    frames, cond, eps = clip(fast)
    weight = torch.ones(3, 5).double()
    if feeding != "forced":
        weight[:, 2:] = torch.tensor([0.0, 1.0, 0.5]).view(3, 1).double() if feeding == "mixed" else 0.0
    detach, beta = "detached" in feeding, torch.tensor(0.01).double()
    out = fast.unroll(frames, cond, weight, eps, 2, detach=detach, forced=feeding == "forced")
    ours = Elbo()(out.x_pred, frames[:, 1:], out.kld, 3, beta)["loss"]
    theirs = reference_svg.train_loss(plain, frames, cond, eps, beta, weight, 2, detach)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    for (name, a), b in zip(fast.named_parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    for (name, a), b in zip(fast.named_buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_both_ways_of_normalising_steps_agree():
    """On a GPU all steps are one call, on a CPU one after the other."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, 4, 6, generator=g).double()
    a, b = StepBatchNorm2d(5).double(), StepBatchNorm2d(5).double()
    torch.testing.assert_close(a(x, 4), b.at_once(x, 4))
    for ours, theirs in zip(a.buffers(), b.buffers()):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("prior,last_frame_skip,norm", MODES)
def test_a_rollout_is_the_unrolled_model_with_the_priors_z(prior, last_frame_skip, norm):
    """In eval mode, with a posterior whose variance is nil and the prior's z put in its place."""
    model = build(prior=prior, last_frame_skip=last_frame_skip, norm=norm).double().eval()
    frames, cond, _ = clip(model)
    pred = rollout(model, frames[:, :2], cond, seed=3, z_scale=0)
    h, _ = model.encoder(frames.transpose(0, 1).flatten(0, 1))
    mu, logvar, _ = model.posterior(h.unflatten(0, (6, 3))[1:])
    eps = torch.zeros(3, 5, 3).double()  # z of the given frame is the posterior's mean
    clip_so_far = torch.cat([frames[:, :2], pred], 1)
    h, _ = model.encoder(clip_so_far.transpose(0, 1).flatten(0, 1))
    wanted = model.prior(h.unflatten(0, (6, 3))[:-1])[0] if model.prior is not None else 0 * mu
    eps[:, 1:] = ((wanted - mu) / torch.exp(logvar / 2))[1:].transpose(0, 1)
    weight = torch.tensor([1.0, 1, 0, 0, 0]).double().expand(3, 5)
    with torch.no_grad():
        out = model.unroll(frames, cond, weight, eps, 2)
    torch.testing.assert_close(out.x_pred[:, 1:], pred, rtol=1e-5, atol=1e-7)


def test_the_condition_of_a_frame_acts_on_the_next():
    model = build().double().eval()
    frames, cond, _ = clip(model)
    other = cond.clone()
    other[:, 3] += 1
    a, b = (rollout(model, frames[:, :2], c) for c in (cond, other))
    change = (a - b).abs().amax((0, 2, 3, 4))
    assert change[0] == change[1] == 0 and (change[2:] > 0).all()
    other = cond.clone()
    other[:, -1] += 1
    assert torch.equal(a, rollout(model, frames[:, :2], other)), "the last action is taken after the last frame"


def test_frozen_skips_and_skips_from_every_frame_differ_after_the_past():
    torch.manual_seed(0)
    frozen, moving = build().double(), build(last_frame_skip=True).double()
    frames, cond, eps = clip(frozen)
    a, b = (m.unroll(frames, cond, torch.ones(3, 5), eps, 2, forced=True).x_pred for m in (frozen, moving))
    assert torch.equal(a[:, :2], b[:, :2]) and not torch.allclose(a[:, 2], b[:, 2])


def test_with_a_mask_the_untrained_model_copies_the_last_given_frame():
    model = build(output="mask").double().eval()
    frames, cond, _ = clip(model)
    pred = rollout(model, frames[:, :2], cond)
    assert (pred - frames[:, 1:2]).abs().mean() < 0.05 < (pred - frames[:, :1]).abs().mean()
    assert pred.min() >= 0 and pred.max() <= 1


@pytest.mark.parametrize(
    "spec,frame,cond,message",
    [
        ({}, (3, 32, 40), (7,), "multiples of 16"),
        ({}, (3, 32, 64), (3, 32, 64), "robot and bair"),
        ({"cond_std": [1.0, 2.0]}, (3, 64, 64), (7,), "1 or 7 values"),
    ],
)
def test_data_that_do_not_fit_have_one_error(spec, frame, cond, message):
    with pytest.raises(Lab4Error, match=message):
        registry.build("model", {**SMALL, **spec}).build(frame, cond)


@pytest.mark.parametrize("name", ["width", "g_dim", "z_dim", "rnn_size", "predictor_layers"])
def test_impossible_sizes(name):
    with pytest.raises(Lab4Error, match=f"{name} = 0"):
        registry.build("model", {**SMALL, name: 0})


def test_a_batch_of_one_clip_says_what_is_wrong():
    model = build().double()
    frames, cond, eps = clip(model, b=1)
    with pytest.raises(Lab4Error, match="2 or more"):
        model.unroll(frames, cond, torch.ones(1, 5), eps, 2, forced=True)


def test_a_last_batch_of_one_clip_is_refused_before_the_training(tmp_path):
    data = {"kind": "robot", "clips": 5, "frames": 4, "test_clips": 1}
    few = {"data": data, "windows": "fixed", "n_frames": 4, "eval_frames": 4, "batch_size": 2, "device": "cpu"}
    cfg = load_config("smoke", "svg-compact", None, few)
    with pytest.raises(Lab4Error, match=r"batch_size = 2: the last batch of a pass holds 1, .* 2 clips or more"):
        train(cfg, out=tmp_path)


@pytest.mark.parametrize(("preset", "model", "n_past", "cond"), [
    ("svg-compact", SMALL, 2, torch.rand(12, 7)),
    ("compact", {"kind": "compact", "width": 8}, 1, torch.randint(0, 255, (12, 3, 16, 32), dtype=torch.uint8)),
])  # fmt: skip
def test_grey_video_from_training_to_what_is_handed_in(preset, model, n_past, cond, tmp_path):
    """Moving digits, the other data these models are known for, have one channel."""
    frames = torch.randint(0, 255, (12, 1, 16, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clips = Clips(frames, cond, (0, 6))
    data = VideoData("grey", clips, clips, (TestClip("0", frames[:n_past], cond[:6], frames[:6]),), "0")
    amount = {"model": model, "n_frames": 4, "eval_frames": 6, "batch_size": 2, "steps": 2, "epochs": 1, "name": "grey"}
    run = train(load_config("smoke", preset, None, amount), out=tmp_path, data=data)
    assert inference.evaluate(run, data=data).psnr.shape == (2, 6 - n_past)
    written = inference.test(run, data=data)
    assert {"pred_seq0.gif", "pred_seq0.png"} <= {path.name for path in written} and all(p.is_file() for p in written)
    video = inference.rollout(run, frames[:n_past], cond[:6], truth=frames[:6])
    assert {panel.shape[1:] for panel in video.panels.values()} == {(16, 32, 3)}
