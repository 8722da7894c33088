"""State, optimizers, the update step, checkpoints and the one loop."""

from effnets.training import checkpoints as checkpoints
from effnets.training import evaluator as evaluator
from effnets.training import events as events
from effnets.training import inputs as inputs
from effnets.training import plots as plots
from effnets.training import progress as progress
from effnets.training import results as results
from effnets.training import start as start
from effnets.training import teachers as teachers
from effnets.training import writers as writers
from effnets.training.assembly import Programs as Programs
from effnets.training.assembly import prepare as prepare
from effnets.training.assembly import program as program
from effnets.training.evaluator import Predictor as Predictor
from effnets.training.loop import Result as Result
from effnets.training.loop import train as train
from effnets.training.signals import Stopped as Stopped
from effnets.training.signals import stopping as stopping
