"""`lab4 claims`: the reports' claims, measured and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lab4_core.cli import options
from lab4_core.cli.options import Folder
from lab4_core.errors import Lab4Error


@dataclass(kw_only=True)
class Claims:
    """Judge the reports' claims by what was measured: the effect in dB, its 95 % interval over paired seeds, and a
    verdict. With --run, missing points are measured first."""

    files: Positional[tuple[str, ...]] = ()
    """claims as YAML files; default: all in notebooks/sweeps"""
    run: bool = False
    """run what is missing, as one sweep; if stopped, the same command continues it"""
    out: Folder = None
    """folder of that sweep, whose measurements are copied into results/ beside the claims.
    Default: with --run $LAB4_RUNS/claims-dancer (or claims-lab4); without it none, and nothing is copied"""
    data: Folder = None
    """dataset in the LAB4 layout; default: $LAB4_DATA, else the synthetic dancer"""
    engine: Literal["local", "ray", "slurm"] = "local"
    """as for lab4 sweep"""
    slots: int = 0
    """points run at once; 0: one per core"""
    markdown: bool = False
    """print the claims as the table in the README"""

    def main(self) -> None:
        from lab4_core.paths import runs_dir
        from lab4_core.runlog import read_json
        from lab4_core.sweeps import claims, findings
        from lab4_core.sweeps.sweep import run_sweep

        chosen = [(claims.read_claim(f), Path(f).parent) for f in self.files]
        chosen = chosen or [(claim, claims.FOLDER) for claim in claims.all_claims()]
        root = options.dataset_root(self.data)
        data = "lab4" if root else "dancer"
        out = Path(self.out or runs_dir() / f"claims-{data}")
        if self.out and not self.run:
            if not (out / "sweep.csv").is_file():
                raise Lab4Error(
                    f"claims --out {out}: no sweep.csv in it; expected the folder of a sweep, or --run beside it"
                )
            if (asked := out / "sweep.json").is_file():  # which data the results are of
                data = "lab4" if (read_json(asked).get("common") or {}).get("data") else "dancer"
        if self.run:
            points = claims.points_of_all([claim.on(data) for claim, _ in chosen])
            run_sweep(points, out, {"data": root or ""}, self.engine, self.slots)
        if self.run or self.out:
            rows = findings.read_table(out / "sweep.csv")
            for claim, folder in chosen:
                findings.write_results(claim, rows, folder, data)
        if self.markdown:
            from lab4_core.plots.results import Table

            rows = [row for claim, folder in chosen for row in findings.finding_rows([claim], folder)]
            print(Table(rows, findings.FINDINGS).to_markdown(), end="")
            return
        for claim, folder in chosen:
            for name, rows in findings.by_dataset(claim, folder).items():
                print(f"{claim.name}, {name}: {claims.overall(rows)} ({claim.claim}; {claim.source})")
                for row in rows:
                    print("   ", claims.sentence(row))
