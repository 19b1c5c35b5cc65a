"""What is profiled: a shape with random weights, or a backbone with its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from comem.profiling.prompts import FAMILIES
from comem.profiling.shapes import SHAPES, random_model
from comem.tables import UnknownNameError, nearest


@dataclass(frozen=True)
class Subject:
    """A model to be measured.

    Attributes:
        name: of the shape or the backbone.
        model: frozen; it never ends an answer early.
        process: its `ChatProcessor`; None for random weights.
    """

    name: str
    model: Any
    process: Any = None


def open_subject(name: str, device: torch.device, dtype: torch.dtype) -> Subject:
    """The model of that name: a row of `SHAPES` first, else a backbone of `BACKBONES` or a model folder.

    Raises:
        ValueError: the name is in no table, or the backbone is of another family.
    """
    if name in SHAPES:
        return Subject(name, random_model(SHAPES[name], device, dtype))
    from comem.backbones.hf import load_backbone

    try:
        backbone = load_backbone(name, dtype, device)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}; shapes with random weights: {', '.join(SHAPES)}") from error
    family = backbone.model.config.model_type
    if family not in FAMILIES:
        raise ValueError(f"{name}: model_type {family!r} is not profiled; {nearest(family, list(FAMILIES))}")
    backbone.model.generation_config.eos_token_id = None  # answers of one length
    return Subject(name, backbone.model, backbone.process)
