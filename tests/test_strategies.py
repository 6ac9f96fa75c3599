"""Every strategy of the reports does what its description says, and they compose."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.exposure import match_histograms

import lab4_core as l4
from lab4_core import registry
from lab4_core.batches import AUGMENT, generator, make_batch
from lab4_core.clock import Clock
from lab4_core.config import Config
from lab4_core.data import load_data
from lab4_core.errors import Lab4Error
from lab4_core.evaluation import clip_batch, predict_clips
from lab4_core.free_running import rollout
from lab4_core.models.base import VideoPredictor
from lab4_core.muon import orthogonal
from lab4_core.optimizers import MuonAdamW
from lab4_core.strategies import (
    CosineInterpolation,
    Crop,
    HiddenNoise,
    HistogramSpecification,
    Strategy,
    correction,
    match_histogram,
)
from lab4_core.strategies.weight_interpolation import stock_ratio
from lab4_core.training import Learner, build_model

CPU = torch.device("cpu")
TINY = {
    "data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1},
    "model": {"kind": "compact", "width": 8},
    "optimizer": {"kind": "adamw", "lr": 2e-3},
    "lr_schedule": "constant",
    "annealing": "none",
    "beta": 1e-5,
    "teacher_forcing": {"kind": "constant", "ratio": 0.0},
    "n_frames": 4,
    "windows": "random",
    "batch_size": 3,
    "steps": 6,
    "epochs": 3,
}
LAB = {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}
KINDS = registry.kinds("strategy")


def learner_of(steps=0, **changes):
    """A learner after some steps, and the function that takes one more and returns its terms."""
    cfg = Config.from_dict({**TINY, **changes})
    clips = load_data(cfg).train
    learner, clock = Learner(cfg, build_model(cfg, clips, CPU), CPU), Clock(cfg, clips.spans)
    at = {"step": 0}

    def step():
        position = clock.at(at["step"], 0.0)
        batch = make_batch(cfg, clips, position, at["step"], learner.model.needs_reference)
        terms = learner.step(batch, at["step"], cfg.beta, cfg.optimizer.lr)
        at["step"] += 1
        after = clock.at(at["step"], 0.0)
        if after is None or after.epoch != position.epoch:
            learner.end_epoch(position.epoch, position.epochs)
        return terms

    for _ in range(steps):
        step()
    return learner, step


def weights(learner):
    return {k: v.detach().clone() for k, v in learner.model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------------------------------ histogram


@pytest.mark.parametrize("levels", [4, 256, None])
def test_histogram_specification_is_that_of_scikit_image(levels):
    rng = np.random.default_rng(0)
    source, reference = rng.random((2, 5, 3, 16, 24)).astype(np.float32) ** np.array([[1], [2]]).reshape(2, 1, 1, 1, 1)
    if levels:  # many equal values in both, as images in bytes have them
        source, reference = (np.round(x * (levels - 1)) / (levels - 1) for x in (source, reference))
    got = match_histogram(torch.from_numpy(source).float(), torch.from_numpy(reference).float())
    for i in range(5):
        wanted = match_histograms(source[i].astype(np.float32), reference[i].astype(np.float32), channel_axis=0)
        np.testing.assert_allclose(got[i].numpy(), wanted, atol=1e-6)


def test_histogram_specification_undoes_a_change_of_light():
    frame = load_data(Config.from_dict(TINY)).train.frames[:1].float() / 255
    darker = 0.8 * frame - 0.05
    assert torch.allclose(match_histogram(darker, frame), frame, atol=1e-3)
    flat = torch.full_like(frame, 0.3)
    assert torch.isfinite(match_histogram(flat, frame)).all() and torch.isfinite(match_histogram(frame, flat)).all()


def test_only_predictions_are_matched_and_gradients_pass_around():
    (_, step), (_, step_matched) = learner_of(), learner_of(strategies=["histogram"])
    assert step()["mse"] != step_matched()["mse"]
    forced = {"teacher_forcing": {"kind": "constant", "ratio": 1.0, "draw": "frame"}}
    (_, step), (_, step_matched) = learner_of(**forced), learner_of(strategies=["histogram"], **forced)
    assert step()["mse"] == step_matched()["mse"], "a true frame stays as it is"
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    HistogramSpecification().correct(x, torch.rand(1, 3, 8, 8)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_run_that_matches_histograms_in_rollouts_too_is_scored(tmp_path):
    values = {**TINY, "steps": 2, "epochs": 1, "strategies": [{"kind": "histogram", "rollouts": True}], "device": "cpu"}
    run = l4.train(Config.from_dict(values), out=tmp_path)
    assert run.finished and "rollouts" not in run.result["protocol"], "of each clip one rollout"
    assert np.array_equal(l4.evaluate(run, device="cpu", single=True).psnr, run.scores().psnr), "corrected as ever"


class Darkening(VideoPredictor):
    """Every frame a tenth darker than the one before."""

    latent_shape = (1,)

    def init_state(self, frames_past, cond_past):
        return None

    def step(self, x_prev, cond_t, z_t, state):
        return 0.9 * x_prev, state


def test_rollouts_are_corrected_only_where_that_is_asked_for():
    def of(**fields):
        return correction(Config.from_dict({**TINY, "strategies": [{"kind": "histogram", **fields}]}).strategies, True)

    past, cond = torch.rand(1, 1, 3, 8, 8), torch.zeros(1, 6, 3, 8, 8)
    assert of() is None
    dark = rollout(Darkening(), past, cond)
    kept = rollout(Darkening(), past, cond, correct=of(rollouts=True))
    assert dark[0, -1].mean() < 0.6 * past.mean()
    assert torch.allclose(kept[0, -1], 0.9 * past[0, 0], atol=1e-5), "what is fed is corrected, what comes out is not"


# ----------------------------------------------------------------------------------------------------- crop


def test_a_crop_is_one_box_for_all_frames_and_poses_of_a_clip():
    ramp = torch.linspace(0, 1, 64).expand(1, 32, 64)
    frame = torch.cat([ramp, torch.linspace(0, 1, 32)[:, None].expand(1, 32, 64), ramp])  # colours say where
    frames = frame.expand(40, 5, 3, 32, 64).clone()
    new, cond = Crop(share=0.5, smallest=0.5).augment(frames, frames.clone(), None, 0.0, generator(CPU, 1))
    assert new.shape == frames.shape and torch.equal(new, cond), "frames and poses alike"
    assert torch.equal(new[:, :1].expand_as(new), new), "one box in all frames"
    changed = (new != frames).flatten(1).any(1)
    assert 10 < changed.sum() < 30, "about half of the clips"
    for clip in new[changed]:
        width = (clip[0, 0, :, -1] - clip[0, 0, :, 0]).mean()
        height = (clip[0, 1, -1] - clip[0, 1, 0]).mean()
        assert 0.45 < width < 1 and abs(width - height) < 0.05, "the proportions of the picture"
    assert len({round(float(c[0, 0, 0, 0]), 3) for c in new[changed]}) > 5, "boxes differ"


def test_a_crop_begins_when_it_is_told_and_needs_images():
    frames = torch.rand(4, 3, 3, 8, 16)
    late = Crop(share=1.0, begin=0.5)
    assert torch.equal(late.augment(frames, frames, None, 0.49, generator(CPU, 1))[0], frames)
    assert not torch.equal(late.augment(frames, frames, None, 0.5, generator(CPU, 1))[0], frames)
    with pytest.raises(Lab4Error, match=r"conditions \(7,\): expected pose images"):
        late.augment(frames, torch.rand(4, 3, 7), None, 0.5, generator(CPU, 1))


def test_the_reference_frame_is_cropped_with_its_clip():
    cfg = Config.from_dict({**TINY, "strategies": [{"kind": "crop", "share": 1.0}]})
    clips = load_data(cfg).train
    at = Clock(cfg, clips.spans).at(0, 0.0)
    plain, cropped = (make_batch(c, clips, at, 0, True) for c in (cfg.replace(strategies=[]), cfg))
    assert cropped.frames.shape == plain.frames.shape and cropped.reference[0].shape == plain.reference[0].shape
    assert not torch.equal(cropped.reference[0], plain.reference[0])
    whole = [torch.cat([a, b[:, None]], 1) for a, b in zip((plain.frames, plain.cond), plain.reference)]
    wanted, _ = cfg.strategies[0].augment(*whole, None, 0.0, generator(CPU, AUGMENT, cfg.seed, 0))
    assert torch.equal(wanted[:, -1], cropped.reference[0])


# -------------------------------------------------------------------------------------------------- weights


def test_the_ratio_of_cosine_interpolation():
    a = torch.tensor([1.0, 0.0])
    assert stock_ratio(a, 3 * a) == pytest.approx(1.0)
    assert stock_ratio(a, torch.tensor([1.0, 3**0.5])) == pytest.approx(2 / 3)  # cos = 1/2
    assert stock_ratio(a, torch.tensor([0.0, 2.0])) == pytest.approx(0.0)
    assert stock_ratio(a, torch.tensor([-1.0, 0.1])) == 0, "never beyond the first weights"


def test_cosine_interpolation_every_so_many_epochs():
    learner, _ = learner_of()
    part, model = CosineInterpolation(every=2), learner.model
    memory = part.start(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=generator(CPU, 3)))
    before = weights(learner)
    part.after_epoch(model, memory, 0, 6)
    assert same(before, weights(learner)), "not after the first of two epochs"
    part.after_epoch(model, memory, 1, 6)
    moved = 0
    for name, new in model.named_parameters():
        old, first = before[name], memory[name]
        if not first.any():
            assert torch.equal(new, old), "a tensor that began at zero stays"
            continue
        t = stock_ratio(old, first)
        assert torch.allclose(new, t * old + (1 - t) * first, atol=1e-6)
        moved += not torch.equal(new, old)
    assert moved > 5


def test_swa_is_the_mean_of_the_last_epochs_ends():
    learner, step = learner_of(strategies=[{"kind": "swa", "begin": 0.4}])  # 2 of 3 epochs, of two steps each
    ends = []
    for i in range(6):
        step()
        if i == 1:
            assert same(learner.eval_weights(), weights(learner)), "nothing to average yet"
        if i in (3, 5):
            ends.append(weights(learner))
    average = learner.eval_weights()
    for name, value in average.items():
        assert torch.allclose(value, (ends[0][name] + ends[1][name]) / 2, atol=1e-7), name


# ------------------------------------------------------------------------------------------ noise within


def test_hidden_noise_is_there_in_training_alone():
    learner, step = learner_of(strategies=[{"kind": "hidden_noise", "scale": 0.3, "within": "up"}])
    _, step_plain = learner_of()
    assert step()["mse"] != step_plain()["mse"]
    hooks = [m for m in learner.model.modules() if m._forward_hooks]
    assert hooks == [], "the hooks are gone after the step"
    part = HiddenNoise(scale=0.5, within="up")
    block, x = learner.model.up[1], torch.randn(4, 8, 16, 32, generator=generator(CPU, 1))
    with torch.no_grad():
        clean = block(x)
        with part.during(learner.model, generator(CPU, 2)):
            noise = block(x) - clean
    spread = float(clean.std())
    assert float(noise.std()) == pytest.approx(0.5 * spread, rel=0.05) and abs(float(noise.mean())) < 0.05 * spread


def test_hidden_noise_names_the_blocks_there_are():
    with pytest.raises(Lab4Error, match=r"within = 'Generator'.*expected one of down, middle, up"):
        learner_of(strategies=[{"kind": "hidden_noise", "within": "Generator"}])
    learner_of(model=LAB, strategies=[{"kind": "hidden_noise", "within": "Generator"}])


# --------------------------------------------------------------------------------------------- composition


@pytest.mark.parametrize("pair", list(itertools.combinations(KINDS, 2)), ids="+".join)
def test_any_two_strategies_compose(pair):
    """Both have their effect, finite ones, and the steps repeat."""
    learner, step = learner_of(strategies=list(pair), steps=2)
    assert all(torch.isfinite(v) for v in step().values())
    again, _ = learner_of(strategies=list(pair), steps=3)
    assert same(weights(learner), weights(again))
    assert all(torch.isfinite(v).all() for v in learner.eval_weights().values())


def test_all_strategies_at_once_resume_bit_for_bit():
    changes = {"strategies": KINDS, "teacher_forcing": {"kind": "constant", "ratio": 0.5, "draw": "frame"}}
    whole, _ = learner_of(steps=6, **changes)
    half, _ = learner_of(steps=3, **changes)
    state = half.state_dict()
    resumed, step = learner_of(steps=3, **changes)
    for p in resumed.model.parameters():
        p.data.zero_()
    resumed.load_state_dict(state)
    for _ in range(3):
        step()
    assert same(weights(whole), weights(resumed)) and same(whole.eval_weights(), resumed.eval_weights())


@pytest.fixture(scope="module")
def plain():
    """A learner after six steps without any strategy."""
    return learner_of(steps=6)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy_changes_something(kind, plain, tmp_path):
    """Against the same run without it, in the weights or in those that are evaluated; one that makes something of
    rollouts, there."""
    fields = {"cosine_interpolation": {"every": 1}}.get(kind, {})
    if kind == "warm_start":
        fields = {"weights": str(tmp_path / "x.safetensors")}
        learnt = learner_of(steps=3)[0].model.state_dict()
        save_file({name: value.contiguous() for name, value in learnt.items()}, fields["weights"])
    learner, _ = learner_of(steps=6, strategies=[{"kind": kind, **fields}])
    if type(learner.cfg.strategies[0]).roll_out is Strategy.roll_out:
        assert not same(learner.eval_weights(), plain.eval_weights())
    else:
        past, cond = clip_batch(load_data(plain.cfg).val, 3, CPU)
        assert not torch.equal(*(predict_clips(plain.model, past[:, :1], cond, x.cfg) for x in (learner, plain)))


# ------------------------------------------------------------------------------- optimizers, width and depth


@pytest.mark.parametrize("kind", registry.kinds("optimizer"))
def test_every_optimizer_lowers_the_loss_of_a_batch(kind):
    lr = {"sgd": 0.2}.get(kind, 2e-3)
    learner, _ = learner_of(optimizer={"kind": kind, "lr": lr})
    cfg, clips = learner.cfg, load_data(learner.cfg).train
    batch = make_batch(cfg, clips, Clock(cfg, clips.spans).at(0, 0.0), 0, True)
    losses = [float(learner.step(batch, step, cfg.beta, lr)["loss"]) for step in range(25)]
    assert losses[-1] < 0.85 * losses[0]


def under_bf16(function, *arguments):
    with torch.autocast("cpu", torch.bfloat16):
        return function(*arguments)


def test_muon_makes_updates_orthogonal_and_leaves_vectors_to_adam():
    m = torch.randn(2, 24, 9, generator=generator(CPU, 1))
    u, _, v = torch.linalg.svd(m, full_matrices=False)
    for got in (orthogonal(m), under_bf16(orthogonal, m)):
        assert got.dtype == torch.float32
        assert ((torch.linalg.svdvals(got) > 0.6) & (torch.linalg.svdvals(got) < 1.3)).all()
        assert torch.nn.functional.cosine_similarity(got.flatten(), (u @ v).flatten(), dim=0) > 0.98
    got = orthogonal(m)
    assert torch.allclose(orthogonal(m.mT), got.mT, atol=1e-5)
    assert torch.allclose(orthogonal(m[1:]), got[1:], atol=1e-5), "no matrix sees the others"

    kernel, bias = (torch.nn.Parameter(torch.randn(s, generator=generator(CPU, 2))) for s in ((8, 4, 3, 3), (8,)))
    twin = torch.nn.Parameter(bias.detach().clone())
    muon = MuonAdamW(lr=0.01).build([kernel, bias])
    adam = torch.optim.AdamW([twin], lr=0.01, betas=(0.9, 0.99), weight_decay=0.01)
    for i in range(4):
        for p in (kernel, bias):
            p.grad = torch.randn(p.shape, generator=generator(CPU, 5, i))
        twin.grad = bias.grad.clone()
        before = kernel.detach().clone()
        muon.step()
        adam.step()
        moved = (kernel.detach() - before * (1 - 0.01 * 0.01)).square().mean().sqrt()
        assert 0.6 * 0.2 * 0.01 < moved < 1.3 * 0.2 * 0.01, "as far as Adam's typical update"
    assert torch.allclose(bias, twin, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (16, 16), (1, 50)])
def test_muons_products_on_gram_matrices_are_the_iteration_of_the_authors(shape):
    """The same polynomials: equal to rounding, also where most directions of a gradient are empty."""
    full = torch.randn(3, *shape, generator=generator(CPU, 3))
    for m in (full, full * torch.logspace(0, -5, shape[1])):
        x = m.double() / (m.double().norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        torch.testing.assert_close(orthogonal(m.double()), x, rtol=1e-8, atol=1e-8)
        assert (orthogonal(m) - x).abs().max() < 1e-3, "in fp32"
        coarse = under_bf16(orthogonal, m)
        assert (coarse - x).norm() < 0.05 * x.norm(), "in bf16"


def test_width_and_depth_of_encoder_and_generator():
    def count(**fields):
        model = registry.build("model", {"kind": "lab", **fields}).build((3, 32, 64), (3, 32, 64))
        return {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}

    plain, deeper = count(), count(encoder_depth=2, generator_depth=0)
    assert sum(plain.values()) == 1_585_620
    changed = {n for n in plain if plain[n] != deeper[n]}
    assert changed == {"frame_transformation", "Generator"}
    assert deeper["frame_transformation"] > plain["frame_transformation"] and deeper["Generator"] < plain["Generator"]
    assert count(f_dim=64)["frame_transformation"] < plain["frame_transformation"]
    with pytest.raises(Lab4Error, match="encoder_depth = -1"):
        count(encoder_depth=-1)


def test_strategies_draw_apart_from_one_another(monkeypatch):
    """Two that crop choose other clips and other boxes: what one draws says nothing of the other."""
    drawn = []

    def augment(self, frames, cond, clips, progress, rng):
        drawn.append(torch.rand(4, generator=rng))
        return frames, cond

    monkeypatch.setattr(Crop, "augment", augment)
    cfg = Config.from_dict({**TINY, "strategies": ["crop", "crop"]})
    data = load_data(cfg)
    at = Clock(cfg, data.train.spans).at(0, 0.0)
    make_batch(cfg, data.train, at, 0, False)
    assert len(drawn) == 2 and not torch.equal(*drawn)


def test_an_average_of_the_weights_by_hand():
    """Every tensor of the model, running averages too; what counts in whole numbers is taken as it is."""
    ema = registry.build("strategy", {"kind": "ema", "decay": 0.4})
    model = torch.nn.BatchNorm1d(3)
    state = ema.start(model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(5):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(step + 1)
        ema.after_step(model, state, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    assert state.keys() == expected.keys() and state["num_batches_tracked"] == 15
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], msg=name)
