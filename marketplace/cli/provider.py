"""`coulomb provider`: a machine that sells compute."""

import os
import signal
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from marketplace.agent.config import AgentConfig, NodeConfig, load_config, save_config
from marketplace.agent.errors import InventoryError
from marketplace.agent.exits import held, payable
from marketplace.agent.inventory import LISTED, simulated_gpus
from marketplace.agent.journal import JOURNAL, AgentJournal, running_pid
from marketplace.cli.context import agreed, current, would
from marketplace.cli.contract import chain_client
from marketplace.cli.output import columns, counted, note, show, show_rows, warn
from marketplace.cli.wallet import SENT
from marketplace.data import load_tiers
from marketplace.errors import ExitCode
from marketplace.limits import INTERVAL_MS_MAX, INTERVAL_MS_MIN, NODE_NUMBER_MAX
from marketplace.sdk import Coulomb
from marketplace.sdk.errors import InputError, input_errors
from marketplace.sdk.keyring import address_of, hot_key
from marketplace.sdk.profile import config_dir, state_dir, write_secret
from marketplace.wire.market import NewApiKey, NewNode, Node
from settlement.chain.calls import EscrowCalls
from settlement.signing import LocalSigner

app = typer.Typer()
FINDINGS = columns("code", "status", "evidence", "fix")
NODES = columns(
    "node=id", "name", "tier", "gpus=gpu_count", "region", "state", "heard of=last_heartbeat_at",
    "simulated", "reliability", "leases",
)  # fmt: skip
ConfigFile = Annotated[
    Path | None,
    Option(
        "--config", help="The agent's file (default: provider/agent.yaml next to the profiles)."
    ),
]
NodeName = Annotated[str, Argument(help="The node's id or name.")]
IntervalMs = Annotated[
    int | None,
    Option(
        min=INTERVAL_MS_MIN,
        max=INTERVAL_MS_MAX,
        help="Milliseconds between two attestations (default: the market's).",
    ),
]
SIMULATED = "Simulate GPUs this machine lacks, e.g. 1xH100. Always labelled as simulated."
UNSANDBOXED = "If there is no sandbox, run jobs without one: they may do anything to this machine."


def _path(config: Path | None) -> Path:
    return config or config_dir() / "provider" / "agent.yaml"


def load_agent(config: Path | None) -> AgentConfig:
    """The agent's file. Raises InputError if this machine is not set up."""
    path = _path(config)
    if not path.is_file():
        fix = "run `coulomb provider init`, or name the agent's file with --config"
        raise InputError(f"no node is set up here: there is no {path}", fix)
    return load_config(path)


def meter_address(agent: AgentConfig, node: Node) -> str:
    """The address of the meter key of `node`. Raises InputError if the file is another node's."""
    if agent.node.number != node.number:
        raise InputError(
            f"the agent's file sets up the node {agent.node.name}, not {node.name}",
            fix="name that node's file with --config, or its meter with --meter",
        )
    return address_of(agent.meter_keystore)


def agent_process(config: Path | None = None) -> int | None:
    """The id of this machine's agent, if one runs."""
    return running_pid(load_agent(config).state_dir) if _path(config).is_file() else None


def node_problem(node: NodeConfig, tiers: Iterable[str] = ()) -> str | None:
    """What the market would refuse of a node. `tiers`: the market's, if it could be asked."""
    registry = load_tiers()
    if node.tier not in (tuple(tiers) or registry.tiers):
        return registry.tier_problem(node.tier) or f"{node.tier!r} is not a tier of this market"
    if node.misfits:
        return f"the tier {node.tier} sells no GPUs: leave out {' and '.join(node.misfits)}"
    try:
        gpus = simulated_gpus(node.simulated or "1xH100", "") if node.sells_gpus else ()
        with input_errors("the node"):
            sizes = dict.fromkeys(("cpu_milli", "memory_mib", "storage_mib"), 1)
            listed = {name: getattr(node, name) for name in LISTED}
            found = [gpu.to_json() for gpu in gpus]
            NewNode.model_validate({**listed, **sizes, "gpus": found, "runtime": "process"})
    except (InventoryError, InputError) as error:
        return str(error)
    return None


@app.command()
def doctor(config: ConfigFile = None) -> None:
    """Check this machine and its setup, and say how to fix what is wrong."""
    from marketplace.cli.doctor import examine

    findings = examine(current(), _path(config))
    show_rows(findings, FINDINGS)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def init(
    name: Annotated[str, Option(help="The node's name.")],
    region: Annotated[str, Option(help="Where it is, e.g. eu-west.")],
    tier: Annotated[
        str, Option(help="Its tier, as `coulomb tier list` names it; CPU: sell no GPUs.")
    ],
    number: Annotated[
        int, Option(min=0, max=NODE_NUMBER_MAX, help="A number of its own for each of your nodes.")
    ] = 1,
    simulated: Annotated[str | None, Option(help=SIMULATED)] = None,
    shared: Annotated[bool, Option("--shared", help="Sell fractions of a GPU.")] = False,
    interval_ms: IntervalMs = None,
    allow_unsandboxed: Annotated[bool, Option("--allow-unsandboxed", help=UNSANDBOXED)] = False,
    replace: Annotated[
        bool, Option("--replace", help="Write the agent's file anew; the meter key stays.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Set this machine up as a node: make its keys and write the agent's file."""
    cli = current()
    path = _path(config)
    if path.exists() and not replace:
        raise InputError(
            f"{path} exists: this machine is set up",
            fix="edit it, or say --replace; `coulomb provider doctor` says what it lacks",
        )
    node = NodeConfig(
        number=number, name=name, region=region, tier=tier, simulated=simulated, shared=shared
    )
    with cli.client() as client:
        tiers = [] if cli.dry_run else [known.name for known in client.market.tiers()]
    if problem := node_problem(node, tiers):
        raise InputError(problem, fix="`coulomb tier list` names the tiers and their GPUs")
    if cli.dry_run:
        would(f"make a meter key and an API key and write {path}")
        return
    running = agent_process(config)
    made, meter = _set_up(path, node, interval_ms, allow_unsandboxed)
    if running is not None:
        note(f"restart the agent that runs here (process {running}): it has read the old file")
    if simulated:
        warn("simulated GPUs are shown as simulated everywhere and are never verified")
    where = f" --config {config}" if config else ""
    note(f"next: `coulomb provider doctor{where}` and `coulomb provider start{where}`;")
    note("then, from another shell,")
    if not cli.profile().api_key:
        note("`coulomb key create desk --scope provider` and")
    price = "--gpu-hour" if node.sells_gpus else "--cpu-hour"
    which = f"{where} --node {name}" if config else ""
    note(f"`coulomb ask create{which} {price} PRICE`")
    row = {"config": path, "account": made.account, "meter": meter.address}
    show(row, columns("config", "account", "meter"))


def _set_up(
    path: Path, node: NodeConfig, interval_ms: int | None, allow_unsandboxed: bool
) -> tuple[NewApiKey, LocalSigner]:
    """Make the node's API key and, the first time, its meter key; then write the agent's file."""
    cli = current()
    keys = path.resolve().parent
    signer = cli.signer()
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
        rpc_url=cli.profile().rpc_url,
        escrow=cli.profile().escrow,
        interval_ms=interval_ms,
        allow_unsandboxed=allow_unsandboxed,
    )
    save_config(agent, path)
    return made, meter


@app.command()
def start(config: ConfigFile = None) -> None:
    """Run the agent in the foreground until it is stopped."""
    from marketplace.agent.main import run_agent

    raise typer.Exit(run_agent(load_agent(config)))


@app.command()
def status(config: ConfigFile = None) -> None:
    """Show your nodes as the market sees them, and whether the agent runs here."""
    with current().client() as client:
        nodes = list(client.nodes.list())
        leases = list(client.leases.list(role="provider", state="active"))
    rows = [_node_row(n, sum(lease.node_id == n.id for lease in leases)) for n in nodes]
    show_rows(rows, NODES)
    if _path(config).is_file():
        pid = agent_process(config)
        note(f"the agent runs here (process {pid})" if pid else "no agent runs here")


@app.command()
def stop(config: ConfigFile = None) -> None:
    """Stop the agent on this machine. Its running jobs end."""
    pid = agent_process(config)
    if pid is None:
        raise InputError("no agent runs here", fix="`coulomb provider start` runs it")
    if agreed(f"stop the agent (process {pid})", " Its running jobs end."):
        os.kill(pid, signal.SIGTERM)
        note(f"process {pid} is told to stop")


@app.command()
def drain(
    node: NodeName,
    interrupt: Annotated[
        bool,
        Option("--interrupt", help="Take the node back: interruptible leases get their notice."),
    ] = False,
) -> None:
    """Take no new jobs on a node: its asks are cancelled, running jobs go on.

    With --interrupt, interruptible leases end once the notice of their ask is over.
    """
    with current().client() as client:
        found = _named(client, node)
        more = " Interruptible leases end after their notice." if interrupt else ""
        if agreed(f"drain {found.name} ({found.id})", f" Its asks are taken off the book.{more}"):
            end = client.nodes.interrupt if interrupt else client.nodes.drain
            show(_node_row(end(found.id), None), NODES)
            if interrupt:
                _tell_notices(client, found.id)


def _tell_notices(client: Coulomb, node_id: str) -> None:
    """Say when each lease of a node that is taken back ends."""
    for lease in client.leases.list(role="provider", state="active", node_id=node_id):
        if lease.notice_at is None or lease.notice_seconds is None:
            note(f"{lease.id} is not interruptible: it goes on")
        else:
            ends = lease.notice_at + timedelta(seconds=lease.notice_seconds)
            note(f"{lease.id} has notice; it ends at {ends:%Y-%m-%d %H:%M:%S} UTC")


@app.command()
def resume(node: NodeName) -> None:
    """Let a drained node take jobs again; `coulomb ask create` makes a new ask."""
    with current().client() as client:
        found = _named(client, node)
        if current().dry_run:
            would(f"resume {found.id}")
            return
        resumed = client.nodes.resume(found.id)
    show(_node_row(resumed, None), NODES)


@app.command()
def vouchers(config: ConfigFile = None) -> None:
    """List the countersigned usage of this machine's leases, and the call that settles each.

    It needs neither server nor chain: `cast send CONTRACT DATA` from any account does the rest.
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
    """Settle this machine's countersigned usage on the chain, without the market.

    The market does so by itself; this is for when it, or the witness, is gone. The account pays the
    gas, and the usage is paid to each lease's provider.
    """
    cli = current()
    with closing(_journal(config)) as journal:
        found = held(journal)
    batches = payable(found, chain_client, cli.account())
    count = sum(len(batch.signed) for batch in batches)
    note(f"{count} of {counted(len(found), 'voucher')} would be paid now")
    sent = counted(len(batches), "transaction")
    if count and agreed(f"settle {counted(count, 'voucher')} in {sent}"):
        signer = cli.signer()
        show_rows([batch.send(signer) for batch in batches], SENT)


def _journal(config: Path | None) -> AgentJournal:
    """This machine's journal; an agent may be at work on it."""
    path = load_agent(config).state_dir / JOURNAL
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
