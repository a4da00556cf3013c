"""`coulomb job` and `coulomb receipt`: buy compute, follow it, fetch what came out."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from marketplace.cli import Format
from marketplace.cli.book import explain
from marketplace.cli.context import agreed, confirm, current
from marketplace.cli.following import Follower
from marketplace.cli.output import (
    cell,
    columns,
    note,
    plain,
    printable,
    show,
    show_plan,
    show_rows,
    stream_rows,
    warn,
    write_output,
)
from marketplace.cli.wallet import RELAYED, SENT, Relayed
from marketplace.cli.witness import tell_trust
from marketplace.domain.job import JobSpec
from marketplace.domain.life import JobState
from marketplace.domain.pricing import from_nano
from marketplace.domain.reader import duration_text
from marketplace.errors import ExitCode
from marketplace.sdk import JobHandle, PreparedJob
from marketplace.sdk.errors import NotFound
from marketplace.sdk.jobfile import empty_folder, why_no_outputs
from marketplace.sdk.keyring import parse_address
from marketplace.wire.base import Money
from marketplace.wire.jobs import Job, JobReceipt
from marketplace.wire.leases import OutputStream
from settlement.orders import Prices

app, receipt_app = typer.Typer(), typer.Typer()
LIST = columns("id", "name", "state", "reason", "created=created_at", "maximum cost=max_cost")
SHOW = columns(
    "id", "name", "state", "ending", "reason", "detail", "exit code=exit_code", "lease=lease_id",
    "maximum cost=max_cost", "accrued=cost.accrued", "rate/h=cost.rate_per_hour",
    "projected=cost.projected", "budget left=cost.budget_left", "measured ms=cost.ms", "outputs",
    "lease number=lease_no", "buyer=account", "provider", "witness",
    "created=created_at", "started=started_at", "finished=finished_at",
)  # fmt: skip
EVENT = columns(
    "id", "type", "state=data.state", "reason=data.reason", "ms=data.ms", "accrued=data.accrued",
    "rate/h=data.rate_per_hour", "budget left=data.budget_left", "stream=data.stream",
    "text=data.text",
)  # fmt: skip
PLAN = columns(
    "name", "ask", "tier", "region", "price_per_gpu_hour", "price per core=price_per_core_hour",
    "rate_per_hour", "maximum_cost", "budget", "maximum_duration", "start_limit", "notice",
    "purse", "balance", "shortfall", "opener", "witness", "witness_is", "meter", "may_stop",
    "may_open_again", "simulated",
)  # fmt: skip
RECEIPT = columns(
    "receipt=id", "job=job_id", "tier", "measured ms=used_ms", "GPU-s=gpu_seconds",
    "rate/h=rate", "gross", "fee", "refunded", "conserved", "simulated",
)  # fmt: skip
Timeout = Annotated[
    float | None, Option(metavar="SECONDS", help="Stop waiting after this; the job goes on.")
]
JobId = Annotated[str, Argument(help="The job's id.")]


@app.command()
def run(
    job_file: Annotated[Path, Argument(help="The job file.")],
    detach: Annotated[
        bool,
        Option(
            "--detach", help="Buy and return; countersign elsewhere, with `coulomb witness run`."
        ),
    ] = False,
    witness: Annotated[
        str | None,
        Option(
            parser=parse_address,
            metavar="ADDRESS",
            help="Address of a witness that somebody hosts; you trust its host with your money.",
        ),
    ] = None,
    timeout: Timeout = None,
    result: Annotated[
        Path | None, Option(help="Fetch the outputs into this new or empty folder.")
    ] = None,
) -> None:
    """Buy compute for a job: show the plan, ask, follow the job, print its receipt.

    This process countersigns the job's usage: if it ends before the job, the job soon stops.
    """
    cli = current()
    if result is not None:
        empty_folder(result)
    signer = None if cli.dry_run else cli.signer()
    with cli.client() as client:
        client.session.sign_as(signer, cli.own_account())
        order = client.jobs.prepare(str(job_file), witness=witness)
        plan = _plan_row(order, client.market.config().currency)
        if cli.dry_run:
            show(plan, PLAN)
            _explain_terms(plan)
            _require_match(order)
            return
        _show_terms(plan)
        _require_match(order)
        most = cell(plain(plan), "maximum_cost" if order.plan.matches else "budget")
        confirm(f"Buy, for at most {most}?")
        job = client.jobs.place(order)
        note(f"job {job.id}")
        if detach:
            warn("nobody witnesses this job here: run `coulomb witness run`")
            show(job.job, SHOW)
            return
        if job.witnessed:
            tell_trust(client)
        with Follower(job, quiet=False) as follower:
            ended = job.wait(timeout, watcher=follower.watch)
        follower.tell(ended)
        if result is not None and ended.outputs is not None:
            note(f"outputs: {', '.join(map(printable, job.result(result)))} in {result}")
        elif result is not None:
            warn(f"no outputs: {why_no_outputs(ended)}")
        _finish(job, ended)


@app.command(name="list")
def list_(
    state: Annotated[JobState | None, Option(help="Only jobs in this state.")] = None,
) -> None:
    """List your jobs, newest first."""
    with current().client() as client:
        show_rows(client.jobs.list(state=state), LIST)


@app.command(name="show")
def show_job(job_id: JobId) -> None:
    """Show a job: its state, its cost so far, and what it may still cost."""
    with current().client() as client:
        job = client.jobs.get(job_id).job
    show(job, SHOW)
    _explain(job)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, Option("--follow", "-f", help="Keep printing until the job ends.")
    ] = False,
    stream: Annotated[
        OutputStream | None, Option(help="Only this stream; agent: what the node says.")
    ] = None,
) -> None:
    """Print what a job wrote so far."""
    with current().client() as client:
        job = client.jobs.get(job_id)
        pieces = (e.data for e in job.events() if e.type == "log") if follow else job.logs()
        chosen = (piece for piece in pieces if stream is None or piece.stream == stream)
        if current().output is Format.TABLE:
            for piece in chosen:
                write_output(piece.text, sys.stdout)
        else:
            stream_rows(chosen, columns("stream", "offset", "text"))


@app.command()
def watch(job_id: JobId) -> None:
    """Print every event of a job until it ends: states, usage, cost, output."""
    with current().client() as client:
        job = client.jobs.get(job_id)
        stream_rows(job.events(), EVENT)


@app.command()
def wait(
    job_id: JobId,
    timeout: Timeout = None,
    propagate: Annotated[
        bool, Option("--propagate", help="Exit with the job's exit code.")
    ] = False,
    no_witness: Annotated[
        bool, Option("--no-witness", help="Only wait: its usage is countersigned elsewhere.")
    ] = False,
) -> None:
    """Wait for a job to end, and countersign its usage meanwhile."""
    cli = current()
    with cli.client() as client:
        client.session.sign_as(None, cli.own_account())
        job = client.jobs.get(job_id)
        job.witnessed = not no_witness
        if job.witnessed:
            tell_trust(client)
        with Follower(job, quiet=True) as follower:
            ended = job.wait(timeout, watcher=follower.watch)
        follower.tell(ended)
        if propagate and ended.exit_code is not None:
            show(ended, SHOW)
            raise typer.Exit(ended.exit_code)
        _finish(job, ended)


@app.command()
def cancel(job_id: JobId) -> None:
    """End a job. The time that it ran is paid, and the rest comes back to you."""
    if agreed(f"cancel {job_id}"):
        with current().client() as client:
            job = client.jobs.get(job_id).cancel()
        show(job, SHOW)
        if not job.is_final:
            note("the job is asked to end; `coulomb job wait` tells when it has")


@app.command(name="top-up")
def top_up(
    job_id: JobId,
    duration: Annotated[str, Argument(help="How much longer, e.g. 30m.")],
    relayed: Relayed = False,
) -> None:
    """Let a running job run longer, within its budget and the ask's longest time."""
    cli = current()
    with cli.client() as client:
        plan = client.top_ups.prepare(job_id, duration)
        what = f"run {job_id} {duration} longer, for up to {plan.lock} more"
        if relayed:
            fee = client.calls.fee()
            if agreed(f"{what} and {fee} for the relayer"):
                sent = client.top_ups.relay(job_id, duration, signer=cli.signer())
                show({**plain(sent), "amount": str(plan.lock), "fee": str(fee)}, RELAYED)
        elif agreed(what):
            show(client.top_ups.create(job_id, duration, signer=cli.signer()), SENT)


@app.command()
def result(
    job_id: JobId,
    to: Annotated[
        Path | None, Option("--to", help="Folder to unpack into (default: ./JOB_ID).")
    ] = None,
) -> None:
    """Fetch a job's outputs, check their hash, and unpack them into a new or empty folder."""
    folder = to or Path(job_id)
    with current().client() as client:
        names = client.jobs.get(job_id).result(folder)
    show_rows([{"file": str(folder / name)} for name in names], columns("file"))


def _plan_row(order: PreparedJob, currency: str) -> dict[str, Any]:
    """The plan as one row: the price, the most it can cost, the total set aside for it."""
    plan, spec = order.plan, order.spec
    row: dict[str, Any] = {
        "name": spec.name,
        "maximum_cost": plan.max_cost if plan.matches else None,
        "budget": Money.of(spec.max_total_atoms, currency, 18).to_json(),
        "maximum_duration": duration_text(spec.max_seconds),
        "purse": order.bid.buyer if order.is_of_purse else None,
        "balance": plan.balance,
        "shortfall": plan.shortfall,
        "opener": plan.opener,
        "witness": plan.witness,
        "witness_is": "hosted" if order.hosted_witness else "yours",
        "may_stop": list(plan.may_stop),
        "may_open_again": list(plan.may_open_again),
        "at_most_paid": plan.max_paid,
        "max_fee_bps": plan.max_fee_bps,
        "no_match": plan.no_match,
    }
    if plan.matches:
        best = plan.matches[0]
        row |= {
            "ask": best.ask_id,
            "meter": best.meter,
            "tier": best.tier,
            "region": best.region,
            "start_limit": duration_text(best.start_limit_seconds),
            **_price_of(best.price, spec),
            "rate_per_hour": best.rate_per_hour,
            "notice": None if best.notice_seconds is None else duration_text(best.notice_seconds),
            "simulated": best.simulated,
        }
    return row


def _price_of(price: Prices, spec: JobSpec) -> dict[str, str]:
    """The price that matters most: of a GPU, or of a core if the job has none."""
    if spec.gpu.gpu_milli:
        return {"price_per_gpu_hour": from_nano(price.gpu_hour)}
    return {"price_per_core_hour": from_nano(price.cpu_hour)}


def _show_terms(row: dict[str, Any]) -> None:
    show_plan(row, PLAN)
    _explain_terms(row)
    if row.get("simulated"):
        warn("the node is simulated: its GPUs stand in where a machine has none")


def _explain_terms(row: dict[str, Any]) -> None:
    """What the plan's rows mean for the buyer's money."""
    if row.get("start_limit"):
        limit = row["start_limit"]
        note(f"  Time counts from when the job is ready, at the latest {limit} after the lease")
        note("  opens; what is not used comes back.")
    most, fee = cell(plain(row), "at_most_paid"), f"{Decimal(row['max_fee_bps']) / 100:f}"
    note(f"  Whatever happens, all leases of this bid cost at most {most} together. It goes to")
    note(f"  providers whose asks the bid accepts, and up to {fee} % of it to the market.")
    if row["witness_is"] == "hosted":
        note("  The witness is not yours: its host, with the market and a provider, could have all")
        note("  of that paid for nothing.")


def _require_match(order: PreparedJob) -> None:
    """Without a match only a job that waits for one is worth placing."""
    if order.plan.no_match is None:
        return
    explain(order.plan.no_match, order.spec.rests)
    if not order.spec.rests:
        raise typer.Exit(ExitCode.NO_CAPACITY)
    note("the job waits in the book for an ask, as its `retry` says")


def _explain(job: Job) -> None:
    if job.no_match:
        explain(job.no_match, rests=bool(job.spec.get("retry")))


def _finish(job: JobHandle, ended: Job) -> None:
    """The receipt if there is one, and an exit code that says how it went."""
    receipt = None
    if ended.state == JobState.SUCCEEDED or ended.lease_id is not None:
        try:
            receipt = job.receipt()
        except NotFound:
            warn("no receipt yet: the lease is not closed on chain")
    if receipt is None:
        show(ended, SHOW)
    else:
        _print_receipt(receipt)
    _explain(ended)
    if ended.state == JobState.NO_MATCH:
        raise typer.Exit(ExitCode.NO_CAPACITY)
    if ended.state != JobState.SUCCEEDED:
        raise typer.Exit(ExitCode.JOB_FAILED)


def _print_receipt(receipt: JobReceipt) -> None:
    if current().output is Format.TABLE:
        print(printable(str(receipt), "\n"))
    else:
        show(receipt, RECEIPT)


@receipt_app.command(name="show")
def show_receipt(job_id: JobId) -> None:
    """Show the receipt of a job's latest lease."""
    with current().client() as client:
        receipt = client.jobs.get(job_id).receipt()
    _print_receipt(receipt)


@receipt_app.command(name="list")
def list_receipts() -> None:
    """List your receipts, as buyer and as provider."""
    with current().client() as client:
        show_rows(client.jobs.receipts(), RECEIPT)
