"""The estimate against sums done by hand from the sheet's multiply-adds."""

import pytest

from effnets import configuration, models
from effnets.pipelines import scale, stages

B0 = 385.8e6  # multiply-adds of efficientnet_b0 at 224 pixels with 1,000 classes, to 0.1 M


def by_name(config, **assumed):
  found = scale.costs(config, scale.Assumptions(**{"unlabelled": 10_000_000, **assumed}))
  return {cost.name: cost for cost in found}


def test_one_student_by_hand():
  config = configuration.load("configs/noisy_student.py:b0,unlabelled=pictures:/data")
  rows = by_name(config, labelled=1_000_000, entries=6_000_000, distinct=4_000_000, peak=1e14)
  assert list(rows) == [
    *("teacher", "filter", "choice by filter", "labels of student_1 by teacher", "student_1")
  ]
  # 350 epochs of a million pictures; three passes of two operations each at 0.3 of 1e14.
  assert rows["teacher"].pictures == 350e6
  assert rows["teacher"].hours == pytest.approx(350e6 * 3 * 2 * B0 / 0.3e14 / 3600, rel=2e-4)
  # 700 epochs, and as many pseudo-labelled pictures again.
  assert rows["student_1"].pictures == 1400e6
  assert rows["student_1"].hours == pytest.approx(4 * rows["teacher"].hours)
  choice = rows["choice by filter"]
  assert choice.hours == pytest.approx(1e7 * 2 * B0 / 0.4e14 / 3600, rel=2e-4)
  assert choice.stored == 8e7  # four bytes of class, four of confidence
  labels = rows["labels of student_1 by teacher"]
  assert labels.pictures == 4e6  # what was chosen, once each
  # 1,000 float16, four bytes of class, eight that name the picture.
  assert labels.stored == 6e6 * 2012
  wanted = by_name(config)["labels of student_1 by teacher"]
  assert wanted.stored == 130_000 * 1000 * 2012 and wanted.pictures == 1e7  # of 10 M, no more


def test_a_teacher_that_is_given_costs_no_training():
  config = configuration.load("configs/noisy_student.py:b0,teacher=l2,unlabelled=pictures:/data")
  assert (config.pipeline.given, config.pipeline.teacher.weights) == (
    *("teacher", "tf_efficientnet_l2.ns_jft_in1k_475"),
  )
  found = stages.configs(config)["teacher"]
  assert (found.model.name, found.data.image_size) == ("efficientnet_l2", 475)
  config.pipeline.teacher.weights = "tf_efficientnet_b0.ns_jft_in1k"
  rows = by_name(config)
  assert "teacher" not in rows and "labels of student_1 by teacher" in rows


def test_several_rounds_on_digits():
  config = configuration.load("configs/noisy_student.py")
  for name, value in (("more_teachers.twin.seed", "5"), ("labels.flip", "True")):
    configuration.override(config, f"pipeline.{name}", value)
  rows = by_name(config, unlabelled=1100, labelled=100, classes=10)
  assert list(rows) == [
    *("teacher", "twin", "labels of student_1 by teacher", "labels of student_1 by twin"),
    *("student_1", "labels of student_2 by student_1", "student_2"),
  ]
  assert rows["teacher"].pictures == 400 * 64 and rows["student_2"].pictures == 400 * (32 + 96)
  madds = models.count(models.create("efficientnet_tiny", num_classes=10), 32).madds
  assert rows["twin"].madds == madds
  assert rows["labels of student_2 by student_1"].madds == 2 * madds
  assert rows["labels of student_2 by student_1"].pictures == 1100
  config.pipeline.labels.by = "all"
  assert "labels of student_2 by teacher" in by_name(config, unlabelled=1100, classes=10)


def test_the_table_and_what_a_reported_time_means():
  config = configuration.load("configs/noisy_student.py")
  assumed = scale.Assumptions(unlabelled=2_000_000, labelled=100, classes=10, picture_bytes=1000)
  rows = scale.table(config, assumed)
  assert all(len(row) == 6 for row in rows)
  assert rows[-2] == ["the unlabelled pictures", "", "2.0 M", "", "", "2.0 GB"]
  assert rows[1][1] == "efficientnet_tiny, 32" and rows[-1][0] == "all"
  # 1e18 multiply-adds are 2e18 operations: on two chips of 1e14 in a day 11.6 % of what they can.
  share = scale.used(scale.Assumptions(1, peak=1e14), 1e18, chips=2, days=1.0)
  assert share == pytest.approx(2e18 / (2 * 1e14 * 86400))
