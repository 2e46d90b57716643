"""Edges of a picture, as ControlNets learn them, and how well two pictures' edges agree."""

import numpy as np

from storyboard.compat.opencv import cv2

LOW, HIGH = (
    100,
    200,
)  # Canny's thresholds in the ControlNets' own training (https://arxiv.org/abs/2302.05543)


def edges(pixels: np.ndarray) -> np.ndarray:
    """Canny's edges: uint8 (h, w, 3) RGB -> uint8 (h, w), 255 on an edge and 0 elsewhere."""
    return cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)


def agreement(drawn: np.ndarray, reference: np.ndarray, tolerance: int) -> float:
    """F1 of two edge maps (h, w), 0 to 1: a pixel counts as found if the other map has an edge within ``tolerance`` pixels.

    The boundary score of https://doi.org/10.1109/TPAMI.2004.1273918, with a square neighbourhood instead of a one-to-one matching.
    """
    near = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    found = [
        float((a[0] > 0)[cv2.dilate(a[1], near) > 0].sum()) / max(int((a[0] > 0).sum()), 1)
        for a in ((drawn, reference), (reference, drawn))
    ]
    return 2 * found[0] * found[1] / max(sum(found), 1e-9)
