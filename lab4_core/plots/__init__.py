"""Figures and tables of runs, ready for a page: `show(plot_training(runs), alt="…", caption="…")`.

The plot functions take run records (`Run`: name, config, metrics(kind), result), scores, schedules or tables, and
return a matplotlib `Figure` that belongs to no window. `show` adds its alt text and caption.
"""

from lab4_core.plots.comparisons import plot_effects, plot_quality, plot_sweep
from lab4_core.plots.psnr import band, dips, plot_dips, plot_psnr_per_frame
from lab4_core.plots.results import results_table
from lab4_core.plots.style import Picture, show
from lab4_core.plots.training import (
    plot_kld_vs_psnr,
    plot_schedule,
    plot_teacher_forcing,
    plot_training,
    plot_validation,
)

__all__ = [
    "Picture",
    "band",
    "dips",
    "plot_dips",
    "plot_effects",
    "plot_kld_vs_psnr",
    "plot_psnr_per_frame",
    "plot_quality",
    "plot_schedule",
    "plot_sweep",
    "plot_teacher_forcing",
    "plot_training",
    "plot_validation",
    "results_table",
    "show",
]
