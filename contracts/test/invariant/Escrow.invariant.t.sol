// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {StdInvariant} from "forge-std/StdInvariant.sol";
import {Test} from "forge-std/Test.sol";

import {Terms} from "../../src/escrow/Ledger.sol";
import {Ask, Bid, Counted, IComputeEscrow, Lease, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {newEscrow} from "../support/Shipped.sol";
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
    /// holds after every action the handler looks at, and reverts where it does not: 5, 7, 13 to 16, 18, 22, 23.
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
            leases[i] = _escrow.lease(all[i].buyer, all[i].provider, all[i].witness, all[i].leaseNo);
        }
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
            assertLe(lease.usedMs, uint256(lease.fundedSeconds) * 1000, "6 funded");
            Counted memory counted = _escrow.counted(k.buyer, k.provider, k.witness, k.leaseNo);
            assertLe(counted.egressMib, counted.egressMibCap, "6 egress");
            assertLe(counted.units, counted.unitsCap, "6 units");
        }
    }

    /// @dev The handler looks at a lease after each action that is about it: nothing else touched one.
    function _18_leases_are_as_last_seen(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 i = 0; i < all.length; i++) {
            World.Known memory k = all[i];
            assertEq(keccak256(abi.encode(leases[i])), keccak256(abi.encode(k.seen)), "18 lease");
            Counted memory counted = _escrow.counted(k.buyer, k.provider, k.witness, k.leaseNo);
            assertEq(keccak256(abi.encode(counted)), keccak256(abi.encode(k.counted)), "18 counted");
        }
    }

    function _22_capacity_is_kept(World.Known[] memory all, Lease[] memory leases) private view {
        for (uint256 p = 0; p < 2; p++) {
            address provider = _handler.providers(p);
            for (uint24 node = 0; node < NODES; node++) {
                uint256 used = 0;
                for (uint256 i = 0; i < all.length; i++) {
                    bool holds = leases[i].state == LeaseState.Active || leases[i].state == LeaseState.Stopped;
                    if (all[i].provider == provider && leases[i].node == node && holds) used += leases[i].gpuMilli;
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
            assertEq(_token.balanceOf(account), _handler.withdrawn(account), "23 outside");
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
            assertEq(_escrow.ordersFrom(accounts[i]), _replay.ordersFrom(accounts[i]), "ordersFrom");
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
        (bool used, bool cancelled) = _escrow.orderState(account, salt);
        assertEq(used, _replay.opened(account, salt), "opened");
        assertEq(cancelled, _replay.cancelled(account, salt), "cancelled");
    }

    function _assertLeaseRebuilt(World.Known memory k, Lease memory lease) private view {
        Replay.Model memory model = _replay.lease(k.leaseNo);
        assertEq(uint256(lease.state), uint256(model.state), "state");
        assertEq(lease.rate, model.rate, "rate");
        assertEq(lease.usedMs, model.usedMs, "usedMs");
        assertEq(lease.end, model.end, "end");
        assertEq(lease.fundedSeconds, model.funded, "funded");
        assertEq(lease.gpuMilli, model.gpuMilli, "gpuMilli");
        assertEq(lease.node, model.node, "node");
        assertEq(lease.hasCounted, model.egressCap + model.unitsCap > 0, "counted");
    }

    function _assertRestRebuilt(World.Known memory k) private view {
        Replay.Model memory model = _replay.lease(k.leaseNo);
        Counted memory counted = _escrow.counted(k.buyer, k.provider, k.witness, k.leaseNo);
        assertEq(counted.egressGib, model.egressPrice, "egressGib");
        assertEq(counted.unit, model.unitPrice, "unit");
        assertEq(counted.egressMib, model.egressMib, "egressMib");
        assertEq(counted.units, model.units, "units");
        assertEq(counted.egressMibCap, model.egressCap, "egressMibCap");
        assertEq(counted.unitsCap, model.unitsCap, "unitsCap");
        (bytes16 latest, uint128 spentBefore) = _escrow.bidRecord(k.bidHash, k.seat);
        (bytes16 last, uint256 leases, uint256 spent, bool ofMany) = _replay.records(k.bidHash, k.seat);
        assertEq(latest, ofMany || leases > 1 ? last : bytes16(0), "latest");
        assertEq(spentBefore, spent, "spentBefore");
    }

    /* 12 */

    /// @dev Once every settle window is over a stranger ends what is left, everyone takes all it has, and only gifts remain.
    function _12_everybody_gets_out(World.Known[] memory all) private {
        vm.warp(vm.getBlockTimestamp() + 3 days);
        vm.startPrank(_handler.stranger());
        for (uint256 i = 0; i < all.length; i++) {
            World.Known memory k = all[i];
            if (k.seen.state != LeaseState.Closed) _escrow.refund(k.buyer, k.provider, k.witness, k.leaseNo);
        }
        address[] memory accounts = _handler.accounts();
        _escrow.collectFees(accounts);
        vm.stopPrank();
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
        bytes4[] memory actions = _handler.actions();
        for (uint256 i = 0; i < 2400; i++) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            (bool ok, bytes memory answer) =
                address(_handler).call(abi.encodeWithSelector(actions[seed % actions.length], seed));
            assertTrue(ok, string(abi.encodePacked("action ", vm.toString(i), " ", vm.toString(answer))));
        }
        invariant_holdings_are_owed();
        string memory both =
            "deposit depositWithPermit depositWithAuthorization withdraw open follow openAll openBatch cancel cancelOlder topUp settle settleMetered relay relayMetered stop stopBySignature close refund";
        _assertCounted(both, true, true);
        _assertCounted("collectFees openBatchCall settleCall", true, false);
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
