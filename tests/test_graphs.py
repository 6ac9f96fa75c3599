"""A recorded step is the step: annealing moves, warming up leaves no trace, resuming works.

Recording needs a GPU; everything around it (copies in and out, the restored state) runs here with the body itself in
the place of a recording.
"""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab4_core import accel, free_running, registry
from lab4_core.batches import Batch
from lab4_core.config import Config
from lab4_core.free_running import rollout
from lab4_core.graphs import WAITS, Graphs, no_trace
from lab4_core.training import Learner

DEVICES = [
    pytest.param("cpu"),
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
LAB = {"kind": "lab", "f_dim": 8, "l_dim": 4, "n_dim": 4, "d_dim": 8}


def learner(device, graphs, optimizer="adam", model=LAB, **values):
    values = {"model": model, "device": device, "precision": "fp32", "optimizer": optimizer, **values}
    cfg = Config.from_dict(values)
    torch.manual_seed(0)
    made = cfg.model.build((3, 8, 16), (3, 8, 16)).to(device, memory_format=torch.channels_last)
    it = Learner(cfg, made, torch.device(device))
    it.graphs = it.make_graphs(capture=device == "cuda") if graphs else None
    assert (it.graphs is not None) is graphs
    return it


def batch(i, device, forced=False, b=2):
    g = torch.Generator().manual_seed(i)
    frames, cond = (torch.rand(b, 4, 3, 8, 16, generator=g).to(device) for _ in range(2))
    weight = torch.full((b, 3), float(forced), device=device)
    weight[:, 0] = 1
    return Batch(frames, cond, weight, forced, float(forced), (frames[:, 2], cond[:, 2]), None)


def run(it, device, steps):
    """Steps whose path, beta and learning rate all change, and one of another batch size."""
    terms = []
    for i in steps:
        one = batch(i, device, forced=i % 3 == 1, b=1 if i == 4 else 2)
        terms.append(it.step(one, i, beta=0.1 * i, lr=2.0 ** -(10 + i)))  # a float32 as it is
    return [{k: float(v) for k, v in t.items()} for t in terms]


def same(a, b, device):
    exactly = device == "cpu"
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values()):
        # a bias before a BatchNorm, whose gradient is rounding, which Adam blows up, and the mean that follows it
        if name not in ("label_transformation.1.bias", "label_transformation.2.running_mean") or exactly:
            torch.testing.assert_close(x, y, rtol=0 if exactly else 1e-3, atol=0 if exactly else 1e-4, msg=name)


@pytest.mark.parametrize(
    "optimizer,strategies",
    [("adam", []), ("adamw", ["hidden_noise"]), ("muon", ["input_noise"]), ("muon", ["input_noise", "histogram"])],
)
@pytest.mark.parametrize("device", DEVICES)
def test_recorded_steps_are_the_steps(device, optimizer, strategies):
    eager, recorded = (learner(device, graphs, optimizer, strategies=strategies) for graphs in (False, True))
    for x, y in zip(run(eager, device, range(6)), run(recorded, device, range(6))):
        assert x == pytest.approx(y, rel=1e-5)
    same(eager, recorded, device)
    assert len(recorded.graphs.recordings) == 3, "free, forced, and the smaller batch"


@pytest.mark.parametrize("model", [LAB, {"kind": "compact", "width": 8, "depth": 1}], ids=["lab", "compact"])
@pytest.mark.parametrize("device", DEVICES)
def test_recorded_steps_in_bf16_cast_the_weights_of_their_time(device, model):
    """Weights that autocast has cast stay so until it is left: a recording must cast them anew in every step."""
    eager, recorded = (learner(device, graphs, "muon", model, precision="bf16") for graphs in (False, True))
    for it in (eager, recorded):
        run(it, device, range(3))
        with torch.no_grad():
            for p in it.parameters:
                p.mul_(0.5)  # in place, so that the recordings go on
    for x, y in zip(run(eager, device, range(3, 6)), run(recorded, device, range(3, 6))):
        assert x == pytest.approx(y, rel=1e-5 if device == "cpu" else 2e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_annealing_moves_under_the_recording(device):
    it = learner(device, True)
    x = batch(0, device)
    before = [p.clone() for p in it.model.parameters()]
    still = it.step(x, 0, 0.0, 0.0)  # a learning rate of 0: the weights stay
    assert all(torch.equal(a, b) for a, b in zip(before, it.model.parameters()))
    moved = it.step(x, 0, 1.0, 0.0)
    assert float(moved["loss"] - still["loss"]) == pytest.approx(float(still["kld"]), rel=1e-4), "beta is looked up"
    it.step(x, 0, 0.0, 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(before, it.model.parameters())), "and so is the learning rate"


@pytest.mark.parametrize("device", DEVICES)
def test_warming_up_leaves_no_trace(device):
    it = learner(device, True)
    before = {k: v.clone() for k, v in it.model.state_dict().items()}
    given = batch(0, device)
    eps = torch.zeros(2, 3, *it.model.latent_shape, device=device)
    scalars = {name: torch.tensor(0.5, device=device) for name in ("beta", "lr")}
    it.graphs.record({"frames": given.frames, "cond": given.cond, "gt_weight": given.gt_weight, "eps": eps, **scalars},
                     False)  # fmt: skip
    for name, value in it.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    memory = [v for values in it.optimizer.state.values() for v in values.values()]
    assert memory and not any(v.any() for v in memory)
    for group in it.optimizer.param_groups:
        assert isinstance(group["lr"], float) and not group["capturable"], "a checkpoint says nothing of graphs"


def test_the_state_comes_back_in_place_even_after_a_failure():
    a, made = torch.ones(2), []
    with pytest.raises(RuntimeError), no_trace(lambda: [a, *made]):
        made.append(torch.ones(3))
        a.mul_(7)
        raise RuntimeError
    assert a.tolist() == [1, 1] and made[0].tolist() == [0, 0, 0]


def test_results_are_not_overwritten_by_the_next_step():
    graphs = Graphs(lambda given, path: {"twice": given["x"].mul_(2)}, list, capture=False)
    x = torch.tensor(1.0)
    first, second = graphs({"x": x}, "p"), graphs({"x": x + 4}, "p")
    assert (float(first["twice"]), float(second["twice"]), float(x)) == (2, 10, 1)


SVG = {"kind": "svg", "width": 4, "g_dim": 8, "z_dim": 2, "rnn_size": 8, "prior": "learned"}


@pytest.mark.parametrize("spec", [LAB, {"kind": "compact", "width": 8}, SVG], ids=lambda s: s["kind"])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_rollout_of_recorded_blocks_is_the_rollout(device, spec, corrected, monkeypatch):
    monkeypatch.setattr(free_running, "BLOCK", 3)
    torch.manual_seed(0)
    cond_shape = (5,) if spec is SVG else (3, 16, 32)
    model = registry.build("model", spec).build((3, 16, 32), cond_shape).to(device)
    past, cond = torch.rand(2, 1, 3, 16, 32, device=device), torch.rand(2, 12, *cond_shape, device=device)
    how = {"seed": 3, "z_scale": 0.5, "correct": (lambda x, x_last: 0.5 * (x + x_last)) if corrected else None}
    made: list[Graphs] = []

    def graphs(body, state):
        made.append(Graphs(body, state, capture=device == "cuda"))
        return made[-1]

    eager, recorded = rollout(model, past, cond, **how), rollout(model, past, cond, **how, graphs=graphs)
    torch.testing.assert_close(
        recorded, eager, rtol=0 if device == "cpu" else 1e-3, atol=0 if device == "cpu" else 1e-4
    )
    assert eager.shape == (2, 11, 3, 16, 32) and len(made[0].recordings) == 1, "one for the blocks of three"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategies", [[], ["input_noise", "hidden_noise"]])
def test_resuming_under_the_recording(device, strategies):
    whole, first = (learner(device, True, strategies=strategies) for _ in range(2))
    run(whole, device, range(6))
    run(first, device, range(3))
    second = learner(device, True, strategies=strategies)
    run(second, device, [5])  # has recordings already, and another state
    second.load_state_dict(first.state_dict())
    run(second, device, range(3, 6))
    same(whole, second, device)


@pytest.mark.parametrize(
    "values",
    [{"skip_nonfinite": 1}, {"optimizer": "sgd"}],
)
def test_what_asks_within_a_step_is_not_recorded(values):
    cfg = Config.from_dict({"model": LAB, "device": "cpu", **values})
    model = registry.build("model", LAB).build((3, 8, 16), (3, 8, 16))
    assert Learner(cfg, model, torch.device("cpu")).make_graphs(capture=False) is None


class Questions(TorchDispatchMode):
    """Operations that bring a number or a shape from the device to the host: a GPU is waited for, a recording fails."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2")

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        picks = name.startswith("index") and any(
            getattr(i, "dtype", None) == torch.bool for i in tree_leaves(args[1:2])
        )
        if name in self.NAMES or picks:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "optimizer", [k for k in registry.kinds("optimizer") if registry.part_class("optimizer", k).recordable]
)
@pytest.mark.parametrize("model", [LAB, {"kind": "compact", "width": 8}])
def test_a_recorded_step_asks_for_no_number(model, optimizer):
    """Without a GPU too: what the body of a recording runs is the same there."""
    it = learner("cpu", True, optimizer, model=model, strategies=["ema", "input_noise"])
    it._path = lambda batch, beta: {"known": batch.known, "ahead": True}  # that of a GPU
    it.step(batch(0, "cpu"), 0, 0.1, 1e-3)
    with Questions() as questions:
        it.step(batch(1, "cpu"), 1, 0.2, 1e-3)
    assert not questions.asked


def test_a_finished_learner_leaves_the_memory_at_once():
    learner("cpu", True)  # torch remembers the first optimizer of a process
    it = learner("cpu", True)
    it.step(batch(0, "cpu"), 0, 0.1, 1e-3)
    weights = weakref.ref(it.model)
    gc.disable()
    try:
        del it
        assert weights() is None, "a ring of references, which only the collector finds"
    finally:
        gc.enable()


def test_what_waits_for_the_gpu_is_run_and_not_recorded(monkeypatch, capsys):
    def body(given, path):
        if torch.is_grad_enabled():  # stands for the last run of the warm-up
            raise RuntimeError(f"called a {WAITS}")
        return {"twice": given["x"] * 2}

    for _ in range(2):
        graphs = Graphs(body, list, capture=False)
        graphs.capture = True
        monkeypatch.setattr(graphs, "_warm_up_aside", body)
        found = graphs.record({"x": torch.tensor(2.0)}, "a path")
        with torch.no_grad():
            found.replay()
        assert float(found.outputs["twice"]) == 4 and not graphs.capture
    said = capsys.readouterr().err
    assert said.count("waits for the GPU") == 1 and "test_graphs.py:" in said, "once, and where"
    monkeypatch.setattr(graphs, "_warm_up_aside", lambda *_: 1 / 0)
    graphs.capture = True
    with pytest.raises(ZeroDivisionError):
        graphs.record({"x": torch.tensor(2.0)}, "a path")


def test_what_does_not_fit_beside_the_recordings_is_run_without_any(monkeypatch, capsys):
    """The first kind of step is recorded; the memory that the second asks for beside it is not there."""
    graphs = Graphs(lambda given, path: {"twice": given["x"] * 2}, list, capture=False)
    record, asked, two = graphs.record, [], {"x": torch.tensor(2.0)}

    def full(inputs, path):
        asked.append((path, graphs.capture))
        if graphs.capture and path == "second":
            raise torch.OutOfMemoryError("CUDA out of memory")
        before, graphs.capture = graphs.capture, False  # recorded, as far as one can without a GPU
        made = record(inputs, path)
        graphs.capture = before
        return made

    monkeypatch.setattr(graphs, "record", full)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("emptied"))
    graphs.capture = True
    assert [float(graphs(two, path)["twice"]) for path in ("first", "second", "first")] == [4, 4, 4]
    assert asked == [("first", True), ("second", True), "emptied", ("second", False), ("first", False)]
    assert "does not fit into the GPU's memory" in capsys.readouterr().err
    graphs.forget()
    graphs.capture = True
    with pytest.raises(torch.OutOfMemoryError):  # nothing is there to give up: the batch is too large
        graphs(two, "second")


def test_whether_tf32_is_allowed_is_no_matter_of_what_ran_before():
    with accel.no_tf32():  # which restores it
        for name in ("bf16", "fp32", "bf16"):
            accel.pick_precision(name, torch.device("cuda"))
            assert torch.backends.cudnn.allow_tf32 == (name == "bf16")


@needs_gpu
def test_a_loss_that_looks_at_a_number_trains_on_a_gpu_too(capsys):
    eager, recorded = learner("cuda", False), learner("cuda", True)
    for it in (eager, recorded):
        loss = it.cfg.loss
        it.cfg = SimpleNamespace(**{f.name: getattr(it.cfg, f.name) for f in fields(it.cfg)})
        it.cfg.loss = lambda *given, of=loss: of(*given) if float(given[-1]) >= 0 else None
        run(it, "cuda", range(6))
    same(eager, recorded, "cuda")
    assert "waits for the GPU" in capsys.readouterr().err


@needs_gpu
@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_never_waits_for_the_gpu(graphs, optimizer):
    it = learner("cuda", graphs, optimizer)
    given = [batch(i, "cuda") for i in range(4)]
    it.step(given[0], 0, 0.1, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(1, 4):
            it.step(given[i], i, 0.1 * i, 1e-3 / i)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_recordings_can_be_turned_off(monkeypatch):
    assert accel.records(torch.device("cuda")) and not accel.records(torch.device("cpu"))
    monkeypatch.setenv("LAB4_CUDA_GRAPHS", "0")
    assert not accel.records(torch.device("cuda"))
