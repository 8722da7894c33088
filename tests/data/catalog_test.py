"""Sizes of data sets that are not here."""

import numpy as np
import pytest

from effnets import data, errors
from effnets.data import catalog


# Slices are those of a Python range; sizes are the sheets'.
@pytest.mark.parametrize(
  ("name", "split", "count"),
  [
    ("imagenet2012", "train", 1_281_167),
    ("imagenet2012", "train[25022:]", 1_281_167 - 25_022),
    ("imagenet2012", "train[:25022]", 25_022),
    ("cifar10", "train[-5000:]", 5_000),
    ("cifar100", "train[10%:90%]", 40_000),
    ("oxford_flowers102", "train+validation", 2_040),
    ("svhn_cropped", "train+extra", 604_388),
    ("coco/2017", "validation", 5_000),
    ("cifar10", "unlabelled", None),
    ("my_own", "train", None),
  ],
)
def test_how_many_examples_a_split_has(name, split, count):
  assert catalog.count(name, split) == count


def test_a_stand_in_can_be_streamed():
  source = catalog.blank("imagenet2012", "train", key="config.data.source")
  assert len(source) == 1_281_167 and source.num_classes == 1_000
  stream = data.Stream(source, seed=0, transform=data.decode.CentreCrop(48, 0.875, "bicubic"))
  assert stream[3]["image"].shape == (48, 48, 3)
  soft = catalog.Blank("x", examples=5, classes=4, image_size=8, soft=True)
  np.testing.assert_allclose(soft[0]["probabilities"].sum(), 1.0)


def test_an_unknown_set_asks_for_its_size():
  with pytest.raises(errors.UserError, match="plan.examples=COUNT and --config.plan.classes"):
    catalog.blank("my_own", "train", key="config.data.source")
  assert len(catalog.blank("my_own", "train", examples=7, classes=2, key="k")) == 7
