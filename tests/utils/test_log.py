"""What a run shows: a bar on a terminal, lines elsewhere, and undefined figures as null."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading

from tests.promises.test_ranks import ENVIRONMENT, command
from utils.log import environment, resident_gib


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    seen = []

    def listen():
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:
                return
            if not data:
                return
            seen.append(data)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    done = subprocess.run(
        command(1, tmp_path / "tty", "--pause", "0.03"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        timeout=120,
        check=False,
    )
    os.close(slave)
    listener.join(timeout=5)
    shown = b"".join(seen).decode()
    assert done.returncode == 0 and "step/s" in shown and "epoch 3" in shown and "Traceback" not in shown
    assert "step/s" not in (tmp_path / "tty" / "train.log").read_text()
    piped = subprocess.run(
        command(1, tmp_path / "file"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "step 21/21  loss" in piped.stderr and "step/s" not in piped.stderr


def test_the_environment_is_told():
    told = environment(dict(data=dict(digest="x")))
    assert {"argv", "host", "torch", "git", "threads", "ranks", "data"} <= told.keys()
    assert 0.01 < resident_gib() < 100
