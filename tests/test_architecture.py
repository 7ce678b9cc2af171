"""Which side may import which, that nothing imports in a circle, and that everything is packaged."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
MAY = ("ssl_prune.cli", "ssl_prune._lightning", "ssl_prune.models", "ssl_prune.data", "ssl_prune.callbacks")
HEAVY = {"lightning", "pytorch_lightning", "torch_pruning", "matplotlib", "jsonargparse", "onnx", "sklearn"}

# Imports of this package inside functions, each with its reason: time to load, never a circle.
LATER = {
    ("ssl_prune.models", "ssl_prune.models.classifier"): "networks load without Lightning, which only it needs",
    ("ssl_prune.pipeline", "ssl_prune.budget.limits"): "a cut without a budget loads none",
    ("ssl_prune.pipeline", "ssl_prune.oneshot.budget"): "a cut without a budget loads none, and no scores",
    ("ssl_prune.commands", "ssl_prune.models"): "a report is shown without networks, whose short names a model needs",
}

Graph = Mapping[str, set[str]]


class Import(NamedTuple):
    name: str
    later: bool  # inside a function
    typing: bool  # under TYPE_CHECKING


def modules() -> dict[str, Path]:
    """Every module by its full name."""
    found = {}
    for folder, package in (("ssl_prune", "ssl_prune"), ("callbacks", "ssl_prune.callbacks")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def imported(source: str) -> Iterator[Import]:
    """Every name that a file imports anywhere in it, by statement or by `import_module`."""

    def visit(node: ast.AST, later: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, later, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(f"{module}.{alias.name}", later, typing) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (Import(a.value, later, typing) for a in node.args if isinstance(a, ast.Constant))
        block = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
        later = later or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, later, typing or child in block)

    yield from visit(ast.parse(source), False, False)


IMPORTS = {name: list(imported(path.read_text())) for name, path in MODULES.items()}


def module_of(name: str) -> str:
    """The module that an imported name is, or lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def loaded(module: str, target: str) -> set[str]:
    """What importing `target` loads: it and the packages around it, but for those that `module` lies in itself."""
    parts = target.split(".")
    around = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return {each for each in around if each != module and not module.startswith(f"{each}.")}


def import_graph() -> dict[str, set[str]]:
    return {
        module: {
            each for i in found if not i.typing and module_of(i.name) for each in loaded(module, module_of(i.name))
        }
        for module, found in IMPORTS.items()
    }


def room(module: str) -> str:
    """First level under the package."""
    return module.partition(".")[2].partition(".")[0]


def room_graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, targets in import_graph().items():
        found.setdefault(room(module), set()).update({room(target) for target in targets} - {room(module)})
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    """Sets of nodes that all reach each other."""

    def reached(start: str) -> set[str]:
        seen, stack = set[str](), list(graph[start])
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(graph.get(node, ()))
        return seen

    reach = {node: reached(node) for node in graph}
    return {frozenset(n for n in found if node in reach.get(n, ())) for node, found in reach.items() if node in found}


def tops(names: Iterator[Import] | list[Import]) -> set[str]:
    return {i.name.partition(".")[0] for i in names}


def fresh(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_imports_itself_by_way_of_its_room():
    inside = {m: {t for t in targets if room(t) == room(m)} for m, targets in import_graph().items()}
    assert not circles(inside)


def test_no_room_imports_itself_by_way_of_others():
    assert not circles(room_graph())


def test_imports_in_functions_save_time_to_load():
    later = {(m, module_of(i.name)) for m, found in IMPORTS.items() for i in found if i.later and module_of(i.name)}
    assert later == LATER.keys()


def test_imports_are_absolute():
    assert not [(module, i.name) for module, found in IMPORTS.items() for i in found if i.name.startswith(".")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", [("a.b", False, False)]),
        ("from a import b, c", [("a.b", False, False), ("a.c", False, False)]),
        ("def f():\n    from a import b", [("a.b", True, False)]),
        ("class A:\n    def f(self):\n        import a", [("a", True, False)]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [("a", False, True), ("b", False, False)]),
        ("importlib.import_module('a.b')", [("a.b", False, False)]),
        ("from . import a", [("..a", False, False)]),
    ],
)
def test_every_import_is_seen(source: str, expected: list[tuple[str, bool, bool]]):
    assert [tuple(i) for i in imported(source)] == expected


def test_every_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d", "a"}, "d": {"c"}}) == {frozenset("ab"), frozenset("cd")}
    # A package is loaded with each of its modules, except for those inside it.
    assert loaded("ssl_prune.a.x", "ssl_prune.b.c.y") == {"ssl_prune.b", "ssl_prune.b.c", "ssl_prune.b.c.y"}
    assert loaded("ssl_prune.a.x", "ssl_prune.a.y") == {"ssl_prune.a.y"}


def test_the_engine_is_plain_pytorch():
    engine = {module: found for module, found in IMPORTS.items() if not module.startswith(MAY)}
    forbidden = ("ssl_prune._lightning", "ssl_prune.callbacks")
    assert not [module for module, found in engine.items() if tops(found) & LIGHTNING]
    assert not [(module, i.name) for module, found in engine.items() for i in found if i.name.startswith(forbidden)]


def test_lightning_comes_through_one_shim():
    assert not [m for m, found in IMPORTS.items() if tops([i for i in found if not i.typing]) & LIGHTNING]


def test_one_module_imports_torch_pruning_and_not_before_it_is_needed():
    users = {module: found for module, found in IMPORTS.items() if "torch_pruning" in tops(found)}
    assert list(users) == ["ssl_prune.graph.fallback.tracer"]
    assert "torch_pruning" not in tops([i for found in users.values() for i in found if not i.later])


def test_only_what_measures_on_purpose_reads_a_clock():
    readers = {m for m, found in IMPORTS.items() if {"time", "timeit", "datetime"} & tops(found)}
    assert readers - {"ssl_prune.callbacks.shrink"} == {"ssl_prune.latency", "ssl_prune.sizes.layer_latency"}


def test_every_folder_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = [p for p in MODULES.values() if p.is_relative_to(ROOT / "ssl_prune")]
    packages = {p.parent for p in files if p.name == "__init__.py"}
    assert (ROOT / "callbacks" / "__init__.py").exists()
    listed = project["tool"]["setuptools"]["packages"]
    assert set(listed) == {".".join(p.relative_to(ROOT).parts) for p in packages} | {"ssl_prune.callbacks"}
    assert len(listed) == len(set(listed))
    assert {p.parent for p in files} == packages
    assert not (ROOT / "ssl_prune" / "callbacks").exists()


def test_files_are_short():
    assert not {name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 300}


def test_what_a_fresh_process_loads():
    """The package itself neither budgets nor scores; with solvers and a network still nothing heavy."""
    show = "print(*sys.modules)"
    first, then = fresh(
        f"import sys, ssl_prune; {show}; import ssl_prune.solvers, ssl_prune.models.resnet; {show}"
    ).splitlines()
    assert not set(first.split()) & {"ssl_prune.budget", "ssl_prune.scores"}
    assert "ssl_prune.solvers" in then.split()
    assert not set(then.split()) & HEAVY
