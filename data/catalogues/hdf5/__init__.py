"""HDF5 files of images and of what is known of their objects."""
