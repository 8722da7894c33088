"""Data sets made ready for training on many hosts: `python -m effnets.prepare SOURCE DIR`.

SOURCE is `folder:PATH`, a folder of pictures (PATH/SPLIT/CLASS/*.jpg or PATH/CLASS/*.jpg), or the
name of a TensorFlow Datasets set, such as `imagenet2012`. DIR takes the result, as ArrayRecord
files, which are read at random positions without decoding what lies between. Pictures keep their
bytes. A command that was stopped goes on where it was when it is given again.

SOURCE `digit_scenes` writes the embedded scenes as a folder in COCO's own format: a pattern for own
data, and something to try other tools on.

SOURCE `flow:videos:PATH` or `flow:charades:PATH` writes the optical flow of films, by OpenCV's DIS,
for `--config.data.options.flow=DIR --config.data.clips.flow=stored`.

SOURCE `i3d:CHECKPOINT` writes the weights of the published I3D, for FVD, to the file DIR, a `.npz`.
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from effnets import errors, evaluation, weights
from effnets.data import digit_scenes, folder, shards, sources, tfds, videos

_KEY = "prepare"
_FOLDER = "folder:"
_SCENES = "digit_scenes"
_FLOW = "flow:"
_I3D = "i3d:"
_ALIASES = {"val": "validation"}


class _Progress:
  """One line of progress: on a terminal it changes, elsewhere there is a new one now and then."""

  def __init__(self, name: str, what: str = "pictures"):
    self._what = what
    self._name, self._start, self._shown = name, None, 0.0
    self._terminal = sys.stderr.isatty()

  def __call__(self, done: int, total: int) -> None:
    """Shows that `done` of `total` pictures are through, if it is time to."""
    now = time.monotonic()
    if self._start is None:
      # What an earlier call did took no time now, so it says nothing of what is left.
      self._start, self._shown, self._first = now, now, done
    if done < total and now - self._shown < (0.2 if self._terminal else 10.0):
      return
    self._shown = now
    rate = (done - self._first) / max(now - self._start, 1e-9)
    line = f"{self._name}: {done:,} of {total:,} {self._what} ({done / total:.1%})"
    if rate > 0 and done < total:
      unit = "images" if self._what == "pictures" else self._what
      line += f", {rate:,.0f} {unit}/s, {_duration((total - done) / rate)} left"
    end = "\n" if done == total or not self._terminal else ""
    sys.stderr.write(f"\r\033[K{line}{end}" if self._terminal else f"{line}\n")
    sys.stderr.flush()


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}"


def _pictures(arguments: argparse.Namespace) -> list[str]:
  """Writes the splits of a folder of pictures; returns the lines to print."""
  path = arguments.source.removeprefix(_FOLDER)
  found = folder.splits(path, key=_KEY)
  if arguments.split == ["all"]:
    chosen = found
  else:
    chosen = arguments.split
    for split in chosen:
      if split not in found:
        raise errors.unknown("--split", split, f"a split of {path}", found)
  opened = {}
  for split in chosen:
    source = folder.open_split(path, split, options={}, key=_KEY, split_key="--split")
    opened[_ALIASES.get(split, split)] = source
  if len(opened) < len(chosen):
    raise errors.UserError(f"{path} has `val` and `validation`; name one of them in --split.")
  target = pathlib.Path(arguments.dir).expanduser()
  shards.check(target)
  counts = {name: arguments.shards or shards.default_count(len(s)) for name, s in opened.items()}
  for name, count in counts.items():
    if count > len(opened[name]):
      raise errors.UserError(
        f"--shards={count} is more than the {len(opened[name])} pictures of {name}; nearest: "
        f"{len(opened[name])}."
      )
  lines = []
  for name, source in opened.items():
    manifest = shards.write(
      target / name,
      source,
      shards=counts[name],
      provenance={"source": source.name},
      skip_unreadable=arguments.skip_unreadable,
      threads=arguments.threads,
      progress=_Progress(name),
    )
    left_out = len(manifest["provenance"]["unreadable"])
    lines.append(
      f"{name}: {manifest['count']:,} pictures, {manifest['num_classes']} classes, "
      f"{len(manifest['shards'])} file(s), {sum(s['bytes'] for s in manifest['shards']):,} bytes"
      + (f"; {left_out} unreadable left out" if left_out else "")
    )
  return [*lines, *_advice([f"--config.data.source=records:{target.absolute()}"], list(opened))]


def _dataset(arguments: argparse.Namespace) -> list[str]:
  """Has TFDS prepare a data set; returns the lines to print."""
  given = {"--split": arguments.split != ["all"], "--skip-unreadable": arguments.skip_unreadable}
  for flag, is_given in given.items():
    if is_given:
      raise errors.UserError(f"{flag} is for folder:PATH; TFDS prepares all of a data set.")
  target = pathlib.Path(arguments.dir).expanduser().absolute()
  name = arguments.source.removeprefix("tfds:")
  counts = tfds.prepare(
    name, str(target), shards=arguments.shards, manual_dir=arguments.manual_dir, key=_KEY
  )
  lines = [f"{split}: {count:,} examples" for split, count in counts.items()]
  options = [f"--config.data.source={name}", f"--config.data.options.data_dir={target}"]
  return [*lines, *_advice(options, list(counts))]


def _scenes(arguments: argparse.Namespace) -> list[str]:
  """Writes the embedded scenes as a COCO folder; returns the lines to print."""
  given = {
    "--split": arguments.split != ["all"],
    "--shards": arguments.shards is not None,
    "--skip-unreadable": arguments.skip_unreadable,
    "--manual-dir": arguments.manual_dir is not None,
  }
  for flag, is_given in given.items():
    if is_given:
      raise errors.UserError(f"{flag} is not for digit_scenes.")
  target = pathlib.Path(arguments.dir).expanduser().absolute()
  counts = digit_scenes.write(target)
  lines = [f"{split}: {count:,} scenes" for split, count in counts.items()]
  return [*lines, *_advice([f"--config.data.source=coco:{target}"], list(counts))]


def _flow(arguments: argparse.Namespace) -> list[str]:
  """Writes the flow of all films of a source; returns the lines to print."""
  inner = arguments.source.removeprefix(_FLOW)
  if not inner.startswith(("videos:", "charades:")):
    raise errors.UserError(f"SOURCE={arguments.source!r} should be flow:videos:PATH or such.")
  chosen = arguments.split
  if chosen == ["all"]:
    chosen = ["train", "test"] if inner.startswith("charades:") else list(videos.SPLITS)
    given = lambda name: videos.has_split(inner.removeprefix("videos:"), name)  # noqa: E731
    chosen = [s for s in chosen if inner.startswith("charades:") or given(s)] or ["train"]
  lines, target = [], pathlib.Path(arguments.dir).expanduser().absolute()
  for split in chosen:
    source = sources.open_source(inner, split, key=_KEY, split_key="--split")
    progress, left_out = _Progress(split, "films"), []
    for done, (_, reason) in enumerate(videos.write_flow(source, target), 1):
      left_out += [reason] if reason else []
      progress(done, len(source))
    lines.append(f"{split}: {len(source) - len(left_out):,} films")
    if left_out:
      shown = "; ".join(left_out[:3]) + ("; ..." if len(left_out) > 3 else "")
      lines.append(f"{split}: {len(left_out):,} left out, unreadable: {shown}")
  option = f"  --config.data.options.flow={target} --config.data.clips.flow=stored"
  return [*lines, "In the config:", option]


def _i3d(arguments: argparse.Namespace) -> list[str]:
  """Writes the weights of I3D that a checkpoint holds; returns the lines to print."""
  target = pathlib.Path(arguments.dir).expanduser().absolute()
  if target.suffix != ".npz":
    raise errors.UserError(f"DIR={arguments.dir!r} should be a file for I3D's weights, NAME.npz.")
  found = weights.files.read(arguments.source.removeprefix(_I3D))
  inside = evaluation.perceptual.i3d_arrays(found)
  evaluation.perceptual.i3d_variables(inside, f"SOURCE={arguments.source!r}")
  target.parent.mkdir(parents=True, exist_ok=True)
  np.savez(target, **inside)
  return [f"{len(inside)} arrays.", "In the config:", f"  --config.task.i3d={target}"]


def _advice(options: Sequence[str], splits: Sequence[str]) -> list[str]:
  """Returns lines with what to write in the config; `options` say where the data are."""
  lines = []
  if "train" not in splits:
    return [f"There is no split `train`; in the config, {' '.join(options)} names the data."]
  held_out = [split for split in ("validation", "test") if split in splits]
  if not held_out:
    lines.append("There are no held-out pictures: figures would be of the training pictures.")
  parts = {"train": "train"}
  for part in ("validation", "test"):
    parts[part] = part if part in splits else (held_out or ["train"])[0]
  options = [*options, *(f"--config.data.split.{part}={split}" for part, split in parts.items())]
  return [*lines, "In the config:", " \\\n".join(f"  {option}" for option in options)]


def run(arguments: argparse.Namespace) -> list[str]:
  """Prepares what was asked for; returns the lines to print.

  Raises: errors.UserError.
  """
  limits: Mapping[str, int | None] = {"shards": arguments.shards, "threads": arguments.threads}
  for flag, value in limits.items():
    if value is not None and value < 1:
      raise errors.UserError(f"--{flag}={value} should be at least 1.")
  source = arguments.source
  if source.startswith(_FOLDER):
    if arguments.manual_dir is not None:
      raise errors.UserError("--manual-dir is for TFDS's data sets, not for folder:PATH.")
    return _pictures(arguments)
  if source == _SCENES:
    return _scenes(arguments)
  if source.startswith(_FLOW):
    return _flow(arguments)
  if source.startswith(_I3D):
    return _i3d(arguments)
  if source == "digits" or source.startswith("records:"):
    raise errors.UserError(f"SOURCE={source!r} needs no preparation; put it into the config.")
  if os.sep in source and pathlib.Path(source).expanduser().is_dir():
    raise errors.UserError(f"SOURCE={source!r} is a folder; write 'folder:{source}'.")
  return _dataset(arguments)


def main(arguments: Sequence[str]) -> int:
  """Prepares a data set and prints what to write in the config; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m effnets.prepare", description=__doc__.partition(":")[0] + "."
  )
  parser.add_argument("source", metavar="SOURCE", help="folder:PATH, a TFDS name, …")
  parser.add_argument("dir", metavar="DIR", help="folder for the result")
  parser.add_argument(
    "--split",
    type=lambda text: text.split(","),
    default=["all"],
    help="comma list of folder:PATH's split folders; all by default",
  )
  parser.add_argument(
    "--shards",
    type=int,
    help=f"files for each split; default: one for every {shards.PER_SHARD:,} pictures",
  )
  parser.add_argument(
    "--threads",
    type=int,
    default=min(32, 2 * (os.cpu_count() or 1)),
    help="that read and check pictures",
  )
  parser.add_argument(
    "--skip-unreadable",
    action="store_true",
    help="leave out pictures that cannot be decoded, instead of stopping",
  )
  parser.add_argument(
    "--manual-dir", help="where TFDS finds archives that have to be fetched by hand (ImageNet's)"
  )
  parsed = parser.parse_args(arguments)
  try:
    lines = run(parsed)
  except errors.UserError as error:
    sys.stderr.write(f"Error: {error}\n")
    return 2
  except OSError as error:
    sys.stderr.write(f"Error: DIR={parsed.dir!r} cannot be written: {error.strerror}.\n")
    return 2
  except KeyboardInterrupt:
    sys.stderr.write("Stopped; the same command goes on from here.\n")
    return 130
  sys.stdout.write("\n".join(lines) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
