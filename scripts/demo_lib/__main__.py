"""Runs the demonstration: `python -m scripts.demo_lib [--json] [--keep]`.

stdout has only the JSON object, and only with --json; everything for people is on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import structlog

from marketplace.errors import MarketError
from marketplace.sdk.errors import CoulombError
from scripts.demo_lib.books import Books, compare_receipt, read_books
from scripts.demo_lib.cases import CASES
from scripts.demo_lib.children import DemoError
from scripts.demo_lib.market import FEE_BPS, INTERVAL_MS, Market
from scripts.demo_lib.people import (
    BUYERS,
    DEPOSIT,
    OFFERS,
    Buyer,
    Provider,
    make_buyer,
    put_on_book,
    start_provider,
)
from scripts.demo_lib.purse import IN_PURSE, OPERATOR, DemoPurse, make_purse
from scripts.demo_lib.result import document
from scripts.demo_lib.shopping import Purchase, buy, follow
from scripts.demo_lib.show import Screen, cmp, show_offers, show_receipt, show_sheet
from settlement.errors import SettlementError

INTERRUPTED = 130
FAULTS = (DemoError, CoulombError, SettlementError, MarketError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 if all was correct, 130 if it was interrupted, else 1."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="A market, start to end.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--keep", action="store_true", help="keep it all running until Ctrl-C")
    chosen = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for number in (signal.SIGINT, signal.SIGTERM):  # even if a shell's `&` made it ignore one
        signal.signal(number, _interrupt)
    screen = Screen(as_json=chosen.json)
    market = Market(Path(tempfile.mkdtemp(prefix="coulomb-demo-")))
    code = 1
    try:
        demo = Demo(market, screen)
        code = demo.run(as_json=chosen.json)
        if chosen.keep:
            demo.keep()
    except FAULTS as error:
        screen.say(f"failed: {error}", "bold red")
    except KeyboardInterrupt:
        code = 0 if chosen.keep and code == 0 else INTERRUPTED
        screen.say("stopping what was started")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # leaves nothing running, even on a second Ctrl-C
        market.stop()
        if code == 1:
            screen.say(f"logs: {market.children.logs}", "bold red")
        else:
            shutil.rmtree(market.folder)
    return code


class Demo:
    """One run."""

    def __init__(self, market: Market, screen: Screen) -> None:
        self._market = market
        self._screen = screen
        self._providers: list[Provider] = []
        self._buyers: dict[str, Buyer] = {}

    def run(self, as_json: bool) -> int:
        """Set up, trade, read the books; the exit code."""
        try:
            purse = self._set_up()
            purchases = self._trade()
            purse.sweep(self._market, purchases)
        finally:
            for buyer in self._buyers.values():
                buyer.witness.stop()
                buyer.client.close()
        books = self._read_books()
        amiss = books.problems + _differences(purchases, books) + purse.problems()
        amiss += _lost_pay(purchases, books)
        problems = [text for purchase in purchases for text in purchase.problems()] + amiss
        for purchase in purchases:
            show_receipt(self._screen, purchase)
        show_sheet(self._screen, books.sheet, not amiss)
        for text in problems:
            self._screen.say(text, "bold red")
        if as_json:
            print(
                json.dumps(document(self._market, purchases, purse, books, not amiss)), flush=True
            )
        put_in, used, back = cmp(IN_PURSE), cmp(purse.used), cmp(purse.returned)
        self._screen.say(f"purse: {put_in} put in, {used} used by its operator, {back} swept")
        states = ", ".join(sorted({p.job.state for p in purchases}))
        self._screen.say(f"{len(purchases)} jobs ended: {states}")
        return 1 if problems else 0

    def keep(self) -> None:
        """Print how to explore the market, and wait for Ctrl-C."""
        made, rpc = self._market.deployment, self._market.chain.rpc_url
        self._screen.say("kept running until Ctrl-C; look for yourself (cast is in .setup/bin):")
        accounts = [(p.offer.name, p.signer.address) for p in self._providers]
        accounts += [(buyer.name, buyer.address) for buyer in self._buyers.values()]
        calls = [("the escrow's tokens", made.token.address, made.escrow.address)]
        calls += [(name, made.escrow.address, address) for name, address in accounts]
        for name, contract, address in calls:
            words = f"cast call --rpc-url {rpc} {contract} 'balanceOf(address)(uint256)' {address}"
            self._screen.console.print(f"  {words}  # {name}", soft_wrap=True)
        signal.pause()

    def _set_up(self) -> DemoPurse:
        say, market = self._screen.say, self._market
        say("1 CMP stands for 1 USD here; prices are medians of real listings; the GPUs are")
        say("simulated: jobs run on this machine's processor, in a sandbox of their own")
        market.start_chain()
        market.start_server()
        say(f"chain at {market.chain.rpc_url}, server at {market.api_url}, fee {FEE_BPS / 100} %")
        self._providers = [start_provider(market, offer) for offer in OFFERS]
        for name, account in BUYERS:
            self._buyers[name] = make_buyer(market, name, account)
            say(f"{name:<8} deposited {cmp(DEPOSIT)} by permit: {self._buyers[name].deposit_tx}")
        purse = make_purse(market, self._buyers["lab"])
        self._buyers[OPERATOR] = purse.operator
        say(f"{OPERATOR:<8} may spend {cmp(IN_PURSE)} of lab's from the purse {purse.address}")
        market.mine_every_second()
        for provider in self._providers:
            put_on_book(market, provider)
        show_offers(self._screen, self._providers)
        return purse

    def _trade(self) -> list[Purchase]:
        say = self._screen.say
        purchases = [buy(case, self._buyers) for case in CASES]
        say(f"{len(purchases)} jobs bought; usage is signed every {INTERVAL_MS / 1000:g} s")
        with self._screen as screen:

            def watch() -> None:
                screen.update(purchases)
                self._lose_nodes(purchases)

            follow(purchases, watch, self._market.children.check)
        for name, buyer in self._buyers.items():
            say(f"{name:<8} countersigned {buyer.witness.countersigned} attestations")
            for refusal in dict.fromkeys(buyer.witness.refusals):
                say(f"{name:<8} refused to {refusal}", "yellow")
        return purchases

    def _lose_nodes(self, purchases: Sequence[Purchase]) -> None:
        """Kill the agents of the nodes that are to be lost now."""
        for lease in filter(None, (purchase.loses_node() for purchase in purchases)):
            lost = next(p for p in self._providers if p.signer.address == lease.provider)
            self._screen.say(f"{lost.offer.name:<8} is lost: its agent is killed", "yellow")
            self._market.children.kill(lost.agent)

    def _read_books(self) -> Books:
        market = self._market
        escrow, token = market.contracts()
        return read_books(
            escrow,
            token,
            market.deployment.block,
            [provider.signer.address for provider in self._providers],
            [buyer.address for buyer in self._buyers.values()],
        )


def _differences(purchases: Sequence[Purchase], books: Books) -> list[str]:
    """How the server's receipts and the chain differ, in both directions."""
    found: list[str] = []
    seen: set[bytes] = set()
    for purchase in purchases:
        for receipt in purchase.receipts:
            seen.add(receipt.lease_no)
            found += compare_receipt(receipt, books.leases.get(receipt.lease_no))
    return found + [f"lease 0x{n.hex()} has no receipt" for n in books.leases if n not in seen]


def _lost_pay(purchases: Sequence[Purchase], books: Books) -> list[str]:
    """Whether a job that lost its node paid both providers for what they did, within its budget."""
    found = []
    for purchase in purchases:
        if purchase.lost is None:
            continue
        first, second = (books.leases[receipt.lease_no] for receipt in purchase.receipts)
        budget = purchase.case.spec().max_total_atoms
        if not (first.state.again and 0 < first.released and 0 < second.released):
            found.append(f"{purchase.case.name}: its first lease was not marked, or one not paid")
        if first.released + second.released > budget:
            found.append(f"{purchase.case.name}: paid more than its budget of {budget} atoms")
    return found


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
