"""What `main` can do."""

from effnets.commands.evaluate import evaluate as evaluate
from effnets.commands.export import export as export
from effnets.commands.few_shot import few_shot as few_shot
from effnets.commands.plan import plan as plan
from effnets.commands.predict import predict as predict
from effnets.commands.report import report as report
from effnets.commands.robustness import robustness as robustness
from effnets.commands.search import search as search
from effnets.commands.search import worker as worker
from effnets.commands.show import show as show
from effnets.commands.train import train as train
from effnets.commands.trained import open_model as open_model
