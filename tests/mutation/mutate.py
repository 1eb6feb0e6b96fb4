"""Change a module's source in one place: the operators of cosmic-ray, and two that it does not have.

cosmic-ray is used for its operators only. Its runner changes files in place and starts the test command anew for every
mutant, which takes 30 s each. (mutmut is faster, but changes nothing outside functions, so that no bound in a constant
would be tested.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import parso.tree
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

# Left out: identity in the place of equality and the reverse, which differ by what CPython interns; a `not` before a
# condition, which every other change of the condition does more subtly; operators on variables that need arguments.
_LEFT_OUT = re.compile(r"(Eq|NotEq)_Is|Is_Eq|IsNot_NotEq|AddNot|Variable|NoOp")
_PLACES = ("annassign", "tfpdef")  # annotations, which are not evaluated
# A comparison of order in place of equality of texts: nobody writes that by mistake, and it differs only for texts
# # that sort before or after all real ones.
_ORDER = re.compile(r"Comparison.*_(Eq|NotEq)_(Lt|Gt)")
# Without these flags nothing is computed differently: they only forbid something that the code does not do.
_FLAGS = {"frozen", "slots", "kw_only", "strict"}
_TEXT = re.compile(r"([rbRB]*(?:\"{3}|'{3}|\"|'))(.*?)(\"{3}|'{3}|\"|')", re.DOTALL)
_PROSE = re.compile(r"[a-z][,;:.)]? [a-z]")  # two words, not of a list of names


class RemoveStatement:
    """Removes an expression or assignment from a function."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the node if it is such a statement."""
        if node.type == "simple_stmt" and node.children[0].type in ("expr_stmt", "atom_expr") and _function(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, _index: int) -> Any:
        """Replace it by `pass`."""
        return get_ast(f"{node.get_first_leaf().prefix}pass\n")


class ChangeText:
    """Changes a text or bytes constant: a name is replaced, prose is removed, another text begins with another letter.

    A name with only a changed first letter could be found by a search for similar names. Prose is for people: tests
    check the parts of a message, not the wording of each part. The prose of an exception is left out.
    """

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the node if it is such a constant and not a docstring."""
        is_error = " " in node.get_code() and parso.tree.search_ancestor(node, "raise_stmt")
        if node.type == "string" and node.parent.type not in ("simple_stmt", "file_input") and not is_error:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, _index: int) -> Any:
        """Change the text between the quotes."""
        found = _TEXT.fullmatch(node.value)
        if found:
            opening, text, closing = found.groups()
            changed = "" if _PROSE.search(text) else "X" if re.fullmatch(r"\w{2,}", text) else f"X{text}"
            node.value = f"{opening}{changed}{closing}"
        return node


class Place(NamedTuple):
    """One change: the operator's name and which of its places in the module."""

    module: str
    operator: str
    occurrence: int


OWN: dict[str, type[RemoveStatement | ChangeText]] = {"RemoveStatement": RemoveStatement, "ChangeText": ChangeText}


def read(module: str) -> str:
    """Read a module's source."""
    return Path(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")


def list_places(module: str) -> list[Place]:
    """List every place in a module that an operator can change, except where nothing is computed from it."""
    nodes = list(ast_nodes(get_ast(read(module))))
    names = [name for name in operator_names() if not _LEFT_OUT.search(name)]
    places = []
    for name in [*OWN, *names]:
        operator = _operator(name)
        numbered = [node for node in nodes for _ in operator.mutation_positions(node)]
        places += [Place(module, name, number) for number, node in enumerate(numbered) if _has_effect(node, name)]
    return places


def mutate(place: Place) -> str:
    """Return the module's source with the change."""
    return str(mutate_code(read(place.module), _operator(place.operator), place.occurrence))


def differ(source: str, mutated: str) -> tuple[str, str]:
    """Return the line that is changed, before and after, without indentation."""
    before, after = source.splitlines(), mutated.splitlines()
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    return " ".join(line.strip() for line in before), " ".join(line.strip() for line in after)


def _operator(name: str) -> Any:
    return OWN[name]() if name in OWN else get_operator(name)()


def _function(node: Any) -> bool:
    while node is not None and node.type != "funcdef":
        node = node.parent
    return node is not None


def _has_effect(node: Any, operator: str) -> bool:
    is_flag = node.type == "keyword" and node.parent.type == "argument" and node.parent.children[0].value in _FLAGS
    is_cache_size = node.type == "number" and parso.tree.search_ancestor(node, "decorator")
    is_order = _ORDER.search(operator) and any(each.type == "string" for each in node.children)
    return not is_flag and not is_cache_size and not is_order and not _is_annotation(node)


def _is_annotation(node: Any) -> bool:
    child, parent = node, node.parent
    while parent is not None:
        if parent.type in _PLACES and child is not parent.children[0] and "=" not in parent.children[:1]:
            # of `name: annotation = value`, the value is what comes after the equals sign
            return not any(leaf == "=" and leaf.start_pos < child.start_pos for leaf in parent.children)
        if parent.type == "funcdef" and child.start_pos > parent.children[2].start_pos and child is parent.annotation:
            return True
        if parent.type == "funcdef":
            return False
        child, parent = parent, parent.parent
    return False
