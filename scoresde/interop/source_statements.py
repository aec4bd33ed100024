"""An interpreter of the syntax tree of Python configs, for ``source_config``. Nothing is executed or imported.

A config is a dictionary. Two names for one section are two references to the same dictionary, as when Python runs the file.
"""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde.interop.errors import ConvertError
from scoresde.interop.source_defaults import DEFAULTS
from scoresde.interop.source_expressions import Foreign, Unread, binary, compared, locate, plain, update

_MOST_CALLS = 50


@dataclass(frozen=True)
class _Function:
    tree: ast.FunctionDef
    module: Module


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Module:
    """A Python file with its functions and the values of its names."""

    def __init__(self, path: Path, tree: ast.Module, calls: list[str]) -> None:
        self.path, self.calls = path, calls
        self.names: dict[str, Any] = {}
        self._body(tree.body, self.names)

    @classmethod
    def of(cls, path: Path, calls: list[str] | None = None) -> Module:
        """Read the file at ``path``. calls: the functions entered so far, to stop endless recursion."""
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as problem:
            line = getattr(problem, "lineno", None)
            raise ConvertError(f"{path}{f', line {line}' if line else ''} is not Python: {problem}") from problem
        return cls(path, tree, [] if calls is None else calls)

    def call(self, name: str) -> Any:
        """The return value of a function of the file, called without arguments."""
        function = self.names.get(name)
        if not isinstance(function, _Function):
            raise ConvertError(f"{self.path} has no function {name}()")
        return self._run(function)

    def _run(self, function: _Function) -> Any:
        tree, module = function.tree, function.module
        self.calls.append(tree.name)
        if len(self.calls) > _MOST_CALLS:
            raise ConvertError(f"{module.path}: {tree.name}() calls too many functions to be a config")
        local = dict(module.names)
        names, defaults = [*tree.args.posonlyargs, *tree.args.args], tree.args.defaults
        for argument in names[: len(names) - len(defaults)]:
            local[argument.arg] = module._unread(tree)
        for argument, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
            local[argument.arg] = module._value(default, module.names)
        try:
            module._body(tree.body, local)
        except _Return as found:
            return found.value
        return None

    # statements

    def _body(self, statements: list[ast.stmt], names: dict[str, Any]) -> None:
        for statement in statements:
            self._statement(statement, names)

    def _statement(self, node: ast.stmt, names: dict[str, Any]) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, names)
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = _Function(node, self)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value, names)
            for target in node.targets:
                self._assign(target, value, names)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value, names), names)
        elif isinstance(node, ast.AugAssign):
            left = self._value(ast.parse(ast.unparse(node.target), mode="eval").body, names)
            value = binary(node.op, left, self._value(node.value, names))
            self._assign(node.target, self._unread(node) if value is None else value, names)
        elif isinstance(node, ast.Return):
            raise _Return(None if node.value is None else self._value(node.value, names))
        elif isinstance(node, ast.If):
            self._branch(node, names)
        elif isinstance(node, ast.With) and all(self._unlocks(item, names) for item in node.items):
            self._body(node.body, names)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self._delete(target, names)
        elif isinstance(node, ast.Expr):
            self._expression(node.value, names)
        elif not isinstance(node, ast.Pass | ast.Assert):
            raise self._refusal(node)

    def _branch(self, node: ast.If, names: dict[str, Any]) -> None:
        """Run one branch if the condition can be evaluated. Otherwise set every name that either branch assigns to `Unread`."""
        test = self._value(node.test, names)
        if not isinstance(test, Unread | Foreign | _Function):
            self._body(node.body if test else node.orelse, names)
            return
        for statement in (*node.body, *node.orelse):
            if not isinstance(statement, ast.Assign | ast.Pass):
                raise self._refusal(node)
            for target in getattr(statement, "targets", ()):
                self._assign(target, self._unread(statement), names)

    def _unlocks(self, item: ast.withitem, names: dict[str, Any]) -> bool:
        call = item.context_expr
        return (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("unlocked", "ignore_type")
            and isinstance(self._value(call.func.value, names), dict)
        )

    def _expression(self, node: ast.expr, names: dict[str, Any]) -> None:
        """Run an expression statement. ``update`` is supported; other calls that could change a config raise an error."""
        if not isinstance(node, ast.Call):
            return
        if isinstance(node.func, ast.Attribute) and isinstance(part := self._value(node.func.value, names), dict):
            if node.func.attr == "update" and len(node.args) <= 1:
                for argument in node.args:
                    update(part, self._mapping(argument, names))
                update(part, self._keywords(node, names))
            elif node.func.attr not in ("lock", "unlock"):
                raise self._refusal(node)
            return
        self._value(node, names)

    def _mapping(self, node: ast.expr, names: dict[str, Any]) -> dict[str, Any]:
        value = self._value(node, names)
        if not isinstance(value, dict):
            raise self._refusal(node)
        return value

    def _keywords(self, node: ast.Call, names: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self._value(keyword.value, names)
            if keyword.arg is not None:
                found[keyword.arg] = value
            elif isinstance(value, dict):
                found |= value
            else:
                raise self._refusal(node)
        return found

    def _assign(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = value if isinstance(value, list | tuple) and len(value) == len(target.elts) else None
            for k, part in enumerate(target.elts):
                self._assign(part, self._unread(target) if parts is None else parts[k], names)
        else:
            node, key = self._place(target, names)
            node[key] = value

    def _delete(self, target: ast.expr, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names.pop(target.id, None)
        else:
            node, key = self._place(target, names)
            node.pop(key, None)

    def _place(self, target: ast.expr, names: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The dictionary and the key of ``config.model.nf`` or ``config["model"]``."""
        if isinstance(target, ast.Attribute):
            node, key = self._value(target.value, names), target.attr
        elif isinstance(target, ast.Subscript):
            node, key = self._value(target.value, names), self._value(target.slice, names)
        else:
            raise self._refusal(target)
        if not isinstance(node, dict) or not isinstance(key, str):
            raise self._refusal(target)
        return node, key

    # expressions

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        """The value of an expression, or `Unread`."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return names.get(node.id, Foreign((node.id,)))
        if isinstance(node, ast.List | ast.Tuple):
            values = [self._value(element, names) for element in node.elts]
            if any(isinstance(value, Unread | Foreign | _Function) for value in values):
                return self._unread(node)
            return values if isinstance(node, ast.List) else tuple(values)
        if isinstance(node, ast.Dict):
            return self._dictionary(node, names)
        if isinstance(node, ast.Attribute | ast.Subscript):
            return self._part(node, names)
        if isinstance(node, ast.Call):
            return self._called(node, names)
        found: Any = None
        if isinstance(node, ast.UnaryOp):
            found = binary(node.op, 0, self._value(node.operand, names))
        elif isinstance(node, ast.BinOp):
            found = binary(node.op, self._value(node.left, names), self._value(node.right, names))
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            found = compared(node.ops[0], self._value(node.left, names), self._value(node.comparators[0], names))
        elif isinstance(node, ast.IfExp) and plain(test := self._value(node.test, names)):
            return self._value(node.body if test else node.orelse, names)
        return self._unread(node) if found is None else found

    def _dictionary(self, node: ast.Dict, names: dict[str, Any]) -> Any:
        found: dict[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            name = None if key is None else self._value(key, names)
            if not isinstance(name, str):
                return self._unread(node)
            found[name] = self._value(value, names)
        return found

    def _part(self, node: ast.Attribute | ast.Subscript, names: dict[str, Any]) -> Any:
        whole = self._value(node.value, names)
        key = node.attr if isinstance(node, ast.Attribute) else self._value(node.slice, names)
        if isinstance(whole, Foreign) and isinstance(key, str):
            return Foreign((*whole.path, key))
        if not isinstance(whole, dict | list | tuple) or not isinstance(key, str | int):
            return self._unread(node)
        try:
            return whole[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return self._unread(node)

    def _called(self, node: ast.Call, names: dict[str, Any]) -> Any:
        function = self._value(node.func, names)
        if isinstance(function, _Function) and not node.args and not node.keywords:
            return self._run(function)
        if isinstance(node.func, ast.Attribute) and isinstance(part := self._value(node.func.value, names), dict):
            copies = ("copy_and_resolve_references", "to_dict", "copy")
            if node.func.attr in copies and not node.args and not node.keywords:
                return copy.deepcopy(part)
            raise self._refusal(node)
        path = function.path if isinstance(function, Foreign) else ()
        if path and path[-1] in ("ConfigDict", "dict") and len(node.args) <= 1:
            found = copy.deepcopy(self._mapping(node.args[0], names)) if node.args else {}
            return found | self._keywords(node, names)
        if len(path) > 1 and not node.args and not node.keywords:
            return self._imported(path, node)
        values = [self._value(a, names) for a in node.args] + [self._value(k.value, names) for k in node.keywords]
        if any(isinstance(value, dict) for value in values):  # it may be changed there
            raise self._refusal(node)
        if path in (("tuple",), ("list",)) and len(values) == 1 and isinstance(values[0], list | tuple):
            return tuple(values[0]) if path == ("tuple",) else list(values[0])
        return self._unread(node)

    # imports

    def _import(self, node: ast.Import | ast.ImportFrom, names: dict[str, Any]) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = tuple(alias.name.split("."))
                names[alias.asname or path[0]] = Foreign(path if alias.asname else path[:1])
            return
        above = ("",) * node.level
        for alias in node.names:
            names[alias.asname or alias.name] = Foreign((*above, *(node.module or "").split("."), alias.name))

    def _imported(self, path: tuple[str, ...], node: ast.expr) -> Any:
        """The return value of a function of another file; ``path`` is its module and name."""
        *module, name = (part for part in path if part)
        above = len([part for part in path[:-1] if not part])
        file = locate(self.path, module, above) if module else None
        if file is not None:
            return Module.of(file, self.calls).call(name)
        if module and module[-1] in DEFAULTS and name == "get_default_configs":
            return copy.deepcopy(DEFAULTS[module[-1]])
        return self._unread(node)

    def _unread(self, node: ast.AST) -> Unread:
        return Unread(f"{self.path}, line {getattr(node, 'lineno', 0)}", ast.unparse(node)[:80])

    def _refusal(self, node: ast.AST) -> ConvertError:
        found = self._unread(node)
        text = found.text.split("\n")[0]
        return ConvertError(
            f"{found.where}: {text!r} cannot be read as data, and may change the config: write its effect out as assignments"
        )
