"""The gas of each escrow action, measured as whole transactions on a real Anvil.

It measures the steady state: lasting slots (balances, order words, node capacities, a provider's
account) are not zero before the measured transaction.
"""

from __future__ import annotations

from scripts.bench_lib.gas_world import FUNDS, ONE, PERMIT2, GasWorld, gas_world
from scripts.bench_lib.rows import Against, Row
from settlement.chain.abi import abi as contract_abi
from settlement.eip712 import ZERO_ADDRESS, Struct
from settlement.orders import Permit, TopUp, Withdraw, purse_of
from settlement.signing import sign

# Full transactions of other systems, per action or per item of a batch of 100.
PUBLISHED = "measured from each system's published contracts on Anvil, Osaka"
X402 = Against("x402 batch settlement, claim", 45_814, PUBLISHED)
X402_OF_100 = Against("x402 batch settlement, claim in a batch of 100", 19_244, PUBLISHED)
FILECOIN_OPEN = Against("Filecoin Pay V1, createRail", 211_733, PUBLISHED)
SABLIER_OPEN = Against("Sablier Flow 3.0.1, create", 138_750, PUBLISHED)
SABLIER_DEPOSIT = Against("Sablier Flow 3.0.1, deposit", 60_996, PUBLISHED)
SABLIER_OUT = Against("Sablier Flow 3.0.1, withdrawMax", 73_892, PUBLISHED)
OTHERS = (
    Row("settle_single@graphtally", 144_332, "gas"),
    Row("settle_single@tap_escrow", 115_154, "gas"),
    Row("settle_single@sablier_flow", 73_892, "gas"),
    Row("settle_single@filecoin_pay", 91_641, "gas"),
    Row("settle_single@livepeer", 107_876, "gas"),
    Row("settle_single@x402", 45_814, "gas"),
    Row("settle_single@bound", 38_862, "gas"),
    Row("settle_batch_100_per_lease@x402", 19_244, "gas"),
    Row("settle_batch_100_per_lease@sablier_flow", 33_624, "gas"),
    Row("settle_batch_100_per_lease@livepeer", 57_291, "gas"),
    Row("settle_batch_100_per_lease@bound", 10_200, "gas"),
    Row("open_single@filecoin_pay", 211_733, "gas"),
    Row("open_single@sablier_flow", 138_750, "gas"),
    Row("open_single@superfluid_cfa", 306_055, "gas"),
    Row("open_single@iexec_poco", 635_590, "gas"),
)
BUYERS = 1_000
FOREVER = 2**40 - 1


def rows() -> list[Row]:
    """Our figures, measured now, and those that others published."""
    with gas_world() as world:
        world.add_buyers(BUYERS)
        ours = [*_opening(world), *_settling(world), *_ending(world)]
        ours += [*_depositing(world), *_accounts(world)]
    return ours + list(OTHERS)


def _opening(world: GasWorld) -> list[Row]:
    world.open(world.matches(50))  # each buyer had a bid before, the node a lease
    batch = world.matches(50)
    per_lease = world.gas(
        world.sender, world.escrow.calls.open_batch([x.match for x in batch])
    ) / len(batch)
    (one,) = world.matches(1)
    single = world.gas(world.sender, world.escrow.calls.open(one.match))
    return [
        Row("open_single", single, "gas", "lower", SABLIER_OPEN, 112_000, 100_000),
        Row("open_batch_50_per_lease", per_lease, "gas", "lower", FILECOIN_OPEN, 84_000, 69_000),
    ]


def _settling(world: GasWorld) -> list[Row]:
    calls, sender = world.escrow.calls, world.sender
    leases = world.matches(BUYERS)
    world.open(leases)
    world.later(300)
    of_1000 = 0.0
    for ms in (
        60_123,
        120_246,
    ):  # the first settlement makes the provider's account and each lease's usage last
        vouchers = [world.voucher(x, ms) for x in leases]
        of_1000 = world.gas(sender, calls.settle(vouchers)) / len(vouchers)
    vouchers = [world.voucher(x, 180_369) for x in leases[:100]]
    of_100 = world.gas(sender, calls.settle(vouchers)) / len(vouchers)
    single = world.gas(sender, calls.settle([world.voucher(leases[200], 180_369)]))

    counted = world.matches(100, metered=True)
    world.open(counted)
    world.later(300)
    metered = 0.0
    for i in (1, 2):
        entries = [world.metered(x, i * 60_123, i * 1_111, i * 222) for x in counted]
        metered = world.gas(sender, calls.settle(entries, metered=True)) / len(entries)
    return [
        Row("settle_single", single, "gas", "lower", X402, 42_800, 42_500),
        Row("settle_batch_100_per_lease", of_100, "gas", "lower", X402_OF_100, 11_500, 11_100),
        Row("settle_batch_1000_per_lease", of_1000, "gas", "lower", X402_OF_100, 11_300, 10_700),
        Row(
            "settle_metered_batch_100_per_lease", metered, "gas", "lower", X402_OF_100,
            17_800, 17_000,
        ),
    ]  # fmt: skip


def _ending(world: GasWorld) -> list[Row]:
    """Close at the settled usage, which does not write the provider's account, and above it."""
    calls, sender = world.escrow.calls, world.sender
    settled, paying, stopped, ended, left, freed = world.matches(6)
    world.open([settled, paying, stopped, ended, left, freed])
    world.later(300)
    world.gas(sender, calls.settle([world.voucher(x, 120_000) for x in (settled, paying, left)]))
    close = world.gas(sender, world.close_data(settled, 120_000))
    close_that_pays = world.gas(sender, world.close_data(paying, 240_000))
    stop = world.gas(stopped.buyer, calls.stop(stopped.ref))
    by_signature = world.gas(sender, world.stop_data(ended))
    world.later(2 * 86_400)
    free = world.gas(sender, calls.free([freed.ref]))
    refund = world.gas(sender, calls.refund(left.ref))
    return [
        Row("close", close, "gas", "lower", SABLIER_OUT, 55_000, 47_000),
        Row("close_that_pays", close_that_pays, "gas", "lower", SABLIER_OUT),
        Row("stop", stop, "gas", "lower", None, 50_000),
        Row("stop_by_signature", by_signature, "gas"),
        Row("free", free, "gas"),
        Row("refund", refund, "gas"),
    ]


def _depositing(world: GasWorld) -> list[Row]:
    """Deposits into a balance that is not zero, from token balances that stay above zero, each in
    its second transaction.
    """
    calls, operator, abi = world.escrow.calls, world.sender, contract_abi("ComputeEscrow")
    amount, buyer, escrow = FUNDS // 1_000, world.buyers[0], world.escrow.address
    world.deploy_permit2()
    gas: dict[str, int] = {}
    for i in range(2):
        world.approve(escrow, 10 * amount)
        world.approve(PERMIT2, 10 * amount)
        nonce = world.token.permit_nonce(operator.address)
        permit: Struct = Permit(operator.address, escrow, amount, nonce, FOREVER)
        by_permit = sign(permit, world.token.domain(), operator)
        moved, number = (operator.address, amount), bytes([i] * 32)
        authorization = world.authorization(operator, amount, FOREVER, number)
        vrs = (authorization[64], authorization[:32], authorization[32:64])
        by_permit2 = world.permit2_transfer(operator, amount, i, FOREVER)
        for name, data in {
            "deposit_approve": calls.deposit(amount),
            "deposit_for": calls.deposit_for(buyer.address, amount),
            "deposit_permit": calls.deposit_with_permit(amount, FOREVER, by_permit),
            "deposit_authorization": abi.call(
                "depositWithAuthorization", *moved, 0, FOREVER, number, *vrs
            ),
            "deposit_permit2": abi.call("depositWithPermit2", *moved, i, FOREVER, by_permit2),
        }.items():
            if name == "deposit_permit":
                world.approve(escrow, 0)  # who uses permits has approved nothing
            gas[name] = world.gas(operator, data)
    aims = {
        "deposit_approve": (SABLIER_DEPOSIT, None, 49_000),
        "deposit_permit": (SABLIER_DEPOSIT, None, 66_000),
    }
    return [Row(name, value, "gas", "lower", *aims.get(name, ())) for name, value in gas.items()]


def _accounts(world: GasWorld) -> list[Row]:
    """Withdrawals, top-ups and purses, where every balance that lasts is above zero."""
    calls, sender, buyer = world.escrow.calls, world.sender, world.buyers[0]
    (lease,) = world.matches(1)
    world.open([lease])
    opened, deadline = lease.match.opened, world.client.timestamp() + 600
    gas: dict[str, int] = {}
    for salt in range(2):  # the first makes the word of salts last
        signed: Struct = Withdraw(
            buyer.address, buyer.address, ONE, salt, deadline, ZERO_ADDRESS, ONE // 100
        )
        data = calls.withdraw_by_signature(signed, world.signed(signed, buyer))
        gas["withdraw_by_signature"] = world.gas(sender, data)
    top_up = TopUp(
        buyer.address, world.provider.address, lease.number, 60, 2, deadline, ZERO_ADDRESS, 1
    )
    data = calls.top_up_by_signature(opened, top_up, world.signed(top_up, buyer))
    gas["top_up_by_signature"] = world.gas(sender, data)
    gas["top_up"] = world.gas(buyer, calls.top_up(opened, 60))
    gas["withdraw"] = world.gas(buyer, calls.withdraw(buyer.address, ONE))
    gas["purse_create"] = world.gas(buyer, calls.create_purse(sender.address, 1, FOREVER, ONE))
    purse = purse_of(world.domain, buyer.address, sender.address, 1)
    gas["purse_fund"] = world.gas(buyer, calls.fund_purse(purse, FUNDS // 100))
    world.open([world.of_purse(purse, sender, 1)])
    gas["purse_open"] = world.gas(sender, calls.open(world.of_purse(purse, sender, 2).match))
    gas["purse_sweep"] = world.gas(buyer, calls.sweep_purse(purse, ONE))
    gas["purse_expire"] = world.gas(buyer, calls.expire_purse(purse, deadline))
    return [Row(name, value, "gas") for name, value in gas.items()]
