"""ResNet-50, -101, -152 and -200, the baselines and the backbones of larger detectors.

The stride of a stage is in its first spatial convolution, which costs 4.1 G instead of the paper's
3.8 G multiply-adds for ResNet-50; every published weight set is of this form.
Source: He et al. 2016 (arXiv 1512.03385), table 1; -200: He et al. 2016 (arXiv 1603.05027), in the
same form.
"""

from effnets.models import families, stage_tables


def table(repeats: tuple[int, int, int, int]) -> stage_tables.Table:
  """Returns the stages with so many bottlenecks each."""
  rows = tuple(
    stage_tables.Row("bottleneck", 3, 2 if index else 1, 0.25, 256 << index, count, None, "relu")
    for index, count in enumerate(repeats)
  )
  return stage_tables.Table(64, rows, 0, "relu", stem_kernel=7, stem_pool=True)


# Not of a paper's sheet but of every reference implementation: symmetric padding, other norms.
SETTINGS = {"dropout_rate": 0.0, "padding": "SYMMETRIC", "momentum": 0.9, "epsilon": 1e-5}

R50, R101, R152 = table((3, 4, 6, 3)), table((3, 4, 23, 3)), table((3, 8, 36, 3))
R200 = table((3, 24, 36, 3))

for _name, _stages, _params, _madds, _printed in (
  ("resnet50", R50, 25_557_032, 4089.18e6, 3.8e9),
  ("resnet101", R101, 44_549_160, 7801.41e6, 7.6e9),
  ("resnet152", R152, 60_192_808, 11513.63e6, 11.3e9),
  ("resnet200", R200, 64_673_832, 15007.48e6, None),
):
  families.add(
    _name,
    _stages,
    params=_params,
    madds=_madds,
    paper="1512.03385",
    paper_madds=_printed,
    **SETTINGS,
  )

TINY = stage_tables.Table(
  16,
  tuple(
    stage_tables.Row("bottleneck", 3, 2 if index else 1, 0.25, 32 << index, 1, None, "relu")
    for index in range(4)
  ),
  0,
  "relu",
)
families.add("resnet_tiny", TINY, params=384_984, madds=7_907_328, image_size=64, **SETTINGS)
