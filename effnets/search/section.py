"""The section `search` of a config, with its defaults."""

import ml_collections

# What another start, or another worker, may have changed; `any_code` says what else.
FREE = (
  "search.any_code",
  "search.max_failed",
  "search.patience",
  "search.proxy.workers",
  "search.storage",
  "search.top",
  "search.trials",
)


def defaults() -> ml_collections.ConfigDict:
  """Returns the section `search` with its defaults; everything else of the config is the child's.

  That is, `train`, `data`, `optimizer`, ... say how long and on what a child trains; its hold-out
  part is `data.split.validation`.
  """
  return ml_collections.ConfigDict(
    {
      "space": {"name": "mnas_tiny", "options": {}},
      "algorithm": {"name": "reinforce", "options": {}},
      # form: soft, hard, absolute or two_sided. costs, targets: names of values, and as many
      # figures; none leaves the accuracy alone.
      "reward": {
        "form": "soft",
        "accuracy": "accuracy",
        "costs": ("madds",),
        "targets": (1e6,),
        "options": {},
      },
      "cost": "madds",  # the value that tells equal rewards apart, and the plot's horizontal axis
      "limits": {"options": {}},  # value -> the most that a network may have, or it is not trained
      "latency_table": "",  # a file of effnets.search.lut, which gives the value `latency`
      "trials": 100,  # results in all, over all starts
      # proxy; table, of the file `table`; landscape, whose name is options.name.
      "evaluator": {"name": "proxy", "options": {}},
      "table": "",
      # execution: shared or loop, see search/shared.py. workers: children at a time, each on its
      # own part of the devices; 0 leaves all of them to processes of --mode=worker.
      "proxy": {"execution": "shared", "workers": 1},
      "window": 0,  # proposals ahead of the oldest that has no result; 0: 1, or by the workers
      # See search/running.py, Rules.
      "retries": 1,
      "losses": 3,
      "failure": "skip",
      "infeasible": "skip",
      "penalty": 0.0,
      "max_failed": -1,
      "count_nan": True,
      "repeats": 1,
      "study": "search",  # its name in the database
      "storage": "",  # a database's URL, journal:FILE or memory; empty: study.db in the workdir
      "patience": 600.0,  # seconds that the database may be away
      "any_code": False,  # whether workers, and later starts, may have other code
      "top": 5,  # networks in best.json
    }
  )
