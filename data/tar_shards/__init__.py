"""Tar shards (WebDataset): written, read, streamed."""
