"""The benchmark runs, compares like with like, and writes what it says. What it measures is not for a test."""

import json

from lab4_core import bench


def test_quick_bench_writes_one_row_for_every_measurement(tmp_path, capsys):
    bench.run_bench(tmp_path / "bench.json", quick=True, device="cpu")
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["what"].split(",")[0]: row for row in found["rows"]}
    assert set(rows) == {"training step", "rollout of 5 clips of 8 frames", "import lab4_core", "lab4 --help"}
    assert found["quick"] and found["device"] and found["torch"]
    for row in found["rows"]:
        assert row["seconds"] > 0
        if "ratio" in row:
            assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
    assert "training step, teacher-forced" in capsys.readouterr().out


def test_times_are_taken_by_turns():
    order = []
    row = bench.by_turns("x", lambda: order.append("ours"), lambda: order.append("theirs"), repeats=2)
    assert order == ["ours", "theirs"] * 3, "one warm-up each, then by turns"
    assert row["repeats"] == 2
