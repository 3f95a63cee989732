"""Cutouts: FITS files of images, their store, and the examples made of it."""
