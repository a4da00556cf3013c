// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {StdInvariant} from "forge-std/StdInvariant.sol";
import {Test} from "forge-std/Test.sol";

import {ComputeEscrow} from "../../src/ComputeEscrow.sol";
import {ComputeToken} from "../../src/ComputeToken.sol";
import {Terms} from "../../src/escrow/Ledger.sol";
import {Counted, IComputeEscrow, Lease, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {Handler} from "./Handler.sol";
import {Replay} from "./Replay.sol";

/// @notice The invariants that README.md numbers.
contract EscrowInvariants is StdInvariant, Test {
    uint256 private constant NODES = 2;
    uint256 private constant NODE_GPU_MILLI = 4000;

    ComputeToken private _token;
    IComputeEscrow private _escrow;
    Handler private _handler;
    Replay private _replay;

    function setUp() public {
        vm.warp(1_700_000_000);
        address feeRecipient = makeAddr("fee recipient");
        _token = new ComputeToken(address(this), 1e30);
        Terms memory terms = Terms(address(_token), 300, feeRecipient, 30 minutes, 1 hours, 1 hours);
        _escrow = IComputeEscrow(address(new ComputeEscrow(terms)));
        _handler = new Handler(_token, _escrow, feeRecipient);
        _replay = _handler.REPLAY();
        _token.transfer(address(_handler), 1e30);
        for (uint256 i = 0; i < 3; i++) {
            _handler.deposit(i, 1000e18);
        }
        targetContract(address(_handler));
    }

    /// @dev After every action. One campaign for all: each `invariant_` function would run one of its own.
    /// forge-config: default.invariant.runs = 20
    /// forge-config: default.invariant.depth = 100
    function invariant_money_and_capacity() public view {
        _1_holdings_are_owed();
        _14_no_one_takes();
        _22_capacity_is_kept();
    }

    /// @dev After every course of actions: what takes longer to look at.
    function afterInvariant() public view {
        _2_locks_are_conserved();
        _3_released_is_bounded();
        _5_usage_is_monotone();
        _6_usage_is_bounded();
        _7_ended_leases_rest();
        _24_events_rebuild_storage();
    }

    /// @dev The actors must get somewhere: a fixed course of actions makes every kind of them succeed.
    function test_actors_get_somewhere() public {
        for (uint256 i = 0; i < 400; i++) {
            _act(uint256(keccak256(abi.encode(i))));
        }
        invariant_money_and_capacity();
        afterInvariant();
        bytes32[10] memory actions = [
            bytes32("deposit"),
            "withdraw",
            "collectFees",
            "open",
            "settle",
            "settleMetered",
            "stop",
            "stopBySignature",
            "close",
            "refund"
        ];
        for (uint256 i = 0; i < actions.length; i++) {
            assertGt(_handler.succeeded(actions[i]), 3, string(abi.encodePacked(actions[i])));
        }
        uint256 followed = 0;
        for (uint256 i = 0; i < _handler.count(); i++) {
            (bytes16 latest,) = _escrow.bidRecord(_handler.known(i).bidHash, 0);
            if (latest == _handler.known(i).leaseNo) followed++;
        }
        assertGt(followed, 3, "follow");
    }

    function _act(uint256 seed) private {
        (uint256 a, uint256 b) = (uint256(keccak256(abi.encode(seed))), uint256(keccak256(abi.encode(seed, 1))));
        uint256 kind = seed % 16;
        if (kind == 0) _handler.deposit(a, b);
        else if (kind == 1) _handler.withdraw(a, b);
        else if (kind == 2) _handler.collectFees();
        else if (kind == 3) _handler.donate(a);
        else if (kind <= 5) _handler.wait_(a);
        else if (kind <= 7) _handler.open(a, b, seed);
        else if (kind == 8) _handler.follow(a, b);
        else if (kind == 9) _handler.settle(a, b);
        else if (kind == 10) _handler.settleMetered(a, b, uint32(seed >> 32), uint32(seed >> 64));
        else if (kind == 11) _handler.replay(a, b % 2 == 0);
        else if (kind == 12) _handler.stop(a, b);
        else if (kind == 13) _handler.close(a, b, uint32(seed >> 32), uint32(seed >> 64));
        else if (kind == 14) _handler.refund(a, b % 2 == 0);
        else _handler.attack(a, b);
    }

    function _lease(Handler.Known memory k) private view returns (Lease memory) {
        return _escrow.lease(k.buyer, k.provider, k.witness, k.leaseNo);
    }

    function _1_holdings_are_owed() private view {
        address[] memory accounts = _handler.accounts();
        uint256 owed = _handler.donated();
        for (uint256 i = 0; i < accounts.length; i++) {
            owed += _escrow.balanceOf(accounts[i]) + _escrow.feesOf(accounts[i]);
        }
        for (uint256 i = 0; i < _handler.count(); i++) {
            owed += _lease(_handler.known(i)).locked;
        }
        assertEq(_token.balanceOf(address(_escrow)), owed);
    }

    function _2_locks_are_conserved() private view {
        for (uint256 i = 0; i < _handler.count(); i++) {
            Handler.Known memory k = _handler.known(i);
            Replay.Model memory model = _replay.lease(k.leaseNo);
            Lease memory lease = _lease(k);
            assertEq(model.opened, lease.released + model.refunded + lease.locked);
        }
    }

    function _3_released_is_bounded() private view {
        for (uint256 i = 0; i < _handler.count(); i++) {
            Handler.Known memory k = _handler.known(i);
            assertLe(_lease(k).released, _replay.lease(k.leaseNo).opened);
            uint256 ofBid = 0;
            for (uint256 j = 0; j < _handler.count(); j++) {
                Handler.Known memory other = _handler.known(j);
                Lease memory lease = _lease(other);
                if (other.bidHash == k.bidHash) ofBid += lease.released + lease.locked;
            }
            assertLe(ofBid, k.budget);
        }
    }

    /// @dev The handler looks at every lease after every action, and reverts where usage fell.
    function _5_usage_is_monotone() private view {
        for (uint256 i = 0; i < _handler.count(); i++) {
            Handler.Known memory k = _handler.known(i);
            assertEq(_lease(k).usedMs, k.usedMs);
            assertEq(_lease(k).released, k.released);
        }
    }

    function _6_usage_is_bounded() private view {
        for (uint256 i = 0; i < _handler.count(); i++) {
            Handler.Known memory k = _handler.known(i);
            Lease memory lease = _lease(k);
            assertLe(lease.usedMs, (vm.getBlockTimestamp() - lease.start) * 1000);
            assertLe(lease.usedMs, uint256(lease.fundedSeconds) * 1000);
            Counted memory counted = _escrow.counted(k.buyer, k.provider, k.witness, k.leaseNo);
            assertLe(counted.egressMib, counted.egressMibCap);
            assertLe(counted.units, counted.unitsCap);
        }
    }

    function _7_ended_leases_rest() private view {
        for (uint256 i = 0; i < _handler.count(); i++) {
            Handler.Known memory k = _handler.known(i);
            Lease memory lease = _lease(k);
            assertEq(lease.start + lease.fundedSeconds, lease.end);
            if (lease.state != LeaseState.Active) assertLe(lease.usedMs, uint256(lease.end - lease.start) * 1000);
            if (lease.state == LeaseState.Stopped) assertLe(lease.end, vm.getBlockTimestamp());
            if (k.closed) assertEq(uint256(lease.state), uint256(LeaseState.Closed));
            if (k.closed) assertEq(lease.locked, 0);
        }
    }

    function _14_no_one_takes() private view {
        uint256 held = _token.balanceOf(address(_escrow));
        assertEq(held, _handler.deposited() + _handler.donated() - _handler.withdrawn());
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; i++) {
            assertEq(_token.balanceOf(accounts[i]), _replay.withdrawn(accounts[i]));
        }
    }

    function _22_capacity_is_kept() private view {
        for (uint256 p = 0; p < 2; p++) {
            (address provider,) = _handler.providers(p);
            for (uint24 node = 0; node < NODES; node++) {
                uint256 used = 0;
                for (uint256 i = 0; i < _handler.count(); i++) {
                    Handler.Known memory k = _handler.known(i);
                    Lease memory lease = _lease(k);
                    if (k.provider == provider && k.node == node && !k.closed) used += lease.gpuMilli;
                }
                assertEq(_escrow.capacityUsed(provider, node), used);
                assertLe(used, NODE_GPU_MILLI);
            }
        }
    }

    function _24_events_rebuild_storage() private view {
        address[] memory accounts = _handler.accounts();
        for (uint256 i = 0; i < accounts.length; i++) {
            assertEq(_escrow.balanceOf(accounts[i]), _replay.balances(accounts[i]), "balance");
            assertEq(_escrow.feesOf(accounts[i]), _replay.fees(accounts[i]), "fees");
            for (uint24 node = 0; node < NODES; node++) {
                assertEq(_escrow.capacityUsed(accounts[i], node), _replay.capacity(accounts[i], node), "capacity");
            }
            for (uint64 salt = 0; salt < 2 * _handler.count() + 2; salt++) {
                (bool used,) = _escrow.orderState(accounts[i], salt);
                assertEq(used, _replay.nonces(accounts[i], salt), "nonce");
            }
        }
        for (uint256 i = 0; i < _handler.count(); i++) {
            _assertRebuilt(_handler.known(i));
        }
    }

    function _assertRebuilt(Handler.Known memory k) private view {
        Lease memory lease = _lease(k);
        Replay.Model memory model = _replay.lease(k.leaseNo);
        assertEq(uint256(lease.state), uint256(model.state), "state");
        assertEq(lease.rate, model.rate, "rate");
        assertEq(lease.usedMs, model.usedMs, "usedMs");
        assertEq(lease.end, model.end, "end");
        assertEq(lease.fundedSeconds, model.funded, "funded");
        assertEq(lease.minChargeSeconds, model.minChargeSeconds, "minCharge");
        assertEq(lease.gpuMilli, model.gpuMilli, "gpuMilli");
        assertEq(lease.node, model.node, "node");
        assertEq(lease.hasCounted, model.egressCap + model.unitsCap > 0, "counted");
        Counted memory counted = _escrow.counted(k.buyer, k.provider, k.witness, k.leaseNo);
        assertEq(counted.egressMib, model.egressMib, "egressMib");
        assertEq(counted.units, model.units, "units");
        assertEq(counted.egressMibCap, model.egressCap, "egressMibCap");
        assertEq(counted.unitsCap, model.unitsCap, "unitsCap");
        (bytes16 latest, uint128 spentBefore) = _escrow.bidRecord(k.bidHash, 0);
        (bytes16 last, uint256 leases, uint256 spent) = _replay.records(k.bidHash);
        assertEq(latest, leases > 1 ? last : bytes16(0), "latest");
        assertEq(spentBefore, spent, "spentBefore");
    }
}
