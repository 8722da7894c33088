"""What searches with different teachers chose: structural knowledge, measured and drawn.

Source: Liu et al. 2020 (arXiv 1911.09074) draw a map of them; the measure is this project's.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int


def compare(
  searches: Mapping[tuple[str, int], pathlib.Path], found: Any, picture: pathlib.Path
) -> dict[str, Any]:
  """Returns and draws what the searches' best networks have in common and apart.

  searches: by arm and seed, the folder of the search. found: `config.search`. picture: a PNG file.
  """
  from effnets.search import study as study_lib
  from effnets.search.settings import finished, spaces_or_landscape

  space, tokens, arms, seeds = spaces_or_landscape(found), [], [], []
  for (arm, seed), folder in searches.items():
    ranked = study_lib.ranking(finished(found, folder), found.cost)
    best = ranked[: max(2, len(ranked) // 4)]
    tokens += [record.tokens for record in best]
    arms += [arm] * len(best)
    seeds += [seed] * len(best)
  made = structure(space, np.array(tokens), arms, seeds)
  _draw(made.pop("map"), arms, seeds, picture)
  return made


def structure(
  space: Any, tokens: Int[np.ndarray, "n d"], arms: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
  """Returns whether searches by one teacher resemble each other more than those by one seed.

  `by_arm`, `by_seed`: silhouettes on Hamming distance in the tokens; `choices`: by decision and arm
  the share of each choice; `map`: the first two principal components of the tokens as one-hots.
  """
  distance = (tokens[:, None] != tokens[None]).mean(-1)
  wide = np.concatenate(
    [np.eye(arity)[column] for arity, column in zip(space.arities, tokens.T, strict=True)], -1
  )
  centred = wide - wide.mean(0)
  _, _, directions = np.linalg.svd(centred, full_matrices=False)
  shares: dict[str, dict[str, list[float]]] = {}
  for place, decision in enumerate(space.decisions):
    shares[decision.name] = {
      arm: [
        round(float(np.mean(tokens[np.array(arms) == arm, place] == token)), 4)
        for token in range(len(decision.choices))
      ]
      for arm in dict.fromkeys(arms)
    }
  return {
    "networks": len(tokens),
    "by_arm": silhouette(distance, arms),
    "by_seed": silhouette(distance, seeds),
    "choices": shares,
    "map": centred @ directions[:2].T,
  }


def silhouette(distance: Float[np.ndarray, "n n"], labels: Sequence[Any]) -> float | None:
  """Returns the mean silhouette of the points' groups, in [-1, 1]; None for a single group.

  Of a point: (b - a) / max(a, b), with a its mean distance from others of its group, b that from
  the nearest other group; 0 for one that is alone. Source: Rousseeuw 1987.

  >>> line = np.abs(np.subtract.outer([0.0, 1.0, 10.0, 11.0], [0.0, 1.0, 10.0, 11.0]))
  >>> round(silhouette(line, "aabb"), 4)
  0.8997
  """
  labels = np.array([str(label) for label in labels])
  groups = np.unique(labels)
  if len(groups) < 2:
    return None
  found = []
  for place, label in enumerate(labels):
    own = labels == label
    if own.sum() == 1:
      found.append(0.0)
      continue
    inside = distance[place, own].sum() / (own.sum() - 1)
    outside = min(distance[place, labels == other].mean() for other in groups if other != label)
    found.append((outside - inside) / max(inside, outside, 1e-12))
  return float(np.mean(found))


def _draw(
  places: Float[np.ndarray, "n c"], arms: Sequence[str], seeds: Sequence[int], path: pathlib.Path
) -> None:
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(5.6, 4.2), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  axes = made.subplots()
  colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
  for number, arm in enumerate(dict.fromkeys(arms)):
    for shape, seed in zip("osD^v" * 10, dict.fromkeys(seeds), strict=False):
      chosen = (np.array(arms) == arm) & (np.array(seeds) == seed)
      if places.shape[1] > 1 and chosen.any():
        label = f"{arm}, seed {seed}"
        colour = colours[number % len(colours)]
        axes.scatter(*places[chosen, :2].T, s=22, c=colour, marker=shape, label=label, alpha=0.8)
  axes.set(xlabel="first principal component", ylabel="second")
  axes.legend(fontsize=8)
  path.parent.mkdir(parents=True, exist_ok=True)
  made.savefig(path, dpi=120)
