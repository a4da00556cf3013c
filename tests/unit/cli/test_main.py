"""The entry point: what it offers, where options may stand, what it imports, how it fails."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from marketplace import errors as market_errors
from marketplace.agent.errors import AgentConfigError, RuntimeUnavailable
from marketplace.cli.failures import EXTRAS, describe, exit_code_of, missing_extra
from marketplace.cli.main import COMMANDS, VERBS, hoist, main, program
from marketplace.errors import ERRORS, ExitCode
from marketplace.sdk import errors as sdk
from settlement import errors as settlement
from tests.unit.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[3]
NOUNS = {
    "ask": {"create", "list", "reprice", "cancel"},
    "book": {"show"},
    "contract": {"deploy", "verify", "addresses"},
    "db": {"upgrade"},
    "dev": {"up"},
    "earnings": {"show", "withdraw"},
    "job": {"run", "list", "show", "logs", "watch", "wait", "cancel", "result", "top-up"},
    "key": {"create", "list", "revoke"},
    "order": {"cancel"},
    "profile": {"add", "list", "show", "use"},
    "provider": {
        *("doctor", "init", "start", "status", "stop", "drain", "resume"),
        *("vouchers", "settle"),
    },
    "purse": {"create", "fund", "sweep", "expire", "list", "show"},
    "receipt": {"show", "list"},
    "settle": {"run", "status"},
    "tier": {"list"},
    "wallet": {"new", "show", "deposit", "withdraw"},
    "witness": {"run", "address"},
}


def commands() -> dict[str, Any]:
    return dict(getattr(get_command(program(*COMMANDS)), "commands"))  # noqa: B009 - typer's class is private


def leaves() -> Iterator[tuple[str, Any]]:
    for name, command in commands().items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        for verb, leaf in (inner or {}).items():
            yield f"{name} {verb}", leaf


def test_every_noun_and_verb_is_there() -> None:
    found = {
        name: set(command.commands)
        for name, command in commands().items()
        if hasattr(command, "commands")
    }
    assert found == NOUNS
    assert set(commands()) == {*NOUNS, *VERBS}


def test_every_command_and_option_says_what_it_does() -> None:
    for name, leaf in leaves():
        assert leaf.help, name
        for parameter in leaf.params:
            if parameter.name != "help":
                assert parameter.help, f"{name}: {parameter.name}"


def test_no_command_takes_a_raw_key() -> None:
    forbidden = ("private", "secret", "mnemonic", "seed", "password")
    names = [f"{name} {p.name}" for name, leaf in leaves() for p in leaf.params]
    assert [n for n in names if any(word in n for word in forbidden)] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["job", "list", "-o", "json"], ["-o", "json", "job", "list"]),
        (["job", "list", "--output=csv", "-y"], ["--output=csv", "-y", "job", "list"]),
        (["job", "run", "x", "--dry-run"], ["--dry-run", "job", "run", "x"]),
        (["--profile", "a", "key", "list"], ["--profile", "a", "key", "list"]),
        (["x", "--", "-o", "json"], ["x", "--", "-o", "json"]),
        (["x", "-o"], ["-o", "x"]),
        (["job", "result", "j", "--to", "d"], ["job", "result", "j", "--to", "d"]),
    ],
)
def test_global_options_may_stand_anywhere(words: list[str], expected: list[str]) -> None:
    front, rest = hoist(words)
    assert [*front, *rest] == expected


def test_no_command_shadows_a_global_option() -> None:
    shared = {"-o", "--output", "--profile", "--account", "--keystore", "--password-file", "-y"}
    shared |= {"--yes", "--dry-run"}
    clashes = [
        f"{name} {option}" for name, leaf in leaves() for p in leaf.params for option in p.opts
        if option in shared
    ]  # fmt: skip
    assert clashes == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom marketplace.cli.main import main\nmain(['--help'])\n"
        "heavy = ('eth_abi', 'httpx', 'eth_account', 'sqlalchemy', 'fastapi', 'marketplace.sdk')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stderr.strip() == "[]"
    assert "job" in ran.stdout


def test_buying_and_asking_import_no_chain() -> None:
    code = (
        "import sys\nimport marketplace.sdk\n"
        "from marketplace.cli import ask, book, job, profile, witness\n"
        "heavy = ('settlement.chain.client', 'eth_account')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [(), ("job",), ("nope",), ("job", "nope"), ("-o", "xml", "job")])
def test_wrong_usage_ends_with_2(words: tuple[str, ...], run: Run) -> None:
    assert run(*words).code == ExitCode.USAGE


def test_help_and_version_end_with_0(run: Run) -> None:
    assert run("--help").code == 0
    assert run("job", "run", "--help").code == 0
    assert run("--version").out.strip() == "0.1.0"


def api(code: str, status: int) -> sdk.ApiError:
    return sdk.error_of(sdk.problem_of(status, {"code": code, "title": "t", "detail": "d"}))


EXITS: dict[ExitCode, list[Exception]] = {
    ExitCode.AUTH: [
        api("unauthenticated", 401), api("forbidden", 403), settlement.KeystoreError("x"),
    ],
    ExitCode.NOT_FOUND: [api("not_found", 404)],
    ExitCode.CONFLICT: [
        api("conflict", 409), api("already_exists", 409), api("idempotency_mismatch", 422),
    ],
    ExitCode.FUNDS: [
        api("insufficient_balance", 402), api("budget_exceeded", 402), sdk.NotEnough("x"),
    ],
    ExitCode.NO_CAPACITY: [api("no_capacity", 409)],
    ExitCode.RETRY_LATER: [
        api("idempotency_in_flight", 409), api("rate_limited", 429), api("unavailable", 503),
        sdk.ConnectFailed("x"), sdk.TimedOut("x"),
    ],
    ExitCode.TIMED_OUT: [sdk.WaitTimeout("x")],
    ExitCode.CHAIN: [
        sdk.RelayFailed("x"),
        api("chain_unavailable", 503), settlement.ChainUnavailable("x"), settlement.WrongChain("x"),
        settlement.OutcomeUnknown("0x01", "x"), settlement.FeeAboveCap("x"),
        settlement.CallReverted("InsufficientBalance", (1, 0)), settlement.DeploymentError("x"),
    ],
    ExitCode.USAGE: [
        sdk.ConfigError("x"), sdk.InputError("x"), settlement.FieldError("/x", "y"),
        market_errors.InvalidInput([market_errors.Problem("/x", "y")]), AgentConfigError("x"),
    ],
    ExitCode.ERROR: [
        api("invalid_signature", 422), api("attestation_refused", 422), api("invalid_request", 422),
        api("market_error", 500), sdk.VerificationError("x"), sdk.ProtocolError("x"),
        settlement.SignatureError("x"), RuntimeUnavailable("x"),
    ],
}  # fmt: skip
CODES = [(error, code) for code, errors in EXITS.items() for error in errors]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda v: type(v).__name__)
def test_every_error_has_its_exit_code(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code


@pytest.mark.parametrize("code", ERRORS)
def test_every_code_of_the_table_has_its_exit_code_and_fix(code: str) -> None:
    kind = ERRORS[code]
    error = api(code, kind.status)
    assert exit_code_of(error) is kind.exit_code
    assert describe(error)[-1] == f"  fix: {kind.fix}"


def test_every_sdk_error_is_listed_above() -> None:
    tested = {type(error) for error, _ in CODES}
    inner = {sdk.CoulombError, sdk.ApiError, sdk.AuthError, sdk.FundsError, sdk.TransportError}
    every = {
        k for k in vars(sdk).values() if isinstance(k, type) and issubclass(k, sdk.CoulombError)
    }
    assert every - tested - inner == set()


def test_a_transaction_whose_end_nobody_saw_is_not_called_an_absent_node() -> None:
    lines = describe(settlement.OutcomeUnknown("0x01", "not seen mined in 60 s"))
    assert lines[0].startswith("transaction 0x01: not seen mined in 60 s; it may still be mined")
    assert lines[1] == "  code outcome_unknown"
    assert "cast receipt" in lines[2]
    assert "node up" not in " ".join(lines)


def test_error_says_what_where_and_what_to_do() -> None:
    body = {
        "code": "insufficient_balance",
        "detail": "the free escrow balance is below the lock",
        "request_id": "req_1",
        "shortfall": {"amount": "1.5", "currency": "CMP", "atoms": "15"},
    }
    assert describe(sdk.error_of(sdk.problem_of(402, body))) == [
        "the free escrow balance is below the lock",
        "  code insufficient_balance, request req_1",
        "  short of 1.5 CMP",
        "  fix: `coulomb wallet deposit AMOUNT`",
    ]


def test_known_error_is_shown_in_words_on_stderr(run: Run) -> None:
    ran = run("--profile", "nobody", "key", "list")
    assert ran.code == ExitCode.USAGE
    assert ran.out == ""
    assert ran.err.startswith("error: no profile 'nobody'")


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("serve",), "uvicorn", "server"),
        (("dev", "up"), "sqlmodel", "server"),
        (("provider", "start"), "psutil", "agent"),
    ],
)
def test_command_whose_packages_are_missing_names_the_extra(
    words: tuple[str, ...], package: str, extra: str, tmp_path: Path
) -> None:
    """As in a plain `pip install coulomb`: a process of its own, where the package is not found."""
    chain = {"ETH_RPC_URL": "http://node", "COULOMB_CHAIN_ID": "1", "COULOMB_PORT": "0"}
    code = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        f"from marketplace.cli.main import main\nsys.exit(main({list(words)!r}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **chain},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == ExitCode.USAGE
    assert ran.stderr == (
        f"error: this command needs the package {package}, which is not installed\n"
        f"  fix: pip install 'coulomb[{extra}] @ git+REPOSITORY', with the URL of the repository\n"
    )


def test_module_that_no_extra_brings_is_a_fault_of_ours() -> None:
    assert missing_extra(ModuleNotFoundError("x", name="marketplace.nothing")) is None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in EXTRAS.items():
        listed = " ".join(project["optional-dependencies"][extra])
        named = {"pynvml": "nvidia-ml-py"}
        assert [p for p in packages if named.get(p, p.replace("_", "-")) not in listed] == []


def test_fault_of_ours_keeps_its_trace(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("marketplace.sdk._sync.market.Keys.list", broken)
    with pytest.raises(ZeroDivisionError):
        main(["key", "list"])
