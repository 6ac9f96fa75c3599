"""A clip can be computed in several orders: one graph, backward piece by piece, inputs first. All are one mathematics.

The lab's model is compared with the plain loop of benchmarks/reference.py, the others with their own unroll as one
graph: loss, gradients and running statistics.
"""

import math

import pytest
import reference
import torch

from lab4_core import registry
from lab4_core.batches import Batch
from lab4_core.config import Config
from lab4_core.layers import ConvFFN, GatedConv
from lab4_core.losses import Elbo
from lab4_core.models import frame_cvae
from lab4_core.models.pieces import pieces
from lab4_core.training import Learner

LAB = {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}
COMPACT = {"kind": "compact", "width": 8, "z_dim": 2}
LOSS = Elbo(l1=0.25)
CPU = torch.device("cpu")


def build(spec, dtype=torch.float64):
    torch.manual_seed(0)
    model = registry.build("model", spec).build((3, 8, 16), (3, 8, 16)).to(dtype, memory_format=torch.channels_last)
    with torch.no_grad():  # compact starts as a copy: nothing would reach its inner layers
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def clip(model, b=2, t=6):
    g = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    draws = (torch.rand(b, t, 3, 8, 16, generator=g) for _ in range(2))
    return [v.to(dtype) for v in (*draws, torch.randn(b, t - 1, *model.latent_shape, generator=g))]


WEIGHTS = {  # (B, S) by the inputs of a clip of 6 frames
    "forced": torch.ones(2, 5),
    "free": torch.tensor([[1.0, 0, 0, 0, 0]] * 2),
    "mixed": torch.tensor([[1.0, 1, 0, 1, 1], [1.0, 1, 0, 0, 1]]),
    "blend": torch.tensor([[1.0, 1, 0.25, 0.5, 1]] * 2),
}


def grads_of(model):
    return {name: p.grad for name, p in model.named_parameters()}


def gradients(model, clip, weights, path, detach=True, hooks=(), loss=LOSS):
    """(loss, gradients, buffers) of a clip computed along a path."""
    frames, cond, eps = clip
    weight = weights.to(frames.dtype)
    beta = torch.tensor(0.01, dtype=frames.dtype)
    model.zero_grad()

    def settle(x_pred, kld, steps):
        loss(x_pred, frames[:, 1:][:, steps], kld, math.prod(model.latent_shape), beta)["loss"].backward()

    known = (weight == 1).all(0).tolist()
    how = {"one graph": {}, "pieces": {"settle": settle, "known": known}, "ahead": {"ahead": True, "known": known},
           "known together": {"known": known}}[path]  # fmt: skip
    reference_frame = (frames[:, 3], cond[:, 3]) if model.needs_reference else None
    out = model.unroll(frames, cond, weight, eps, detach=detach, reference=reference_frame, **how, **dict(hooks))
    settled = path == "pieces" and (detach or all(known))
    assert out.x_pred.requires_grad is out.kld.requires_grad is not settled
    terms = loss(out.x_pred, frames[:, 1:], out.kld, out.mu[0, 0].numel(), beta)
    if out.x_pred.requires_grad:
        terms["loss"].backward()
    return terms["loss"].detach(), grads_of(model), dict(model.named_buffers())


def same(a, b, rtol=1e-9):
    torch.testing.assert_close(a[0], b[0], rtol=rtol, atol=0)
    for mine, other in zip(a[1:], b[1:]):
        assert mine.keys() == other.keys()
        scales = {name: float(value.abs().max()) for name, value in other.items()}
        for name in mine:  # a bias before a BatchNorm has no gradient but rounding: it is measured against the others
            scale = max(scales[name], 0.01 * max(scales.values()))
            torch.testing.assert_close(mine[name], other[name], rtol=0, atol=rtol * scale, msg=name)


@pytest.mark.parametrize("path", ["one graph", "pieces", "ahead", "known together"])
@pytest.mark.parametrize("feeding", ["forced", "free"])
@pytest.mark.parametrize("dtype,rtol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_every_path_of_the_labs_model_is_the_plain_loop(path, feeding, dtype, rtol):
    ours, plain = build(LAB, dtype), build(LAB, dtype)
    data = clip(ours)
    found = gradients(ours, data, WEIGHTS[feeding], path, loss=Elbo())
    loss = reference.train_loss(plain, *data, 0.01, feeding == "forced", detach=True)
    loss.backward()
    same(found, (loss.detach(), grads_of(plain), dict(plain.named_buffers())), rtol)


@pytest.mark.parametrize("spec", [LAB, COMPACT, {"kind": "tiny", "width": 4}], ids=lambda s: s["kind"])
@pytest.mark.parametrize("feeding", WEIGHTS)
def test_every_path_is_the_one_graph(spec, feeding):
    for detach, paths in ((True, ["pieces", "ahead", "known together"]), (False, ["pieces"])):
        one, *others = (
            gradients(model := build(spec), clip(model), WEIGHTS[feeding], path, detach)
            for path in ["one graph", *paths]
        )
        for other in others:
            same(other, one)


def test_short_pieces_are_long_ones(monkeypatch):
    data = clip(build(LAB))
    found = []
    for at_once in (2, 4, 16):
        monkeypatch.setattr(frame_cvae, "FRAMES_AT_ONCE", at_once)
        found.append(gradients(build(LAB), data, WEIGHTS["forced"], "pieces"))
    same(found[0], found[1])
    same(found[0], found[2])


@pytest.mark.parametrize("path", ["pieces", "ahead"])
def test_what_is_fed_and_corrected_is_fed_and_corrected_along_every_path(path):
    hooks = {"feed": lambda x_in, x_last: x_in + 0.1 * x_last, "correct": lambda x, x_last: 0.5 * (x + x_last)}
    data = clip(build(COMPACT))
    one = gradients(build(COMPACT), data, WEIGHTS["free"], "one graph", hooks=hooks)
    same(gradients(build(COMPACT), data, WEIGHTS["free"], path, hooks=hooks), one)
    assert gradients(build(COMPACT), data, WEIGHTS["free"], path)[0] != one[0]


def test_pieces_are_runs_of_known_steps():
    known = [True, True, False, False, True, True, True]
    assert pieces(known, 2) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6), slice(6, 7)]
    assert pieces(known, 9) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 7)]


def test_the_gated_convolution_is_what_its_formula_says():
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4, 1, 1), (5,)))
    assert torch.autograd.gradcheck(GatedConv.apply, (x, weight, bias))
    a, b = x.chunk(2, 1)
    plain = torch.nn.functional.conv2d(a * torch.nn.functional.leaky_relu(b, 0.1), weight, bias)
    torch.testing.assert_close(GatedConv.apply(x, weight, bias), plain)
    assert ConvFFN(4)(torch.randn(2, 4, 3, 4).to(memory_format=torch.channels_last)).is_contiguous(
        memory_format=torch.channels_last
    ), "nothing on the way goes back to the other layout"


@pytest.mark.parametrize("strategies", [[], ["hidden_noise"]])
def test_the_learner_takes_pieces_on_a_cpu_and_inputs_first_on_a_gpu(strategies):
    cfg = Config.from_dict({"model": LAB, "device": "cpu", "precision": "fp32", "strategies": strategies})
    learner = Learner(cfg, build(LAB, torch.float32), CPU)
    frames, cond, _ = clip(learner.model)
    batch = Batch(frames, cond, WEIGHTS["mixed"], False, 0.5, None, None, (True, True, False, False, True))
    path = learner._path(batch, torch.tensor(0.1))
    assert path.keys() == {"known", "settle"} and path["known"] == batch.known
    learner.device = torch.device("cuda")
    assert learner._path(batch, torch.tensor(0.1))["ahead"] is not bool(strategies), "one pass draws once, two twice"


def test_a_step_of_the_learner_is_a_step_of_the_plain_loop():
    cfg = Config.from_dict({"model": LAB, "device": "cpu", "precision": "fp32", "optimizer": {"kind": "sgd"}})
    ours, plain = Learner(cfg, build(LAB, torch.float32), CPU), build(LAB, torch.float32)
    frames, cond, _ = clip(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    from lab4_core.batches import NOISE, generator

    for step in range(2):
        eps = torch.randn(2, 5, *plain.latent_shape, generator=generator(CPU, NOISE, cfg.seed, step))
        loss = reference.train_step(plain, optimizer, frames, cond, eps, 0.01, teacher_forcing=False)
        terms = ours.step(Batch(frames, cond, WEIGHTS["free"], False, 0.0, None, None), step, 0.01, 0.1)
        assert float(terms["loss"]) == pytest.approx(loss, rel=1e-5)
    for a, b in zip(ours.model.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_tensors_of_the_reference_may_share_their_graph(monkeypatch):
    """Each gets its gradient from every piece; then all of them go through what they share, once."""
    model = build(COMPACT)
    encode = type(model).encode_reference

    def shared(self, frame, cond):
        seen, colours = encode(self, frame, cond)
        return seen, colours + 0.1 * seen.mean()

    monkeypatch.setattr(type(model), "encode_reference", shared)
    data = clip(model)
    one, pieces = (gradients(model, data, WEIGHTS["free"], path) for path in ("one graph", "pieces"))
    assert one[1]["place"].abs().max() > 0
    same(pieces, one)
