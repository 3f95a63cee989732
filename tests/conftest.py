"""What all tests share: the repository on the path, one thread, and real files where they are at hand."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402  the environment above must be set before torch is imported
import torch  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
NOT_OURS = ("runs", "stores")  # what the README's commands write, beside hidden folders such as .venv


def files_of_the_project(kind: str) -> list[Path]:
    """All files *.kind of the tree that are the project's own, without environments and results."""
    files = sorted(ROOT.rglob(f"*.{kind}"))
    return [
        file
        for file in files
        if not any(part.startswith(".") or part in NOT_OURS for part in file.relative_to(ROOT).parts)
    ]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def shared_data():
    """`shared_data("lens/slacs_hst")` is that folder of real files, or skips the test where it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real files {name!r} are not at hand")
        return path

    return find


@pytest.fixture(scope="session")
def timm():
    """timm, the oracle of our networks, or a skip where it cannot be imported."""
    from models.timm_door import import_timm

    try:
        return import_timm()
    except ValueError as error:
        pytest.skip(str(error))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def challenge(tmp_path_factory) -> Path:
    """A small simulated challenge: 16 objects a bucket, bands g and r, 8 blind objects."""
    import simulate

    root = tmp_path_factory.mktemp("challenge") / "D"
    simulate.main(
        [
            "challenge",
            "--out",
            str(root),
            "--objects",
            "16",
            "--bands",
            "g",
            "r",
            "--blind",
            "8",
            "--workers",
            "1",
        ]
    )
    return root


@pytest.fixture(scope="session")
def trained(challenge, tmp_path_factory) -> dict[str, Path]:
    """Small networks trained on it for two epochs: "single" and "stack" -> run directory."""
    import train

    folder, runs = tmp_path_factory.mktemp("runs"), {}
    for mode in ("single", "stack"):
        runs[mode] = folder / mode
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("utils.stop.signal.signal", lambda *_: None)
            train.main(
                [
                    "--data",
                    str(challenge),
                    "--store_dir",
                    str(folder / "stores"),
                    "--save_dir",
                    str(runs[mode]),
                    "--band_mode",
                    mode,
                    "--model_size",
                    "atto",
                    "--epochs",
                    "2",
                    "--batch_size",
                    "32",
                    "--apply_normalization",
                    "--smoothing_mode",
                    "gaussian",
                    "--gaussian_sigma",
                    "1.0",
                    "--device",
                    "cpu",
                ]
            )
    return runs
