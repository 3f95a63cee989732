"""Catalogues as they come: one module a kind, each with `open_source(**options)
-> Source` (data/cutouts/source.py), and what they share.
"""
