import hashlib

import pytest

from ssl_prune.data.download import fetch_file


def md5(raw):
    return hashlib.md5(raw).hexdigest()


def test_the_next_mirror_serves_when_the_first_does_not(tmp_path):
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.write_bytes(b"damaged")
    right.write_bytes(b"good")
    urls = [(tmp_path / "missing").as_uri(), wrong.as_uri(), right.as_uri()]
    path = fetch_file(urls, tmp_path / "new" / "file", md5(b"good"))
    assert path.read_bytes() == b"good"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_failure_gives_the_reason_of_every_mirror_and_leaves_nothing(tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"damaged")
    urls = [(tmp_path / "missing").as_uri(), wrong.as_uri()]
    with pytest.raises(OSError, match="could not be fetched") as caught:
        fetch_file(urls, tmp_path / "new" / "file", md5(b"good"))
    assert "No such file" in str(caught.value)
    assert f"MD5 is {md5(b'damaged')}, expected {md5(b'good')}" in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    assert fetch_file([], tmp_path / "file", md5(b"other")).read_bytes() == b"mine"
