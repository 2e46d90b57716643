"""Edges of a picture, as ControlNets learn them, and how well two pictures' edges agree."""

import numpy as np

from storyboard.compat.opencv import cv2

# Canny's thresholds in the ControlNets' own training (https://arxiv.org/abs/2302.05543)
LOW, HIGH = 100, 200


def edges(pixels: np.ndarray) -> np.ndarray:
    """Canny's edges: uint8 (h, w, 3) RGB -> uint8 (h, w), 255 on an edge and 0 elsewhere."""
    return cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH)


def agreement(drawn: np.ndarray, reference: np.ndarray, tolerance: int) -> float:
    """F1 of two edge maps (h, w), 0 to 1.

    A pixel counts as met if the other map has an edge within ``tolerance`` pixels. The boundary
    score of https://doi.org/10.1109/TPAMI.2004.1273918, with a square neighbourhood instead of a
    one-to-one matching.
    """
    precision = _share_met(drawn, reference, tolerance)
    recall = _share_met(reference, drawn, tolerance)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _share_met(edge_map: np.ndarray, other: np.ndarray, tolerance: int) -> float:
    """The share of the edges of ``edge_map`` that are within ``tolerance`` of one of ``other``."""
    neighbourhood = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    near_other = cv2.dilate(other, neighbourhood) > 0
    is_edge = edge_map > 0
    return float(is_edge[near_other].sum()) / max(int(is_edge.sum()), 1)
