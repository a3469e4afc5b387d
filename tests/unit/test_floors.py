"""The house: which room may know which, how long files and functions may be, and what is public."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sencache

PACKAGE = Path(sencache.__file__).parent
# A file is as long as its one idea; beyond this it holds two.
MAX_MODULE, MAX_FUNCTION = 400, 60

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
    "Fixed",
    "SenCache",
    "MagCache",
    "TeaCache",
    "EasyCache",
    "Control",
    "FirstBlockCache",
    "SeaCache",
}
FRAMEWORKS = {"torch", "diffusers", "transformers", "gradio", "numpy"}
MUTATORS = {
    *("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem", "add"),
    *("discard", "sort", "reverse", "appendleft", "popleft"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> dict[str, Path]:
    """Every module by its name within the package, a package under its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


SOURCES = sources()
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


@pytest.mark.parametrize(
    "module",
    [
        "policies",
        "profiles.profile",
        "schema",
        "files",
        "comparison.report",
        "trace",
        "models.catalogue",
        "models.listing",
    ],
)
def test_what_decides_and_what_is_stored_loads_no_framework(module: str) -> None:
    script = f"import sys, sencache.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = set(done.stdout.split())
    assert "sencache" in loaded and not loaded & FRAMEWORKS


@pytest.mark.parametrize("module", [m for m in SOURCES if m.split(".")[0] == "engine"])
def test_the_engine_names_no_method(module: str) -> None:
    tree, texts = TREES[module], docstrings(TREES[module])
    known = {name for name in own_imports(module) if name.startswith("policies")}
    assert known <= {f"policies.{name}" for name in ("base", "measures", "senses", "steps", "targets")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            assert node.value.lower() not in METHOD_NAMES, node.value
            assert not METHOD_CLASSES & set(node.value.replace(",", " ").split()), node.value
        assert getattr(node, "id", None) not in METHOD_CLASSES
        assert getattr(node, "attr", None) not in METHOD_CLASSES


# ---- sizes


def lines(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_modules_are_as_long_as_their_idea() -> None:
    counts = {m: len(SOURCES[m].read_text(encoding="utf-8").splitlines()) for m in SOURCES}
    assert {module: count for module, count in counts.items() if count > MAX_MODULE} == {}


def test_functions_are_short() -> None:
    long = {(m, f.name) for m in SOURCES for f in functions(TREES[m]) if lines(f) > MAX_FUNCTION}
    assert long == set()


def test_most_functions_are_very_short() -> None:
    lengths = sorted(lines(node) for tree in TREES.values() for node in functions(tree))
    assert lengths[len(lengths) // 2] <= 10


# ---- what is public


def is_public(name: str) -> bool:
    return not name.startswith("_")


def public_definitions(module: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Classes and functions of the module, and methods of its public classes."""
    for node in TREES[module].body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and is_public(node.name):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and is_public(inner.name):
                    yield f"{node.name}.{inner.name}", inner


def described(module: str, name: str, node: ast.ClassDef | Function) -> bool:
    """By a docstring of its own; a method also by that of the method it overrides."""
    if ast.get_docstring(node):
        return True
    owner, _, method = name.partition(".")
    cls = getattr(importlib.import_module(f"sencache.{module}"), owner, None)
    return bool(method) and any(inspect.getdoc(vars(base).get(method)) for base in cls.__mro__[1:])


def test_what_is_exported_is_described() -> None:
    homes = {getattr(sencache, name).__module__.removeprefix("sencache.") for name in sencache.__all__}
    bare = [
        f"{module}.{name}"
        for module in sorted(homes)
        for name, node in public_definitions(module)
        if not described(module, name, node)
    ]
    assert bare == []


def test_every_function_is_annotated() -> None:
    for module in SOURCES:
        for function in functions(TREES[module]):
            assert function.returns is not None, (module, function.name)
            listed = function.args
            arguments = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg]
            bare = {argument.arg for argument in arguments if argument and argument.annotation is None}
            assert bare <= {"self", "cls"}, (module, function.name, bare)


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
