"""`coulomb provider`: a machine that sells compute."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show, show_rows, warn
from marketplace.errors import ExitCode

if TYPE_CHECKING:
    from marketplace.agent.config import AgentConfig, NodeConfig
    from marketplace.agent.journal import AgentJournal
    from marketplace.cli.context import Cli
    from marketplace.sdk import Coulomb
    from marketplace.wire.market import Node

app = typer.Typer(name="provider", help="Sell compute from this machine.", no_args_is_help=True)
FINDINGS = columns("code", "status", "evidence", "fix")
NODES = columns(
    "node=id", "name", "tier", "gpus=gpu_count", "region", "state", "heard of=last_heartbeat_at",
    "simulated", "reliability", "leases",
)  # fmt: skip
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The agent's file (default: in the XDG folder).")
]


def folder() -> Path:
    """Where the agent's file and keys are."""
    from marketplace.sdk.profile import config_dir

    return config_dir() / "provider"


def load(config: Path | None) -> AgentConfig:
    """The agent's configuration. Raises AgentConfigError."""
    from marketplace.agent.config import load_config

    return load_config(config or folder() / "agent.yaml")


def meter_address() -> str:
    """The address of this machine's meter key."""
    from marketplace.sdk.keyring import address_of

    return address_of(load(None).meter_keystore)


@app.command()
def doctor(config: ConfigFile = None) -> None:
    """Check driver, sandbox, disk, clock, server, chain, gas and keys; say how to fix each."""
    from marketplace.cli.doctor import examine

    findings = examine(current(), config or folder() / "agent.yaml")
    show_rows(findings, FINDINGS)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The node's name.")],
    region: Annotated[str, typer.Option(help="Such as eu-west.")],
    tier: Annotated[str, typer.Option(help="Its tier, as `coulomb tier list` names it.")],
    number: Annotated[int, typer.Option(min=0, help="Different for each of your nodes.")] = 1,
    simulated: Annotated[
        str | None,
        typer.Option(help='Stand-ins for GPUs the machine has not, such as "1xH100"; shown as so.'),
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Sell fractions of a GPU.")] = False,
    interval_ms: Annotated[int | None, typer.Option(help="Time between attestations.")] = None,
    allow_unsandboxed: Annotated[
        bool, typer.Option("--allow-unsandboxed", help="Run jobs bare where there is no sandbox.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Make the meter key and an API key, and write the agent's file."""
    from marketplace.agent.config import NodeConfig
    from marketplace.sdk.errors import InputError

    cli = current()
    path = config or folder() / "agent.yaml"
    if path.exists():
        raise InputError(
            f"{path} exists: this machine is set up",
            fix="edit it, or remove it to begin anew; `coulomb provider doctor` says what it lacks",
        )
    if cli.dry_run:
        note(f"would make a meter key and an API key and write {path}")
        return
    node = NodeConfig(
        number=number, name=name, region=region, tier=tier, simulated=simulated, shared=shared
    )
    row = _set_up(cli, path, node, interval_ms, allow_unsandboxed)
    if simulated:
        warn("simulated GPUs are shown as simulated everywhere and are never verified")
    note("next: `coulomb provider doctor`, `coulomb provider start`, then, from another shell,")
    note("`coulomb key create desk --scope provider` and `coulomb ask create`")
    show(row, columns("config", "account", "meter"))


@app.command()
def start(config: ConfigFile = None) -> None:
    """Run the agent in the foreground until it is stopped."""
    from marketplace.agent.main import run_agent

    raise typer.Exit(run_agent(load(config)))


@app.command()
def status(config: ConfigFile = None) -> None:
    """The account's nodes as the market sees them, and the agent on this machine."""
    from marketplace.agent.journal import running_pid

    with current().client() as client:
        nodes = list(client.nodes.list())
        leases = list(client.leases.list(role="provider", state="active"))
    rows = [_node_row(n, sum(lease.node_id == n.id for lease in leases)) for n in nodes]
    show_rows(rows, NODES)
    path = config or folder() / "agent.yaml"
    if path.is_file():
        pid = running_pid(load(path).state_dir)
        note(f"the agent runs here (process {pid})" if pid else "no agent runs here")


@app.command()
def stop(config: ConfigFile = None) -> None:
    """Tell the agent on this machine to end its jobs and itself."""
    from marketplace.agent.journal import running_pid
    from marketplace.sdk.errors import InputError

    pid = running_pid(load(config).state_dir)
    if pid is None:
        raise InputError("no agent runs here")
    if current().dry_run:
        note(f"would stop process {pid}")
        return
    confirm(f"Stop the agent (process {pid})? Its running jobs end.")
    os.kill(pid, signal.SIGTERM)
    note(f"process {pid} is told to stop")


@app.command()
def drain(node: Annotated[str, typer.Argument(help="The node's id or name.")]) -> None:
    """Take no new jobs on a node until it is resumed; what runs goes on."""
    with current().client() as client:
        found = _named(client, node)
        if current().dry_run:
            note(f"would drain {found.id}")
            return
        confirm(f"Drain {found.name}? Its asks are taken off the book.")
        drained = client.nodes.drain(found.id)
    show(_node_row(drained, None), NODES)


@app.command()
def resume(node: Annotated[str, typer.Argument(help="The node's id or name.")]) -> None:
    """Let a drained node take jobs again; put it on the book with `ask create`."""
    with current().client() as client:
        found = _named(client, node)
        if current().dry_run:
            note(f"would resume {found.id}")
            return
        resumed = client.nodes.resume(found.id)
    show(_node_row(resumed, None), NODES)


@app.command()
def vouchers(config: ConfigFile = None) -> None:
    """What this machine's leases were countersigned for, and the call that settles each.

    Needs neither server nor chain: `cast send CONTRACT DATA` from any account does the rest.
    """
    from marketplace.agent.exits import held
    from settlement.chain.calls import EscrowCalls

    rows = []
    with closing(_journal(config)) as journal:
        for entry, signed in held(journal):
            contract = entry.domain.verifying_contract
            data = "0x" + EscrowCalls(contract).settle([signed], entry.metered).hex()
            row = {"lease": entry.lease_id, "ms": signed.voucher.ms}
            rows.append({**row, "chain": entry.domain.chain_id, "contract": contract, "data": data})
    show_rows(rows, columns("lease", "ms", "chain", "contract", "data"))


@app.command()
def settle(config: ConfigFile = None) -> None:
    """Settle what this machine's leases were countersigned for, straight on the chain.

    The market does so by itself; this is for when it, or the witness, is gone. The account pays the
    gas, and the usage is paid to each lease's provider.
    """
    from marketplace.agent.exits import held, payable
    from marketplace.cli.wallet import SENT

    cli = current()
    with closing(_journal(config)) as journal:
        found = held(journal)
    batches = payable(found, cli.chain, cli.account())
    count = sum(len(batch.signed) for batch in batches)
    note(f"{count} of {len(found)} vouchers would be paid now")
    if cli.dry_run or not count:
        return
    signer = cli.signer()
    confirm(f"Settle {count} vouchers in {len(batches)} transactions?")
    show_rows([batch.send(signer) for batch in batches], SENT)


def _journal(config: Path | None) -> AgentJournal:
    """This machine's journal; an agent may be at work on it."""
    from marketplace.agent.journal import JOURNAL, AgentJournal
    from marketplace.sdk.errors import InputError

    path = load(config).state_dir / JOURNAL
    if not path.is_file():
        raise InputError(f"{path} is no journal", fix="name the agent's file with --config")
    return AgentJournal(path)


def _named(client: Coulomb, node: str) -> Node:
    from marketplace.sdk.errors import InputError

    found = [n for n in client.nodes.list() if node in (n.id, n.name)]
    if len(found) != 1:
        raise InputError(f"{len(found)} nodes are called {node!r}", fix="use the node's id")
    return found[0]


def _set_up(
    cli: Cli, path: Path, node: NodeConfig, interval_ms: int | None, allow_unsandboxed: bool
) -> dict[str, object]:
    """Make the meter key, sign for an API key, write the agent's file beside them."""
    from marketplace.agent.config import AgentConfig, save_config
    from marketplace.sdk.keyring import hot_key
    from marketplace.sdk.profile import state_dir, write_secret

    signer, keys = cli.signer(), path.parent
    meter = hot_key(keys / "meter.json", keys / "meter.password")
    with cli.client() as client:
        made = client.keys.create(f"node-{node.name}"[:32], ("provider",), signer=signer)
    write_secret(keys / "api.key", made.key)
    agent = AgentConfig(
        api_url=cli.profile().api_url,
        api_key_file=keys / "api.key",
        node=node,
        meter_keystore=keys / "meter.json",
        meter_password_file=keys / "meter.password",
        state_dir=state_dir() / "provider" / node.name,
        interval_ms=interval_ms,
        allow_unsandboxed=allow_unsandboxed,
    )
    save_config(agent, path)
    return {"config": path, "account": made.account, "meter": meter.address}


def _node_row(node: Node, leases: int | None) -> dict[str, object]:
    return {**node.to_json(), "gpu_count": len(node.gpus), "leases": leases}
