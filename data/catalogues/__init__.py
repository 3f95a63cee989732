"""Catalogues as they come: one module a kind, each with `open_source(**options) -> Source` (data/source.py), and what they share."""
