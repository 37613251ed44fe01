"""The language of expression trees, shared by who writes them (compiler) and who evaluates them (AU-41).

A tree is JSON. Scalars stand for themselves; everything else is a list that starts with its operator:

| Tree | Value |
|---|---|
| `["arg"]`, `["var", name]` | the function's parameter; a local variable |
| `["attr", x, name]` | a field that the object has; of a body's objects: the key, None when absent |
| `["index", x, i]`, `["slice", x, from, to, step]` | as in Python; an absent key or place is an error |
| `["list", …]`, `["tuple", …]`, `["dict", [key, value], …]` | containers |
| `["and", …]`, `["or", …]`, `["not", x]`, `["if", test, then, else]` | as in Python, lazily |
| `["compare", x, op, y, op, z, …]` | a chain of `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`, `is`, `is not` |
| `["binary", op, x, y]`, `["unary", op, x]` | `+ - * / // % **`; `+ -` |
| `["text", part, …]`, `["format", x, conversion, spec]` | an f-string and a placeholder in it |
| `["call", name, …]`, `["method", name, x, …]` | FUNCTIONS and METHODS |
| `["do", statement, …]` | `["set", name, x]`, `["when", test, [statement, …], [statement, …]]`, `["return", x]` |
"""

MAX_DEPTH = 150
MAX_STEPS = 10_000
MAX_FORMAT_WIDTH = 1_000

FUNCTIONS = frozenset({"str", "int", "float", "bool", "len", "min", "max"})
METHODS = frozenset(
    {
        *("lower", "upper", "casefold", "capitalize", "title", "swapcase"),
        *("strip", "lstrip", "rstrip", "removeprefix", "removesuffix"),
        *("startswith", "endswith", "find", "rfind", "count"),
        *("split", "rsplit", "splitlines", "partition", "rpartition", "join", "replace"),
        *("isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "islower", "isupper"),
        *("zfill", "ljust", "rjust", "center"),
        "get",  # of mappings
    }
)
ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%", "**"})
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in", "is", "is not"})
