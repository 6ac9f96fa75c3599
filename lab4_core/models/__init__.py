"""The models. Importing this package registers them; a new one is a new file and a line here."""

from lab4_core.models.base import ModelConfig, Unrolled, VideoPredictor, count_parameters
from lab4_core.models.compact import Compact, CompactCVAE
from lab4_core.models.lab import Lab, LabCVAE

__all__ = [
    "Compact", "CompactCVAE", "Lab", "LabCVAE", "ModelConfig", "Unrolled", "VideoPredictor", "count_parameters",
]  # fmt: skip
