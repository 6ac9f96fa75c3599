"""What disks, users and numbers do to a training: each ends in one error or a partial run, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import queue
import resource
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest
import torch
from test_resume import kept, said, same, the_run
from training_child import CONTEXT, MODELS, TINY, train

from lab4_core import checkpoint, engine, inference, paths, registry, runlog
from lab4_core.config import Config
from lab4_core.data import write_lab4
from lab4_core.errors import Lab4Error
from lab4_core.finite import FiniteWatch
from lab4_core.runlog import Run

VALUES = {**TINY, **MODELS["compact"], "steps": 6, "epochs": 2, "eval_frames": 4}


def config(**changes) -> Config:
    return Config.from_dict({**VALUES, **changes})


@pytest.fixture(autouse=True)
def counted(record_property):
    """Every test here is a fault at least."""
    record_property("faults injected", 1)


@pytest.fixture(autouse=True)
def usual_signals():
    """Whatever started the tests (nohup, a shell's &) may have them ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def saving(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(engine, "SAVE_SECONDS", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """The run that nothing happened to."""
    return engine.train(config(), out=tmp_path_factory.mktemp("whole"))


# ------------------------------------------------------------------------------------------------------- disks


class Faulty:
    """Calls that reach the disk, counted; number `at` fails as the system would say it."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int = -1, number: int = errno.ENOSPC):
        self.calls, self.at, self.number = 0, at, number
        for name in ("replace", "fsync", "truncate"):
            patch.setattr(os, name, self.faulty(getattr(os, name)))
        patch.setattr(torch, "save", self.faulty(torch.save))
        patch.setattr(paths, "open", self.faulty(open), raising=False)
        patch.setattr(runlog, "open", self.faulty(open), raising=False)
        patch.setattr(Path, "write_bytes", self.faulty(Path.write_bytes))
        patch.setattr(Path, "touch", self.faulty(Path.touch))
        patch.setattr(Path, "mkdir", self.faulty(Path.mkdir))

    def faulty(self, real):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls - 1 == self.at:
                raise OSError(self.number, os.strerror(self.number), str(args[0]) if args else "")
            return real(*args, **kwargs)

        return call


def test_a_fault_at_any_call_that_reaches_the_disk_loses_nothing(folder, saving, whole, record_property):
    """No space left, a folder that became read-only, a device that fails: at one call after the other. The error is
    one; what is left can be read; and the same command, the disk being well again, ends as if nothing had been."""
    with pytest.MonkeyPatch.context() as patch:
        counted = Faulty(patch)
        engine.train(config(), out=folder / "counted")
    every = 1 if os.environ.get("LAB4_LONG") == "1" else 5
    errors, tries = 0, range(0, counted.calls, every)
    for n in tries:
        number = (errno.ENOSPC, errno.EROFS, errno.EIO)[n % 3]
        out = folder / f"fault{n}"
        with pytest.MonkeyPatch.context() as patch:
            Faulty(patch, n, number)
            try:
                engine.train(config(), out=out)
            except Lab4Error as e:
                errors += 1
                assert os.strerror(number) in str(e) and str(out) in str(e), e
        for run in map(Run, (p.parent for p in out.glob("run-*/config.json"))):
            for state in ("last.pt", "previous.pt", "best.pt"):
                assert not (run.dir / state).exists() or checkpoint.load(run.dir / state)
            assert not [p for p in run.dir.iterdir() if p.name.startswith(".")], "nothing half-written"
        same(engine.train(config(), out=out), whole)
    print(f"{len(tries)} faults of {counted.calls} places, {errors} of them an error")
    record_property("faults injected", len(tries))
    assert errors > len(tries) / 2


def limited(values, out):
    """A child whose files may not grow beyond 100 kB: torch's own writer meets the end of the room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    train(values, out)


def test_room_that_ends_in_the_midst_of_a_checkpoint(folder, whole):
    process = CONTEXT.Process(target=limited, args=(VALUES, str(folder / "full")))
    process.start()
    process.join(300)
    run = the_run(folder / "full")
    assert process.exitcode == 1 and f"Lab4Error: cannot write {run.dir}" in said(folder / "full")
    assert not list(run.dir.glob("*.pt")) and not [p for p in run.dir.iterdir() if p.name.startswith(".")]
    same(engine.train(config(), out=folder / "full"), whole)


def test_the_log_that_is_full_says_so(tmp_path):
    log = runlog.MetricsFile(tmp_path / "metrics.jsonl")
    log._file = open("/dev/full", "ab")  # noqa: SIM115 - a device that never has room
    with pytest.raises(Lab4Error, match="cannot write /dev/full: No space left on device"):
        log.append({"kind": "step", "loss": 1.0})
    log.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Lab4Error, match=r"cannot write .*Permission denied; expected a folder that can be written to"):
        engine.train(config(), out=tmp_path)
    tmp_path.chmod(0o700)


def test_half_a_line_and_a_log_that_is_too_short(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "n": 1}\n{"kind": "st')
    log = runlog.MetricsFile(path, size=100)
    log.append({"kind": "step", "n": 2, "psnr": float("nan")})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"kind": "step", "n": 1}, {"kind": "step", "n": 2, "psnr": None}]  # fmt: skip
    assert "lacks its last" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ kernels


def test_a_second_kernel_is_told_who_has_the_run_and_a_dead_one_holds_nothing(folder, saving, whole):
    process = CONTEXT.Process(target=train, args=({**VALUES, "steps": None, "minutes": 10.0}, str(folder / "held")))
    process.start()
    try:
        deadline = threading.Event()
        for _ in range(600):
            if list((folder / "held").glob("run-*/last.pt")):
                break
            deadline.wait(0.1)
        cfg = config(steps=None, minutes=10.0)
        with pytest.raises(Lab4Error, match=f"in use by process {process.pid} on {socket.gethostname()} since 20"):
            engine.train(cfg, out=folder / "held")
    finally:
        process.kill()
        process.join()
    with runlog.owning(the_run(folder / "held").dir):
        pass


STOP = """
import lab4_core as l4
from lab4_core.config import Config
run = l4.train(Config.from_dict({values}), out={out!r})
print(run.result["status"], run.result["reason"])
"""


def test_the_notebooks_stop_button(folder):
    """In a kernel: the cell ends with the partial run, the kernel lives, and what was trained is saved."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        values = {**VALUES, "steps": None, "minutes": 10.0}
        client.execute(STOP.format(values=values, out=str(folder)))
        for _ in range(1200):
            if list(folder.glob("run-*/metrics.jsonl")) and the_run(folder).metrics("step"):
                break
            assert manager.is_alive()
            threading.Event().wait(0.1)
        manager.interrupt_kernel()
        reply, printed = client.get_shell_msg(timeout=120), ""
        assert reply["content"]["status"] == "ok", reply["content"]
        while "partial" not in printed:
            try:
                message = client.get_iopub_msg(timeout=30)
            except queue.Empty:
                pytest.fail(f"the cell printed {printed!r}")
            printed += message["content"].get("text", "")
        assert "partial stopped after" in printed and manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    run = the_run(folder)
    assert f"stopped after {checkpoint.load(run.dir / 'last.pt')['step']} steps" == run.result["reason"]


# ------------------------------------------------------------------------------------------------------- signals


def interrupting(patch: pytest.MonkeyPatch, where: str, signals: list[int]) -> None:
    """Send the signals in the midst of a call that a training makes."""
    owner, name, which = {
        "a step": (engine.Learner, "step", 3), "a batch": (engine, "make_batch", 3),
        "an evaluation": (engine, "score_model", 1), "the last evaluation": (engine, "score_model", 2),
        "a checkpoint": (checkpoint, "save", 3), "a record": (runlog.MetricsFile, "append", 3),
    }[where]  # fmt: skip
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == which:
            for number in signals:
                os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "where", ["a step", "a batch", "an evaluation", "the last evaluation", "a checkpoint", "a record"]
)
def test_a_signal_in_the_midst_of(folder, whole, where, number):
    with pytest.MonkeyPatch.context() as patch:
        interrupting(patch, where, [number])
        run = engine.train(config(), out=folder)
    assert run.result["status"] == "partial"
    assert run.result["reason"] == f"stopped after {checkpoint.load(run.dir / 'last.pt')['step']} steps", "and saved"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL), "as it was before"
    same(engine.train(config(), out=folder), whole)


@pytest.mark.parametrize("where", ["a step", "a checkpoint"])
def test_a_second_ctrl_c_does_not_wait(folder, saving, whole, where):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupting(patch, where, [signal.SIGINT, signal.SIGINT])
        engine.train(config(), out=folder)
    same(engine.train(config(), out=folder), whole)


def test_a_signal_that_is_ignored_stays_ignored(folder):
    """nohup: the closed terminal is no reason to stop."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            interrupting(patch, "a step", [signal.SIGHUP])
            assert engine.train(config(), out=folder).finished
    finally:
        signal.signal(signal.SIGHUP, before)


# ------------------------------------------------------------------------------------------------------- memory


def test_memory_that_runs_out_names_what_to_lower(folder):
    """The real words of torch on the CPU, and its type on a GPU."""
    hungry = {
        "CPU": lambda *args, **kwargs: torch.empty(2**60),
        "GPU": lambda *args, **kwargs: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
    }
    for name, eat in hungry.items():
        for owner, place, lower in ((engine.Learner, "step", "batch_size = 2 or n_frames = 3"),
                                    (engine, "score_model", "eval_frames = 4")):  # fmt: skip
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Lab4Error, match=f"out of memory.*{lower}"):
                patch.setattr(owner, place, eat)
                engine.train(config(), out=folder / name)
    assert "out of memory" in the_run(folder / "CPU").result["reason"]
    assert engine.train(config(), out=folder / "CPU").finished
    with pytest.raises(Lab4Error, match=r"batch_size = 1000000000, n_frames = 3: a batch of .* GB, expected less"):
        engine.train(config(batch_size=10**9), out=folder)


# -------------------------------------------------------------------------------------------- not finite numbers


def poisoned(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Real NaNs in the frames of some batches: they reach the loss, the gradient and the running statistics."""
    real = engine.make_batch

    def make(cfg, clips, at, step, *rest):
        batch = real(cfg, clips, at, step, *rest)
        if step in steps:
            batch.frames.fill_(float("nan"))
        return batch

    patch.setattr(engine, "make_batch", make)


def test_an_epoch_of_which_every_step_is_skipped(folder):
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, {0, 1, 2})
        run = engine.train(config(skip_nonfinite=3), out=folder)
    assert run.finished and ["loss" in r for r in run.metrics("epoch")] == [False, True]


@pytest.mark.parametrize("model", MODELS)
def test_steps_that_are_not_finite_are_skipped_up_to_a_bound(folder, model):
    def cfg(skips):
        return Config.from_dict({**TINY, **MODELS[model], "steps": 10, "epochs": 2, "skip_nonfinite": skips})

    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, {3, 5, 6})
        says = r"not finite at step 4: loss = nan.*grad_norm = nan.*beta = .*windows at frames.*skip_nonfinite"
        with pytest.raises(Lab4Error, match=says):
            engine.train(cfg(0), out=folder)
        run = the_run(folder)
        assert run.result["status"] == "failed" and "not finite at step 4" in run.result["reason"]
        assert not list(run.dir.glob("last.pt")), "nothing good was saved yet"
        with pytest.raises(Lab4Error, match="not finite at step 7"):
            engine.train(cfg(2), out=folder)
        run = engine.train(cfg(3), out=folder)  # the same run: how many skips are allowed is not what it computes
    assert run.finished and run.result["skipped"] == 3 and run.result["steps"] == 10
    assert [r["step"] for r in run.metrics("skip")] == [4, 6, 7]
    state = checkpoint.load(run.dir / "last.pt")["learner"]
    assert all(torch.isfinite(v).all() for tree in (state["model"], *state["memory"]) for v in tree.values())
    assert all(isinstance(r["loss"], float) for r in run.metrics("epoch")), "a skipped step is in no mean"


def test_on_a_gpu_the_first_bad_step_is_named_though_it_is_looked_at_later():
    """There the loss is read back every few steps, and before anything is kept."""
    watch = FiniteWatch()
    for step, loss in enumerate([0.5, float("inf"), float("nan")], start=7):
        watch.add(step, {"loss": torch.tensor(loss), "grad_norm": torch.tensor(1.0)}, 0.25, [3, 9])
    with pytest.raises(
        Lab4Error, match=r"at step 8: loss = inf, grad_norm = 1, beta = 0.25, windows at frames \[3, 9\]"
    ):
        watch.check()
    watch.check()


def test_what_is_kept_is_looked_at_first(folder, monkeypatch):
    """As on a GPU: a NaN between two looks, and a checkpoint due before the next one."""
    monkeypatch.setattr(engine, "SAVE_SECONDS", 0)
    real = engine._Training.one_step

    def unseen(self, at):
        self.device = torch.device("meta")  # not the CPU, where every step is looked at
        try:
            real(self, at)
        finally:
            self.device = torch.device("cpu")

    monkeypatch.setattr(engine._Training, "one_step", unseen)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Lab4Error, match="not finite at step 4"):
        poisoned(patch, {3})
        engine.train(config(), out=folder)
    state = checkpoint.load(the_run(folder).dir / "last.pt")
    assert state["step"] == 3 and all(torch.isfinite(v).all() for v in state["learner"]["model"].values())


def test_an_evaluation_that_is_not_finite_is_no_best_one(folder, monkeypatch):
    real, calls = engine.score_model, []

    def scored(*args, **kwargs):
        score = real(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            score.psnr.fill(float("nan"))
        return score

    monkeypatch.setattr(engine, "score_model", scored)
    run = engine.train(config(), out=folder)
    assert run.finished and run.result["best_epoch"] == 1
    assert [r["psnr"] is None for r in run.metrics("eval")] == [True, False]
    assert kept(run)["scores"]


# ------------------------------------------------------------------------------------- what a finished run has lost


@pytest.mark.parametrize("gone", [["best.pt"], ["scores.npz"], ["best.pt", "last.pt"], ["last.pt", "previous.pt"]])
def test_a_finished_run_that_lost_a_file_gets_it_again(folder, whole, gone):
    run = Path(shutil.copytree(whole.dir, folder / whole.dir.name))
    for name in gone:
        (run / name).unlink()
    again = engine.train(config(), out=folder)
    assert again.dir == run and again.finished and again.whole and again.scores() is not None
    assert again.scores().mean > 0


def test_a_file_is_brought_to_the_disk_by_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows flushes no other."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (modes.append(fcntl.fcntl(f, fcntl.F_GETFL) & os.O_ACCMODE), fsync(f)))
    paths.write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text" and modes == [os.O_RDWR]
    with pytest.raises(Lab4Error, match=r"cannot write \.: expected the name of a file"):
        paths.write_text(".", "text")


def test_a_finished_run_is_loaded_from_a_folder_that_is_in_use(whole):
    """As from one that can only be read: nothing is written, so nothing is locked."""
    with runlog.owning(whole.dir):
        assert engine.train(config(), out=whole.dir.parent).result == whole.result


def test_a_run_follows_its_dataset_to_another_place(tmp_path):
    small = {"kind": "dancer", "clips": 1, "frames": 20, "test_clips": 1, "height": 16, "width": 32}
    write_lab4(registry.build("data", small).load(), tmp_path / "a")
    moved = {**VALUES, "data": {"kind": "lab4", "height": 16, "width": 32}}

    def at(name: str) -> Config:
        return Config.from_dict({**moved, "data": {**moved["data"], "root": str(tmp_path / name)}})

    first = engine.train(at("a"), out=tmp_path / "runs")
    (tmp_path / "a").rename(tmp_path / "b")
    again = engine.train(at("b"), out=tmp_path / "runs")
    assert again.dir == first.dir and again.config.data.root == str(tmp_path / "b")
    assert inference.evaluate(Run(first.dir), device="cpu").mean == pytest.approx(first.result["psnr"], abs=1e-3)
