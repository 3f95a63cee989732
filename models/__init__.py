"""Networks by family: nn.Modules without loss, optimiser, device or configuration."""
