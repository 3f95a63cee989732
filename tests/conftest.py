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


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
