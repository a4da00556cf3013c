// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {StdInvariant} from "forge-std/StdInvariant.sol";
import {Test} from "forge-std/Test.sol";

import {
    Ask,
    Bid,
    Counted,
    IComputeEscrow,
    Lease,
    LeaseKey,
    LeaseState,
    Numbered,
    Purse,
    Terms
} from "../../src/interfaces/IComputeEscrow.sol";
import {newEscrow} from "../support/Shipped.sol";
import {Accounts} from "./Accounts.sol";
import {Handler} from "./Handler.sol";
import {MoodyToken} from "./MoodyToken.sol";
import {Replay} from "./Replay.sol";
import {World} from "./World.sol";

/// @notice The invariants that README.md numbers, in an escrow of a token of 18 decimals.
contract EscrowInvariants is StdInvariant, Test {
    uint256 private constant NODES = 2;
    uint256 private constant NODE_GPU_MILLI = 4000;
    uint256 private constant DEPLOYER_KEY = 0xd0;
    uint256 private constant FEE_RECIPIENT_KEY = 0xfe;

    MoodyToken private _token;
    IComputeEscrow private _escrow;
    Handler private _handler;
    Replay private _replay;

    function setUp() public {
        vm.warp(1_700_000_000);
        (uint8 decimals, uint256 feeBps) = _setting();
        _token = new MoodyToken(decimals);
        address feeRecipient = vm.addr(FEE_RECIPIENT_KEY);
        Terms memory terms = Terms(address(_token), feeBps, feeRecipient, 30 minutes);
        vm.prank(vm.addr(DEPLOYER_KEY));
        _escrow = newEscrow(vm, terms);
        _handler = new Handler(_token, _escrow, DEPLOYER_KEY, FEE_RECIPIENT_KEY);
        _replay = _handler.REPLAY();
        for (uint256 i = 0; i < 12; i++) {
            _handler.deposit(uint256(keccak256(abi.encode("deposit", i))));
        }
        targetContract(address(_handler));
        targetSelector(FuzzSelector(address(_handler), _handler.actions()));
    }

    function _setting() internal pure virtual returns (uint8 decimals, uint256 feeBps) {
        return (18, 300);
    }

    /// @dev After every action. One campaign for all: each `invariant_` function would run one of its own. What else
    /// holds after every action the handler looks at, and reverts where it does not: 5, 7, 13 to 16, 18, 22, 23, 43.
    function invariant_holdings_are_owed() public view {
        assertEq(_token.balanceOf(address(_escrow)), _handler.owed());
    }

    /// @dev After every course of actions: what takes longer to look at. It ends with everybody leaving.
    function afterInvariant() public {
        World.Known[] memory all = _all();
        Lease[] memory leases = _leases(all);
        _1_holdings_are_owed(all, leases);
        _2_locks_are_conserved(all, leases);
        _3_released_is_bounded(all, leases);
        _6_usage_is_bounded(all, leases);
        _18_leases_are_as_last_seen(all, leases);
        _22_capacity_is_kept(all, leases);
        _23_money_moves_along_leases(all, leases);
        _24_events_rebuild_storage(all, leases);
        _42_bids_bound_what_leases_cost(all, leases);
        _43_seats_open_again_on_the_buyers_word(all, leases);
        _44_purses_spend_what_was_put_in(all, leases);
        _12_everybody_gets_out(all);
    }

    function _all() private view returns (World.Known[] memory all) {
        all = new World.Known[](_handler.count());
        for (uint256 i = 0; i < all.length; i++) {
            all[i] = _handler.known(i);
        }
    }

    function _leases(World.Known[] memory all) private view returns (Lease[] memory leases) {
        leases = new Lease[](all.length);
        for (uint256 i = 0; i < all.length; i++) {
            leases[i] = _escrow.lease(_keyOf(all[i]));
        }
    }

    function _keyOf(World.Known memory k) private pure returns (LeaseKey memory) {
        return LeaseKey(k.buyer, k.provider, k.witness, k.leaseNo);
    }

    function _1_holdings_are_owed(World.Known[] memory all, Lease[] memory leases) private view {
        address[] memory accounts = _handler.accounts();
        uint256 owed = _handler.donated();
        for (uint256 i = 0; i < accounts.length; i++) {
            owed += _escrow.balanceOf(accounts[i]) + _escrow.feesOf(accounts[i]);
        }
        for (uint256 i = 0; i < all.length; i++) {
            owed += leases[i].locked;
        }
        assertEq(_token.balanceOf(address(_escrow)), owed, "1");
    }

    function _2_locks_are_conserved(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            Replay.Model memory model = _replay.lease(all[i].leaseNo);
            assertEq(model.opened, leases[i].released + model.refunded + leases[i].locked, "2");
        }
    }

    /// @dev Per lease by its lock, per seat by its share of the budget, so per bid by its budget.
    function _3_released_is_bounded(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            assertLe(leases[i].released, _replay.lease(all[i].leaseNo).opened, "3 lease");
            (uint256 ofSeat, uint256 ofBid) = (0, 0);
            for (uint256 j = 0; j < all.length; j++) {
                if (all[j].bidHash != all[i].bidHash) continue;
                ofBid += leases[j].released + leases[j].locked;
                if (all[j].seat == all[i].seat) ofSeat += leases[j].released + leases[j].locked;
            }
            Bid memory bid = abi.decode(all[i].bid, (Bid));
            assertLe(ofSeat, bid.budget / bid.nodes, "3 seat");
            assertLe(ofBid, bid.budget, "3 bid");
        }
    }

    function _6_usage_is_bounded(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            (World.Known memory k, Lease memory lease) = (all[i], leases[i]);
            assertLe(lease.usedMs, (vm.getBlockTimestamp() - lease.start) * 1000, "6 elapsed");
            assertLe(lease.usedMs, uint256(lease.fundedSeconds - lease.startSeconds) * 1000, "6 paid");
            Counted memory counted = _escrow.counted(_keyOf(k));
            assertLe(counted.egressMib, counted.egressMibCap, "6 egress");
            assertLe(counted.units, counted.unitsCap, "6 units");
        }
    }

    /// @dev The handler looks at a lease after each action that is about it: nothing else touched one.
    function _18_leases_are_as_last_seen(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            World.Known memory k = all[i];
            assertEq(keccak256(abi.encode(leases[i])), keccak256(abi.encode(k.seen)), "18 lease");
            Counted memory counted = _escrow.counted(_keyOf(k));
            assertEq(keccak256(abi.encode(counted)), keccak256(abi.encode(k.counted)), "18 counted");
        }
    }

    function _22_capacity_is_kept(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 p = 0; p < 2; p++) {
            address provider = _handler.providers(p);
            for (uint24 node = 0; node < NODES; node++) {
                uint256 used = 0;
                for (uint256 i = 0; i < all.length; i++) {
                    bool holds = all[i].provider == provider && leases[i].node == node;
                    if (holds && leases[i].state == LeaseState.Active) used += leases[i].gpuMilli;
                }
                assertEq(_escrow.capacityUsed(provider, node), used, "22 used");
                assertLe(used, NODE_GPU_MILLI, "22 size");
            }
        }
    }

    /// @dev An account has what it brought, earned and was refunded, less what it took and pays: its own leases
    /// explain all of it, so nobody else's did, whoever plays together.
    function _23_money_moves_along_leases(World.Known[] memory all, Lease[] memory leases) private view {
        address[] memory accounts = _handler.accounts();
        for (uint256 a = 0; a < accounts.length; a++) {
            address account = accounts[a];
            int256 has = int256(_handler.deposited(account)) - int256(_handler.withdrawn(account));
            has += _handler.given(account);
            uint256 fees = 0;
            for (uint256 i = 0; i < all.length; i++) {
                (int256 moved, uint256 fee) = _moved(all[i], leases[i], account);
                (has, fees) = (has + moved, fees + fee);
            }
            if (account == _handler.feeRecipient()) {
                for (uint256 p = 0; p < 2; p++) {
                    has += int256(_handler.collected(_handler.providers(p)));
                }
            }
            assertEq(int256(_escrow.balanceOf(account)), has, "23 balance");
            assertEq(_escrow.feesOf(account) + _handler.collected(account), fees, "23 fees");
            assertEq(_token.balanceOf(account), _handler.received(account), "23 outside");
        }
    }

    /// @return moved Atoms that the lease brought the account.
    /// @return fee Atoms of fees that it held back from the account.
    function _moved(World.Known memory k, Lease memory lease, address account)
        private
        view
        returns (int256 moved, uint256 fee)
    {
        if (account == k.provider) {
            Counted memory c = k.counted;
            uint256 things = (uint256(c.egressGib) * c.egressMib + uint256(c.unit) * c.units * 1024) * 10
                ** _token.decimals() / 1024e9;
            fee = (lease.released - things) * _escrow.feeBps() / 10_000 + things * _escrow.feeBps() / 10_000;
            moved += int256(lease.released - fee);
        }
        if (account == k.buyer) moved -= int256(lease.released + lease.locked);
    }

    /* 24 */

    function _24_events_rebuild_storage(World.Known[] memory all, Lease[] memory leases) private view {
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; i++) {
            assertEq(_escrow.balanceOf(accounts[i]), _replay.balances(accounts[i]), "balance");
            assertEq(_escrow.feesOf(accounts[i]), _replay.fees(accounts[i]), "fees");
            for (uint256 kind = 0; kind < 2; kind++) {
                uint256 from = _escrow.saltsFrom(accounts[i], Numbered(kind));
                assertEq(from, _replay.saltsFrom(accounts[i], kind), "saltsFrom");
            }
            _assertCallsRebuilt(accounts[i]);
            Purse memory purse = _escrow.purse(accounts[i]);
            assertEq(keccak256(abi.encode(purse)), keccak256(abi.encode(_replay.purse(accounts[i]))), "purse");
            for (uint24 node = 0; node < NODES; node++) {
                assertEq(_escrow.capacityUsed(accounts[i], node), _replay.capacity(accounts[i], node), "capacity");
            }
        }
        bytes[] memory orders = _handler.asks();
        for (uint256 i = 0; i < orders.length; i++) {
            Ask memory ask = abi.decode(orders[i], (Ask));
            _assertOrderRebuilt(ask.provider, ask.salt);
        }
        orders = _handler.bids();
        for (uint256 i = 0; i < orders.length; i++) {
            Bid memory bid = abi.decode(orders[i], (Bid));
            _assertOrderRebuilt(bid.buyer, bid.salt);
        }
        for (uint256 i = 0; i < all.length; i++) {
            _assertLeaseRebuilt(all[i], leases[i]);
            _assertRestRebuilt(all[i]);
        }
    }

    function _assertOrderRebuilt(address account, uint64 salt) private view {
        _assertSaltRebuilt(account, Numbered.Orders, salt);
    }

    function _assertCallsRebuilt(address account) private view {
        for (uint64 salt = 1; salt <= _handler.lastCall() + 2; salt++) {
            _assertSaltRebuilt(account, Numbered.Calls, salt);
        }
    }

    function _assertSaltRebuilt(address account, Numbered kind, uint64 salt) private view {
        (bool used, bool cancelled) = _escrow.saltState(account, kind, salt);
        assertEq(used, _replay.used(account, uint256(kind), salt), "used");
        assertEq(cancelled, _replay.cancelled(account, uint256(kind), salt), "cancelled");
    }

    function _assertLeaseRebuilt(World.Known memory k, Lease memory lease) private view {
        Replay.Model memory model = _replay.lease(k.leaseNo);
        assertEq(uint256(lease.state), uint256(model.state), "state");
        assertEq(lease.rate, model.rate, "rate");
        assertEq(lease.usedMs, model.usedMs, "usedMs");
        assertEq(lease.end, model.end, "end");
        assertEq(lease.startSeconds, model.startSeconds, "startSeconds");
        assertEq(lease.again, model.again, "again");
        assertEq(lease.fundedSeconds, model.funded, "funded");
        assertEq(lease.gpuMilli, model.gpuMilli, "gpuMilli");
        assertEq(lease.node, model.node, "node");
        assertEq(lease.hasCounted, model.egressCap + model.unitsCap > 0, "counted");
    }

    function _assertRestRebuilt(World.Known memory k) private view {
        Replay.Model memory model = _replay.lease(k.leaseNo);
        Counted memory counted = _escrow.counted(_keyOf(k));
        assertEq(counted.egressGib, model.egressPrice, "egressGib");
        assertEq(counted.unit, model.unitPrice, "unit");
        assertEq(counted.egressMib, model.egressMib, "egressMib");
        assertEq(counted.units, model.units, "units");
        assertEq(counted.egressMibCap, model.egressCap, "egressMibCap");
        assertEq(counted.unitsCap, model.unitsCap, "unitsCap");
        (bytes16 latest, uint128 spentBefore) = _escrow.bidRecord(k.bidHash, k.seat);
        (bytes16 last, uint256 leases, uint256 spent) = _replay.records(k.bidHash, k.seat);
        bool ofMany = abi.decode(k.bid, (Bid)).nodes > 1;
        assertEq(latest, ofMany || leases > 1 ? last : bytes16(0), "latest");
        assertEq(spentBefore, spent, "spentBefore");
    }

    /* 42, 43, 44 */

    /// @dev Rate, paid time, counted figures: no lease costs more than its bid says. Budgets are 3.
    function _42_bids_bound_what_leases_cost(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            (Bid memory bid, Lease memory lease) = (abi.decode(all[i].bid, (Bid)), leases[i]);
            uint256 paidSeconds = lease.fundedSeconds - lease.startSeconds;
            assertLe(lease.rate, bid.limits[0].rate, "42 rate");
            assertLe(paidSeconds, bid.maxSeconds + all[i].addedSeconds, "42 time");
            Counted memory c = all[i].counted;
            assertTrue(c.egressMibCap <= bid.egressMib && c.unitsCap <= bid.units, "42 caps");
            assertTrue(c.egressGib <= bid.limits[0].egressGib && c.unit <= bid.limits[0].unit, "42 prices");
            uint256 things = uint256(c.egressGib) * c.egressMib + uint256(c.unit) * c.units * 1024;
            uint256 scale = 10 ** _token.decimals();
            uint256 most = lease.rate * paidSeconds * scale / 3.6e15 + things * scale / 1024e9;
            assertLe(lease.released, most, "42 cost");
        }
    }

    /// @dev Each that followed another found it marked; nothing runs beside its seat's latest. Who marked what the handler
    /// knows, and nobody else did.
    function _43_seats_open_again_on_the_buyers_word(World.Known[] memory all, Lease[] memory leases) private pure {
        for (uint256 i = 0; i < all.length; i++) {
            assertEq(leases[i].again, all[i].again, "43 said");
            if (leases[i].again) assertTrue(leases[i].state != LeaseState.Active, "43 active");
            uint256 followers = 0;
            for (uint256 j = 0; j < all.length; j++) {
                if (all[j].previous == i + 1) followers++;
                if (all[j].bidHash != all[i].bidHash || all[j].seat != all[i].seat || j == i) continue;
                assertFalse(
                    leases[i].state == LeaseState.Active && leases[j].state == LeaseState.Active, "43 one at a time"
                );
                if (j > i) assertGt(all[j].previous, 0, "43 first");
            }
            assertLe(followers, leases[i].again ? 1 : 0, "43 marked");
        }
    }

    /// @dev What a purse's leases have cost and still hold, what its owner took back and paid relayers, and what is left are
    /// what was put in: its refunds came back to it. No tokens leave it.
    function _44_purses_spend_what_was_put_in(World.Known[] memory all, Lease[] memory leases) private view {
        Accounts.KnownPurse[] memory purses = _handler.purses();
        for (uint256 p = 0; p < purses.length; p++) {
            Accounts.KnownPurse memory purse = purses[p];
            uint256 gone = purse.swept + purse.fees;
            for (uint256 i = 0; i < all.length; i++) {
                if (all[i].buyer == purse.account) gone += leases[i].released + leases[i].locked;
            }
            uint256 put = purse.put + _handler.deposited(purse.account);
            assertLe(gone, put, "44 spent");
            assertEq(_escrow.balanceOf(purse.account), put - gone, "44 left");
            assertEq(_handler.withdrawn(purse.account), 0, "44 withdrawn");
            assertEq(_escrow.purseOf(purse.owner, purse.operator, purse.salt), purse.account, "44 name");
            Purse memory kept = _escrow.purse(purse.account);
            assertEq(kept.owner, purse.owner, "44 owner");
            assertEq(kept.operator, purse.operator, "44 operator");
            assertEq(kept.expiry, purse.expiry, "44 expiry");
        }
    }

    /* 12 */

    /// @dev Once every settle window is over a stranger ends what is left, everyone takes all it has, and only gifts remain.
    function _12_everybody_gets_out(World.Known[] memory all) private {
        vm.warp(vm.getBlockTimestamp() + 3 days);
        vm.startPrank(_handler.stranger());
        for (uint256 i = 0; i < all.length; i++) {
            World.Known memory k = all[i];
            if (k.seen.state != LeaseState.Closed) _escrow.refund(_keyOf(k));
        }
        address[] memory accounts = _handler.accounts();
        _escrow.collectFees(accounts);
        vm.stopPrank();
        Accounts.KnownPurse[] memory purses = _handler.purses();
        for (uint256 i = 0; i < purses.length; i++) {
            uint256 free = _escrow.balanceOf(purses[i].account);
            if (free == 0) continue;
            vm.prank(purses[i].owner);
            _escrow.sweepPurse(purses[i].account, free);
        }
        for (uint256 i = 0; i < accounts.length; i++) {
            uint256 balance = _escrow.balanceOf(accounts[i]);
            if (balance == 0) continue;
            vm.prank(accounts[i]);
            _escrow.withdraw(address(0xbeef), balance); // the token may refuse the account itself
        }
        assertEq(_token.balanceOf(address(_escrow)), _handler.donated(), "12");
    }

    /* THAT THE ACTIONS ARE NOT EMPTY */

    /// @dev A fixed course of actions, in which every kind succeeded, and was refused where it can be.
    function test_no_action_is_empty() public {
        vm.pauseGasMetering(); // of more than a block
        bytes4[] memory actions = _handler.actions();
        for (uint256 i = 0; i < 3600; i++) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            (bool ok, bytes memory answer) =
                address(_handler).call(abi.encodeWithSelector(actions[seed % actions.length], seed));
            assertTrue(ok, string(abi.encodePacked("action ", vm.toString(i), " ", vm.toString(answer))));
        }
        invariant_holdings_are_owed();
        string memory both =
            "deposit depositFor depositWithPermit depositWithAuthorization withdraw withdrawBySignature open follow openSeat openAll openBatch cancel cancelOlder topUp topUpBySignature settle settleMetered relay relayMetered stop stopAgain stopBySignature stopAgainBySignature free close refund";
        _assertCounted(both, true, true);
        _assertCounted(
            "createPurse fundPurse sweepPurse expirePurse multicall topUpOfPurse signedTopUpOfPurse", true, true
        );
        _assertCounted("collectFees openBatchCall settleCall freeCall", true, false);
        _assertCounted("openBadly callExtension ownIt misname", false, true);
        afterInvariant();
    }

    function _assertCounted(string memory names, bool succeeds, bool fails) private view {
        string[] memory each = vm.split(names, " ");
        for (uint256 i = 0; i < each.length; i++) {
            bytes32 action = bytes32(bytes(each[i]));
            if (succeeds) assertGt(_handler.succeeded(action), 0, string.concat(each[i], " never succeeded"));
            if (fails) assertGt(_handler.refused(action), 0, string.concat(each[i], " was never refused"));
        }
    }
}

/// @notice The same with 6 decimals, where roundings show, and the highest fee.
contract SixDecimalsInvariants is EscrowInvariants {
    function _setting() internal pure override returns (uint8 decimals, uint256 feeBps) {
        return (6, 1000);
    }
}
