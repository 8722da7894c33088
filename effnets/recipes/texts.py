"""Encoders of texts: BERT's recipe of fine-tuning, on GLUE and on the embedded benchmark."""

import ml_collections

from effnets import data


def fine_tuning(
  config: ml_collections.ConfigDict, *, model: str, learning_rate: float, batch_size: int
) -> None:
  """Sets the task, BERT's optimizer and its schedule.

  Source: the code of BAM (Clark et al. 2019, arXiv 1907.04829), `optimization.py`.
  """
  config.task = ml_collections.ConfigDict(
    {
      "name": "text",
      "dropout_rate": 0.1,  # of what the heads see
      "distillation": "annealed",  # or fixed; of texts that a teacher has seen
      "gold_weight": 0.5,  # of the gold label, if fixed
      "temperature": 1.0,  # of the teacher's softmax
      "reduction": "sum",  # or mean, over the texts of a step
    }
  )
  config.augment = ml_collections.ConfigDict()
  config.model = ml_collections.ConfigDict(
    {
      "name": model,
      "dropout_rate": 0.1,
      "attention_dropout_rate": 0.1,
      "dtype": "float32",
      "remat": "none",
    }
  )
  config.batch_size = batch_size
  config.optimizer.update(
    {
      "name": "adamw",
      "learning_rate": learning_rate,
      "b1": 0.9,
      "b2": 0.999,
      "eps": 1e-6,
      "bias_correction": False,
      "weight_decay": 0.01,
      "undecayed": ("bias$",),
      "clip_norm": 1.0,
      "layer_decay": 0.9,
    }
  )
  # The decay counts from step 0: after the warm-up the rate jumps to nine tenths.
  config.schedule.update({"name": "polynomial", "power": 1.0, "warmup_percent": 10.0})
  config.data.split.update({"train": "train", "validation": "dev", "test": "dev"})
  config.checkpoint.update({"every_percent": 100.0, "keep": 1, "best_metric": "average"})
  config.evaluation.every_percent = 100.0


def toy_glue(config: ml_collections.ConfigDict, *, steps: int) -> None:
  """Sets the embedded benchmark, and an encoder small enough to learn it from nothing in minutes.

  Its rates are those of a network that starts at random, the same for all layers; with the shorter
  warm-up of a trained one it learns for a third of the steps next to nothing.
  """
  fine_tuning(config, model="bert_tiny", learning_rate=1.5e-3, batch_size=48)
  config.data.source = "toy_glue"
  config.data.split.test = "test"
  config.model.update(
    {
      "depth": 2,
      "width": 64,
      "heads": 4,
      "hidden": 128,
      "positions": 32,
      "vocab_size": len(data.toy_glue.vocabulary()),
      "std": 0.1,
    }
  )
  config.model.update({"dropout_rate": 0.0, "attention_dropout_rate": 0.0})
  config.task.dropout_rate = 0.0
  config.optimizer.layer_decay = 1.0
  config.schedule.warmup_percent = 25.0
  config.train.steps = steps
  config.eval_batch_size = 400
  config.tensorboard = False
