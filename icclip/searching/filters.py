"""A condition on the columns of an index, read without ever being run as code.

The grammar is Python's for comparisons: `width > 800 and not contains(captions, "dog")`. It is parsed, and every
node is translated into an expression of pyarrow; whatever is not listed here is refused.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icclip.errors import UsageError
from icclip.searching.libraries import arrow, compute

LONGEST = 1_000
"""Characters of a condition."""
MOST_NODES = 200
HINT = "write it as: width > 800 and contains(captions, 'dog')"

_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS = ("contains", "startswith", "endswith", "is_null")


@dataclass(frozen=True)
class Columns:
    """The columns that a condition may name, with pyarrow's types."""

    types: Mapping[str, Any]

    def expression(self, condition: str) -> Any:
        """The condition as an expression of pyarrow.

        Raises:
            UsageError: it is no condition, or names a column that is not there.
        """
        if len(condition) > LONGEST:
            raise UsageError(f"the filter has {len(condition):,} characters, more than {LONGEST:,}: shorten it")
        try:
            tree = ast.parse(condition.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"the filter {condition!r:.120} cannot be read: {HINT}") from error
        if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
            raise UsageError(f"the filter has more than {MOST_NODES} parts: shorten it")
        return self._condition(tree.body)

    def _of(self, node: ast.expr) -> Any:
        if isinstance(node, ast.BoolOp):
            return self._both(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._condition(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name):
            return self._column(node.id)
        return _constant(node)

    def _both(self, node: ast.BoolOp) -> Any:
        parts = [self._condition(value) for value in node.values]
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        whole = parts[0]
        for part in parts[1:]:
            whole = join(whole, part)
        return whole

    def _condition(self, node: ast.expr) -> Any:
        found = self._of(node)
        plain = isinstance(node, ast.Name) and not arrow().types.is_boolean(self.types[node.id])
        if plain or not isinstance(found, compute().Expression):
            raise UsageError(f"the filter has {ast.unparse(node):.60} where a condition belongs: {HINT}")
        return found

    def _comparison(self, node: ast.Compare) -> Any:
        left, whole = self._of(node.left), None
        for sign, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(sign, ast.In | ast.NotIn):
                inside = compute().field(self._name(node.left)).isin(_constants(right_node))
                part, right = (~inside if isinstance(sign, ast.NotIn) else inside), left
            elif type(sign) in _COMPARED:
                right = self._of(right_node)
                part = _COMPARED[type(sign)](*_expressions(left, right, ast.unparse(node)))
            else:
                raise UsageError(f"the filter uses {ast.unparse(node):.60}: compare with ==, !=, <, <=, > or >=")
            whole = part if whole is None else whole & part
            left = right
        return whole

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS or node.keywords or not node.args:
            raise UsageError(f"the filter calls {name!r:.60}: the functions are {', '.join(FUNCTIONS)}")
        column = self._name(node.args[0])
        if name == "is_null":
            return compute().field(column).is_null()
        if len(node.args) != 2 or not isinstance(said := _constant(node.args[1]), str):  # noqa: PLR2004 # column, text
            raise UsageError(f"the filter has {ast.unparse(node):.60}: write {name}(column, 'text')")
        functions = {"contains": "match_substring", "startswith": "starts_with", "endswith": "ends_with"}
        return getattr(compute(), functions[name])(self._text(column, name), said, ignore_case=True)

    def _text(self, column: str, function: str) -> Any:
        """A column of texts; of lists of texts one text each."""
        types, kind, field = arrow().types, self.types[column], compute().field(column)
        if types.is_list(kind) and types.is_string(kind.value_type):
            return compute().binary_join(field, "\n")
        if types.is_string(kind):
            return field
        raise UsageError(f"the filter has {function}({column}, ...), but {column} holds {kind} and no texts")

    def _name(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise UsageError(f"the filter has {ast.unparse(node):.60} where a column belongs: {self._known()}")
        self._column(node.id)
        return node.id

    def _column(self, name: str) -> Any:
        if name not in self.types:
            raise UsageError(f"the filter names {name!r:.60}, which is no column: {self._known()}")
        return compute().field(name)

    def _known(self) -> str:
        return f"the columns are {', '.join(sorted(self.types))}"


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant(node.operand)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool):
        return node.value
    raise UsageError(f"the filter has {ast.unparse(node):.60}, which is neither a column, a number nor a text: {HINT}")


def _constants(node: ast.expr) -> Sequence[Any]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise UsageError(f"the filter has {ast.unparse(node):.60} after 'in': write a list, such as [1, 2]")
    return [_constant(item) for item in node.elts]


def _expressions(left: Any, right: Any, said: str) -> tuple[Any, Any]:
    """At least one side is a column; pyarrow makes an expression of the other."""
    kind = compute().Expression
    if not isinstance(left, kind) and not isinstance(right, kind):
        raise UsageError(f"the filter compares {said:.60}, which names no column: {HINT}")
    return (left if isinstance(left, kind) else compute().scalar(left)), right
