"""Process set-up, the device mesh, where arrays live and how a step is executed."""

from effnets.parallel import host as host
from effnets.parallel import processes as processes
from effnets.parallel import slices as slices
from effnets.parallel.placement import BATCH_AXES as BATCH_AXES
from effnets.parallel.placement import DEFAULT_MIN_SIZE as DEFAULT_MIN_SIZE
from effnets.parallel.placement import DEFAULT_RULES as DEFAULT_RULES
from effnets.parallel.placement import Placement as Placement
from effnets.parallel.placement import create as create
from effnets.parallel.placement import path_name as path_name
from effnets.parallel.placement import to_host as to_host
from effnets.parallel.processes import agree as agree
from effnets.parallel.processes import initialize as initialize
from effnets.parallel.processes import meet as meet
from effnets.parallel.processes import on_each as on_each
from effnets.parallel.processes import on_first as on_first
from effnets.parallel.watch import together as together
