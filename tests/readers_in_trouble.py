"""Every reader of a file while opening it fails: a line [file, errno, what was wrong with the answer] each.

Run by tests/test_trouble.py with tests/failing_open.c preloaded.
"""

import ctypes
import errno
import json
import sys
from pathlib import Path


import numpy as np
from astropy.io import fits

from data.catalogues.tables import read_table
from data.cutouts import buckets, quality_table, store, truth
from data.light_curves import packed
from data.light_curves.curve import Reading
from data.listing import read_listing
from evaluation.predictions import array, read_predictions
from evaluation.thresholds import read_threshold
from trained import read_checkpoint
from utils import checkpoint, config, files

fail_opening = ctypes.CDLL(None).fail_opening
here = Path(sys.argv[1])
(here / "cutouts").mkdir()
random = np.random.default_rng(0)
for number in range(3):
    image = random.normal(size=(8, 8)).astype(np.float32)
    fits.writeto(here / "cutouts" / f"object_{number}_g.fits", image)
fits.BinTableHDU.from_columns([fits.Column("ID", "10A", array=["a"])]).writeto(here / "parameters.fits")
index = buckets.inventory_of_images(here / "cutouts")
store.pack_cutouts(index, here / "store", (8, 8), 1, "digest")
quality_table.quality_of(store.open_store(here / "store"), print)
(here / "curve.csv").write_text("time,flux,fluxerr\n1,2,0.1\n2,2,0.1\n")
curves = packed.pack_light_curves([str(here / "curve.csv")], Reading(), here).directory
checkpoint.save(here / "last.pt", dict(step=1), here / "previous.pt")
checkpoint.save(here / "last.pt", dict(step=2), here / "previous.pt")
(here / "list.txt").write_text("a\nb\n")
(here / "t.txt").write_text("0.5")
(here / "some.json").write_text("{}")
(here / "some.yaml").write_text("lr: 1")
(here / "pred.csv").write_text("path,domain,label,prob\na,b,1,0.5\n")
np.save(here / "some.npy", np.zeros(3))

READERS = {
    "store/manifest.json": lambda path: store.open_store(here / "store"),
    "store/index.parquet": lambda path: store.open_store(here / "store"),
    "store/pixels.npy": lambda path: store.open_store(here / "store"),
    "store/quality.parquet": lambda path: quality_table.quality_of(store.open_store(here / "store"), print),
    f"{curves.name}/manifest.json": lambda path: packed.open_packed(curves),
    f"{curves.name}/curves.parquet": lambda path: packed.open_packed(curves),
    f"{curves.name}/rate.npy": lambda path: packed.open_packed(curves),
    "last.pt": lambda path: checkpoint.load_newest(here, print),
    "previous.pt": lambda path: read_checkpoint(path),
    "parameters.fits": lambda path: truth.read_truth([str(here / "x.fits")]),
    "curve.csv": lambda path: read_table(path, "--table"),
    "list.txt": lambda path: list(read_listing(path, "--images")),
    "t.txt": lambda path: read_threshold(path),
    "some.json": lambda path: files.read_json(path, "weights_file", "ensemble.py"),
    "some.yaml": lambda path: config.read_config_file(path),
    "pred.csv": lambda path: read_predictions(path),
    "some.npy": lambda path: array(path),
}
for name, read in READERS.items():
    for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ENOTCONN):
        fail_opening(f"{here}/{name}".encode(), number, -1)
        try:
            read(str(here / name))
            answer = "nothing was raised"
        except OSError as error:
            answer = "" if error.errno == number and name in str(error) else repr(error)
        except BaseException as error:
            answer = repr(error)
        fail_opening(b"", 0, 0)
        print(json.dumps([name, errno.errorcode[number], answer]))
