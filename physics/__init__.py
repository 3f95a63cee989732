"""Pure functions with units and sources, differentiable, without learning."""
