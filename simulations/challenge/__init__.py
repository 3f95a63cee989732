"""The strong-lens challenge: lenses, their sky, their files."""
