"""The mean of several runs' weights, as a run."""

import pytest
import torch

import lab4_core as l4
from lab4_core import checkpoint, cli
from lab4_core.config import Config
from lab4_core.errors import Lab4Error
from lab4_core.soups import soup

TINY = {
    "data": {"kind": "dancer", "clips": 1, "frames": 24, "test_clips": 1},
    "model": {"kind": "compact", "width": 8},
    "n_frames": 3,
    "windows": "random",
    "batch_size": 2,
    "steps": 3,
    "epochs": 1,
    "eval_frames": 8,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs from the same first weights, and one of a wider model."""
    out = tmp_path_factory.mktemp("soups")
    changes = ({}, {"optimizer.lr": 5e-3}, {"model.width": 16, "steps": 1})
    return [l4.train(Config.from_dict({**TINY, **c}), out=out) for c in changes]


def test_a_soup_is_the_mean_and_can_be_evaluated(runs, tmp_path, capsys):
    made = soup(runs[:2], tmp_path)
    a, b, mean = (checkpoint.load(r.dir / "best.pt")["weights"] for r in (*runs[:2], made))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    for name, value in mean.items():
        assert torch.allclose(value, (a[name] + b[name]) / 2, atol=1e-7), name
    assert made.result["status"] == "soup" and runs[1].dir.name in made.result["reason"]
    assert l4.evaluate(made).psnr.shape == (1, 7)
    assert cli.main(["soup", str(runs[0].dir), str(runs[1].dir), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(made.dir), "the same weights are the same run"


def test_what_cannot_be_averaged_is_one_clear_error(runs, tmp_path):
    with pytest.raises(Lab4Error, match="soup of 1 runs: expected 2 or more"):
        soup(runs[:1], tmp_path)
    with pytest.raises(Lab4Error, match=r"not of the model of .*of another shape"):
        soup([runs[0], runs[2]], tmp_path)
    assert not list(tmp_path.iterdir())
