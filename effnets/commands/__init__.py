"""What `main` can do."""

from effnets.commands.evaluate import evaluate as evaluate
from effnets.commands.predict import predict as predict
from effnets.commands.robustness import robustness as robustness
from effnets.commands.train import train as train
from effnets.commands.trained import open_model as open_model
