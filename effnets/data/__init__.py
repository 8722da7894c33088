"""Sources, decoding, example order and batching on to the mesh."""

from effnets.data import batches as batches
from effnets.data import catalog as catalog
from effnets.data import class_names as class_names
from effnets.data import clips as clips
from effnets.data import coco as coco
from effnets.data import corrupted as corrupted
from effnets.data import decode as decode
from effnets.data import draws as draws
from effnets.data import films as films
from effnets.data import folder as folder
from effnets.data import parts as parts
from effnets.data import photos as photos
from effnets.data import records as records
from effnets.data import scenes as scenes
from effnets.data import sources as sources
from effnets.data.batches import eval_batches as eval_batches
from effnets.data.batches import eval_shapes as eval_shapes
from effnets.data.batches import place as place
from effnets.data.batches import train_batches as train_batches
from effnets.data.sources import Source as Source
from effnets.data.sources import inputs as inputs
from effnets.data.sources import open_source as open_source
from effnets.data.stream import Mixture as Mixture
from effnets.data.stream import Stream as Stream
from effnets.data.stream import Tally as Tally
from effnets.data.stream import ordered as ordered
