"""`lab4 sweep`: many runs, one at every point of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab4_core.cli import options
from lab4_core.cli.options import File, Text
from lab4_core.cli.recipe import Common, note
from lab4_core.config import layer
from lab4_core.errors import Lab4Error
from lab4_core.presets import load_config, source


@dataclass(kw_only=True)
class Sweep(Common):
    """Run a grid of configurations, each as notebook 06 in a process of its own; started again, it runs only what
    is missing. A failed point is a row with its reason. The path of the table is printed last."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """processes here, Ray tasks, or Slurm jobs (through submitit)"""
    slots: int = 0
    """points run at once, each with its share of the cores; 0: one per core"""
    file: File = None
    """YAML with a grid (a mapping of keys to lists of values), a list of points, or a claim; --set crosses it"""
    gpus: int = 0
    """GPUs that each point has to itself; 0 reserves none"""
    address: Text = None
    """ray: address of a cluster; without it one is started here"""
    cluster: Text = None
    """slurm: "local" runs submitit's stand-in for a cluster on this machine"""
    partition: Text = None
    """slurm: partition of the jobs"""
    timeout_min: int = 0
    """minutes after which a point is stopped and counts as failed; 0: 4 hours on Slurm, a day elsewhere"""
    show: bool = False
    """draw curves and moving pictures into the notebook of every point, which takes longer"""

    def points(self) -> list[dict[str, Any]]:
        from lab4_core.sweeps.claims import points_of
        from lab4_core.sweeps.sweep import expand

        axes = {key: options.parse_axis(value) for key, value in options.parse_sets(self.sets).items()}
        points = points_of(self.file) if self.file else [{}]
        return [point for a in points for b in expand(axes) if (point := {**a, **b})]

    def main(self) -> int:
        from lab4_core.paths import runs_dir
        from lab4_core.sweeps.sweep import run_sweep

        points, own = self.points(), self.own()
        recipe = self.recipe({**own, **(points[0] if points else {})})
        named = any({"data", "data.kind"} & point.keys() for point in points)  # then no variable names the folder
        data = options.dataset_root(self.data, "" if named else source(recipe["preset"], own)[0])
        check_points(points, own, recipe, data)
        common = {**recipe, "data": data or "", **{k: own.pop(k) for k in ("seed", "minutes") if k in own}}
        out = Path(self.out or runs_dir() / "sweep")
        engine = {k: getattr(self, k) for k in ("address", "cluster", "partition", "timeout_min", "gpus")}
        rows = run_sweep(
            points, out, {**common, "overrides": own}, self.engine, self.slots, options=engine, show=self.show
        )
        failed = sum(row["status"] != "finished" for row in rows)
        if failed:
            note(f"{failed} of {len(rows)} points did not finish; the same command runs these again")
        print(out / "sweep.csv")
        return 1 if failed else 0


def check_points(
    points: Sequence[Mapping[str, Any]], own: Mapping[str, Any], recipe: Mapping[str, str], data: str | None
) -> None:
    """If no point of a sweep can run, the command is wrong: raise the first point's error at once."""
    error = None
    for point in points:
        overrides = layer(own, {k: v for k, v in point.items() if k not in recipe})
        try:
            load_config(**{k: point.get(k, v) for k, v in recipe.items()}, data=data, overrides=overrides)
            return
        except Lab4Error as e:
            error = error or e
    if error:
        raise error
