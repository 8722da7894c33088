"""One of several processes that label the unlabelled digits: FOLDER COORDINATOR COUNT INDEX DIE.

DIE: this process is gone after it has written so many parts; 0 for never.
"""

import os
import pathlib
import sys

from effnets import data, parallel, recipes, tasks
from effnets.pipelines import labelling
from effnets.pipelines.stages import Stage
from tests.training import tiny


def label(folder: pathlib.Path) -> None:
  """Labels the digits by a teacher of fixed weights, in nine shards."""
  config = tiny.get_config()
  config.batch_norm.group = "local"
  config.augment.randaugment.layers = 0
  labels = recipes.noisy_student(teacher={}, students={}, labels={"source": "digits"}).labels
  more = {"split": "unlabelled", "min_confidence": 0.1, "per_class": 30, "batch_size": 16}
  labels.update({**more, "shards": 9, "dtype": "float32"})
  placement = parallel.create({"data": -1})
  task = tasks.create(config, placement, num_classes=10, step_batch=48)
  variables = tiny.perturbed(task.init(1))
  variables["params"]["classifier"]["kernel"] *= 40
  placed = placement.put(variables, placement.state(variables))
  stage = Stage("teacher", config, {}, placed)
  labeller = labelling.Labeller([stage], labels, classes=10, seed=3)
  pictures = labelling.Pictures(labels, tuple("0123456789"))
  labelling.run(labelling.Round(folder, pictures, labels, labeller, labeller, seed=3))


def main() -> None:
  """Joins the others and labels."""
  folder, coordinator, count, index, die = sys.argv[1:]
  if int(count) > 1:
    parallel.initialize(coordinator=coordinator, num_processes=int(count), process_id=int(index))
  real, written = data.parts.Parts.finish, []

  def finish(self, number, told):
    real(self, number, told)
    written.append(number)
    if len(written) == int(die):
      os._exit(9)

  data.parts.Parts.finish = finish
  label(pathlib.Path(folder))


if __name__ == "__main__":
  main()
