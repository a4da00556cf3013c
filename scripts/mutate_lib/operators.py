"""The mutants of one function: each replaces one of its nodes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from scripts.mutate_lib.syntax import Function, Node, children, span, type_of

# For each comparison those that no others subsume; False and True: always so.
RELATIONS: dict[str, tuple[str, ...]] = {
    "<": ("<=", "!=", "false"),
    "<=": ("<", "==", "true"),
    ">": (">=", "!=", "false"),
    ">=": (">", "==", "true"),
    "==": ("<=", ">=", "false"),
    "!=": ("<", ">", "true"),
}
SAME_AT_ZERO = {(">", "!="), ("==", "<="), ("!=", ">")}  # nothing is below zero
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "*", "<<": ">>", ">>": "<<"}
BITS = {"&": "|", "|": "&", "^": "&"}
LOGIC = {"&&": "||", "||": "&&"}
COMPOUND = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|="}
YUL_SWAPS = {"add": "sub", "sub": "add", "shl": "shr", "shr": "shl", "eq": "lt", "gt": "lt"}
SWAPPED_NAMES = {"_min": "_max", "_max": "_min"}
# Of these the order of arguments does not matter: the last two are products of all of them.
ORDER_FREE = ("_min", "_max", "Units.costDown", "Units.costUp")
UNORDERED = ("address", "bool", "enum", "contract")


class Place(StrEnum):
    """How a mutant is switched: a choice between expressions or statements, or in assembly."""

    EXPRESSION = "expression"
    STATEMENT = "statement"
    YUL_EXPRESSION = "yul expression"
    YUL_STATEMENT = "yul statement"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One small change: the bytes from `start` to `end` of a file become `text`."""

    file: str
    function: str
    line: int
    operator: str
    start: int
    end: int
    text: str
    place: Place
    digest: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.function}:{self.line}:{self.operator}:{self.digest}"

    @property
    def key(self) -> str:
        """The name without the line: unmoved by changes elsewhere in the file."""
        return f"{self.file}:{self.function}:{self.operator}:{self.digest}"

    def applied(self, source: bytes) -> bytes:
        """The file with the mutant in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]


@dataclass(frozen=True, slots=True)
class _Change:
    operator: str
    start: int
    end: int
    text: str
    place: Place


class Mutator:
    """Finds the mutants of one function of a file."""

    def __init__(self, function: Function, source: bytes) -> None:
        self._function = function
        self._source = source

    def mutants(self) -> list[Mutant]:
        """All mutants, in source order."""
        function = self._function
        begin, end = span(function.node)
        body = " ".join(self._source[begin:end].decode().split())
        found: list[Mutant] = []
        seen: dict[str, int] = {}
        for change in self._below(function.node["body"], function.node):
            old = self._source[change.start : change.end].decode()
            if change.text == old:
                continue
            identity = f"{body}\0{change.operator}\0{old}\0{change.text}"
            nth = seen[identity] = seen.get(identity, -1) + 1
            found.append(
                Mutant(
                    file=function.file.removeprefix("src/"),
                    function=function.name,
                    line=self._source.count(b"\n", 0, change.start) + 1,
                    operator=change.operator,
                    start=change.start,
                    end=change.end,
                    text=change.text,
                    place=change.place,
                    digest=hashlib.sha256(f"{identity}\0{nth}".encode()).hexdigest()[:8],
                )
            )
        return found

    def _text(self, node: Node) -> str:
        start, end = span(node)
        return self._source[start:end].decode()

    def _below(self, node: Node, parent: Node) -> Iterator[_Change]:
        if node["nodeType"] == "InlineAssembly":
            yield from self._yul(node["AST"])
            return
        yield from self._at(node, parent)
        for place, child in children(node):
            if place in ("loopExpression", "typeName", "typeArguments"):
                continue
            yield from self._below(child, node)

    def _change(
        self, operator: str, node: Node, text: str, place: Place = Place.EXPRESSION
    ) -> _Change:
        start, end = span(node)
        if place is Place.STATEMENT:
            end = self._source.index(b";", end - 1) + 1
        return _Change(operator, start, end, text, place)

    def _at(self, node: Node, parent: Node) -> Iterator[_Change]:
        match node["nodeType"]:
            case "ExpressionStatement" | "EmitStatement" | "RevertStatement" | "Continue" | "Break":
                yield self._change("drop", node, "", Place.STATEMENT)
            case "IfStatement" | "Conditional" | "WhileStatement":
                yield from self._condition(node.get("condition") or node["trueExpression"])
            case "Return" if node.get("expression"):
                yield from self._zero("return-zero", node["expression"], self._returned())
            case "VariableDeclarationStatement" if len(node["declarations"]) == 1:
                value = node.get("initialValue")
                if value:
                    yield from self._zero("initial-zero", value, type_of(node["declarations"][0]))
        match node["nodeType"]:
            case "BinaryOperation":
                yield from self._binary(node)
            case "Assignment" if node["operator"] in COMPOUND:
                yield from self._compound(node, parent)
            case "UnaryOperation" if node["operator"] == "!":
                yield self._change("not", node, self._text(node["subExpression"]))
            case "FunctionCall":
                yield from self._call(node, parent)
            case "Identifier":
                yield from self._identifier(node, parent)
            case "Literal":
                yield from self._literal(node, parent)
            case "MemberAccess":
                yield from self._member(node)

    def _returned(self) -> str:
        parameters = self._function.node.get("returnParameters", {}).get("parameters", [])
        return type_of(parameters[0]) if len(parameters) == 1 else ""

    def _condition(self, condition: Node) -> Iterator[_Change]:
        if condition.get("operator") not in RELATIONS:
            yield self._change("negate", condition, f"!({self._text(condition)})")

    def _zero(self, operator: str, node: Node, type_: str) -> Iterator[_Change]:
        zero = zero_of(type_)
        if zero and node["nodeType"] != "Literal":
            yield self._change(operator, node, zero)

    def _binary(self, node: Node) -> Iterator[_Change]:
        operator = node["operator"]
        left, right = node["leftExpression"], node["rightExpression"]
        if type_of(node).startswith("int_const"):
            return
        others: tuple[str, ...] = ()
        kind = "arithmetic"
        if operator in RELATIONS:
            kind, others = "relation", RELATIONS[operator]
            if type_of(left).startswith(UNORDERED):
                others = ("!=" if operator == "==" else "==", others[-1])
        elif operator in LOGIC:
            kind, others = "logic", (LOGIC[operator],)
        elif operator in ARITHMETIC | BITS:
            others = ((ARITHMETIC | BITS)[operator],)
        for other in others:
            if self._text(right) == "0" and (operator, other) in SAME_AT_ZERO:
                continue
            text = other
            if other not in ("true", "false"):
                text = f"{self._text(left)} {other} {self._text(right)}"
            yield self._change(kind, node, text)

    def _compound(self, node: Node, parent: Node) -> Iterator[_Change]:
        if parent["nodeType"] != "ExpressionStatement":
            return
        left, right = self._text(node["leftHandSide"]), self._text(node["rightHandSide"])
        for operator in (COMPOUND[node["operator"]], "="):
            yield self._change("assign", node, f"{left} {operator} {right};", Place.STATEMENT)

    def _call(self, node: Node, parent: Node) -> Iterator[_Change]:
        if parent["nodeType"] == "TryStatement":
            return
        name = self._text(node["expression"])
        arguments: list[Node] = [] if name in ORDER_FREE else node["arguments"]
        for i, first in enumerate(arguments):
            for second in arguments[i + 1 :]:
                same = type_of(first) == type_of(second) and "_const" not in type_of(first)
                if same and self._text(first) != self._text(second):
                    yield self._swap(node, parent, first, second)
        if name in SWAPPED_NAMES:
            _, end = span(node["expression"])
            rest = self._source[end : span(node)[1]].decode()
            yield self._change("min-max", node, SWAPPED_NAMES[name] + rest)

    def _swap(self, call: Node, parent: Node, first: Node, second: Node) -> _Change:
        alone = parent["nodeType"] in ("EmitStatement", "RevertStatement")
        alone |= parent["nodeType"] == "ExpressionStatement" and type_of(call) == "tuple()"
        whole = parent if alone else call
        (begin, end), (a, b), (c, d) = span(whole), span(first), span(second)
        parts = ((begin, a), (c, d), (b, c), (a, b), (d, end))
        text = "".join(self._source[i:j].decode() for i, j in parts)
        if whole is call:
            return self._change("swap-arguments", call, text)
        return self._change("swap-arguments", whole, f"{text};", Place.STATEMENT)

    def _identifier(self, node: Node, parent: Node) -> Iterator[_Change]:
        written = type_of(node)
        if not re.fullmatch(r"[A-Z][A-Z0-9_]+", node["name"]) or written.startswith("type("):
            return
        if parent["nodeType"] == "Assignment" and parent["leftHandSide"] is node:
            return
        if zero := zero_of(written):
            yield self._change("constant", node, zero)
        if written.startswith("uint"):
            yield self._change("constant", node, f"({node['name']} + 1)")
            yield self._change("constant", node, f"({node['name']} - 1)")

    def _literal(self, node: Node, parent: Node) -> Iterator[_Change]:
        if node["kind"] == "bool":
            yield self._change("literal", node, "false" if node["value"] == "true" else "true")
        number = str(node["value"]).replace("_", "")
        if node["kind"] != "number" or not number.isdigit() or node.get("subdenomination"):
            return
        if type_of(parent).startswith("int_const"):
            return
        type_ = self._expected(node, parent)
        if not type_.startswith("uint"):
            return
        values = {int(number) + 1, int(number) - 1, 0} - {int(number), -1}
        for value in sorted(values):
            yield self._change("literal", node, f"{type_}({value})")

    def _expected(self, node: Node, parent: Node) -> str:
        """The type that a literal has in its context."""
        type_ = ""
        match parent["nodeType"]:
            case "BinaryOperation" if parent["operator"] not in ("<<", ">>"):
                type_ = type_of({"typeDescriptions": parent["commonType"]})
            case "BinaryOperation" | "Conditional":
                type_ = type_of(parent)
            case "Assignment":
                type_ = type_of(parent["leftHandSide"])
            case "VariableDeclarationStatement" if len(parent["declarations"]) == 1:
                type_ = type_of(parent["declarations"][0])
            case "Return":
                type_ = self._returned()
            case "FunctionCall" if parent["kind"] == "functionCall":
                written = re.match(r"function \(([^()]*)\)", type_of(parent["expression"]))
                if written:
                    types = written[1].split(",")  # of an attached function, its own operand first
                    type_ = types[parent["arguments"].index(node) - len(parent["arguments"])]
            case "FunctionCall" if parent["kind"] == "typeConversion":
                type_ = type_of(parent)
        return type_ or "uint256"

    def _member(self, node: Node) -> Iterator[_Change]:
        enum = node["expression"]
        if not type_of(enum).startswith("type(enum") or not type_of(node).startswith("enum"):
            return
        name = self._text(enum)
        for other in ("None", "Active", "Closed"):
            if other != node["memberName"]:
                yield self._change("state", node, f"{name}.{other}")

    def _yul(self, node: Node) -> Iterator[_Change]:
        match node["nodeType"]:
            case "YulExpressionStatement":
                yield self._change("drop", node, "", Place.YUL_STATEMENT)
            case "YulLiteral" if node["kind"] == "number":
                value = int(node["value"], 0) + 1
                yield self._change("literal", node, str(value), Place.YUL_EXPRESSION)
            case "YulFunctionCall" if node["functionName"]["name"] in YUL_SWAPS:
                _, end = span(node["functionName"])
                rest = self._source[end : span(node)[1]].decode()
                swapped = YUL_SWAPS[node["functionName"]["name"]] + rest
                yield self._change("opcode", node, swapped, Place.YUL_EXPRESSION)
        for _, child in children(node):
            yield from self._yul(child)


def zero_of(type_: str) -> str:
    """The zero of a type; empty if it has none that can stand in an expression."""
    if re.fullmatch(r"u?int\d+|bytes\d+|address", type_):
        return f"{type_}(0)"
    if type_ == "bool":
        return "false"
    if type_ in ("LeaseSlot", "CountedSlot"):
        return f"{type_}.wrap(0)"
    return f"{type_.removeprefix('enum ')}(0)" if type_.startswith("enum ") else ""
