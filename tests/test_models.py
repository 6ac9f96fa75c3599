"""The lab's model is the lab's; whole clips at once compute what the plain loop computes."""

import os
import zlib

import numpy as np
import pytest
import reference
import torch

from lab4_core import registry
from lab4_core.checkpoint import bare_weights, load_weights
from lab4_core.data import Clips
from lab4_core.data.windows import gather
from lab4_core.errors import Lab4Error
from lab4_core.free_running import rollout
from lab4_core.losses import Elbo
from lab4_core.models import count_parameters

SMALL = {"kind": "lab", "f_dim": 16, "l_dim": 8, "n_dim": 4, "d_dim": 16}


def build(spec, height=32, width=64):
    shape = (3, height, width)
    torch.manual_seed(0)
    return registry.build("model", spec).build(shape, shape)


def clip(model, b=2, t=5, height=32, width=64):
    g = torch.Generator().manual_seed(1)
    frames, cond = torch.rand(b, t, 3, height, width, generator=g), torch.rand(b, t, 3, height, width, generator=g)
    return frames, cond, torch.randn(b, t - 1, *model.latent_shape, generator=g)


def test_the_lab_preset_has_the_labs_parameters():
    model = build("lab")
    assert count_parameters(model) == 1_585_620
    by_module = {name: count_parameters(m) for name, m in model.named_children()}
    assert by_module == {"frame_transformation": 193_568, "label_transformation": 16_832, "Gaussian_Predictor": 8_289,
                         "Decoder_Fusion": 617_768, "Generator": 749_163}  # fmt: skip
    assert model.latent_shape == (12, 32, 64)


def published_weights(name, shape):
    """The rule by which the published outputs' weights were made."""
    rng = np.random.default_rng(zlib.crc32(("shared:" + name).encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        return torch.from_numpy(1 + np.abs(rng.standard_normal(shape))).float()
    values = rng.standard_normal(shape)
    if len(shape) == 4:
        return torch.from_numpy(0.5 * values / np.sqrt(np.prod(shape[1:]))).float()
    return torch.from_numpy(0.1 * values + (name == "label_transformation.2.weight")).float()


@pytest.mark.parametrize("norm,key", [("image", "train"), ("running", "eval")])
def test_a_published_checkpoint_loads_and_gives_the_published_outputs(norm, key, tmp_path, real_data):
    beside = real_data.parent
    if not (beside / "lab_fidelity" / "lab_fidelity.npz").is_file():
        pytest.skip("no published outputs (lab_fidelity) beside LAB4_DATA")
    listed = [
        line.rsplit(" [", 1)
        for line in (beside / "lab_state_dict.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    shapes = {name: tuple(int(n) for n in size.strip("]").split(",") if n.strip()) for name, size in listed}
    torch.save({"state_dict": {k: published_weights(k, s) for k, s in shapes.items()}, "lr": 1e-3, "last_epoch": 69},
               tmp_path / "lab.ckpt")  # fmt: skip
    model = build({"kind": "lab", "norm": norm}).eval()
    load_weights(model, bare_weights(tmp_path / "lab.ckpt"), "lab.ckpt")
    given = {k: torch.from_numpy(v) for k, v in np.load(beside / "lab_fidelity" / "lab_fidelity.npz").items()}
    with torch.no_grad():
        c = model.encode_cond(given["pose"])
        mu, logvar = model.posterior(model.encode_frame(given["x_t"]), c)
        x = model.decode(given["x_prev"], model.encode_frame(given["x_prev"]), c, given["z"])
    for name, value in (("mu", mu), ("logvar", logvar), ("x", x)):
        assert (value - given[f"{key}_{name}"]).abs().max() < 1e-5


def lab_loss(model, frames, cond, eps, forced, detach):
    weight = torch.full(eps.shape[:2], float(forced))
    weight[:, 0] = 1
    out = model.unroll(frames, cond, weight, eps, detach=detach, forced=forced)
    return Elbo()(out.x_pred, frames[:, 1:], out.kld, out.mu[0, 0].numel(), torch.tensor(0.01, dtype=eps.dtype))["loss"]


@pytest.mark.parametrize("forced,detach", [(True, True), (False, True), (False, False)])
def test_a_clip_at_once_is_the_plain_loop(forced, detach):
    fast, plain = build(SMALL).double(), build(SMALL).double()
    frames, cond, eps = (v.double() for v in clip(fast))
    ours = lab_loss(fast, frames, cond, eps, forced, detach)
    theirs = reference.train_loss(plain, frames, cond, eps, 0.01, forced, detach)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    for (name, a), b in zip(fast.named_parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    for (name, a), b in zip(fast.named_buffers(), plain.buffers()):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("spec", [SMALL, {"kind": "compact", "width": 8}])
@pytest.mark.parametrize("size", [(32, 64), (64, 64)])
def test_blend_weights_and_sizes(spec, size):
    """Weights of 1 step by step are teacher forcing; H and W are free; a rollout step is the unrolled step."""
    model = build(spec, *size).double()
    frames, cond, eps = (v.double() for v in clip(model, 2, 4, *size))
    reference_frame = (frames[:, 0], cond[:, 0]) if model.needs_reference else None
    ones = torch.ones(2, 3).double()
    at_once = model.unroll(frames, cond, ones, eps, forced=True, reference=reference_frame)
    in_turn = model.unroll(frames, cond, ones, eps, forced=False, reference=reference_frame)
    torch.testing.assert_close(at_once.x_pred, in_turn.x_pred)
    half = model.unroll(frames, cond, ones / 2, eps, reference=reference_frame)
    assert half.x_pred.shape == (2, 3, 3, *size) and half.kld.shape == (2, 3)
    assert (half.x_pred[:, 0] - at_once.x_pred[:, 0]).abs().max() < 1e-9, "the first input is given either way"
    assert (half.x_pred[:, 1] - at_once.x_pred[:, 1]).abs().max() > 1e-9


def test_a_rollout_tells_the_model_what_its_training_told_it():
    """With a pose_reach: the poses of the frames around each frame, from the clip as a whole, at its ends too."""
    model = build({"kind": "compact", "width": 8, "pose_reach": 2}).eval()
    frames, cond = (torch.randint(0, 256, (70, 3, 32, 64), dtype=torch.uint8) for _ in range(2))
    x, trained_on = gather(Clips(frames, cond), np.array([0]), 70, model.cond_offsets)
    assert trained_on.shape == (1, 70, 9, 32, 64)
    encode, seen = model.encode_cond, []
    model.encode_cond = lambda c, groups=None: seen.append(c) or encode(c)
    made = rollout(model, x[:, :1], cond[None] / 255)  # longer than the blocks that are encoded together
    assert made.shape == (1, 69, 3, 32, 64)
    torch.testing.assert_close(torch.cat(seen), trained_on[0])
    model.cond_offsets = (0, 0, 0)
    assert (rollout(model, x[:, :1], cond[None] / 255) - made).abs().max() > 1e-6, "what is told makes a difference"


def test_a_pose_gain_is_a_scale_of_the_weights_that_read_poses():
    """So it changes what is learnt soon, not what can be said: the same function, with those weights divided by it."""
    plain, strong = (build({"kind": "compact", "width": 8, "pose_gain": gain}).double() for gain in (1.0, 4.0))
    weights, of_poses = plain.state_dict(), plain.pose_stem.in_channels
    for name in ("pose_stem", "previous_pose_stem", "reference_stem", "posterior_net.0"):
        of_frames, of_pose = weights[f"{name}.weight"].tensor_split([-of_poses], dim=1)
        weights[f"{name}.weight"] = torch.cat([of_frames, of_pose / 4], 1)
    strong.load_state_dict(weights)
    frames, cond, eps = (v.double() for v in clip(plain, 2, 4))
    weight, reference = torch.ones(2, 3).double(), (frames[:, 0], cond[:, 0])
    a, b = (m.unroll(frames, cond, weight, eps, reference=reference) for m in (plain, strong))
    torch.testing.assert_close(a.x_pred, b.x_pred)
    torch.testing.assert_close(a.mu, b.mu)
    strong.load_state_dict(plain.state_dict())
    assert (strong.unroll(frames, cond, weight, eps, reference=reference).x_pred - a.x_pred).abs().max() > 1e-6


def test_detaching_cuts_the_gradient_through_the_prediction():
    model = build({"kind": "compact", "width": 8})
    frames, cond, eps = clip(model, 1, 4)
    frames.requires_grad_(True)
    for detach, flows in ((True, False), (False, True)):
        frames.grad = None
        out = model.unroll(
            frames, cond, torch.tensor([[1.0, 0, 0]]), eps, detach=detach, reference=(frames[:, 0] * 0, cond[:, 0])
        )
        out.x_pred[:, 2].sum().backward()
        assert bool(frames.grad[:, 0].abs().sum() > 0) is flows


def test_compact_is_bounded_and_cheap():
    from torch.utils.flop_counter import FlopCounterMode

    flops = {}
    for kind in ("lab", "compact"):
        model = build(kind).eval()
        x = torch.rand(1, 3, 32, 64) * 3 - 1
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            state = model.init_state(x[None].clamp(0, 1), x[None])
            c = model.encode_cond(x)
            y, _ = model.step(x.clamp(0, 1), c, 100 * torch.randn(1, *model.latent_shape), state)
        flops[kind] = counter.get_total_flops()
        assert kind == "lab" or (y.min() >= 0 and y.max() <= 1)
    assert flops["compact"] * 10 <= flops["lab"]


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "truncated or not a checkpoint"),
        (b"not a zip at all", "checkpoint"),
        ({"state_dict": {"a.weight": torch.zeros(3)}}, "a checkpoint of another model"),
        ({"state_dict": 3}, "expected a dict of tensors"),
    ],
)
def test_a_foreign_checkpoint_has_one_clear_error(content, message, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    model = build(SMALL)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(Lab4Error, match=message):
        load_weights(model, bare_weights(path), str(path))
    assert all((a == b).all() for a, b in zip(before, model.parameters()))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(Lab4Error, match="could run code"):
        bare_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()
