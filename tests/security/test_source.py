"""What is served runs no text as code, loads no pickle, starts no shell, and trusts no model's own code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVED = ("rstitch", "router_svc", "model_worker", "slm_worker", "llm_worker")
# Reading these runs what their writer wanted.
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.load", "np.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
# Keywords with a value that must not be given to anything.
FLAGS = {("shell", True), ("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False)}
# Loaders of models take .bin files, which are pickles, unless they are told not to.
LOADERS = ("AutoModelForCausalLM.from_pretrained",)


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Line and words of whatever a program must not do."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                found = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module)):
                found = [module]
            case ast.Call():
                yield from _faults_of_call(node, names)
                continue
            case _:
                continue
        yield from ((node.lineno, f"import {name}") for name in found if name.split(".")[0] in PICKLES)


def _faults_of_call(call: ast.Call, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    name = _name(call.func, names)
    if name in CALLS:
        yield call.lineno, name
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for flag, bad in FLAGS:
        value = given.get(flag)
        # A flag whose value is not written down may be anything.
        if value is not None and not (isinstance(value, ast.Constant) and value.value is not bad):
            yield call.lineno, f"{flag}={ast.unparse(value)}"
    if name.endswith(LOADERS):
        safe = given.get("use_safetensors")
        if not (isinstance(safe, ast.Constant) and safe.value is True):
            yield call.lineno, f"{name} without use_safetensors=True"


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a name at the beginning of a call stands for, with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _name(func: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of what is called; "" where it has none, as what another call returned."""
    parts: list[str] = []
    while isinstance(func, ast.Attribute):
        parts.append(func.attr)
        func = func.value
    if not isinstance(func, ast.Name):
        return ""
    return ".".join([names.get(func.id, func.id), *reversed(parts)])


@pytest.mark.parametrize("package", SERVED)
def test_what_is_served_does_nothing_of_the_kind(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in files for line, what in faults(path.read_text())]
    assert found == []


FORBIDDEN = """
import pickle
from dill import loads
import torch; torch.load('x')
from torch import load; load('x')
import torch as t; t.jit.load('x')
import numpy; numpy.load('x')
eval('1')
exec('1')
from os import system; system('x')
import subprocess; subprocess.run('x', shell=True)
import subprocess; subprocess.run('x', shell=how)
import yaml; yaml.load('x')
AutoConfig.from_pretrained('x', trust_remote_code=True)
load('x', weights_only=False)
read('x', allow_pickle=True)
AutoModelForCausalLM.from_pretrained('x')
from transformers import AutoModelForCausalLM as M; M.from_pretrained('x', use_safetensors=None)
"""
ALLOWED = """
module.eval()
re.compile('x')
yaml.safe_load('x')
subprocess.run(['x'], shell=False)
AutoModelForCausalLM.from_pretrained('x', use_safetensors=True)
"""


@pytest.mark.parametrize("source", FORBIDDEN.strip().splitlines())
def test_what_is_forbidden_is_found(source: str) -> None:
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize("source", ALLOWED.strip().splitlines())
def test_what_is_allowed_is_not(source: str) -> None:
    assert list(faults(source)) == []
