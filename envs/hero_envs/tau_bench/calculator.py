"""The calculator tool: Python arithmetic, parsed to a syntax tree and computed with limits.

Nothing is executed. Repeated exponents, which would never finish in the original, are refused by size.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_CHARACTERS = 4096
"""Longer expressions are refused."""
MAX_BITS = 65536
"""Larger integers are refused, with Python's error text for integers that are too large for a float."""

MAX_WORK = 2**20
"""Bits of all intermediate integers of one expression; more are refused with the same text."""

_ALPHABET = "0123456789+-*/(). "

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculate(expression: Any) -> str:
    """The value rounded to two decimals as text, or a text that starts with ``Error:``.

    Args:
        expression: Digits, ``+ - * / ( ) .`` and spaces; other characters give an error text.

    Example:
        >>> calculate("2 + 2"), calculate("1/3*3"), calculate("9**9**9**9")
        ('4.0', '1.0', 'Error: int too large to convert to float')
        >>> calculate("x")
        'Error: invalid characters in expression'
    """
    try:
        if not all(character in _ALPHABET for character in expression):
            return "Error: invalid characters in expression"
        if not isinstance(expression, str):
            return "Error: eval() arg 1 must be a string, bytes or code object"
        if len(expression) > MAX_CHARACTERS:
            return f"Error: expression is longer than {MAX_CHARACTERS} characters"
        return str(round(float(_value(expression)), 2))
    except (ValueError, ArithmeticError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        return f"Error: {error}"


def _value(expression: str) -> Any:
    """Evaluate left to right with an explicit stack, so that a long sum needs no recursion."""
    tree = ast.parse(expression.lstrip(" "), "<string>", "eval").body
    todo: list[tuple[ast.expr, bool]] = [(tree, False)]
    values: list[Any] = []
    work = 0
    while todo:
        node, children_done = todo.pop()
        if isinstance(node, ast.Constant):
            values.append(node.value)
        elif isinstance(node, ast.Tuple) and not node.elts:
            values.append(())
        elif isinstance(node, ast.UnaryOp):
            if children_done:
                values.append(_UNARY[type(node.op)](values.pop()))
            else:
                todo += [(node, True), (node.operand, False)]
        elif isinstance(node, ast.BinOp):
            if children_done:
                right, left = values.pop(), values.pop()
                values.append(_apply(node.op, left, right))
                work += values[-1].bit_length() if isinstance(values[-1], int) else 0
                if work > MAX_WORK:
                    raise OverflowError("int too large to convert to float")
            else:
                todo += [(node, True), (node.right, False), (node.left, False)]
        elif isinstance(node, ast.Call):
            if not children_done:
                todo += [(node, True), (node.func, False)]
            else:
                raise TypeError(f"'{type(values.pop()).__name__}' object is not callable")
        else:
            raise SyntaxError("invalid syntax (<string>, line 1)")
    return values.pop()


def _apply(operation: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(operation, ast.Pow) and isinstance(left, int) and isinstance(right, int) and right > 0:
        if (left.bit_length() - 1) * right > MAX_BITS:
            raise OverflowError("int too large to convert to float")
    elif isinstance(operation, ast.Pow) and isinstance(left, int) and isinstance(right, int) and -right > MAX_BITS:
        raise OverflowError("int too large to convert to float")
    result = _BINARY[type(operation)](left, right)
    if isinstance(result, int) and result.bit_length() > MAX_BITS:
        raise OverflowError("int too large to convert to float")
    return result
