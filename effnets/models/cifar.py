"""Wide-ResNet-28, Shake-Shake 26 and PyramidNet-272 with ShakeDrop, for pictures of 32 pixels.

They are the networks of the AutoAugment and RandAugment papers on CIFAR and SVHN, as the official
code of the former has them, which differs from the networks' own papers in its shortcuts.

Source: Cubuk et al. 2018 (arXiv 1805.09501), official code; Cubuk et al. 2019 (arXiv 1909.13719).
"""

from effnets.models import families, stage_tables


def wide_resnet(factor: int) -> stage_tables.Table:
  """Returns Wide-ResNet-28 with `factor` times 16 channels: 12 blocks of two convolutions.

  Beside the blocks' own shortcuts every stage has one, and all of them together.
  """
  rows = tuple(
    stage_tables.Row(
      *("preactivated", 3, 2 if index else 1, 1, 16 * factor << index, 4),
      activation="relu",
      activated_skip=index == 0,
    )
    for index in range(3)
  )
  return stage_tables.Table(
    16, rows, 0, "relu", stem_stride=1, stem_end="", tail="norm activation", outer_skips=True
  )


def shake_shake(width: int) -> stage_tables.Table:
  """Returns Shake-Shake 26 2x`width`d: 12 blocks of two branches, the first `width` wide."""
  rows = tuple(
    stage_tables.Row("shake", 3, 2 if index else 1, 1, width << index, 4, activation="relu")
    for index in range(3)
  )
  return stage_tables.Table(16, rows, 0, "relu", stem_stride=1, stem_end="norm", tail="activation")


def pyramidnet(depth: int, alpha: int) -> stage_tables.Table:
  """Returns a PyramidNet of bottlenecks, whose inner channels grow from 16 by `alpha` in all.

  Args: depth: layers, 9 a block and 2 more.
  """
  each, step = (depth - 2) // 9, alpha / 3
  rows = tuple(
    stage_tables.Row(
      *("pyramid", 3, 2 if index else 1, 1 / 4, 4 * round(16 + step * (index + 1)), each),
      activation="relu",
      grown=(16 + step * index, 16 + step * (index + 1)),
    )
    for index in range(3)
  )
  return stage_tables.Table(
    16, rows, 0, "relu", stem_stride=1, stem_end="norm", tail="norm activation"
  )


SETTINGS = {
  "image_size": 32,
  "crop_padding": 0,
  "dropout_rate": 0.0,
  "momentum": 0.9,
  "epsilon": 1e-5,
}

# With 1,000 classes; the papers' ten have 990 rows of the classifier less.
for _name, _table, _params, _madds, _known in (
  ("wide_resnet_28_2", wide_resnet(2), 1_584_568, 212.91e6, {"paper": "1605.07146"}),
  ("wide_resnet_28_10", wide_resnet(10), 36_855_224, 5215.13e6, {"paper": "1605.07146"}),
  ("shake_shake_26_2x32d", shake_shake(32), 3_050_872, 426.82e6, {"paper": "1705.07485"}),
  ("shake_shake_26_2x96d", shake_shake(96), 26_574_072, 3777.27e6, {"paper": "1705.07485"}),
  ("shake_shake_26_2x112d", shake_shake(112), 36_084_952, 5135.24e6, {"paper": "1705.07485"}),
  (
    "pyramidnet_272",
    pyramidnet(272, 200),
    27_067_192,
    4489.63e6,
    {"paper": "1610.02915", "drop_path_rate": 0.5},
  ),
):
  families.add(_name, _table, params=_params, madds=_madds, **_known, **SETTINGS)
