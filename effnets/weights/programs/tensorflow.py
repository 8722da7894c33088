"""TensorFlow's two formats, both through `jax2tf`: SavedModel and LiteRT (TFLite)."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from effnets.weights.programs import base, stablehlo


def _tensorflow() -> Any:
  """Returns the module `tensorflow`. Raises: UserError if it is not installed."""
  return base.package("tensorflow", "tf")


def _function(
  program: base.Program | base.TextProgram,
  variables: Any,
  *,
  batch: int | None,
  dtype: str,
  plain: bool,
) -> Any:
  """Returns a traced TensorFlow function of the inputs; batch None takes any number.

  dtype: of images; empty for that of the inputs.
  """
  tf = _tensorflow()
  jax2tf = base.package("jax.experimental.jax2tf", "tf")
  shapes = program.inputs(batch)
  converted = jax2tf.convert(
    functools.partial(program.outputs, plain=plain),
    polymorphic_shapes=None if batch else [None, *["(b, ...)"] * len(shapes)],
    with_gradient=False,
    native_serialization_platforms=("cpu",) if plain else stablehlo.PLATFORMS,
  )
  signature = [
    tf.TensorSpec(shape.shape, dtype or shape.dtype, name=name) for name, shape in shapes.items()
  ]
  return tf.function(
    functools.partial(converted, variables), input_signature=signature, autograph=False
  )


def write_savedmodel(program: base.Program | base.TextProgram, path: pathlib.Path) -> None:
  """Writes the folder `path`; signature `serving_default`, the program's batches."""
  tf = _tensorflow()
  module = tf.Module()
  # Variables of the model, not constants of its graph, which may not exceed 2 GB.
  module.variables_of_the_network = tf.nest.map_structure(tf.Variable, program.variables)
  module.predict = _function(
    program,
    module.variables_of_the_network,
    batch=program.batch,
    dtype="",
    plain=False,  # XLA's own compiler runs what is in it
  )
  with base.refusing("savedmodel"), base.quiet():
    signatures = {"serving_default": module.predict.get_concrete_function()}
    tf.saved_model.save(module, str(path), signatures=signatures)


def read_savedmodel(path: pathlib.Path) -> base.Run:
  """Returns the program in the folder `path` as a function of its inputs, run by TensorFlow."""
  tf = _tensorflow()
  loaded = tf.saved_model.load(str(path))

  def run(*arrays):
    # A program for several platforms finds its own by the device that it is placed on.
    with tf.device("CPU"):
      outputs = loaded.predict(*map(tf.constant, arrays))
    return {name: value.numpy() for name, value in outputs.items()}

  return run


def write_tflite(
  program: base.Program,
  path: pathlib.Path,
  *,
  batch_size: int = 1,
  calibration: Callable[[], Iterator[np.ndarray]] | None = None,
) -> None:
  """Writes a LiteRT file for batches of exactly `batch_size`.

  calibration: gives uint8 batches of that size; with it weights and activations are int8, which
    the ranges that these images show decide, and only the outputs are float32.
  """
  tf = _tensorflow()
  function = _function(
    program,
    program.variables,
    batch=batch_size,
    # In a quantised program the input's type belongs to its quantisation: levels, step 1.
    dtype="float32" if calibration else "",
    plain=True,
  )
  with base.refusing("tflite"), base.quiet():
    concrete = function.get_concrete_function()
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    # Without an object to belong to, a function has no signature in the file.
    [concrete],
    tf.Module(),
  )
  if calibration:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.representative_dataset = lambda: (
      [batch.astype(np.float32)] for batch in calibration()
    )
  # Its converter has an exception of its own for every stage.
  with base.refusing("tflite", Exception), base.quiet():
    content = converter.convert()
  path.write_bytes(content)


def read_tflite(path: pathlib.Path) -> base.Run:
  """Returns the program in `path` as a function of any number of uint8 images, run by LiteRT.

  Batches of another size than the file's are filled up and cut.
  """
  with base.quiet():
    interpreter = base.package("ai_edge_litert.interpreter", "tf").Interpreter(
      model_path=str(path), num_threads=os.cpu_count()
    )
    (details,) = interpreter.get_input_details()
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")
  size = int(details["shape"][0])

  def run(images):
    parts = []
    for start in range(0, len(images), size):
      batch = images[start : start + size]
      missing = size - len(batch)
      batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
      outputs = runner(images=batch)
      parts.append({name: value[: size - missing] for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in base.OUTPUTS}

  return run
