"""Tar files that nobody should open: each lies, hides something,
or would run a program if it were believed.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from data.tar_shards.tar import ending, padding

IMAGE = np.ones((2, 4, 4), np.float32)
GIANT = 2**40


def npy(array=IMAGE, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npy_of(
    text: str, pixels: bytes = IMAGE.tobytes(), version: bytes = b"\1\0", length: int | None = None
) -> bytes:
    """An npy file whose header says `text`."""
    line = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    told = (len(line) if length is None else length).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + told + line + pixels


def said(descr="'<f4'", fortran="False", shape="(2, 4, 4)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def block(
    name: bytes = b"a.npy",
    size: bytes | int = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    size = b"%011o\0" % size if isinstance(size, int) else size
    raw = b"".join(
        [
            name.ljust(100, b"\0"),
            b"0000644\x000000000\x000000000\x00",
            size,
            b"00000000000\0",
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            magic,
            bytes(80),
            prefix.ljust(155, b"\0"),
            bytes(12),
        ]
    )
    assert len(raw) == 512
    return raw[:148] + (checksum or b"%06o\0 " % sum(raw)) + raw[156:]


def member(name: bytes | str = b"a.npy", content: bytes = b"", **options) -> bytes:
    name = name.encode() if isinstance(name, str) else name
    return block(name, **{"size": len(content), **options}) + content + padding(len(content))


def closed(*parts: bytes) -> bytes:
    raw = b"".join(parts)
    return raw + ending(len(raw))


def sample(**members: bytes) -> bytes:
    """A sample "a" of members by suffix; the image is sound unless it is given."""
    return closed(*(member(f"a.{suffix}", content) for suffix, content in {"npy": npy(), **members}.items()))


def pax(kind: bytes = b"x", **fields: str) -> bytes:
    text = b""
    for key, value in fields.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        text += str(length).encode() + line
    return member(b"PaxHeader/a", text, kind=kind)


def by_tarfile(kind: bytes, **fields) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("a.npy")
        info.type = kind
        for name, value in fields.items():
            setattr(info, name, value)
        file.addfile(info)
    return stream.getvalue()


class Canary:
    """What a pickle would run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a/data.pkl", content)
    return stream.getvalue()


def hostile_tars(canary: Path) -> dict[str, tuple[bytes, str]]:
    """{name: (the bytes of a tar file, a word of the reason that must be given)}.
    `canary` is a file that a pickle would make.
    """
    objects = npy(np.array([[Canary(canary)]], dtype=object), allow_pickle=True)
    named_x = b'{"object": "x"}'
    good, run = (
        member("a.npy", npy()),
        {f"pickle{number}": pickle.dumps(Canary(canary), number) for number in (0, 2, 4, 5)},
    )
    cut = closed(good)
    flipped = bytearray(closed(good))
    flipped[3] ^= 1
    return {
        # what is no tar file, or not all of one
        "empty": (b"", "truncated"),
        "text": (b"<html>404 not found</html>" * 100, "no tar header"),
        "npy alone": (npy(), "truncated"),
        "random": (np.random.default_rng(0).bytes(5000), "no tar header"),
        "gzip": (gzip.compress(cut * 30), "gzip-compressed"),
        "gzip bomb": (gzip.compress(bytes(2**24)), "gzip-compressed"),
        "bzip2": (bz2.compress(np.random.default_rng(0).bytes(2000)), "bzip2-compressed"),
        "xz": (lzma.compress(np.random.default_rng(0).bytes(2000)), "xz-compressed"),
        "zip": (zipped(np.random.default_rng(0).bytes(2000)), "zip-compressed"),
        "cut in a header": (cut[:300], "truncated"),
        "cut in a content": (cut[:800], "truncated"),
        "cut before the end": (good, "truncated"),
        "one zero block": (good + bytes(512), "first zero block"),
        "old tar": (closed(member("a.npy", npy(), magic=bytes(8))), "no tar header"),
        "nothing in it": (ending(0), "without a sample"),
        "flipped bit": (bytes(flipped), "checksum"),
        "another archive after the end": (cut + cut, "hidden after its end"),
        "a member after the end": (cut[:-4096] + good, "first zero block"),
        "zeros without end": (good + bytes(2**21), "first zero block"),
        # headers that lie
        "checksum of letters": (closed(block(checksum=b"zzzzzz\0 ")), "checksum"),
        "size beyond the file": (block(size=10**6) + bytes(1024), "truncated or forged"),
        "size of a terabyte": (
            block(size=b"\x80" + bytes(3) + GIANT.to_bytes(8, "big")) + bytes(1024),
            "octal",
        ),
        "negative size": (block(size=b"\xff" * 12) + bytes(1024), "octal"),
        "size with a minus": (block(size=b"-0000000001\0") + bytes(1024), "octal"),
        "size of letters": (block(size=b"0x000000100\0") + bytes(1024), "octal"),
        "size of eights": (block(size=b"00000000088\0") + bytes(1024), "octal"),
        "no size": (block(size=bytes(12)) + bytes(1024), "octal"),
        "largest octal size": (block(size=b"777777777777") + bytes(1024), "truncated or forged"),
        # links, devices and other kinds
        "symbolic link": (by_tarfile(tarfile.SYMTYPE, linkname="/etc/passwd"), "symbolic link"),
        "hard link": (by_tarfile(tarfile.LNKTYPE, linkname="../secret"), "hard link"),
        "character device": (by_tarfile(tarfile.CHRTYPE, devmajor=1, devminor=5), "character device"),
        "block device": (by_tarfile(tarfile.BLKTYPE, devmajor=8), "block device"),
        "pipe": (by_tarfile(tarfile.FIFOTYPE), "a pipe"),
        "contiguous file": (closed(member(kind=b"7")), "unknown kind"),
        "sparse file": (closed(member(kind=b"S", magic=b"ustar  \0")), "sparse"),
        "long link": (
            closed(member(b"././@LongLink", b"/etc/passwd\0", kind=b"K", magic=b"ustar  \0")),
            "a link",
        ),
        "several volumes": (closed(member(kind=b"M", magic=b"ustar  \0")), "volume"),
        "unknown kind": (closed(member(kind=b"Z")), "unknown kind"),
        "folder with content": (closed(member(b"a/", b"hidden", kind=b"5")), "folder with content"),
        "file named as a folder": (closed(member(b"a.npy/", npy())), "folder with content"),
        # names that lead elsewhere
        "absolute name": (closed(member(b"/etc/cron.d/a.npy", npy())), "leaves the folder"),
        "name with ..": (closed(member(b"../../a.npy", npy())), "leaves the folder"),
        "name with .. inside": (closed(member(b"x/../../a.npy", npy())), "leaves the folder"),
        "prefix with ..": (closed(member(b"a.npy", npy(), prefix=b"..")), "leaves the folder"),
        "absolute prefix": (closed(member(b"a.npy", npy(), prefix=b"/etc")), "leaves the folder"),
        "name with a drive": (closed(member(b"C:a.npy", npy())), "leaves the folder"),
        "name with two slashes": (closed(member(b"x//a.npy", npy())), "leaves the folder"),
        "name with backslashes": (closed(member(b"..\\a.npy", npy())), "backslash"),
        "name with a zero byte": (closed(member(b"a.npy\0/../../b.npy", npy())), "zero byte"),
        "name with a line feed": (closed(member(b"a\nb.npy", npy())), "control characters"),
        "name with an escape": (closed(member(b"\x1b[2Ja.npy", npy())), "control characters"),
        "name that turns round": (closed(member("a\u202eyp.npy", npy())), "control characters"),
        "name in Latin-1": (closed(member(b"\xe9.npy", npy())), "no UTF-8"),
        "no name": (closed(member(b"", npy())), "name of 0 characters"),
        "endless name": (
            closed(member(b"././@LongLink", b"x" * 5000 + b".npy\0", kind=b"L"), good),
            "name of 5,004 characters",
        ),
        "long name with ..": (
            closed(member(b"././@LongLink", b"../" * 40 + b"a.npy\0", kind=b"L"), good),
            "leaves the folder",
        ),
        "long name with a zero byte": (
            closed(member(b"././@LongLink", b"a.npy\0../b", kind=b"L"), good),
            "zero byte",
        ),
        # extended headers
        "pax with ..": (closed(pax(path="../../a.npy"), good), "leaves the folder"),
        "pax absolute": (closed(pax(path="/a.npy"), good), "leaves the folder"),
        "pax with a zero byte": (closed(pax(path="a\0.npy"), good), "extended header"),
        "pax size beyond the file": (closed(pax(size=str(GIANT)), good), "truncated or forged"),
        "pax negative size": (closed(pax(size="-512"), good), "extended header"),
        "pax size of digits of elsewhere": (closed(pax(size="\u0661\u0662"), good), "extended header"),
        "pax link": (closed(pax(linkpath="/etc/passwd"), good), "extended header"),
        "pax sparse": (
            closed(pax(**{"GNU.sparse.major": "1", "GNU.sparse.realsize": str(GIANT)}), good),
            "sparse",
        ),
        "pax in another character set": (closed(pax(hdrcharset="BINARY"), good), "UTF-8"),
        "pax for all members": (closed(pax(kind=b"g", path="b.npy"), good), "extended header"),
        "pax without numbers": (closed(member(b"p", b"path=a.npy\n", kind=b"x"), good), "extended header"),
        "pax that is longer than it is": (
            closed(member(b"p", b"99 path=a.npy\n", kind=b"x"), good),
            "extended header",
        ),
        "pax of length 0": (closed(member(b"p", b"0 path=a.npy\n", kind=b"x"), good), "extended header"),
        "pax twice the same": (
            closed(member(b"p", b"14 path=a.npy\n14 path=b.npy\n", kind=b"x"), good),
            "extended header",
        ),
        "pax after pax": (closed(pax(path="b.npy"), pax(path="c.npy"), good), "follows another"),
        "pax of absurd size": (
            closed(member(b"p", b"x" * 2**17, kind=b"x"), good),
            "expected at most 65,536",
        ),
        "pax at the end": (closed(good, pax(path="b.npy")), "ends after an extended header"),
        # samples that are two things
        "member twice": (closed(good, good), "twice"),
        "member twice by case": (closed(good, member("a.NPY", npy())), "twice"),
        "member twice by a dot": (closed(good, member("./a.npy", npy())), "twice"),
        "key twice": (closed(good, member("b.npy", npy()), member("a.json", b"{}")), "key was there before"),
        "two images": (closed(member("a.x.npy", npy()), member("a.y.npy", npy())), "2 .npy members"),
        "no image": (closed(member("a.json", b"{}")), "no .npy members"),
        "object twice": (
            closed(good, member("a.json", named_x), member("b.npy", npy()), member("b.json", named_x)),
            "was there before",
        ),
        # pickles
        **{
            f"{suffix} by name": (sample(**{suffix: run["pickle4"]}), "pickle")
            for suffix in ("pkl", "pickle", "pyd", "pth", "pt", "x.pkl")
        },
        **{
            f"{name} as npy": (
                sample(npy=content),
                "pickle" if name != "pickle0" else "expected an npy array",
            )
            for name, content in run.items()
        },
        "pickle as json": (sample(json=run["pickle4"]), "pickle"),
        "old pickle as json": (sample(json=run["pickle0"]), "no strict JSON"),
        "pickle as cls": (sample(cls=run["pickle4"]), "whole number"),
        "pickle of no name": (sample(bin=run["pickle5"]), "pickle"),
        "torch file as npy": (sample(npy=zipped(run["pickle4"])), "expected an npy array"),
        "array of objects": (sample(npy=objects), "'|O'"),
        "array of objects in a field": (sample(npy=npy_of(said("[('x', '|O')]"))), "pickles"),
        # npy members that lie
        "npy with code for a header": (
            sample(npy=npy_of(f"__import__('os').system('touch {canary}')")),
            "npy header",
        ),
        "npy with code for a shape": (
            sample(npy=npy_of(said(shape=f"(__import__('os').system('touch {canary}'), 4)"))),
            "npy header",
        ),
        "npy nested": (sample(npy=npy_of("(" * 500)), "npy header"),
        "npy of a giant header": (sample(npy=npy_of(said() + " " * 60_000)), "npy header of"),
        "npy of a header beyond it": (sample(npy=npy_of(said(), length=900)), "npy header"),
        "npy of a header of 4 GiB": (
            sample(npy=npy_of(said(), version=b"\2\0", length=2**32 - 1)),
            "npy header of",
        ),
        "npy of version 9": (sample(npy=npy_of(said(), version=b"\x09\0")), "version 1 or 2"),
        "npy of a giant shape": (sample(npy=npy_of(said(shape="(30000, 30000, 30000)"))), "promises"),
        "npy of a shape that overflows": (
            sample(npy=npy_of(said(shape="(4294967296, 4294967296, 1)"))),
            "of shape",
        ),
        "npy of negative shape": (sample(npy=npy_of(said(shape="(-2, 4, 4)"))), "npy header"),
        "npy without pixels": (sample(npy=npy_of(said(), b"")), "promises"),
        "npy with more behind": (sample(npy=npy() + b"hidden"), "promises"),
        "npy of no side": (sample(npy=npy_of(said(shape="(0, 4, 4)"), b"")), "sides of 1"),
        "npy of one number": (sample(npy=npy_of(said(shape="()"))), "of shape"),
        "npy of many axes": (sample(npy=npy_of(said(shape="(1, 2, 1, 4, 4)"))), "of shape"),
        "npy of text": (sample(npy=npy(np.full((4, 4), "abc"))), "plain numbers"),
        "npy of complex numbers": (sample(npy=npy(np.ones((4, 4), complex))), "plain numbers"),
        "npy of void": (sample(npy=npy_of(said("'|V4'"))), "plain numbers"),
        "npy empty": (sample(npy=b""), "expected an npy array"),
        # JSON and labels that lie
        "json cut": (sample(json=b'{"object": "x"'), "no strict JSON"),
        "json with NaN": (sample(json=b'{"redshift": NaN}'), "NaN is no JSON"),
        "json with Infinity": (sample(json=b'{"redshift": -Infinity}'), "-Infinity is no JSON"),
        "json that overflows": (sample(json=b'{"redshift": 1e999}'), "overflows"),
        "json with a key twice": (sample(json=b'{"label": 1, "label": 0}'), "twice"),
        "json nested": (sample(json=b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "levels deep"),
        "json nested behind a text": (
            sample(json=b'{"x": "\\"", "y": ' + b'{"z": ' * 40 + b"1" + b"}" * 41),
            "levels deep",
        ),
        "json of quotes without end": (sample(json=b'"' + b"{" * 20 + b'\\"' * 500_000), "no strict JSON"),
        "json of braces in a text": (sample(json=b'{"x": "' + b"{" * 1_000_000 + b'", "x": 1}'), "twice"),
        "json of many keys": (
            sample(json=b"{" + b",".join(b'"%d": 1' % number for number in range(80_000)) + b', "79999": 2}'),
            "twice",
        ),
        "json of a number of 10,000 digits": (
            sample(json=b'{"x": ' + b"9" * 10_000 + b"}"),
            "no strict JSON",
        ),
        "json of 2 MiB": (sample(json=json.dumps({"x": "x" * 2**21}).encode()), "at most 1,048,576"),
        "json in UTF-16": (sample(json='{"label": 1}'.encode("utf-16")), "no strict JSON"),
        "json list": (sample(json=b"[1, 2]"), "an object of JSON"),
        "json of another label": (sample(json=b'{"label": 7}'), "expected 1, 0 or -1"),
        "json of a label of lists": (sample(json=b'{"label": [1]}'), "expected 1, 0 or -1"),
        "json of fewer bands": (sample(json=b'{"bands": ["g"]}'), "expected a list of 2"),
        "json of bands of numbers": (sample(json=b'{"bands": [1, 2]}'), "expected texts"),
        "json of a domain of lists": (sample(json=b'{"domain": []}'), "expected a text"),
        "cls of text": (sample(cls=b"lens"), "whole number"),
        "cls of many digits": (sample(cls=b"1" * 50), "whole number"),
        "label of another class": (sample(label=b"3"), "expected 1, 0 or -1"),
        "txt of prose": (sample(txt=b"a photograph of a galaxy"), "whole number"),
    }


def hostile_manifests(manifest: dict) -> dict[str, dict]:
    """{name: a manifest that is not that of its shards}."""

    def changed(**fields) -> dict:
        return json.loads(json.dumps(manifest)) | fields

    def of_shard(**fields) -> dict:
        return changed(shards=[manifest["shards"][0] | fields, *manifest["shards"][1:]])

    def of_metadata(**fields) -> dict:
        return changed(metadata=manifest["metadata"] | fields)

    return {
        "no shards": changed(shards=None),
        "version": changed(version=99),
        "images": changed(images=10**12),
        "negative": changed(images=-1),
        "shape": changed(shape=[2**31, 2**31]),
        "flat": changed(shape=[4]),
        "texts": changed(shape=["4", "4"]),
        "dtypes": changed(dtypes={"path": "str"}),
        "object dtype": changed(dtypes=manifest["dtypes"] | {"label": "O"}),
        "code dtype": changed(dtypes=manifest["dtypes"] | {"label": "datetime64[ns]"}),
        "name with ..": of_shard(name="../shard-000000.tar"),
        "absolute name": of_shard(name="/etc/passwd"),
        "command": of_shard(name="pipe:id"),
        "name twice": of_shard(name=manifest["shards"][1]["name"]),
        "no name": of_shard(name=None),
        "size": of_shard(size=10),
        "large": of_shard(size=2**52),
        "sha256": of_shard(sha256="0" * 64),
        "no sha256": of_shard(sha256=None),
        "samples": of_shard(samples=0),
        "more images": of_shard(images=10**9),
        "rows": of_shard(rows=[5, 5]),
        "three rows": of_shard(rows=[0, 1, 2]),
        "metadata rows": of_metadata(rows=10**15),
        "fewer rows": of_metadata(rows=1),
        "metadata dtypes": of_metadata(dtypes={}),
        "other columns": of_metadata(dtypes={"object": "str"}),
        "rest": of_metadata(without_images=[1]),
        "rest of no number": of_metadata(without_images={"x": {}}),
        "bool": changed(samples=True),
        "table": changed(table=None),
        "list": changed(metadata=[1]),
    }
