"""Spaces of augmentation policies and of NAS-Bench-201."""

import numpy as np
import pytest

from effnets import augment, errors
from effnets.search import spaces


def test_nb201():
  made = spaces.create("nb201")
  assert made.count_raw() == made.count_unique() == 15_625
  text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
  assert made.decode(made.encode(text)) == text
  with pytest.raises(errors.UserError, match="is no cell such as"):
    made.encode("|none~0|")
  with pytest.raises(errors.UserError, match="conv_7x7"):
    made.encode(text.replace("none", "conv_7x7"))


def test_policies():
  made = spaces.create("autoaugment")
  assert made.count_raw() == (16 * 10 * 11) ** 10
  policy = made.decode(made.sample(np.random.default_rng(0)))
  assert [len(sub) for sub in policy] == [2] * 5
  assert made.decode(made.encode(policy)) == policy
  made = spaces.create("randaugment")
  assert made.count_raw() == 20
  for tokens in made.points():
    augment.create({"randaugment": made.decode(tokens)})


def test_how_to_scale_a_spinenet():
  made = spaces.create("spinenet_scaling")
  assert made.count_raw() == 2 * 2 * 3 * 3 * 3 * 2 * 2
