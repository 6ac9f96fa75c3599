"""Training strategies besides the loss and the schedules: one idea per file, each a part that hooks into training.

To add one, add a file here (`registry.kinds` finds it); the lines below only export names.
"""

from lab4_core.strategies.averaged_views import AveragedViews
from lab4_core.strategies.base import Strategy, correction
from lab4_core.strategies.crop import Crop
from lab4_core.strategies.distant_start import DistantStart
from lab4_core.strategies.hidden_noise import HiddenNoise
from lab4_core.strategies.histogram import HistogramSpecification, match_histogram
from lab4_core.strategies.input_noise import InputNoise
from lab4_core.strategies.moved_person import MovedPerson
from lab4_core.strategies.warm_start import WarmStart
from lab4_core.strategies.weight_averages import EMA, SWA
from lab4_core.strategies.weight_interpolation import CosineInterpolation

__all__ = [
    "EMA", "SWA", "AveragedViews", "CosineInterpolation", "Crop", "DistantStart", "HiddenNoise",
    "HistogramSpecification", "InputNoise", "MovedPerson", "Strategy", "WarmStart", "correction", "match_histogram",
]  # fmt: skip
