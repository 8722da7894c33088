"""BERT checkpoints of Hugging Face and of Google's own code, into `models.bert`.

Both sources hold the same tensors; names, and the orientation of dense kernels, differ:

  ours                   Google (TensorFlow)                  Hugging Face
  embeddings_word        bert/embeddings/word_embeddings      bert.embeddings.word_embeddings.weight
  layer_0/query/kernel   …/layer_0/attention/self/query/kernel  ….weight, transposed
  layer_0/mix_norm/scale …/attention/output/LayerNorm/gamma   ….LayerNorm.weight, or `.gamma`
  pooler                 bert/pooler/dense                    bert.pooler.dense

Hugging Face's names may lack the prefix `bert.`. Heads of pre-training and of fine-tuned
classifiers are left out, and told of in the report; optimizer slots are not mentioned.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from effnets import errors, models
from effnets.weights import convert, files

NAME = "bert"
_MODULES = {
  "query": "attention.self.query",
  "key": "attention.self.key",
  "value": "attention.self.value",
  "mix": "attention.output.dense",
  "mix_norm": "attention.output.LayerNorm",
  "expand": "intermediate.dense",
  "project": "output.dense",
  "project_norm": "output.LayerNorm",
}
_TOP = {
  "embeddings_word": "embeddings.word_embeddings",
  "embeddings_position": "embeddings.position_embeddings",
  "embeddings_type": "embeddings.token_type_embeddings",
  "embeddings_norm": "embeddings.LayerNorm",
  "pooler": "pooler.dense",
}
_LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}
# Parts of checkpoints that no encoder has: heads, buffers, and what optimizers leave.
_HEADS = re.compile(r"(cls|classifier|qa_outputs|score|dropout|output_weights|output_bias)(\W|$)")
_SILENT = re.compile(
  r"(^|[./])(position_ids|adam_[mv]|AdamWeightDecayOptimizer\w*|global_step|beta[12]_power)$"
)
# Settings of `models.create` -> how configs of both sources call them.
_KEYS: Mapping[str, tuple[str, ...]] = {
  "vocab_size": ("vocab_size",),
  "width": ("hidden_size",),
  "depth": ("num_hidden_layers", "num_layers"),
  "heads": ("num_attention_heads", "num_heads"),
  "hidden": ("intermediate_size",),
  "positions": ("max_position_embeddings", "max_position"),
  "types": ("type_vocab_size",),
  "activation": ("hidden_act", "activation"),
  "epsilon": ("layer_norm_eps",),
  "dropout_rate": ("hidden_dropout_prob",),
  "attention_dropout_rate": ("attention_probs_dropout_prob",),
  "std": ("initializer_range",),
}
_NEEDED = ("vocab_size", "width", "depth", "heads", "hidden", "positions")
_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu (erf)": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "relu": "relu",
  "silu": "swish",
  "swish": "swish",
  "tanh": "tanh",
}
CONFIG_FILES = ("config.json", "bert_config.json")
VOCAB_FILE = "vocab.txt"


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the settings of `models.create` that a checkpoint's config stands for.

  Args: config: the content of Hugging Face's config.json or Google's bert_config.json; also with
    `num_layers`, `num_heads`, `max_position`, `activation` for their longer names.
  Raises: UserError if a size is missing or no number, or the network is no BERT.

  >>> settings({"vocab_size": 9, "hidden_size": 8, "num_layers": 2, "num_heads": 2,
  ...   "intermediate_size": 16, "max_position": 32, "activation": "gelu (erf)"})["depth"]
  2
  """
  if not isinstance(config, Mapping):
    raise errors.UserError(
      f"{NAME}: the config should be a mapping, as in config.json, not {type(config).__name__}."
    )
  kind = config.get("model_type", "bert")
  if kind != "bert":
    raise errors.UserError(f"{NAME}: config.json says model_type={kind!r}; only 'bert' is known.")
  places = config.get("position_embedding_type", "absolute")
  if places != "absolute":
    raise errors.UserError(
      f"{NAME}: position_embedding_type={places!r} is not known; only 'absolute' is."
    )
  found: dict[str, Any] = {}
  for ours, theirs in _KEYS.items():
    given = next((name for name in theirs if config.get(name) is not None), None)
    if given is None:
      if ours in _NEEDED:
        raise errors.UserError(
          f"{NAME}: the config lacks {' (or '.join(theirs)}{')' * (len(theirs) - 1)}; it has "
          f"{', '.join(sorted(map(str, config)))}."
        )
      continue
    value = config[given]
    if ours == "activation":
      if value not in _ACTIVATIONS:
        raise errors.unknown(f"{NAME}: {given}", value, "an activation", _ACTIVATIONS)
      value = _ACTIVATIONS[value]
    elif isinstance(value, bool) or not isinstance(value, int | float):
      raise errors.UserError(f"{NAME}: {given}={value!r} should be a number.")
    elif ours in ("epsilon", "dropout_rate", "attention_dropout_rate", "std"):
      value = float(value)
    elif value != int(value):
      raise errors.UserError(f"{NAME}: {given}={value!r} should be a whole number.")
    else:
      value = int(value)
    found[ours] = value
  return found


def _theirs(path: tuple[str, ...]) -> str:
  """Returns Hugging Face's name of a parameter, without the prefix.

  >>> _theirs(("layer_3", "mix_norm", "scale"))
  'encoder.layer.3.attention.output.LayerNorm.weight'
  """
  *modules, leaf = path
  if modules[0].startswith("layer_"):
    layer, module = modules
    return f"encoder.layer.{layer.removeprefix('layer_')}.{_MODULES[module]}.{_LEAVES[leaf]}"
  return f"{_TOP[modules[0]]}.{_LEAVES[leaf]}"


def _plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns Hugging Face's tensors without the prefix, norms with `weight` and `bias`."""
  found = {}
  for name, value in arrays.items():
    if _SILENT.search(name):
      continue
    plain = name.removeprefix("bert.")
    plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", plain)
    plain = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", plain)
    if plain in found:
      raise errors.UserError(f"weights {NAME!r}: {name} is there twice, with and without prefix.")
    found[plain] = value
  return found


def from_huggingface_bert(
  config: Mapping[str, Any],
  state_dict: Mapping[str, Any],
  *,
  seed: int = 0,
  **overrides: Any,
) -> convert.Imported:
  """Returns an encoder of Hugging Face as a module of ours and its variables.

  `module.apply(variables, ids, token_type_ids, mask, train=False)` gives (hidden, pooled). The
  preprocessing of a text is its vocabulary, which comes in a file of its own: it is None here.

  Args:
    config: see `settings`. state_dict: tensors by name, of NumPy, JAX or PyTorch; with the prefix
      `bert.` or without it.
    seed: of the values of a pooler that is missing, as exports of masked language models lack it.
    overrides: of `models.create`, such as dtype="bfloat16".
  Raises: UserError for a config that is none, a tensor that is missing or has the wrong shape, or
    the tensors of another network.
  """
  return _import(settings(config), _plain(convert.read_arrays(NAME, state_dict)), seed, overrides)


def from_google_bert(
  config: Mapping[str, Any],
  arrays: Mapping[str, Any],
  *,
  seed: int = 0,
  **overrides: Any,
) -> convert.Imported:
  """Returns an encoder of Google's own code as a module of ours and its variables.

  Args: arrays: a checkpoint's variables by name, see `files.Checkpoint`. The others, and what is
    returned and raised: see `from_huggingface_bert`.
  """
  if isinstance(arrays, Mapping):
    arrays = {
      _renamed(name): arrays[name].T if name.endswith("/kernel") else arrays[name]
      for name in arrays
      if not _SILENT.search(name)
    }
  return _import(settings(config), _plain(convert.read_arrays(NAME, arrays)), seed, overrides)


def _renamed(name: str) -> str:
  """Returns Hugging Face's name of a variable of Google's code.

  >>> _renamed("bert/encoder/layer_1/output/LayerNorm/gamma")
  'bert.encoder.layer.1.output.LayerNorm.gamma'
  """
  name = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name)
  name = re.sub(r"/kernel$", "/weight", name)
  if re.search(r"^bert/embeddings/\w+_embeddings$", name):
    name += "/weight"
  return name.replace("/", ".")


def _import(
  known: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
  seed: int,
  overrides: Mapping[str, Any],
) -> convert.Imported:
  types = arrays.get("embeddings.token_type_embeddings.weight")
  if "types" not in known and types is not None and types.ndim == 2:
    known = {**known, "types": len(types)}
  with errors.context(f"weights {NAME!r}"):
    module = models.create("bert_base", **{"heads": 0, **known, **overrides})
  leaves = convert.leaf_shapes(module)
  needed = {
    path[1:]: (_theirs(path[1:]), shape[::-1] if path[-1] == "kernel" else shape)
    for path, shape in leaves.items()
  }
  missing = [name for name, _ in needed.values() if name not in arrays]
  if len(missing) > len(needed) / 2:
    raise errors.UserError(
      f"weights {NAME!r}: these are the tensors of another network: {len(needed) - len(missing)} "
      f"of the {len(needed)} tensors needed are in it, and it has {len(arrays)}, such as "
      f"{_listed(arrays)}."
    )
  wrong = [
    f"{name} has shape {arrays[name].shape}, the config needs {shape}"
    for name, shape in needed.values()
    if name in arrays and arrays[name].shape != shape
  ]
  layers = {int(n) for key in arrays for n in re.findall(r"^encoder\.layer\.(\d+)\.", key)}
  if layers and layers != set(range(module.depth)):
    wrong.append(f"it has {max(layers) + 1} layers, the config says {module.depth}")
  lost = [name for name in missing if not name.startswith("pooler.")]
  if lost:
    wrong.append(f"{_listed(lost)} {'is' if len(lost) == 1 else 'are'} missing")
  if wrong:
    raise errors.UserError(f"weights {NAME!r}: {_listed(wrong, '; ')}.")
  initial = models.init(module, seed) if missing else {}
  variables: dict[str, Any] = {}
  for path, (name, _) in needed.items():
    if name in arrays:
      value = arrays[name].T if path[-1] == "kernel" else arrays[name]
      value = np.ascontiguousarray(value)
    else:
      value = convert.get(initial, ("params", *path))
    convert.put(variables, ("params", *path), value)
  names = {name for name, _ in needed.values()}
  leftover = [name for name in arrays if name not in names and not _HEADS.match(name)]
  report = convert.Report(
    name=NAME,
    loaded=len(needed) - len(missing),
    missing=tuple(missing),
    leftover=tuple(leftover),
    replaced=tuple(name for name in arrays if name not in names and _HEADS.match(name)),
  )
  if report.missing or report.leftover:
    logging.warning("%s", report)
  return convert.Imported(module, variables, None, report)


def _listed(items: Iterable[str], separator: str = ", ", count: int = 4) -> str:
  items = list(items)
  more = f"{separator}and {len(items) - count} more" if len(items) > count else ""
  return separator.join(items[:count]) + more


def load_bert(source: str | os.PathLike[str], **overrides: Any) -> convert.Imported:
  """Returns the encoder in a folder: its config beside a checkpoint of either kind.

  Args: source: a folder with config.json and model.safetensors or pytorch_model.bin, or with
    bert_config.json and a TensorFlow checkpoint. overrides: of `models.create`.
  Raises: UserError if a file is missing or damaged, or they do not fit each other; a vocabulary
    beside them has to have as many entries as the checkpoint.
  """
  folder = pathlib.Path(source).expanduser()
  config = read_config(folder)
  vocabulary = folder / VOCAB_FILE
  if vocabulary.is_file():
    count = len(vocabulary.read_text("utf-8").splitlines())
    if count > config["vocab_size"]:
      raise errors.UserError(
        f"{vocabulary} has {count} entries, the checkpoint beside it {config['vocab_size']} "
        "embeddings; they do not belong together."
      )
  for name in files.HUB_FILES:
    if (folder / name).is_file():
      return from_huggingface_bert(config, files.read(folder / name), **overrides)
  return from_google_bert(config, files.read(folder), **overrides)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the config in a checkpoint's folder. Raises: UserError if there is none."""
  file = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
  if file is None:
    raise errors.UserError(
      f"source={str(folder)!r} holds none of {', '.join(CONFIG_FILES)}; give the folder of a BERT "
      "checkpoint, with its config."
    )
  try:
    config = json.loads(file.read_text("utf-8"))
  except ValueError as error:
    raise errors.UserError(f"{file} is no JSON: {error}.") from error
  with errors.context(str(file)):
    settings(config)
  return config
