"""`coulomb provider`: a machine that sells compute."""

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from marketplace.agent.config import AgentConfig, NodeConfig, load_config, save_config
from marketplace.agent.exits import held, payable
from marketplace.agent.journal import JOURNAL, AgentJournal, running_pid
from marketplace.cli.context import agreed, current, would
from marketplace.cli.contract import chain_client
from marketplace.cli.output import columns, note, show, show_rows, warn
from marketplace.cli.wallet import SENT
from marketplace.errors import ExitCode
from marketplace.sdk import Coulomb
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import address_of, hot_key
from marketplace.sdk.profile import config_dir, state_dir, write_secret
from marketplace.wire.market import Node
from settlement.chain.calls import EscrowCalls

app = typer.Typer()
FINDINGS = columns("code", "status", "evidence", "fix")
NODES = columns(
    "node=id", "name", "tier", "gpus=gpu_count", "region", "state", "heard of=last_heartbeat_at",
    "simulated", "reliability", "leases",
)  # fmt: skip
ConfigFile = Annotated[
    Path | None, Option("--config", help="The agent's file (default: in the XDG folder).")
]
NodeName = Annotated[str, Argument(help="The node's id or name.")]


def _path(config: Path | None) -> Path:
    return config or config_dir() / "provider" / "agent.yaml"


def meter_address() -> str:
    """The address of this machine's meter key."""
    return address_of(load_config(_path(None)).meter_keystore)


@app.command()
def doctor(config: ConfigFile = None) -> None:
    """Check driver, sandbox, disk, clock, server, chain, gas and keys; say how to fix each."""
    from marketplace.cli.doctor import examine

    findings = examine(current(), _path(config))
    show_rows(findings, FINDINGS)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def init(
    name: Annotated[str, Option(help="The node's name.")],
    region: Annotated[str, Option(help="Where it is, e.g. eu-west.")],
    tier: Annotated[str, Option(help="Its tier, as `coulomb tier list` names it.")],
    number: Annotated[int, Option(min=0, help="Different for each of your nodes.")] = 1,
    simulated: Annotated[
        str | None, Option(help='Stand-ins for missing GPUs, e.g. "1xH100".')
    ] = None,
    shared: Annotated[bool, Option("--shared", help="Sell fractions of a GPU.")] = False,
    interval_ms: Annotated[int | None, Option(help="Time between attestations.")] = None,
    allow_unsandboxed: Annotated[
        bool, Option("--allow-unsandboxed", help="Run jobs without a sandbox.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Make the meter key and an API key, and write the agent's file."""
    cli, path = current(), _path(config)
    if path.exists():
        raise InputError(
            f"{path} exists: this machine is set up",
            fix="edit it, or remove it to begin anew; `coulomb provider doctor` says what it lacks",
        )
    if cli.dry_run:
        would(f"make a meter key and an API key and write {path}")
        return
    signer, keys = cli.signer(), path.parent
    meter = hot_key(keys / "meter.json", keys / "meter.password")
    with cli.client() as client:
        made = client.keys.create(f"node-{name}"[:32], ("provider",), signer=signer)
    write_secret(keys / "api.key", made.key)
    agent = AgentConfig(
        api_url=cli.profile().api_url,
        api_key_file=keys / "api.key",
        node=NodeConfig(
            number=number, name=name, region=region, tier=tier, simulated=simulated, shared=shared
        ),
        meter_keystore=keys / "meter.json",
        meter_password_file=keys / "meter.password",
        state_dir=state_dir() / "provider" / name,
        interval_ms=interval_ms,
        allow_unsandboxed=allow_unsandboxed,
    )
    save_config(agent, path)
    if simulated:
        warn("simulated GPUs are shown as simulated everywhere and are never verified")
    note("next: `coulomb provider doctor`, `coulomb provider start`, then, from another shell,")
    note("`coulomb key create desk --scope provider` and `coulomb ask create`")
    row = {"config": path, "account": made.account, "meter": meter.address}
    show(row, columns("config", "account", "meter"))


@app.command()
def start(config: ConfigFile = None) -> None:
    """Run the agent in the foreground until it is stopped."""
    from marketplace.agent.main import run_agent

    raise typer.Exit(run_agent(load_config(_path(config))))


@app.command()
def status(config: ConfigFile = None) -> None:
    """The account's nodes as the market sees them, and the agent on this machine."""
    with current().client() as client:
        nodes = list(client.nodes.list())
        leases = list(client.leases.list(role="provider", state="active"))
    rows = [_node_row(n, sum(lease.node_id == n.id for lease in leases)) for n in nodes]
    show_rows(rows, NODES)
    path = _path(config)
    if path.is_file():
        pid = running_pid(load_config(path).state_dir)
        note(f"the agent runs here (process {pid})" if pid else "no agent runs here")


@app.command()
def stop(config: ConfigFile = None) -> None:
    """Tell the agent on this machine to end its jobs and itself."""
    pid = running_pid(load_config(_path(config)).state_dir)
    if pid is None:
        raise InputError("no agent runs here")
    if agreed(f"stop the agent (process {pid})", " Its running jobs end."):
        os.kill(pid, signal.SIGTERM)
        note(f"process {pid} is told to stop")


@app.command()
def drain(node: NodeName) -> None:
    """Take no new jobs on a node until it is resumed. What runs goes on."""
    with current().client() as client:
        found = _named(client, node)
        if agreed(f"drain {found.name} ({found.id})", " Its asks are taken off the book."):
            show(_node_row(client.nodes.drain(found.id), None), NODES)


@app.command()
def resume(node: NodeName) -> None:
    """Let a drained node take jobs again. Put it on the book with `ask create`."""
    with current().client() as client:
        found = _named(client, node)
        if current().dry_run:
            would(f"resume {found.id}")
            return
        resumed = client.nodes.resume(found.id)
    show(_node_row(resumed, None), NODES)


@app.command()
def vouchers(config: ConfigFile = None) -> None:
    """What this machine's leases were countersigned for, and the call that settles each.

    Needs neither server nor chain: `cast send CONTRACT DATA` from any account does the rest.
    """
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
    cli = current()
    with closing(_journal(config)) as journal:
        found = held(journal)
    batches = payable(found, chain_client, cli.account())
    count = sum(len(batch.signed) for batch in batches)
    note(f"{count} of {len(found)} vouchers would be paid now")
    if count and agreed(f"settle {count} vouchers in {len(batches)} transactions"):
        signer = cli.signer()
        show_rows([batch.send(signer) for batch in batches], SENT)


def _journal(config: Path | None) -> AgentJournal:
    """This machine's journal; an agent may be at work on it."""
    path = load_config(_path(config)).state_dir / JOURNAL
    if not path.is_file():
        raise InputError(f"{path} is not there", fix="name the agent's file with --config")
    return AgentJournal(path)


def _named(client: Coulomb, node: str) -> Node:
    found = [n for n in client.nodes.list() if node in (n.id, n.name)]
    if len(found) != 1:
        raise InputError(f"{len(found)} nodes are called {node!r}", fix="use the node's id")
    return found[0]


def _node_row(node: Node, leases: int | None) -> dict[str, object]:
    return {**node.to_json(), "gpu_count": len(node.gpus), "leases": leases}
