"""Experiments of several stages."""

from effnets.pipelines import sweep as sweep
from effnets.pipelines.registry import Planned as Planned
from effnets.pipelines.registry import last_stage as last_stage
from effnets.pipelines.registry import planned as planned
from effnets.pipelines.registry import run as run
