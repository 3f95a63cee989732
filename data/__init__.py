"""Readers, stores, splits and orders of examples; imports utils, no task."""
