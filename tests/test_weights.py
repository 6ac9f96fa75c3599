"""A trained run as one file and back: the same predictions, the same score, and one clear error for anything else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import lab4_core as l4
from lab4_core import cli, weights
from lab4_core.config import Config
from lab4_core.data.dancer import Dancer
from lab4_core.errors import Lab4Error

TINY = {"data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1}, "model": {"kind": "compact", "width": 8},
        "optimizer": "adamw", "batch_size": 2, "n_frames": 3, "steps": 4, "epochs": 1, "eval_frames": 6,
        "device": "cpu", "name": "tiny", "precision": "fp32"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return l4.train(Config.from_dict(TINY), out=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    return weights.export_weights(run, tmp_path_factory.mktemp("files") / "tiny.safetensors")


def test_there_and_back(run, file, tmp_path):
    back = l4.pretrained(file, out=tmp_path)
    clip = l4.load_data(run.config).test[0]
    ours, theirs = (l4.predict(r, clip.first, clip.cond, device="cpu") for r in (back, run))
    assert torch.equal(ours, theirs)
    assert back.config == run.config and back.result["psnr"] == run.result["psnr"]
    assert l4.evaluate(back, device="cpu").mean == pytest.approx(run.result["psnr"], abs=1e-4)
    assert l4.pretrained(file, out=tmp_path).dir == back.dir


def test_the_commands(run, file, tmp_path, capsys):
    assert cli.main(["export", str(run.dir), str(tmp_path / "x.safetensors")]) == 0
    assert cli.main(["import", str(tmp_path / "x.safetensors"), "--out", str(tmp_path)]) == 0
    folder = capsys.readouterr().out.splitlines()[-1]
    assert l4.load_run(folder).result["status"] == "imported"


def header_of(file) -> dict:
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        return json.loads(f.metadata()["lab4"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header, tensors: header.pop("config"), "no header of lab4"),
        (lambda header, tensors: header["config"].update(beta="much"), "beta"),
        (lambda header, tensors: header.update(shapes=[[3, 32, 64]]), "expected those of a frame"),
        (lambda header, tensors: header.update(shapes=[[3, 10**9, 64], [3, 32, 64]]), "expected those of a frame"),
        (lambda header, tensors: header["config"]["model"].update(width=4096), "of another model"),
        (lambda header, tensors: header["result"].update(psnr="high"), "psnr"),
        (lambda header, tensors: tensors.pop("scene"), "scene is missing"),
        (lambda header, tensors: tensors["scene"].fill_(float("nan")), "not finite"),
    ],
)
def test_what_is_no_such_file(file, tmp_path, change, said):
    header, tensors = header_of(file), load_file(file)
    change(header, tensors)
    save_file(tensors, tmp_path / "other.safetensors", {"lab4": json.dumps(header)})
    with pytest.raises(Lab4Error, match=said) as e:
        l4.pretrained(tmp_path / "other.safetensors", out=tmp_path / "runs")
    assert "other.safetensors" in str(e.value) or "beta" in str(e.value)
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_damaged_foreign_missing(file, tmp_path):
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"\xff" * 200):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(Lab4Error, match=r"x\.safetensors: not a whole safetensors file"):
            l4.pretrained(tmp_path / "x.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "y.safetensors")
    with pytest.raises(Lab4Error, match="no header of lab4"):
        l4.pretrained(tmp_path / "y.safetensors")
    with pytest.raises(Lab4Error, match="no such file"):
        l4.pretrained(tmp_path / "z.safetensors")


def test_only_safetensors_are_written(run, tmp_path):
    with pytest.raises(Lab4Error, match=r"expected a name that ends in \.safetensors"):
        weights.export_weights(run, tmp_path / "x.pt")


def test_the_shipped_model_draws_the_dancer(tmp_path):
    assert weights.SHIPPED.stat().st_size < 8e6
    shipped = l4.pretrained(out=tmp_path)
    score = l4.evaluate(shipped, data=Dancer().load(), frames=60, device="cpu")  # its clips, and fewer of them
    assert score.mean > score.baselines["repeat_first"]["psnr"].mean() + 5
    assert shipped.result["psnr"] > 30 and shipped.config.data.kind == "dancer"
