"""The comparison of detections, whose rows may change places."""

from __future__ import annotations

import numpy as np

from tests.conformance.vision_models import _are_detections, _rows_apart

BOXES = np.array([[0, 0, 9, 9], [5, 5, 99, 50], [1, 2, 30, 40]], np.float32)
LABELS, SCORES = np.array([1, 2, 1]), np.array([0.9, 0.500001, 0.5], np.float32)


def test_rows_may_change_places() -> None:
    order = [0, 2, 1]
    assert not _rows_apart([BOXES[order], LABELS[order], SCORES[order]], [BOXES, LABELS, SCORES])
    assert not _rows_apart([BOXES[order], SCORES[order], LABELS[order]], [BOXES, SCORES, LABELS])


def test_rows_have_one_partner_each_and_the_same_label() -> None:
    twice = [0, 1, 1]
    assert _rows_apart([BOXES[twice], LABELS[twice], SCORES[twice]], [BOXES, LABELS, SCORES]) == 1
    other = LABELS.copy()
    other[1] = 3
    assert _rows_apart([BOXES, other, SCORES], [BOXES, LABELS, SCORES])
    assert _rows_apart([BOXES + 1, LABELS, SCORES], [BOXES, LABELS, SCORES])
    assert _rows_apart([BOXES[:2], LABELS[:2], SCORES[:2]], [BOXES, LABELS, SCORES])


def test_as_many_rows_may_differ_as_between_images_a_rounding_away() -> None:
    reference, other = [BOXES, LABELS, SCORES], [BOXES + [[0], [0], [9]], LABELS, SCORES]
    found = [BOXES + [[0], [9], [0]], LABELS, SCORES]
    assert not _are_detections(found, [reference, reference, reference])
    assert _are_detections(found, [reference, reference, other])
    assert not _are_detections([BOXES + 9, LABELS, SCORES], [reference, reference, other])
