"""Search algorithms: what proposes architectures and learns from their rewards."""

from effnets.search.algorithms.base import Algorithm as Algorithm
from effnets.search.algorithms.base import Exhausted as Exhausted
from effnets.search.algorithms.base import Proposal as Proposal
from effnets.search.algorithms.base import Result as Result
from effnets.search.algorithms.registry import create as create
from effnets.search.algorithms.registry import names as names
