"""Weights of other code bases: into our modules, and out of them again."""

from effnets.weights.bert import from_google_bert as from_google_bert
from effnets.weights.bert import from_huggingface_bert as from_huggingface_bert
from effnets.weights.bert import load_bert as load_bert
from effnets.weights.catalog import Preprocessing as Preprocessing
from effnets.weights.catalog import list_weights as list_weights
from effnets.weights.choice import configure as configure
from effnets.weights.choice import open_choice as open_choice
from effnets.weights.choice import parse as parse
from effnets.weights.convert import Imported as Imported
from effnets.weights.convert import Report as Report
from effnets.weights.convert import from_tensorflow as from_tensorflow
from effnets.weights.convert import from_timm as from_timm
from effnets.weights.convert import to_timm as to_timm
from effnets.weights.detectors import from_effdet as from_effdet
from effnets.weights.detectors import from_official as from_official
from effnets.weights.detectors import list_detectors as list_detectors
from effnets.weights.loading import load as load
