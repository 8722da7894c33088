"""GLUE from TFDS, prepared here in its own layout without TensorFlow, reads as its files do."""

import json

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from effnets import data, errors
from effnets.data import toy_glue

NLI = ["entailment", "neutral", "contradiction"]
_FEATURES = tensorflow_datasets.features

MADE = {
  ("mnli", "train"): [("a man", "a person", 0), ("a\tcat", "a dog", 2)],
  ("mnli", "validation_matched"): [("one", "two", 1)],
  ("stsb", "train"): [("so", "thus", 4.25)],
  ("stsb", "validation"): [("so", "no", 0.5)],
  ("cola", "train"): [("fine it is", 1)],
  ("cola", "test"): [("what this", -1)],
}
TEXTS = {
  "mnli": ("premise", "hypothesis"),
  "stsb": ("sentence1", "sentence2"),
  "cola": ("sentence",),
}


def _write(root, name):
  builder = tensorflow_datasets.builder(f"glue/{name}", data_dir=str(root), try_gcs=False)
  version = str(builder.version)
  folder = root / "glue" / name / version
  folder.mkdir(parents=True)
  label = tensorflow_datasets.features.ClassLabel(names=NLI)
  if name != "mnli":
    label = _FEATURES.Scalar(np.float32)
    label = label if name == "stsb" else _FEATURES.ClassLabel(names=["bad", "good"])
  texts = {text: _FEATURES.Text() for text in TEXTS[name]}
  _FEATURES.FeaturesDict({**texts, "label": label, "idx": _FEATURES.Scalar(np.int32)}).save_config(
    folder
  )
  splits = []
  for (config, split), rows in MADE.items():
    if config != name:
      continue
    file = f"glue-{split}.array_record-00000-of-00001"
    writer, size = array_record_module.ArrayRecordWriter(str(folder / file), "group_size:1"), 0
    for number, (*words, answer) in enumerate(rows):
      example = tf_example_pb2.Example()
      feature = example.features.feature
      for text, word in zip(TEXTS[name], words, strict=True):
        feature[text].bytes_list.value.append(word.encode())
      if name == "stsb":
        feature["label"].float_list.value.append(answer)
      else:
        feature["label"].int64_list.value.append(answer)
      feature["idx"].int64_list.value.append(40 + number)
      size += len(example.SerializeToString())
      writer.write(example.SerializeToString())
    writer.close()
    splits.append(
      {
        "name": split,
        "shardLengths": [str(len(rows))],
        "numBytes": str(size),
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    )
  info = {"name": "glue", "version": version, "fileFormat": "array_record", "configName": name}
  info |= {"moduleName": "tensorflow_datasets.text.glue", "splits": splits}
  (folder / "dataset_info.json").write_text(json.dumps(info))


def test_examples(tmp_path):
  for name in TEXTS:
    _write(tmp_path, name)
  vocabulary = tmp_path / "vocab.txt"
  vocabulary.write_text("".join(f"{piece}\n" for piece in toy_glue.vocabulary()))

  def opened(tasks, split):
    options = {"tasks": tasks, "vocabulary": str(vocabulary), "both_orders": False}
    return data.open_source(f"glue:tfds:{tmp_path}", split, options=options)

  train = opened("mnli,sts,cola", "train")
  found = [train.example(i) for i in range(len(train))]
  assert [(e.first, e.second) for e in found] == [
    ("a man", "a person"),
    ("a cat", "a dog"),
    ("so", "thus"),
    ("fine it is", None),
  ]
  # In the order of our labels: contradiction, entailment, neutral.
  assert [e.label for e in found] == [1, 0, -1, 1] and found[2].value == 4.25
  dev = opened("mnli,sts", "dev")
  assert (dev.example(0).label, dev.example(1).value) == (2, 0.5)
  hidden = opened("cola", "test").example(0)
  assert (hidden.label, hidden.index, hidden.first) == (-1, "40", "what this")
  with pytest.raises(errors.UserError, match="glue/rte is not prepared in"):
    opened("rte", "train")
