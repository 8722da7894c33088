"""Process set-up, the device mesh, where arrays live and how a step is executed."""
