"""Noise and ranks of evaluators whose noise and ranks are known."""

import json

import numpy as np
import pytest

from effnets import configuration, errors
from effnets.search import proxies, spaces
from effnets.search.running import FailedError

SPACE = spaces.create("mnas_cell_tiny")


def _evaluator(deviation, slope=0.02):
  """Returns accuracies of mean .5 + slope * (sum of tokens), noise of a known deviation."""

  def evaluate(space, tokens, seed):
    rng = np.random.default_rng([seed, *tokens])
    return {"accuracy": 0.5 + slope * sum(tokens) + deviation * rng.standard_normal()}

  return evaluate


def test_networks_differ():
  found = proxies.networks(SPACE, 40, 0)
  assert len({SPACE.key(tokens) for tokens in found}) == 40
  assert found == proxies.networks(SPACE, 40, 0) != proxies.networks(SPACE, 40, 1)


def test_noise_is_what_was_put_in():
  chosen = proxies.networks(SPACE, 60, 0)
  found = proxies.noise(_evaluator(0.01), SPACE, chosen, range(20))
  assert found["deviation"] == pytest.approx(0.01, rel=0.1)
  between = 0.02**2 * np.var([sum(tokens) for tokens in chosen], ddof=1)
  assert found["share"] == pytest.approx(1e-4 / (1e-4 + between), rel=0.2)
  means = np.array([0.5 + 0.02 * sum(tokens) for tokens in chosen])
  assert found["variation"] == pytest.approx(np.mean(0.01 / means), rel=0.1)
  assert proxies.noise(_evaluator(0.01, 0.0), SPACE, chosen, range(20))["share"] > 0.95
  with pytest.raises(errors.UserError, match="at least 2"):
    proxies.noise(_evaluator(0.01), SPACE, chosen, [0])


def test_ranks_find_a_proxy_that_is_luck(tmp_path):
  chosen = proxies.networks(SPACE, 60, 0)
  evaluators = {25: _evaluator(1.0, 0.0), 100: _evaluator(0.0), 400: _evaluator(0.0, 0.04)}
  found = proxies.ranks(evaluators, SPACE, chosen, 0)
  assert abs(found["tau"]["25"]) < 0.25
  # Both rank by the sum of the tokens alone; networks that tie do so in both.
  assert found["tau"]["100"] == pytest.approx(1)
  line = proxies.write("ranks", found, tmp_path)
  assert line.startswith("60 networks: tau with 400 steps at 25: ")
  assert json.loads((tmp_path / "ranks.json").read_text()) == found
  assert (tmp_path / "ranks.png").stat().st_size > 1000


def test_children_that_fail_are_left_out():
  chosen = proxies.networks(SPACE, 6, 0)
  good = _evaluator(0.0)

  def sometimes(space, tokens, seed):
    if tokens in chosen[:2]:
      raise FailedError("not finite")
    return good(space, tokens, seed)

  assert len(proxies.noise(sometimes, SPACE, chosen, range(2))["networks"]) == 4
  with pytest.raises(errors.UserError, match="4 networks were trained; ranks takes at least 5"):
    proxies.ranks({1: good, 2: sometimes}, SPACE, chosen, 0)


@pytest.mark.slow
def test_the_curve_of_a_real_child(tmp_path):
  config = configuration.load("configs/search_mnasnet.py")
  config.data.image_size, config.batch_size = 16, 16
  config = proxies.at_length(config, 4)
  space = spaces.create("mnas_tiny")
  found = proxies.curves(config, space, [(0,) * len(space)], tmp_path, points=2)
  assert found["networks"][0]["steps"][-2:] == [2, 4]
  assert all(0 <= value <= 1 for value in found["networks"][0]["figure"])
  proxies.write("curves", found, tmp_path)
  assert (tmp_path / "curves.png").stat().st_size > 1000


def test_mistakes(capsys):
  assert proxies.main(["ranks", "--config=configs/mnasnet.py"]) == 2
  assert "no section `search`" in capsys.readouterr().err
