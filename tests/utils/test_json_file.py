import json
import os

import pytest

from ssl_prune.utils.json_file import write_json


def test_what_is_written_reads_back(tmp_path):
    path = tmp_path / "a.json"
    obj = {"name": "größe", "list": [1, 2.5, None, True], "deep": {"x": []}}
    write_json(path, obj)
    assert json.loads(path.read_text(encoding="utf-8")) == obj
    assert path.read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(("obj", "error"), [({"x": float("nan")}, ValueError), ({"x": object()}, TypeError)])
def test_what_is_not_json_leaves_the_old_file(tmp_path, obj, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error):
        write_json(path, obj)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
