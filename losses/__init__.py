"""Pure functions to one float32 value per example."""
