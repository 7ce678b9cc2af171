import os

import pytest

from ssl_prune.utils.files import beside, refuse_unwritable, replacing


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
        assert part.suffix == ".txt"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half(part):
        part.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), replacing(path) as part:
        write_half(part)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), replacing(tmp_path / "a.txt"):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing does not exist"), replacing(tmp_path / "missing" / "a.txt"):
        pass


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder"), replacing(tmp_path):
        pass


def test_a_link_keeps_pointing(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "a") as part:
        part.write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_what_a_writer_made_for_itself_alone_is_readable_like_any_file(tmp_path):
    (tmp_path / "plain.txt").touch()
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("new")
        part.chmod(0o600)
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize(
    ("path", "endings", "error", "words"),
    [
        (
            "net.json",
            [".json", ".png"],
            ValueError,
            r"net.json would be written twice.* \.json, \.png .*another ending",
        ),
        ("a/net.pt2", [".json", ".pt2"], ValueError, "net.pt2 would be written twice"),
        ("", [], ValueError, "must name a file"),
        (".", [".json"], ValueError, "must name a file"),
        ("runs/..", [".json"], ValueError, "must name a file"),
        (3, [], TypeError, "must be the path of a file, got 3"),
    ],
)
def test_a_file_that_another_would_replace_is_refused(path, endings, error, words):
    with pytest.raises(error, match=f"output.*{words}"):
        beside(path, endings, "output")


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    refuse_unwritable(tmp_path / "file")
    refuse_unwritable(tmp_path / "new" / "er" / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        refuse_unwritable(tmp_path)
    for below in ("net", "folder/net"):
        with pytest.raises(NotADirectoryError, match="file is a file, not a folder"):
            refuse_unwritable(tmp_path / "file" / below)


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
    """Asked of the system, since a superuser may write anywhere."""
    asked = []
    monkeypatch.setattr(os, "access", lambda folder, mode: asked.append((folder, mode)))
    with pytest.raises(PermissionError, match="takes no files"):
        refuse_unwritable(tmp_path / "new" / "net")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]
