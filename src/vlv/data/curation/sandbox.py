"""Expressions of a user on columns, evaluated by DuckDB in a database that reaches nothing else.

The database is in memory. It opens no file and no network, loads no extension and no Python
variable, and its settings are locked before it sees an expression. An expression is refused if it
is more than one condition on a row: a subquery, a second statement, another clause.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vlv.errors import ConfigError

if TYPE_CHECKING:
    import duckdb

TABLE = "samples"
_SETTINGS = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "memory_limit": "1GB",
    "lock_configuration": "true",
}
# Functions whose value is not a function of the row: the same command would give other results.
_CLOCKS = {
    *("now", "today", "current_date", "current_time", "current_timestamp", "current_localtime"),
    *("current_localtimestamp", "get_current_time", "get_current_timestamp"),
    *("transaction_timestamp", "age"),
}


def import_duckdb() -> Any:
    """The module. Raises ConfigError, which names the extra, without it."""
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("curation needs duckdb; install it with: pip install 'vlv[data]'") from (
            error
        )
    return duckdb


def open_sandbox() -> "duckdb.DuckDBPyConnection":
    """A database that reaches nothing but the tables that are registered in it."""
    connection: duckdb.DuckDBPyConnection = import_duckdb().connect(":memory:", config=_SETTINGS)
    return connection


def columns_of(expression: str) -> list[str]:
    """The columns that a condition names, in order.

    Raises:
        ConfigError: it is not one condition on a row.
    """
    with open_sandbox() as database:
        condition = _condition(database, expression)
        nodes = list(_nodes(condition))
        bound = {
            node["lhs"]["column_names"][0]
            for node in nodes
            if node.get("class") == "LAMBDA" and "column_names" in node["lhs"]
        }
        for node in nodes:
            _check(database, node, expression)
    named = [node["column_names"] for node in nodes if node.get("class") == "COLUMN_REF"]
    # `samples.width` is a column of the table, `point.x` a field of a column.
    columns = [names[1] if names[0] == TABLE and len(names) > 1 else names[0] for names in named]
    return list(dict.fromkeys(name for name in columns if name not in bound))


def _condition(database: "duckdb.DuckDBPyConnection", expression: str) -> Any:
    """The syntax tree of a condition."""
    plain = _tree(database, f"SELECT 1 FROM {TABLE} WHERE (true\n)")
    parsed = _tree(database, f"SELECT 1 FROM {TABLE} WHERE ({expression}\n)")
    if parsed["error"]:
        raise ConfigError(
            f"--where {expression!r} is not a condition in SQL ({parsed['error_message']})"
        )
    (ours,), theirs = plain["statements"], parsed["statements"]
    if len(theirs) != 1:
        raise ConfigError(f"--where {expression!r} is more than one condition; join them by AND")
    condition = theirs[0]["node"].get("where_clause")
    if condition is None or _without(theirs[0]) != _without(ours):
        raise ConfigError(f"--where {expression!r} has other clauses than a condition; remove them")
    if condition.get("function_name") == "row":  # what SQL makes of () and (a, b)
        raise ConfigError(
            f"--where {expression!r} is not one condition; write one, as in 'width > 512', and "
            "join several by AND"
        )
    return condition


def _tree(database: "duckdb.DuckDBPyConnection", query: str) -> Any:
    (row,) = database.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    return json.loads(row[0])


def _without(statement: Any) -> Any:
    """A statement without its condition."""
    return {**statement, "node": {**statement["node"], "where_clause": None}}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for inner in tree.values():
            yield from _nodes(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _nodes(inner)


def _check(database: "duckdb.DuckDBPyConnection", node: dict[str, Any], expression: str) -> None:
    kind = node.get("class")
    if kind == "SUBQUERY":
        raise ConfigError(f"--where {expression!r} holds a query; it may only name columns")
    if kind == "WINDOW" or (kind == "FUNCTION" and _is_aggregate(database, node["function_name"])):
        raise ConfigError(
            f"--where {expression!r} looks at other rows; it may only look at its own"
        )
    if kind in ("STAR", "POSITIONAL_REFERENCE"):
        raise ConfigError(f"--where {expression!r} must name its columns")
    if kind == "FUNCTION" and _is_volatile(database, node["function_name"]):
        raise ConfigError(
            f"--where {expression!r} uses {node['function_name']}, whose value is another one each "
            "time; curation gives the same result each time"
        )


def _is_aggregate(database: "duckdb.DuckDBPyConnection", function: str) -> bool:
    query = "SELECT COUNT(*) FROM duckdb_functions() WHERE function_name = ? AND function_type = ?"
    (row,) = database.execute(query, [function, "aggregate"]).fetchall()
    return bool(row[0])


def _is_volatile(database: "duckdb.DuckDBPyConnection", function: str) -> bool:
    query = (
        "SELECT COALESCE(BOOL_AND(stability = 'VOLATILE'), false) FROM duckdb_functions() "
        "WHERE function_name = ?"
    )
    (row,) = database.execute(query, [function]).fetchall()
    return function in _CLOCKS or bool(row[0])
