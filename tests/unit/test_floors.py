"""The house: who may know whom, how large a room may be, and what every public thing must say."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sencache

PACKAGE = Path(sencache.__file__).parent
MAX_MODULE, MAX_FUNCTION = 300, 60

# From the top; a module imports only from floors below its own.
FLOORS = (
    ("ui.page",),
    ("ui.api", "ui.compare_page", "ui.how", "ui.profiles_page"),
    ("ui.running",),
    ("ui.links", "ui.results"),
    ("ui.controls", "ui.gallery"),
    ("ui.knobs", "ui.lanes", "ui.own_profiles", "ui.numbers", "ui.player", "ui.profile_facts", "ui.replay"),
    ("ui.note",),
    ("ui.theme",),
    ("ui",),
    ("service.studio", "service.timetable"),
    ("service.pace", "service.deliver", "service.failures", "service.plots_run", "service.aot"),
    ("service.recorded",),
    ("service.ask", "service.offer"),
    ("service.space",),
    ("service.seconds", "service.opening"),
    ("service.shelf",),
    ("__main__", "tiny.__main__"),
    ("tiny.training", "tiny.checking"),
    ("tiny.families", "tiny.denoising", "tiny.preview", "tiny.loop", "tiny.export"),
    ("tiny.wan", "tiny.cogvideox", "tiny.ltx"),
    ("tiny.autoencoding", "tiny.latents", "tiny.vision", "tiny.text", "tiny.wan_autoencoder"),
    ("tiny.clips", "tiny.scoring", "tiny.pictures", "tiny.optim", "tiny.noise", "tiny.attention"),
    ("cli",),
    ("cli_profiles", "cli_gallery", "cli_compare"),
    ("hub.gallery",),
    ("console", "options", "tables", "plots", "hub.gallery_page", "gallery.making"),
    ("gallery.card",),
    ("verify", "gallery.films", "saving"),
    ("comparison", "calibration.profiling", "models.listing", "hub.sources"),
    ("place",),
    ("events", "deadline", "measuring"),
    ("plan", "lanes", "hub.exchange"),
    ("budget", "soundness", "calibration.samples"),
    ("calibration.clips", "calibration.sensitivity"),
    ("service.wording",),
    ("recording", "interleave", "devices", "report", "metrics", "models.model", "calibration.noising"),
    ("engine.attach", "video", "models.loading"),
    ("engine.mount",),
    ("engine.session",),
    ("engine.run", "engine.architectures"),
    ("engine.sensors", "engine.trace"),
    ("engine.cache", "engine.stack", "engine.unrounded", "engine.compiled"),
    ("engine",),
    ("policies",),
    (
        *("policies.none", "policies.fixed", "policies.sencache", "policies.magcache", "policies.teacache"),
        *("policies.easycache", "policies.control"),
    ),
    ("policies.base",),
    ("models.tokenizer",),
    ("models.checkpoint",),
    ("hub.npz", "hub.card", "hub.commit", "hub.kept", "models.catalogue", "models.layout", "models.flops"),
    ("models.zerogpu",),
    ("profile", "hub.official", "hub.download", "models.families", "models.placement", "models.checks"),
    ("hub.archive", "constants", "models.schedulers"),
    ("files", "library", "reading", "models.spec", "models.stills"),
    ("service.bridge", "service.palette", "models.sharing"),
    ("calibration", "gallery", "hub", "models", "service"),
    ("schema", "errors", "versions", "tiny"),
    ("tiny.grammar",),
)
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
# The package itself is a door to all floors, opened on first use.
DOOR = ""

METHOD_NAMES = {"fixed", "sencache", "magcache", "teacache", "easycache", "control"}
METHOD_CLASSES = {"Fixed", "SenCache", "MagCache", "TeaCache", "EasyCache", "Control"}
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


# ---- floors


def test_every_module_has_its_floor() -> None:
    assert set(FLOOR) | {DOOR} == set(SOURCES)
    assert len(FLOOR) == sum(map(len, FLOORS))


@pytest.mark.parametrize("module", FLOOR)
def test_a_module_imports_only_from_floors_below(module: str) -> None:
    assert DOOR not in own_imports(module), "import the module, not the package's door"
    above = {name for name in own_imports(module) if FLOOR[name] <= FLOOR[module]}
    assert above == set()


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
    assert not known & FRAMEWORKS
    assert not any(name.split(".")[0] == "engine" for name in own_imports(module))


@pytest.mark.parametrize("module", [m for m in SOURCES if m.split(".")[0] == "ui"])
def test_the_pages_know_no_framework_no_method_and_no_engine(module: str) -> None:
    known = {name.split(".")[0] for name in imports(TREES[module])}
    assert not known & {"torch", "diffusers", "transformers", "numpy"}
    own = {name for name in own_imports(module) if name.split(".")[0] in ("policies", "engine")}
    assert own <= {"engine.trace"}, "a record is data; what decides and what runs is not the page's business"
    assert not own_imports(module) & {"comparison", "lanes", "models.model", "plan"}


@pytest.mark.parametrize(
    "module",
    [
        "policies",
        "profile",
        "schema",
        "files",
        "report",
        "engine.trace",
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
    assert {name for name in own_imports(module) if name.startswith("policies")} <= {"policies.base"}
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


@pytest.mark.parametrize("module", FLOOR)
def test_modules_are_short(module: str) -> None:
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= MAX_MODULE


@pytest.mark.parametrize("module", FLOOR)
def test_functions_are_short(module: str) -> None:
    assert {node.name for node in functions(TREES[module]) if lines(node) > MAX_FUNCTION} == set()


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


@pytest.mark.parametrize("module", FLOOR)
def test_what_is_public_is_described(module: str) -> None:
    assert ast.get_docstring(TREES[module])
    if module != "__main__":
        definitions = public_definitions(module)
        assert [name for name, node in definitions if not described(module, name, node)] == []


@pytest.mark.parametrize("module", FLOOR)
def test_every_function_is_annotated(module: str) -> None:
    for function in functions(TREES[module]):
        assert function.returns is not None, function.name
        listed = function.args
        arguments = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg]
        bare = {argument.arg for argument in arguments if argument and argument.annotation is None}
        assert bare <= {"self", "cls"}, (function.name, bare)


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


@pytest.mark.parametrize("module", FLOOR)
def test_no_function_changes_what_the_module_holds(module: str) -> None:
    assert not any(isinstance(node, ast.Global) for node in ast.walk(TREES[module]))
    assert changed_at_module_level(TREES[module]) == set()


def test_the_check_for_changes_finds_them() -> None:
    tree = ast.parse(
        "import other\nA: dict = {}\nB, C, D = [], [], {}\nB = []\nD = {}\n"
        "def f(x):\n    A[x] = 1\n    B.append(x)\n    del D[x]\n    other.C[0] += 1\n"
        "    C = [x]\n    C.append(x)\n"
    )
    assert changed_at_module_level(tree) == {"A", "B", "D", "other"}
