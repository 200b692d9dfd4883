"""What the documentation shows is what the program takes: each command, option, name and target in its blocks.

Nothing is computed here; `tests/process/test_docs_run.py` runs those blocks that can be run.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
from doc_blocks import all_blocks, blocks_of, commands, inline, ours, pages
from images import ROOT

from densecell_batch.cli import cli

SHELL = ("bash", "cron")
LANGUAGES = {"bash", "cron", "ijm", "json", "python", "r", "text", "toml"}
OPTIONAL = {"pandas"}  # which a block imports, and we do not need

# Options of other programs that stand alone between backticks: of Apptainer, Docker, Slurm, pip, the launcher,
# benchmarks, CDeep3M, nnU-Net.
FOREIGN = {
    "--augspeed", "--bind", "--burst", "--contain", "--containall", "--dependency", "--engine-option", "--free-nets",
    "--kills", "--mount", "--network", "--no-deps", "--nodes", "--nv", "--save_probabilities", "--table", "--user",
}  # fmt: skip


def all_options(command: click.Command) -> set[str]:
    """The options of a command and of those below it."""
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found |= all_options(command.get_command(context, name))
    return found


@pytest.fixture
def parse(monkeypatch, tmp_path, capsys):
    """Have the real command line read arguments, and do nothing with them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(click.Command, "invoke", lambda self, ctx: None)

    def parse(arguments):
        short = {"...", "[options]"} & set(arguments)  # more is to be said
        arguments = [word for word in arguments if word not in ("...", "[options]")]
        if not arguments:
            return None  # shows the help
        try:
            cli.main(arguments, standalone_mode=False)
        except click.MissingParameter as error:
            return None if short else error.format_message()
        except click.UsageError as error:
            return error.format_message()
        return None

    return parse


def shell_errors(text, parse, whole=True):
    """What is wrong with our commands among lines for a shell; in a sentence they need not be whole."""
    found = []
    for words in commands(text):
        arguments = ours(words)
        error = arguments and parse(arguments)
        if error and (whole or not re.match(r"Missing |.*requires an argument", error)):
            found.append(f"{shlex.join(words)}: {error}")
    return found


def make_errors(text):
    """Targets that the Makefile, and parts that .ci/run does not have."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    parts = {part.replace("_", "-") for part in re.findall(r"^run_(\w+)\(\)", (ROOT / ".ci/run").read_text(), re.M)}
    found = []
    for words in commands(text):
        known = {"make": targets, ".ci/run": parts}.get(words[0])
        if known is not None:
            found += [f"{words[0]} {word}" for word in words[1:] if "=" not in word and word not in known]
    return found


def file_errors(text):
    """Scripts of ours that are not there."""
    programs = [word for words in commands(text) for word in words[:2]]
    ours = [word for word in programs if re.match(r"(benchmarks|container|tests)/\S+\.\w+$", word)]
    return [word for word in ours if not (ROOT / word).exists()]


def named_errors(said):
    """Files of ours, and tests, that are named between backticks and are not there."""
    files = re.findall(r"\b(?:tests|benchmarks|container|macros)/[\w/.-]+\.\w+", said)
    found = [name for name in files if not (ROOT / name).exists()]
    found += [name for name in re.findall(r"\btest_\w+\.py\b", said) if not any(ROOT.glob(f"tests/**/{name}"))]
    tests = re.findall(r"(?:^|::)(test_\w+)(\.\.\.)?$", said)
    return found + [name for name, more in tests if not re.search(rf"def {name}{'' if more else '[(]'}", _all_tests())]


@cache
def _all_tests():
    return "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))


def python_errors(text):
    """What is wrong with the names that Python code imports, and with calls of what it imported."""
    tree, names, found = ast.parse(text), {}, []
    for node in ast.walk(tree):
        try:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name not in OPTIONAL:
                        names[alias.asname or alias.name] = importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        except (ImportError, AttributeError) as error:
            found.append(str(error))
    for node in ast.walk(tree):
        try:
            if isinstance(node, ast.Attribute):
                _value(node, names)
            elif isinstance(node, ast.Call) and (called := _value(node.func, names)) is not None:
                keywords = {word.arg: None for word in node.keywords}
                if called.__module__.startswith("densecell_batch"):
                    inspect.signature(called).bind(*node.args, **keywords)
        except (AttributeError, TypeError) as error:
            found.append(f"{ast.unparse(node)}: {error}")
    return found


def _value(node, names):
    """What an expression like `module.name` stands for; None if it is none of what was imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _value(node.value, names)) is not None:
        return getattr(owner, node.attr)
    return None


def macro_errors(text, parse):
    """Commands of ours that are called with options which their macros do not read."""
    found = []
    shared = (ROOT / "macros/shared.ijm").read_text(encoding="utf-8")
    calls = re.findall(r'run\("(DenseCell [^"]+)"(?:, (.*))?\);', text)
    calls += [(path.replace("_", " "), given) for path, given in re.findall(r'(DenseCell_\w+)\.ijm", (.*)\);', text)]
    for command, given in calls:
        macro = ROOT / "macros" / f"{command.replace(' ', '_')}.ijm"
        if not macro.exists():
            found.append(f"no {command}")
            continue
        code = macro.read_text(encoding="utf-8") + shared
        given = re.sub(r'" \+ \w+ \+ "', "x", given).strip('"')
        for key, value in re.findall(r"(\w+)=(\[[^]]*\]|\S+)", given):
            if f'option("{key}"' not in code and f'get("{key}")' not in code:
                found.append(f"{command}: {key}=")
            if key == "options":
                wrong = parse(["segment", "x.tif", "-o", "out", *shlex.split(value.strip("[]"))])
                found += [f"{command}: {wrong}"] if wrong else []
    return found


def data_errors(language, text):
    """Why a text is not what its block says it is."""
    try:
        {"json": json.loads, "toml": tomllib.loads}[language](text)
    except ValueError as error:
        return [str(error)]
    return []


def test_each_block_says_its_language():
    assert [f"{b}: {b.language!r}" for b in all_blocks() if b.language not in LANGUAGES] == []


def test_each_comment_stands_right_above_a_block():
    for page in pages():
        text = page.read_text(encoding="utf-8")
        comments = re.findall(r"^ *<!-- not run", text, re.M)
        assert len(comments) == sum(b.not_run is not None for b in blocks_of(page, text)), page


@pytest.mark.parametrize("block", all_blocks(*SHELL), ids=str)
def test_commands_of_a_block(block, parse):
    if block.language == "" and "densecell-batch" not in block.text:
        return
    assert shell_errors(block.text, parse) == []
    assert make_errors(block.text) == []
    assert file_errors(block.text) == []


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_names_in_python(block):
    assert python_errors(block.text) == []


@pytest.mark.parametrize("block", all_blocks("ijm"), ids=str)
def test_options_of_macros(block, parse):
    assert macro_errors(block.text, parse) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_in_sentences(page, parse):
    known = all_options(cli) | FOREIGN
    for said in inline(page.read_text(encoding="utf-8")):
        assert named_errors(said) == [], said
        if said.startswith("--"):
            named = re.findall(r"(?:^|[ ,])(--[a-z][a-z0-9_-]+)", said.split("'")[0])
            assert set(named) <= known, said
        elif re.match(r"(make|\.ci/run) [a-z]", said):
            assert make_errors(said) == [], said
        elif re.match(r"(\S*/)?densecell(-batch)? [a-z-]|apptainer run .*\.sif", said):
            assert shell_errors(said, parse, whole=False) == [], said
        elif re.match(r"python (benchmarks|tests)/", said):
            assert file_errors(said) == [], said


def test_data_are_well_formed():
    assert [str(b) for b in all_blocks("json", "toml") if data_errors(b.language, b.text)] == []


# What would be a mistake


@pytest.mark.parametrize(("language", "text"), [("json", '{"a": 1,}'), ("toml", "a = b")])
def test_data_that_are_not_well_formed_are_found(language, text):
    assert data_errors(language, text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("densecell-batch segment cells.tif -o out --modle mine.zip", "--modle"),
        ("densecell-batch segment cells.tif -o out --stitch smooth", "'smooth'"),
        ("densecell-batch segment cells.tif -o out --voxel-size 40,10", "40,10"),
        ("densecell-batch segment cells.tif", "'-o'"),
        ("cd /data && densecell-batch segmnet cells.tif", "segmnet"),
        ("TF_X=0 venv/bin/densecell-batch models fetsh platelet-2d3d | head", "fetsh"),
        ("densecell --engine podman segment cells.tif -o out --nosuch", "--nosuch"),
        ("apptainer run --nv densecell.sif segment cells.tif -o out --nosuch", "--nosuch"),
        ('docker run --rm -v "$PWD:/data" densecell-batch segment cells.tif -o out --nosuch', "--nosuch"),
        ("*/10 * * * * densecell-batch watch in -o out --onse", "--onse"),
        ("densecell-batch segment \\\n  cells.tif -o out --nosuch", "--nosuch"),
    ],
)
def test_a_wrong_command_is_found(line, said, parse):
    (error,) = shell_errors(line, parse)
    assert said in error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from densecell_batch import segmnet", "segmnet"),
        ("import densecell_batch as dc\ndc.segmnet(1)", "segmnet"),
        ("import densecell_batch as dc\ndc.write_stack('a.tif', volume, voxelsize=None)", "voxelsize"),
        ("from densecell_batch import VoxelSize\nVoxelSize(1, 2)", "missing"),
        ("import densecell_batch\ndensecell_batch.VoxelSize.from_nm(1, 2, 3)", "from_nm"),
    ],
)
def test_a_wrong_name_is_found(code, said):
    (*_, error) = python_errors(code)
    assert said in error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('run("DenseCell Segmnet", "stack=x");', "Segmnet"),
        ('run("DenseCell Segment", "stak=[" + path + "] out=x");', "stak="),
        ('run("DenseCell Segment", "stack=x out=y options=[--splt]");', "--splt"),
        ('runMacro(d + "DenseCell/DenseCell_Measure.ijm", "image=[x]");', "image="),
    ],
)
def test_a_wrong_option_of_a_macro_is_found(code, said, parse):
    (error,) = macro_errors(code, parse)
    assert said in error


def test_a_wrong_target_or_script_is_found():
    assert make_errors("make image tset VARIANT=cpu\n.ci/run check dcos") == ["make tset", ".ci/run dcos"]
    assert file_errors("python benchmarks/training.py --out x\npython benchmarks/nothing.py") == [
        "benchmarks/nothing.py"
    ]


@pytest.mark.parametrize(
    "said", ["tests/project/test_dcos.py", "test_dcos.py", "test_docs.py::test_nothing", "test_nothing_at_all..."]
)
def test_a_file_or_test_that_is_not_there_is_found(said):
    assert named_errors(said)


def test_blocks_are_found_with_their_lines_and_reasons():
    text = "a\n\n```bash\nmake\n```\n\n1. b\n\n    <!-- not run: too long -->\n    ```python\n    x = 1\n    ```\n"
    first, second = blocks_of(Path("x.md"), text)
    assert (first.language, first.text, first.line, first.not_run) == ("bash", "make\n", 4, None)
    assert (second.language, second.text, second.line, second.not_run) == ("python", "x = 1\n", 11, "too long")
