"""The house rules of imports, read from the source: who may import whom, and which third party is allowed where."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lightning_graceful"
OURS = "lightning_graceful"
LAYERS = [
    {"functional"},
    {"metrics", "data"},
    {"losses", "models", "adapters", "gallery", "search", "kfac", "report"},
    {"mixin", "terms", "trainer_seams", "callbacks"},
    # "" is the package itself: nothing below the top may lean on its lazy names.
    {"experiment", "cli", "cache_cli", "compare_cli", "__main__", ""},
]
TOP = {*LAYERS[3], *LAYERS[4]}
# Third party -> the only modules, or packages of modules, that may import it.
HOMES = {
    "hydra": {"experiment"},
    "hydra_plugins": {"experiment"},
    "omegaconf": {"experiment"},
    "lightning": TOP,
    "lightning_fabric": TOP,
    "pytorch_lightning": TOP,
    "plotly": {"report"},
    "jinja2": {"report"},
    "PIL": {"data.image_folder", "report"},
    "duckdb": {"report.database"},
    "sklearn": {"data.datasets", "experiment.datamodules"},
}
NEVER_AT_IMPORT = {"faiss", "wandb", "torchvision", "timm"}
WITHOUT_TORCH = ["functional.statistics", "report", "cli", "compare_cli"]
NAMELESS = {"utils.py", "helpers.py", "common.py", "misc.py"}
# Private names of other people's classes -> the one module that may touch them.
SEAMS = {
    # wandb-workspaces has no public way to look at a workspace that is not on the server.
    "callbacks.workspace": {"_to_model"},
    "data.identity": {"_index_sampler", "_send_idx", "_rcvd_idx", "_get_data", "_in_order"},
    # OmegaConf resolves a node's interpolations only below its parent, and masked_copy cuts it off.
    "experiment.update": {"_set_parent", "_get_parent"},
}
NAMED_TUPLE = {"_asdict", "_fields", "_replace", "_make"}


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").removesuffix(".")


TREES = {module_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def walk(tree, *, into_functions=True):
    """Visit what can run: not the branches for type checkers, and function bodies only if wanted."""
    for child in ast.iter_child_nodes(tree):
        inside = into_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if is_type_checking(child):
            child = ast.Module(child.orelse, [])
        if inside:
            yield child
            yield from walk(child, into_functions=into_functions)


def imports(tree, *, into_functions=True):
    """List dotted names: ``from a import b`` gives ``a.b``, whether b is a module or a name in one."""
    for node in walk(tree, into_functions=into_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_imports(tree):
    for name in imports(tree):
        if name.split(".")[0] == OURS:
            inner = name.partition(".")[2]
            yield inner if inner in TREES else inner.rpartition(".")[0]


def their_imports(tree, **options):
    return {name.split(".")[0] for name in imports(tree, **options)} - {OURS}


def top(module):
    return module.split(".")[0]


def layer(module):
    return next(level for level, names in enumerate(LAYERS) if top(module) in names)


def lies_in(module, places):
    return any(module == place or module.startswith(f"{place}.") for place in places)


GRAPH = {module: set(our_imports(tree)) for module, tree in TREES.items()}


def everything_below(module):
    found, waiting = set(), [module]
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += GRAPH[module]
    return found


def private_names(tree):
    """List (used, defined) names of one leading underscore: as attributes, or as words given to getattr and its kin."""
    used, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            (defined if own and isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "setattr", "delattr"}:
            used |= {word.value for word in node.args[1:2] if isinstance(word, ast.Constant)}
    private = {name for name in used | defined if name.startswith("_") and not name.startswith("__")}
    return used & private, defined & private


def test_every_module_has_a_layer():
    assert {top(module) for module in TREES} <= set().union(*LAYERS)


def test_imports_never_go_up():
    up = [f"{module} imports {other}" for module in GRAPH for other in GRAPH[module] if layer(other) > layer(module)]
    assert up == []


def test_no_module_imports_itself_through_others():
    TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("package", HOMES)
def test_third_party_is_imported_only_at_home(package):
    importers = {module for module, tree in TREES.items() if package in their_imports(tree)}
    assert {module for module in importers if not lies_in(module, HOMES[package])} == set()


def test_loggers_and_model_zoos_are_imported_only_when_needed():
    eager = {module: their_imports(tree, into_functions=False) & NEVER_AT_IMPORT for module, tree in TREES.items()}
    assert {module for module, packages in eager.items() if packages} == set()


def test_scikit_learn_waits_until_the_digits_are_asked_for():
    assert "sklearn" not in their_imports(TREES["data.datasets"], into_functions=False)


@pytest.mark.parametrize("place", WITHOUT_TORCH)
def test_statistics_and_report_need_no_torch(place):
    modules = {below for module in TREES if lies_in(module, {place}) for below in everything_below(module)}
    assert {module for module in modules if "torch" in their_imports(TREES[module])} == set()


def test_nothing_is_pickled():
    attributes = {
        ast.unparse(node) for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    picklers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
    said = {name for tree in TREES.values() for name in imports(tree)} | attributes
    named = {name for name in said if name.split(".")[0] in picklers} - {"pickle"}
    # The error of a checkpoint that is refused may be caught.
    assert named <= {"pickle.UnpicklingError"}


def test_only_the_seams_touch_the_privates_of_others():
    trespassers = {}
    for module, tree in TREES.items():
        used, defined = private_names(tree)
        if foreign := used - defined - NAMED_TUPLE - SEAMS.get(module, set()):
            trespassers[module] = foreign
    assert set(trespassers) == {"trainer_seams"}, trespassers


def test_only_lazy_names_and_the_command_import_by_string():
    assert {module for module, tree in TREES.items() if "importlib" in set(imports(tree))} <= {"", "functional", "cli"}


def test_every_file_name_says_what_is_inside():
    assert [path for path in PACKAGE.rglob("*.py") if path.name in NAMELESS] == []
