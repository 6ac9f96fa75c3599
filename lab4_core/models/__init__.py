"""The models. To add one, add a file here (`registry.kinds` finds it); the lines below only export names."""

from lab4_core.models.base import ModelConfig, Unrolled, VideoPredictor, count_parameters
from lab4_core.models.compact import Compact, CompactCVAE
from lab4_core.models.lab import Lab, LabCVAE
from lab4_core.models.svg import SVG, Svg
from lab4_core.models.tiny import Tiny, TinyCVAE

__all__ = [
    "SVG", "Compact", "CompactCVAE", "Lab", "LabCVAE", "ModelConfig", "Svg", "Tiny", "TinyCVAE", "Unrolled",
    "VideoPredictor", "count_parameters",
]  # fmt: skip
