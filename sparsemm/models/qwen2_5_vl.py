"""Qwen2.5-VL: Qwen2-VL's prompts, images and positions; another vision tower (windowed attention)."""

from dataclasses import dataclass
from typing import ClassVar

from sparsemm.models.qwen2_vl import Qwen2VL


@dataclass(frozen=True, kw_only=True)
class Qwen2_5_VL(Qwen2VL):
    """Qwen2.5-VL from a hub id or a local folder. Positions come from its own model."""

    model_type: ClassVar[str] = "qwen2_5_vl"
    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
