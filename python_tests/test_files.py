import errno
import os
import stat

import pytest

from proxyless_ext.errors import UserError
from proxyless_ext.files import check_writable, remove_leftovers, write_atomically


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
    (tmp_path / f".[a].json.{16 * 'e'}.part").write_text("half a fi")
    others = {".[a].json", ".b.part", f"a.json.{16 * 'e'}.part", f".a.json.{16 * 'e'}.part.txt"}
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others


def test_writers_of_one_file_leave_each_other_alone(tmp_path, monkeypatch):
    path, fsync = tmp_path / "file", os.fsync

    def write_the_same_in_between(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        write_atomically(path, "the other's")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", write_the_same_in_between)
    write_atomically(path, "ours")
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_is_checked_without_touching_it(tmp_path):
    (tmp_path / "file").write_text("old")
    for place in ("file", "new"):
        check_writable(tmp_path / place)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch, function, number):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(
        UserError, match=r"what was there before is intact, so free some disk space"
    ):
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
        for write in (check_writable, lambda path: write_atomically(path, "")):
            with pytest.raises(UserError, match=rf"cannot write .*{place}: .*; choose another"):
                write(tmp_path / place)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
