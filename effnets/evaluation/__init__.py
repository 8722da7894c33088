"""From gathered per-example predictions to figures."""
