"""Measures the Noisy Student claim at embedded scale.

`python experiments/noisy_student/measure.py`

Runs `configs/noisy_student.py` at five seeds, one after the other, and writes `results.json` here.
Resumable: seeds that are finished are not run again, a seed that was cut off goes on inside.
"""

import json
import pathlib

from effnets import card

SEEDS = (0, 1, 2, 3, 4)
RUNS = pathlib.Path("runs/cards/noisy_student")


def main() -> None:
  """Runs what is missing and writes `results.json`."""
  runs = card.run_seeds("configs/noisy_student.py", SEEDS, RUNS)
  arms = {"teacher": [run["teacher"]["test_top1"] for run in runs]}
  for index, student in enumerate(runs[0]["students"]):
    arms[student["stage"]] = [run["students"][index]["test_top1"] for run in runs]
  last = list(arms)[-1]
  for control, words in (
    ("no_noise", "student_1 without noise"),
    ("no_unlabelled", "student_1 without unlabelled data"),
  ):
    arms[words] = [run["controls"][control]["test_top1"] for run in runs]
  results = {
    "title": "Noisy Student (Xie et al. 2020, arXiv 1911.04252)",
    "claim": (
      "A student trained with noise on labelled and pseudo-labelled pictures beats its teacher; "
      "noise and unlabelled data are both needed."
    ),
    "command": (
      "python experiments/noisy_student/measure.py\npython -m effnets.card noisy_student"
    ),
    "setting": (
      "100 labelled and 1,100 unlabelled handwritten digits (scikit-learn's UCI digits, "
      "10 classes), 32 pixels. Teacher and students are `efficientnet_tiny`; each seed draws "
      "the initial weights, the order and all noise anew; the split is fixed."
    ),
    "figure": "test top-1",
    "seeds": list(SEEDS),
    "arms": arms,
    "comparisons": [
      [last, "teacher"],
      ["student_1", "teacher"],
      ["student_1", "student_1 without noise"],
      ["student_1", "student_1 without unlabelled data"],
    ],
    "seconds": [run["seconds"] for run in runs],
    "machine": card.machine(),
    "paper": {
      "command": (
        "python -m effnets.main --config=configs/noisy_student.py:imagenet,unlabelled=NAME "
        "--workdir=DIR"
      ),
      "table": [
        ["model", "ImageNet top-1", "top-5"],
        ["EfficientNet-L2", "85.5", "97.5"],
        ["EfficientNet-L2, Noisy Student", "88.4", "98.7"],
        ["B5 student, 130M unlabelled", "85.1", ""],
        ["the same, no augmentation, stochastic depth or dropout", "84.3", ""],
        ["B5 without unlabelled data", "84.0", ""],
      ],
    },
    "differences": [
      "Digits and a model of 75 thousand weights instead of ImageNet, JFT-300M and "
      "EfficientNet-L2: JFT-300M is not public.",
      "Teacher and students have equal size here; in the paper they grow from B7 to L2.",
      "The teacher says which pictures it is sure of; in the paper one B0 does so for all rounds.",
      "Every round selects anew; the official code keeps the selection of the first round.",
      "RandAugment moves and cuts by at most 4 pixels, as the official code for 32-pixel images.",
    ],
  }
  path = pathlib.Path(__file__).parent / "results.json"
  path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
  main()
