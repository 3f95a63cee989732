"""Bands by any name, the whole road: files, store, training, prediction, survey; and who has none of them."""

import re

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

import convert
import predict
import survey
import train
from utils.mistake import Mistake

WRITTEN = ("VIS", "Y", "NIR", "F814W", "HSC-G")
BANDS = ["g", "VIS", "F814W", "Y", "NIR"]  # their names, by wavelength
OBJECTS = 24


def write(path, hdus):
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same images as HDUs of a file an object (`hdus`), and as a file a band (`plain`)."""
    top = tmp_path_factory.mktemp("bands")
    y, x = np.indices((41, 41)) - 20
    radius = np.hypot(x, y)
    draw = np.random.default_rng(1)
    for number in range(OBJECTS):
        ring = np.exp(-(((radius - 8) / 1.5) ** 2)) if number % 2 else 0
        hdus = [fits.PrimaryHDU()]
        for colour, band in enumerate(WRITTEN, 1):
            image = np.exp(-radius / 3) + 0.1 * colour * ring + 0.02 * draw.standard_normal((41, 41))
            hdus.append(fits.ImageHDU(image.astype("f4"), name=band))
            write(top / "plain" / f"J{number:02d}-5354_{band}.fits", [fits.PrimaryHDU(image.astype("f4"))])
        hdus.append(fits.ImageHDU(np.ones((41, 41), "f4"), name="PSF"))
        write(top / "hdus" / f"J{number:02d}-5354.fits", hdus)
    names = [f"J{number:02d}-5354" for number in range(OBJECTS)]
    labels = np.arange(OBJECTS) % 2
    pd.DataFrame(dict(object=names, file=[f"{name}.fits" for name in names], label=labels)).to_csv(
        top / "table.csv", index=False
    )
    return top


@pytest.fixture(scope="module")
def trained(files):
    """best.pt of a network of stacked bands, trained on the store of the HDUs."""
    made = [
        "--input",
        str(files / "hdus"),
        "--table",
        str(files / "table.csv"),
        "--output",
        str(files / "store"),
    ]
    convert.main(["fits", *made])
    options = dict(store=files / "store", save_dir=files / "run", band_mode="stack", model="robust_resnet")
    options |= dict(model_size="18", epochs=2, batch_size=8, device="cpu", seed=1)
    options |= dict(train_frac=0.5, val_frac=0.25, test_frac=0.25)
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stop.signal.signal", lambda *_: None)
        train.main([*flags, "--model_kwargs", "width=0.125", "--apply_normalization"])
    return files / "run" / "best.pt"


def ask(trained, out, *options):
    named = ["--model_path", trained, "--which", "all", "--output_dir", out, *options]
    predict.main([str(text) for text in named])
    return pd.read_csv(out / "pred_all.csv")


def test_hdus_and_files_of_any_names_have_one_answer(files, trained, tmp_path, capsys):
    of_store = ask(trained, tmp_path / "store", "--store", files / "store")
    assert len(of_store) == 5 * OBJECTS and of_store["prob"].notna().all()
    by_object = of_store.groupby(of_store["path"].str.extract(r"(J\d\d-5354)\.fits#")[0])["prob"]
    assert by_object.nunique().eq(1).all() and len(by_object) == OBJECTS
    expected = by_object.first()

    capsys.readouterr()
    of_files = ask(trained, tmp_path / "plain", "--images", files / "plain", "--store_dir", tmp_path / "s")
    said = capsys.readouterr().err
    assert "bands of the file names: g 24 (HSC-G), VIS 24, F814W 24, Y 24, NIR 24" in said
    assert f"{OBJECTS} examples of 5 channels from {5 * OBJECTS} of {5 * OBJECTS} files" in said
    names = of_files["path"].str.extract(r"/(J\d\d-5354)_")[0]
    np.testing.assert_array_equal(of_files["prob"], expected[names])

    place = ["--out", str(tmp_path / "survey")]
    network = ["--model_path", str(trained)]
    survey.main(["plan", *place, "--images", str(files / "plain"), "--shard_size", "32", *network])
    assert "bands: g 24 (HSC-G), VIS 24, F814W 24, Y 24, NIR 24" in capsys.readouterr().out
    survey.main(["pack", *place])
    survey.main(["predict", *place, *network, "--device", "cpu"])
    survey.main(["reduce", *place, *network, "--csv"])
    (found,) = (tmp_path / "survey" / "predictions").glob("*/pred.csv.gz")
    of_survey = pd.read_csv(found)
    assert of_survey.groupby("id")["band"].agg(set).eq(set(BANDS)).all()
    np.testing.assert_allclose(of_survey["prob"], expected[of_survey["id"]], atol=1e-6)


@pytest.fixture
def others(files, tmp_path):
    """Some of the images as files of another band."""
    for path in sorted((files / "plain").glob("J0?-5354_VIS.fits")):
        (tmp_path / "others").mkdir(exist_ok=True)
        (tmp_path / "others" / path.name.replace("VIS", "r")).symlink_to(path)
    return tmp_path / "others"


def test_a_network_whose_bands_are_not_there_says_so(trained, others, tmp_path):
    said = re.escape(
        f"wants the bands {' '.join(BANDS)}, of which none is in the data; there are r (10): say which is "
        "which with --band_alias r=g"
    )
    with pytest.raises(Mistake, match=f"the network {said}"):
        ask(trained, tmp_path / "p", "--images", others, "--store_dir", tmp_path / "s")
    said = said.replace(re.escape("the data"), re.escape(str(tmp_path / "survey")))
    place = ["--out", str(tmp_path / "survey")]
    network = ["--model_path", str(trained)]
    plan = ["plan", *place, "--images", str(others)]
    with pytest.raises(Mistake, match=said):
        survey.main([*plan, *network])
    assert not (tmp_path / "survey" / "plan.json").exists()
    survey.main(plan)
    with pytest.raises(Mistake, match=said):  # now too, and when it is planned already
        survey.main([*plan, *network])
    with pytest.raises(Mistake, match=said):
        survey.main(["predict", *place, *network])
    assert not (tmp_path / "survey" / "stores").exists()


def test_an_alias_is_the_cure_everywhere(files, trained, others, tmp_path, capsys):
    alias = ["--band_alias", "r=VIS"]
    found = ask(trained, tmp_path / "p", "--images", others, "--store_dir", tmp_path / "s", *alias)
    assert "bands missing and masked: g 10, F814W 10, Y 10, NIR 10" in capsys.readouterr().err
    place = ["--out", str(tmp_path / "survey")]
    network = ["--model_path", str(trained)]
    survey.main(["plan", *place, "--images", str(others), *network, *alias])  # predict knows it of plan
    survey.main(["predict", *place, *network, "--device", "cpu"])
    (path,) = (tmp_path / "survey" / "predictions").glob("*/000000.parquet")
    rows = pd.read_parquet(path)
    assert rows["band"].eq("VIS").all()
    np.testing.assert_allclose(rows["prob"], found["prob"], atol=1e-6)

    late = ["--out", str(tmp_path / "late")]  # or predict is told
    survey.main(["plan", *late, "--images", str(others)])
    survey.main(["pack", *late])
    survey.main(["predict", *late, *network, *alias, "--device", "cpu"])
    (path,) = (tmp_path / "late" / "predictions").glob("*/000000.parquet")
    assert pd.read_parquet(path).equals(rows)
    with pytest.raises(Mistake, match=r"--band_alias: got \['r=g'\], but .* with \['r=VIS'\]"):
        survey.main(["predict", *late, *network, "--band_alias", "r=g", "--device", "cpu"])

    # a store has names of its own
    renamed = ["--store", files / "store", "--band_alias", "VIS=I", "I=VIS"]
    with pytest.raises(Mistake, match="--bands: 'q' is in no file name; there are g, I, F814W, Y, NIR"):
        train.main([*map(str, renamed), "--bands", "q", "--save_dir", str(tmp_path / "run")])


def test_weights_follow_the_bands_into_another_run(files, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    options = ["--store", files / "store", "--save_dir", tmp_path / "run", "--band_mode", "stack"]
    options += ["--bands", "Y", "HSC-G", "F814W", "--model", "robust_resnet", "--model_size", "18"]
    options += ["--model_kwargs", "width=0.125", "--initial_checkpoint", trained, "--max_time", "0:00:00"]
    with pytest.raises(SystemExit):  # it has no time
        train.main([*map(str, options), "--device", "cpu"])
    said = capsys.readouterr()
    assert "weights follow the bands Y g F814W; bands VIS NIR are dropped" in said.out
    assert "the same bands by another name: g of the data is HSC-G" in said.err


def test_hdus_that_a_plain_folder_leaves_unread_are_said(files, trained, tmp_path, capsys):
    ask(trained.parent / "best.pt", tmp_path / "p", "--store", files / "store")
    capsys.readouterr()
    with pytest.raises(Mistake, match="of which none is in the data; there are files of no named band"):
        ask(trained, tmp_path / "q", "--images", files / "hdus", "--store_dir", tmp_path / "s")
    said = capsys.readouterr().err
    assert (
        "J00-5354.fits holds images of g VIS F814W Y NIR, of which the first is read: convert.py fits" in said
    )
