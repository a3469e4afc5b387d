"""The house: which room may know which, how long files and functions may be, and what is public."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sencache

PACKAGE = Path(sencache.__file__).parent
ROOT = Path(__file__).parents[2]
MAX_MODULE, MAX_FUNCTION = 600, 60

# From the top; a room imports only from rooms below its own. Single files are the ground.
LAYERS = (
    ("app.pages", "cli"),
    ("app",),
    ("gallery",),
    ("comparison",),
    ("calibration",),
    ("models",),
    ("hub",),
    ("engine",),
    ("architectures",),
    ("policies",),
    ("profiles",),
    ("trace",),
)
ROOMS = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
GROUND = len(LAYERS)
# The package itself is a door to all rooms, opened on first use.
DOOR = ""

METHOD_NAMES = {"fixed", "sencache", "magcache", "teacache", "easycache", "control", "firstblock", "seacache"}
METHOD_CLASSES = {
    *("Fixed", "SenCache", "MagCache", "TeaCache", "EasyCache", "Control", "FirstBlockCache", "SeaCache")
}
FRAMEWORKS = {"torch", "diffusers", "transformers", "gradio", "numpy"}
MUTATORS = {
    *("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem", "add"),
    *("discard", "sort", "reverse", "appendleft", "popleft"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """Within the package; a package's own name for its `__init__.py`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}
MODULES = [module for module in SOURCES if module != DOOR]


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that are imported anywhere in `tree`, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield from (imported(node.module, alias.name) for alias in node.names)


def imported(module: str, name: str) -> str:
    """`from module import name` imports a module of that name where there is one."""
    inner = f"{module}.{name}".removeprefix("sencache.")
    return f"sencache.{inner}" if inner in SOURCES else module


def own_imports(module: str) -> set[str]:
    names = {name for name in imports(TREES[module]) if name.split(".")[0] == "sencache"}
    return {name.removeprefix("sencache").removeprefix(".") for name in names}


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def docstrings(tree: ast.AST) -> set[int]:
    """Identities of the string constants that are docstrings, attributes' included."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


# ---- rooms


def room(module: str) -> str:
    """The innermost room that `module` is in; a single file is a room of its own."""
    parts = module.split(".")
    inside = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in inside if name in ROOMS), parts[0])


def height(module: str) -> int:
    """How far down its room is."""
    return -1 if module == "__main__" else ROOMS.get(room(module), GROUND)


def test_a_room_imports_only_from_rooms_below() -> None:
    up = {
        (module, name)
        for module in MODULES
        for name in own_imports(module)
        if room(name) != room(module) and height(name) <= height(module)
        if {height(name), height(module)} != {GROUND}
    }
    assert up == set()
    assert {m for m in MODULES if DOOR in own_imports(m)} == set(), (
        "import the module, not the package's door"
    )


def test_profiles_are_read_unchecked_in_one_place_only() -> None:
    known = {m for m in MODULES if "read_unchecked" in SOURCES[m].read_text(encoding="utf-8")}
    assert known == {"profiles.profile", "policies.loading"}


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: own_imports(module) for module in MODULES}
    list(TopologicalSorter(graph).static_order())


def test_the_door_imports_nothing_until_it_is_used() -> None:
    top = [node for node in TREES[DOOR].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {name.split(".")[0] for node in top for name in imports(node)} == {
        "__future__",
        "importlib",
        "typing",
    }
    for name in sencache.__all__:
        assert getattr(sencache, name).__module__.startswith("sencache.")
        assert name in dir(sencache)


@pytest.mark.parametrize("module", [m for m in SOURCES if m.split(".")[0] == "policies"])
def test_policies_know_no_framework_and_no_engine(module: str) -> None:
    known = {name.split(".")[0] for name in imports(TREES[module])}
    # A sense measures tensors, and asks for torch when it does.
    assert not known & FRAMEWORKS - {"torch"}
    assert not any(name.split(".")[0] == "engine" for name in own_imports(module))


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("app.pages")])
def test_the_pages_know_no_framework_no_method_and_no_engine(module: str) -> None:
    known = {name.split(".")[0] for name in imports(TREES[module])}
    assert not known & {"torch", "diffusers", "transformers", "numpy"}
    own = {name for name in own_imports(module) if name.split(".")[0] in ("policies", "engine")}
    assert own <= {"policies.loading"}, "what decides and what runs is not the page's business"
    assert not own_imports(module) & {
        "comparison.compare",
        "comparison.lanes",
        "models.model",
        "comparison.plan",
    }


def test_what_decides_and_what_is_stored_loads_no_framework() -> None:
    names = "policies profiles.profile schema files comparison.report trace models.catalogue models.listing"
    modules = ", ".join(f"sencache.{name}" for name in names.split())
    script = f"import sys, {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(done.stdout.split()) & FRAMEWORKS


@pytest.mark.parametrize("module", [m for m in SOURCES if m.split(".")[0] == "engine"])
def test_the_engine_names_no_method(module: str) -> None:
    known = {name for name in own_imports(module) if name.startswith("policies")}
    assert known <= {f"policies.{name}" for name in ("base", "measures", "senses", "steps", "targets")}
    texts = docstrings(TREES[module])
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            assert node.value.lower() not in METHOD_NAMES, node.value
            assert not METHOD_CLASSES & set(node.value.replace(",", " ").split()), node.value
        assert not METHOD_CLASSES & {getattr(node, "id", None), getattr(node, "attr", None)}


# ---- what is shipped, its size, and what is described


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(PACKAGE.parent) for path in SOURCES.values()}
    assert sorted(listed["packages"]) == sorted(
        {".".join(f.parts) for f in folders} | set(listed["package-dir"])
    )


def test_files_and_functions_are_not_too_long() -> None:
    files = {m: len(SOURCES[m].read_text(encoding="utf-8").splitlines()) for m in SOURCES}
    assert {module: count for module, count in files.items() if count > MAX_MODULE} == {}
    bodies = {(m, f.name): (f.end_lineno or 0) - f.lineno + 1 for m in SOURCES for f in functions(TREES[m])}
    assert {where: count for where, count in bodies.items() if count > MAX_FUNCTION} == {}


def exported() -> dict[str, object]:
    """`sencache.__all__`, and what the guide to extending imports besides."""
    guide = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = {name: getattr(sencache, name) for name in sencache.__all__}
    for module, names in re.findall(r"^from (sencache[.\w]*) import (.+)$", guide, re.MULTILINE):
        home = importlib.import_module(module)
        found |= {name: getattr(home, name) for name in names.split(", ")}
    return {
        name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)
    }


def public_members(owner: object) -> Iterator[str]:
    """Methods and properties of a class and its bases, as far as they are this package's."""
    for base in getattr(owner, "__mro__", ()):
        for name, value in vars(base).items() if base.__module__.startswith("sencache") else ():
            if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                yield name


def test_what_is_exported_is_described() -> None:
    public = exported()
    assert {"attach", "Policy", "Rule", "StepChange", "Architecture"} <= set(public)
    bare = [name for name, value in public.items() if not inspect.getdoc(value)]
    bare += [
        f"{name}.{member}"
        for name, value in public.items()
        for member in public_members(value)
        if not inspect.getdoc(getattr(value, member))
    ]
    assert bare == []


# ---- nothing at module level changes


def assigned(node: ast.AST) -> Iterator[str]:
    """Names bound by a statement at module level, imported ones included."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name for alias in node.names)


def changes(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement or call changes in place."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
        targets = getattr(node, "targets", None) or [node.target]  # type: ignore[union-attr]
        yield from (t.value for t in targets if isinstance(t, (ast.Subscript, ast.Attribute)))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
        yield node.func.value


def root(node: ast.expr) -> str | None:
    """`name` of `name.a[b].c`."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def local_names(function: Function) -> set[str]:
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}


def changed_at_module_level(tree: ast.Module) -> set[str]:
    shared = {name for node in tree.body for name in assigned(node)}
    return {
        name
        for function in functions(tree)
        for node in ast.walk(function)
        for target in changes(node)
        if (name := root(target)) in shared - local_names(function)
    }


def test_no_function_changes_what_its_module_holds() -> None:
    for module in SOURCES:
        assert not any(isinstance(node, ast.Global) for node in ast.walk(TREES[module])), module
        assert changed_at_module_level(TREES[module]) == set(), module


def test_the_check_for_changes_finds_them() -> None:
    tree = ast.parse(
        "import other\nA: dict = {}\nB, C, D = [], [], {}\nB = []\nD = {}\n"
        "def f(x):\n    A[x] = 1\n    B.append(x)\n    del D[x]\n    other.C[0] += 1\n"
        "    C = [x]\n    C.append(x)\n"
    )
    assert changed_at_module_level(tree) == {"A", "B", "D", "other"}
