"""Sources, decoding, example order and batching on to the mesh."""
