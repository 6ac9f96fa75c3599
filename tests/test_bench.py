"""The benchmark runs, compares like with like, and writes what it says. What it measures is not for a test."""

import json
import os
from pathlib import Path

import pytest
import table
import torch

from lab4_core import accel
from lab4_core.bench import sides, speed
from lab4_core.errors import Lab4Error


def test_quick_bench_writes_one_row_for_every_measurement(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LAB4_CACHE", str(tmp_path))
    found = speed.run_bench(tmp_path / "bench.json", quick=True, device="cpu")
    assert found == json.loads((tmp_path / "bench.json").read_text())
    names = [row["what"] for row in found["rows"]]
    used = speed.arithmetics(torch.device("cpu"))
    for what in (*(f"peak, conv 3x3, {str(dtype).removeprefix('torch.')}" for dtype in used.values()),
                 *(f"training step, free-running, 2 x 4 frames, {name}" for name in used),
                 *(f"training step, teacher-forced, 2 x 4 frames, {name}" for name in used),
                 *(f"rollout of 5 clips of 8 frames, {name}" for name in used),
                 "memory of a training step, free-running, detached, 2 x 4 frames, fp32 (MB)",
                 "peak memory of the process, free-running, detached, 2 x 4 frames, fp32 (MB)",
                 "data of a step, 2 x 4 frames", "import lab4_core", "lab4 --help"):  # fmt: skip
        assert names.count(what) == 1, what
    assert found["quick"] and found["device"] and found["torch"] and found["auto"] in ("float32", "bfloat16")
    said = capsys.readouterr().out
    for row in found["rows"]:
        assert row.get("seconds", row.get("megabytes")) > 0 and row["what"] in said
        if "ratio_range" in row:
            assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
    for auto in ("float32", "bfloat16"):
        table.put(table.README.read_text(), found | {"auto": auto})  # the README has the marks of both


@pytest.mark.parametrize("default, used", [(torch.float32, ["fp32"]), (torch.bfloat16, ["fp32", "auto"])])
def test_what_is_only_emulated_is_not_measured(default, used, monkeypatch):
    """bf16 products of 2048 x 2048 take a minute each on a processor without it."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(accel, "pick_precision", lambda name, on: default)
    assert list(speed.arithmetics(cpu)) == used and default in speed.arithmetics(cpu).values()


def test_the_table_takes_the_place_of_the_last_one():
    row = {"what": "a step", "seconds": 0.5, "reference_seconds": 1.0, "ratio": 2.0, "ratio_range": [1.9, 2.1],
           "gflops": 250.2}  # fmt: skip
    found = {
        "device": "d",
        "torch": "2",
        "auto": "float32",
        "quick": False,
        "rows": [row, {"what": "b", "seconds": 0.01}],
    }
    blocks = {auto: "{}\nold\n{}\n".format(*table.MARKS).format(auto=auto) for auto in ("bfloat16", "float32")}
    made = table.put("before\n" + "".join(blocks.values()) + "after\n", found)
    assert made.startswith("before\n" + blocks["bfloat16"]) and made.endswith("\nafter\n") and made.count("old") == 1
    assert "| a step | 0.500 s | 1.000 s | 2.00x | 1.90..2.10 | 250 |" in made
    assert "| b | 0.0100 s |  |  |  |  |" in made


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_the_operations_of_a_convolution_and_of_its_gradients(groups):
    conv, x = torch.nn.Conv2d(8, 16, 3, padding=1, groups=groups), torch.randn(2, 8, 5, 7, requires_grad=True)
    forward = 2 * (2 * 16 * 5 * 7) * (8 // groups * 3 * 3)
    assert speed.gflop_of(lambda: conv(x)) == pytest.approx(forward / 1e9)
    assert speed.gflop_of(lambda: conv(x).sum().backward()) == pytest.approx(3 * forward / 1e9)
    fixed = x.detach()  # no gradient of the input is asked for
    assert speed.gflop_of(lambda: conv(fixed).sum().backward()) == pytest.approx(2 * forward / 1e9)


def test_times_are_taken_by_turns():
    order = []
    row = speed.by_turns("x", lambda: order.append("ours"), lambda: order.append("theirs"), repeats=2)
    assert order == ["ours", "theirs"] * 3, "one warm-up each, then by turns"
    assert row["repeats"] == 2


def their_process(answers):
    """Made in the other process: says which one it is, then dies."""
    left = iter(range(answers))

    def call():
        if next(left, None) is None:
            os._exit(3)
        path = Path(os.environ["LAB4_CACHE"]) / "who"
        path.write_text(str(os.getpid()))

    return call


def test_the_plain_loop_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB4_CACHE", str(tmp_path))
    with sides.Apart(their_process, 2) as theirs:
        theirs()
        theirs()
        assert int((tmp_path / "who").read_text()) == theirs.process.pid != os.getpid()
        with pytest.raises(Lab4Error, match="the process of the plain loop has ended"):
            theirs()
    assert theirs.process.exitcode == 3


def test_both_sides_are_given_the_same():
    cfg = sides.config("fp32", torch.device("cpu"), quick=True)
    for a, b in zip(sides.inputs(cfg, 4), sides.inputs(cfg, 4)):
        assert torch.equal(a, b)
    assert sides.inputs(cfg, 4)[2].shape == (2, 3, 4, 32, 64)
    ours, theirs = sides.build_model(cfg, sides.SHAPES, "cpu"), sides.plain_model(cfg)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
