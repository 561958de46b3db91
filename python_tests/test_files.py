import errno
import os
import stat

import pytest

from proxyless_ext.errors import UserError
from proxyless_ext.files import write_atomically


@pytest.mark.parametrize(("content", "data"), [("ä\n", b"\xc3\xa4\n"), (b"\0\xff", b"\0\xff")])
def test_text_and_bytes_replace_what_was_there(tmp_path, content, data):
    path = tmp_path / "file.json"
    path.write_bytes(b"a longer old content")
    write_atomically(path, content)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "file", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")}
    assert len(modes) == 1


def test_leftovers_of_killed_writers_are_removed_and_other_files_are_not(tmp_path):
    (tmp_path / ".[a].json.tmp123").write_text("half a fi")
    others = {".[a].json", ".b.json.tmp123", "[a].json.tmp123", ".a.json.tmp123"}
    for name in others:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "[a].json", "whole")
    assert {path.name for path in tmp_path.iterdir()} == others | {"[a].json"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, function, number):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(UserError, match=r"what was there before is intact, so free .* --resume"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_keeps_the_old_file(tmp_path, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_impossible_places_are_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in ("missing/file", "file/file", "folder"):
        with pytest.raises(UserError, match=rf"cannot write .*{place}: .*; choose another place"):
            write_atomically(tmp_path / place, "")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
