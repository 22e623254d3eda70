"""The comparison of detections, whose rows may change places."""

from __future__ import annotations

import numpy as np

from tests.conformance.vision_models import _same_detections

BOXES = np.array([[0, 0, 9, 9], [5, 5, 99, 50], [1, 2, 30, 40]], np.float32)
LABELS, SCORES = np.array([1, 2, 1]), np.array([0.9, 0.500001, 0.5], np.float32)


def test_rows_may_change_places() -> None:
    order = [0, 2, 1]
    assert _same_detections([BOXES[order], LABELS[order], SCORES[order]], [BOXES, LABELS, SCORES])
    assert _same_detections([BOXES[order], SCORES[order], LABELS[order]], [BOXES, SCORES, LABELS])


def test_rows_have_one_partner_each_and_the_same_label() -> None:
    twice = [0, 1, 1]
    assert not _same_detections([BOXES[twice], LABELS[twice], SCORES[twice]], [BOXES, LABELS, SCORES])
    other = LABELS.copy()
    other[1] = 3
    assert not _same_detections([BOXES, other, SCORES], [BOXES, LABELS, SCORES])
    assert not _same_detections([BOXES + 1, LABELS, SCORES], [BOXES, LABELS, SCORES])
    assert not _same_detections([BOXES[:2], LABELS[:2], SCORES[:2]], [BOXES, LABELS, SCORES])
