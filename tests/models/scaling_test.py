"""Compound scaling against the sheet's figures."""

import pytest

from effnets import models
from effnets.models import scaling


def test_base_of_the_paper_is_on_the_grid():
  bases = scaling.grid()
  assert len(bases) == len(set(bases)) == 108
  assert scaling.EFFICIENTNET in bases
  assert all(1.9 < base.alpha * base.beta**2 * base.gamma**2 < 2.1 for base in bases)
  assert scaling.EFFICIENTNET.cost() == pytest.approx(1.920270)


def test_compound_follows_the_formula():
  assert scaling.compound(0.0) == {"depth": 1.0, "width": 1.0, "image_size": 224}
  twice = scaling.compound(2.0, image_size=32)
  assert twice == {
    "depth": pytest.approx(1.44),
    "width": pytest.approx(1.21),
    "image_size": 42,  # 32 * 1.3225
  }
  with pytest.raises(ValueError, match="at least 1"):
    scaling.compound(1.0, scaling.Base(alpha=0.9))


@pytest.mark.parametrize("name", ["mobilenetv1", "mobilenetv2", "resnet50"])
def test_resources_double_with_the_coefficient(name):
  base, scaled = (
    models.count(models.create(name, **scaling.compound(phi))).madds for phi in (0.0, 1.0)
  )
  # Repeats are rounded up (1.2 times 2 blocks are 3), so networks of few blocks grow faster.
  assert 0.95 < scaled / base / scaling.EFFICIENTNET.cost() < 1.5


@pytest.mark.parametrize(
  "name", models.list_models("mobilenetv[12]_*[a-z]*") + models.list_models("resnet50_*")
)
def test_table_3(name):
  entry = models.entry(name)
  assert entry.paper == "1905.11946" and entry.paper_top1 > 72
  # Printed to two digits, by a counter that is not ours; ResNet-50 is up to 13 % off.
  tolerance = 0.13 if name.startswith("resnet") else 0.05
  assert entry.madds == pytest.approx(entry.paper_madds, rel=tolerance)
