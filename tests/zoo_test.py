"""The zoo's command against the sheet's table."""

import json

import pytest

from effnets import models, zoo


def test_json_is_one_list_and_nothing_else(capsys):
  assert zoo.main(["efficientnet_b[01]", "--json"]) == 0
  b0, b1 = json.loads(capsys.readouterr().out)
  assert (b0["name"], b0["params"], b0["image_size"]) == ("efficientnet_b0", 5_288_548, 224)
  assert (b1["name"], b1["params"], b1["image_size"]) == ("efficientnet_b1", 7_794_184, 240)
  assert b0["madds"] == pytest.approx(385.8e6, rel=0.01)
  assert (b0["paper_params"], b0["paper_madds"], b0["paper"]) == (5.3e6, 0.39e9, "1905.11946")


def test_names_of_every_family():
  # Natural order, multipliers as suffix; every name a paper's reader would type.
  assert models.list_models("mixnet_*") == [
    f"mixnet_{size}" for size in ("l", "m", "s", "tiny", "xl", "xxl")
  ]
  for name in (
    "efficientnet_b0 efficientnet_l2 mnasnet_a1 mnasnet_b1 mnasnet_small mobilenetv1 mobilenetv2 "
    "mobilenetv3_large mobilenetv3_small mobilenetv3_large_minimal mobilenetv3_large_075 resnet50"
  ).split():
    assert models.entry(name).name == name


def test_the_table_shows_the_difference_from_the_paper(capsys):
  assert zoo.main(["efficientnet_b0"]) == 0
  out = capsys.readouterr().out
  assert "5,288,548" in out and "-0.2%" in out  # 5,288,548 / 5.3 M - 1


def test_a_pattern_that_fits_nothing(capsys):
  assert zoo.main(["efficientnet_bo"]) == 2
  assert "Nearest: 'efficientnet_b0'" in capsys.readouterr().err
