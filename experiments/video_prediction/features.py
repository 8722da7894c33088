"""Makes the small network that looks at predicted films, which comes with the package.

`python experiments/video_prediction/features.py`

Trains `video_resnet_tiny` on the embedded `digit_actions`, whose class is how a digit moves, and
writes its variables to `effnets/evaluation/digit_features.npz`: a few minutes on two cores. Figures
made with another file than the package's do not compare.
"""

import pathlib

import flax.traverse_util
import numpy as np

from effnets import card, configuration, evaluation, parallel, training

CONFIG = "configs/assemblenet.py:model=video_resnet_tiny,steps=200"
RUN = pathlib.Path("runs/cards/video_prediction_features")


def main() -> None:
  """Trains, if the run is not there, and writes the file."""
  card.run(CONFIG, RUN)
  write(RUN)


def write(run: pathlib.Path) -> None:
  """Writes the variables of a run."""
  trained = training.results.restore(configuration.load(CONFIG), run)
  variables = parallel.to_host(trained.variables)
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  # Half precision: the network is what is in the file.
  stored = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
  np.savez_compressed(evaluation.perceptual.SMALL_FILE, **stored)


if __name__ == "__main__":
  main()
