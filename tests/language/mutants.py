"""Programs made wrong in one way, the same every time."""

from __future__ import annotations

import ast
from collections.abc import Sequence

FLIPPED = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
SURE = ("returns nothing", "raises", "returns its result in a tuple")
"""Mutations that no test of a result can miss."""
LIKELY = ("flips comparisons", "has other constants", "swaps operators")
"""Mutations that change nothing now and then: that of a bound which is never met, say."""
MUTATIONS = (*SURE, *LIKELY)


def mutant(program: str, entry_point: Sequence[str], kind: str) -> str | None:
    """The program with the mutation everywhere in its functions; None where there is no place for it."""
    tree = ast.parse(program)
    entries = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in entry_point]
    if kind in SURE:
        for entry in entries:
            _replace(tree, entry, kind)
        return ast.unparse(tree) if entries else None
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    changed = 0
    for function in functions:
        for node in ast.walk(function):
            changed += _change(node, kind, changed)
    return ast.unparse(ast.fix_missing_locations(tree)) if changed else None


def _replace(tree: ast.Module, entry: ast.FunctionDef, kind: str) -> None:
    if kind == "returns nothing":
        entry.body = ast.parse("def f():\n    return None").body[0].body
    elif kind == "raises":
        entry.body = ast.parse("def f():\n    raise RuntimeError").body[0].body
    else:
        tree.body += ast.parse(
            f"def _wrapped(f):\n    return lambda *args, **kwargs: (f(*args, **kwargs),)\n{entry.name} = _wrapped({entry.name})"
        ).body


def _change(node: ast.AST, kind: str, before: int) -> bool:
    if kind == "flips comparisons" and isinstance(node, ast.Compare):
        node.ops[0] = FLIPPED[type(node.ops[0])]()
        return True
    if kind == "has other constants" and isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += 1 + before % 3  # by different amounts, since shifting all alike often changes nothing
        return True
    if kind == "swaps operators" and isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        node.op = SWAPPED[type(node.op)]()
        return True
    return False
