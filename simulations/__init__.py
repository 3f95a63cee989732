"""What simulate.py draws; imports physics, data (to write) and utils."""
