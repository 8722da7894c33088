"""Detections and classes of pixels, drawn."""

import numpy as np

from effnets.commands import marked


def test_boxes_are_where_they_should_be_and_weak_ones_are_not_drawn():
  picture = np.zeros((60, 80, 3), np.uint8)
  boxes = np.array([[20.0, 10, 50, 40], [5, 50, 15, 60], [0, 0, 60, 80]])
  scores, classes = np.array([0.9, 0.2, 0.9]), np.array([1, 2, -1])
  found = marked.draw(picture, boxes, scores, classes, names=("a", "b", "c"), least=0.3)
  assert found[20:50, 10].any(-1).all() and found[49, 10:40].any(-1).all()
  assert not found[25:45, 15:35].any()  # inside nothing is painted
  assert not found[5:15, 50:60].any() and not found[55:, 45:].any()
  assert not picture.any()


def test_classes_colour_their_pixels_and_the_first_none():
  picture = np.full((2, 2, 3), 100, np.uint8)
  found = marked.overlay(picture, np.array([[0, 1], [2, 1]], np.uint8))
  np.testing.assert_array_equal(found[0, 0], picture[0, 0])
  assert (found[0, 1] == found[1, 1]).all() and (found[0, 1] != found[1, 0]).any()


def test_masks_cover_their_part_of_a_box():
  picture = np.zeros((60, 80, 3), np.uint8)
  masks = np.zeros((2, 10, 10), np.uint8)
  masks[:, :, 5:] = 255
  boxes = np.array([[20.0, 10, 50, 40], [0, 50, 20, 70]])
  scores, classes = np.array([0.9, 0.2]), np.array([1, 2])
  found = marked.draw(
    picture, boxes, scores, classes, names=("a", "b", "c"), least=0.3, masks=masks
  )
  assert found[22:48, 26:38].any(-1).all() and not found[35:48, 12:24].any()
  assert not found[2:18, 52:68].any() and not picture.any()
