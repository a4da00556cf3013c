"""Write docs/errors.md from the table of errors.

Usage: python scripts/lib/errors_page.py > docs/errors.md
"""

from marketplace.errors import ERRORS, ErrorKind, ExitCode

HEAD = """# Errors

The API answers every error with a problem document (RFC 9457, `application/problem+json`).
`code` is stable: programs go by it, and people by `detail`. `errors` lists what is wrong with the
request, each with a pointer (RFC 6901). `request_id` is what to tell the operator.
`GET /v1/problems` has this table as JSON.

If *again* is "yes", the same request may succeed later; after 429 and 503 wait as long as
`Retry-After` says. *Exit* is what a command ends with that meets the error.

| code | status | again | exit | meaning | what to do |
| --- | --- | --- | --- | --- | --- |
"""
EXITS = """
## Exit codes

| code | name |
| --- | --- |
"""


def row(kind: ErrorKind) -> str:
    """One line of the table."""
    again = "yes" if kind.retryable else ""
    cells = (f"`{kind.code}`", kind.status, again, int(kind.exit_code), kind.meaning, kind.fix)
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def page() -> str:
    """The whole page."""
    exits = "".join(f"| {int(e)} | {e.name.lower().replace('_', ' ')} |\n" for e in ExitCode)
    return HEAD + "".join(row(kind) for kind in ERRORS.values()) + EXITS + exits


if __name__ == "__main__":
    print(page(), end="")
