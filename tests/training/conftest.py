"""One whole run that several tests compare with."""

from typing import NamedTuple

import pytest

from effnets import training
from effnets.tasks import classification
from tests.training import tiny


class Unbroken(NamedTuple):
  """workdir, result: of a run without a break on 8 devices. traces: of its loss function."""

  workdir: object
  result: training.Result
  traces: int


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
  """Returns the run of `tiny.get_config()` in this process."""
  workdir = tmp_path_factory.mktemp("unbroken")
  traces = []
  real = classification.Classification.loss
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      classification.Classification, "loss", lambda *args: traces.append(1) or real(*args)
    )
    result = training.train(tiny.get_config(), workdir)
  return Unbroken(workdir, result, len(traces))
