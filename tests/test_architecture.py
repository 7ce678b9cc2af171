"""Which side may import which, and that everything is packaged."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
MAY = ("cli.py", "_lightning.py", "models/", "data/")
ENGINE = sorted((ROOT / "ssl_prune").rglob("*.py"))


def imported(path):
    """Every module name that a file imports anywhere in it, by statement or by `import_module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: str(path.relative_to(ROOT / "ssl_prune")))
def test_the_engine_is_plain_pytorch(path):
    if str(path.relative_to(ROOT / "ssl_prune")).startswith(MAY):
        return
    names = set(imported(path))
    assert not {name.partition(".")[0] for name in names} & LIGHTNING
    assert not {name for name in names if name.startswith(("ssl_prune._lightning", "ssl_prune.callbacks"))}


def test_lightning_comes_through_one_shim():
    for path in [*ENGINE, *(ROOT / "callbacks").glob("*.py")]:
        tree = ast.parse(path.read_text())
        typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        allowed = {id(node) for block in typing for part in block.body for node in ast.walk(part)}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if id(node) not in allowed:
                assert not {n.partition(".")[0] for n in names} & LIGHTNING, f"{path}: {names}"


def test_one_module_imports_torch_pruning_and_not_before_it_is_needed():
    users = [
        p
        for p in [*ENGINE, *(ROOT / "callbacks").glob("*.py")]
        if "torch_pruning" in {n.partition(".")[0] for n in imported(p)}
    ]
    assert [str(p.relative_to(ROOT)) for p in users] == ["ssl_prune/graph/fallback/tracer.py"]
    top = ast.parse(users[0].read_text()).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert "torch_pruning" not in {name.partition(".")[0] for name in names}


def test_only_what_measures_on_purpose_reads_a_clock():
    readers = {p.name for p in ENGINE if {"time", "timeit", "datetime"} & {n.partition(".")[0] for n in imported(p)}}
    assert readers == {"latency.py", "layer_latency.py"}


def test_every_folder_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "ssl_prune").rglob("__init__.py")}
    assert (ROOT / "callbacks" / "__init__.py").exists()
    listed = project["tool"]["setuptools"]["packages"]
    assert set(listed) == folders | {"ssl_prune.callbacks"}
    assert len(listed) == len(set(listed))
    assert {p.parent for p in ENGINE} == {p.parent for p in ENGINE if p.name == "__init__.py"}
    assert not (ROOT / "ssl_prune" / "callbacks").exists()


def test_files_are_short():
    long = [p.name for p in [*ENGINE, *(ROOT / "callbacks").glob("*.py")] if len(p.read_text().splitlines()) > 300]
    assert not long


def test_nothing_heavy_is_loaded_without_need():
    code = (
        "import sys, ssl_prune, ssl_prune.solvers, ssl_prune.models.resnet; heavy = {'lightning', 'pytorch_lightning',"
        " 'torch_pruning', 'matplotlib', 'jsonargparse', 'onnx', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
