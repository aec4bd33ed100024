"""Declares the operators of torchvision that its import expects.

torchvision from the package index does not load with the CPU build of torch, because its compiled part is missing. deepinv
imports it and calls none of these operators.
"""

from __future__ import annotations

import sys

import torch

_DECLARED: list[torch.library.Library] = []


def declare() -> None:
    """Declare the operators, unless torchvision is loaded already."""
    if "torchvision" in sys.modules or _DECLARED:
        return
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _DECLARED.append(operators)  # they last as long as the object
