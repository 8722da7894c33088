"""Compound scaling: depth, width and resolution together, for the stage table of any family.

Every model takes `width`, `depth` and `image_size`; `compound` computes them from one coefficient,
`grid` lists the candidates among which its base is to be searched. Registered here are the scaled
MobileNetV1, MobileNetV2 and ResNet-50 of the paper's table 3, one dimension at a time and all three
together. The table gives the three factors for MobileNetV1 alone; they are used for all.
Source: Tan and Le 2019 (arXiv 1905.11946), section 3.3 and table 3.
"""

import dataclasses
import itertools
import math
from typing import Any

from effnets.models import families, mobilenet, resnet, stage_tables


@dataclasses.dataclass(frozen=True)
class Base:
  """Growth per step of the compound coefficient. alpha: depth, beta: width, gamma: resolution."""

  alpha: float = 1.2
  beta: float = 1.1
  gamma: float = 1.15

  def cost(self) -> float:
    """Returns the growth of multiply-adds, alpha * beta**2 * gamma**2.

    >>> round(Base().cost(), 6)
    1.92027
    """
    return self.alpha * self.beta**2 * self.gamma**2


EFFICIENTNET = Base()


def compound(
  phi: float, base: Base = EFFICIENTNET, *, image_size: int = 224
) -> dict[str, float | int]:
  """Returns `depth`, `width` and `image_size` (pixels) for `models.create`.

  Args: phi: the coefficient; resources grow about 2**phi times. image_size: at phi 0.
  Raises: ValueError for factors below 1 or a negative phi.

  >>> compound(1.0)
  {'depth': 1.2, 'width': 1.1, 'image_size': 258}
  """
  if min(dataclasses.astuple(base)) < 1 or phi < 0:
    raise ValueError(f"{base} and phi={phi}: factors must be at least 1 and phi at least 0.")
  return {
    "depth": base.alpha**phi,
    "width": base.beta**phi,
    "image_size": round(image_size * base.gamma**phi),
  }


def grid(*, step: float = 0.05, highest: float = 2.0, tolerance: float = 0.1) -> tuple[Base, ...]:
  """Returns the bases on a grid from 1 to `highest` whose cost is 2, less than `tolerance` off.

  The paper searches such a grid on the baseline but does not print it; this one is our own.

  >>> len(grid()), EFFICIENTNET in grid()
  (108, True)
  """
  count = math.floor((highest - 1) / step + 1e-9)
  values = [round(1 + index * step, 9) for index in range(count + 1)]
  bases = (Base(*factors) for factors in itertools.product(values, repeat=3))
  return tuple(base for base in bases if abs(base.cost() - 2) < tolerance - 1e-9)


@dataclasses.dataclass(frozen=True)
class Scaled:
  """One line of the paper's table 3, with exact counts and the figures printed there."""

  name: str
  factors: dict[str, Any]
  params: int
  madds: float
  paper_madds: float
  paper_top1: float


_WIDTH, _DEPTH, _SIZE = {"width": 2.0}, {"depth": 4.0}, {"image_size": 448}
# 1.3 times 224 is 291; 288, the nearest multiple of 32, is nearer to the printed multiply-adds.
_COMPOUND = {"depth": 1.4, "width": 1.2, "image_size": 288}

# The depths and widths printed for ResNet-50 look exchanged: counted, depth 4 is the 14.6 G one.
V1 = (
  Scaled("width2", _WIDTH, 14_742_120, 2216.47e6, 2.2e9, 74.2),
  Scaled("resolution2", _SIZE, 4_231_976, 2271.89e6, 2.2e9, 72.7),
  Scaled("compound", _COMPOUND, 8_677_512, 2242.96e6, 2.3e9, 75.6),
)
V2 = (
  Scaled("depth4", _DEPTH, 12_051_800, 1219.59e6, 1.2e9, 76.8),
  Scaled("width2", _WIDTH, 11_258_088, 1137.43e6, 1.1e9, 76.4),
  Scaled("resolution2", _SIZE, 3_504_872, 1199.26e6, 1.2e9, 74.8),
  Scaled("compound", _COMPOUND, 7_987_552, 1284.43e6, 1.3e9, 77.4),
)
R50 = (
  Scaled("depth4", _DEPTH, 89_824_040, 14570.75e6, 16.2e9, 78.1),
  Scaled("width2", _WIDTH, 98_004_072, 16116.61e6, 14.7e9, 77.7),
  Scaled("resolution2", _SIZE, 25_557_032, 16350.59e6, 16.4e9, 77.5),
  Scaled("compound", _COMPOUND, 55_459_528, 14611.04e6, 16.7e9, 78.8),
)


def _add(name: str, table: stage_tables.Table, scaled: tuple[Scaled, ...], **known: Any) -> None:
  for member in scaled:
    own = dataclasses.asdict(member)
    factors = own.pop("factors")
    own["name"] = f"{name}_{own['name']}"
    families.add(table=table, paper="1905.11946", **own, **factors, **known)


_add("mobilenetv1", mobilenet.V1, V1, dropout_rate=1e-3, interpolation="bilinear")
_add("mobilenetv2", mobilenet.V2, V2, interpolation="bilinear")
_add("resnet50", resnet.R50, R50, **resnet.SETTINGS)
