// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseKey, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice free: nodes whose leases have run out.
contract FreeTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;
    uint256 private _end;

    function setUp() public override {
        super.setUp();
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _no = escrow.open(_match(ask, bid));
        (_start, _end) = (block.timestamp, block.timestamp + 4200);
    }

    /// @dev Another lease of the usual parties, which ends at the same time.
    function _openAnother(uint64 salt) private returns (bytes16) {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.salt = salt;
        return escrow.open(_match(ask, bid));
    }

    /* REFUSED AND SKIPPED */

    function test_more_leases_than_a_batch_revert() public {
        LeaseKey[] memory keys = new LeaseKey[](201);
        _expect(IEscrowBase.BatchTooLarge.selector, 200, 201);
        escrow.free(keys);
        bytes memory skipped = escrow.free(new LeaseKey[](200));
        assertEq(skipped.length, 25);
        for (uint256 i = 0; i < 25; i++) {
            assertEq(uint8(skipped[i]), 255);
        }
    }

    function test_no_leases_free_nothing() public {
        assertEq(escrow.free(new LeaseKey[](0)), "");
    }

    function test_lease_with_time_left_is_skipped() public {
        vm.warp(_end - 1);
        vm.recordLogs();
        assertEq(escrow.free(_keys(_no)), hex"01");
        assertEq(vm.getRecordedLogs().length, 0);
        _assertState(_no, LeaseState.Active);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
        vm.warp(_end);
        assertEq(escrow.free(_keys(_no)), hex"00");
    }

    function test_stopped_closed_and_unknown_leases_are_skipped() public {
        (bytes16 stopped, bytes16 closed) = (_openAnother(2), _openAnother(3));
        vm.prank(buyer);
        escrow.stop(_key(stopped), false);
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.salt = 3;
        _close(ask, bid, 0, 0, 0);
        vm.warp(_end);
        LeaseKey[] memory keys = new LeaseKey[](4);
        (keys[0], keys[1], keys[2]) = (_key(stopped), _key(closed), _key(bytes16(uint128(1))));
        keys[3] = LeaseKey(provider, buyer, witness, _no); // of other parties
        assertEq(escrow.free(keys), hex"0f");
        assertEq(_lease(stopped).end, _start);
        _assertState(closed, LeaseState.Closed);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_lease_named_twice_is_freed_once() public {
        _openAnother(2);
        vm.warp(_end);
        LeaseKey[] memory keys = new LeaseKey[](2);
        (keys[0], keys[1]) = (_key(_no), _key(_no));
        assertEq(escrow.free(keys), hex"02");
        assertEq(escrow.capacityUsed(provider, 7), 1000, "the other lease's");
        assertEq(escrow.free(keys), hex"03");
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    /* FREED */

    function test_anyone_frees_a_node_and_moves_nothing() public {
        vm.warp(_end + 5000); // after the settle window, too
        (uint256 balance, uint256 locked) = (escrow.balanceOf(buyer), _lease(_no).locked);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_end), 0);
        vm.recordLogs();
        vm.prank(stranger);
        assertEq(escrow.free(_keys(_no)), hex"00");
        assertEq(vm.getRecordedLogs().length, 1);
        _assertState(_no, LeaseState.Stopped);
        assertEq(_lease(_no).end, _end);
        assertEq(_lease(_no).start, _start);
        assertEq(_lease(_no).fundedSeconds, 4200);
        assertEq(_lease(_no).startSeconds, 600);
        assertEq(_lease(_no).locked, locked);
        assertEq(escrow.balanceOf(buyer), balance);
        assertEq(escrow.capacityUsed(provider, 7), 0);
    }

    function test_full_node_takes_leases_again() public {
        for (uint64 salt = 2; salt < 9; salt++) {
            _openAnother(salt);
        }
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.salt = 9;
        vm.warp(_end);
        _expect(IEscrowBase.NodeFull.selector, 0, 1000);
        escrow.open(_match(ask, bid));
        escrow.free(_keys(_no));
        escrow.open(_match(ask, bid));
        assertEq(escrow.capacityUsed(provider, 7), 8000);
    }

    function test_batch_frees_what_is_due() public {
        LeaseKey[] memory keys = new LeaseKey[](9);
        keys[0] = _key(_no);
        for (uint64 i = 1; i < 8; i++) {
            if (i == 3) vm.warp(_start + 1); // the fourth and later ones end a second later
            keys[i] = _key(_openAnother(i + 1));
        }
        vm.warp(_end);
        assertEq(escrow.free(keys), hex"f801"); // these, and the unknown one
        assertEq(escrow.capacityUsed(provider, 7), 5000);
    }

    /// @dev What the lease has earned is settled and returned as if nobody had freed the node.
    function test_freed_lease_is_settled_and_refunded() public {
        vm.warp(_end);
        escrow.free(_keys(_no));
        vm.warp(_end + SETTLE_WINDOW);
        assertTrue(_settle(_no, 1_440_000));
        assertEq(_lease(_no).released, 1e18);
        _expect(IEscrowBase.RefundTooEarly.selector, _end + SETTLE_WINDOW, block.timestamp);
        escrow.refund(_key(_no));
        vm.warp(_end + SETTLE_WINDOW + 1);
        escrow.refund(_key(_no));
        assertEq(escrow.balanceOf(buyer), FUNDS - 1e18);
        assertEq(escrow.capacityUsed(provider, 7), 0);
    }

    function test_freed_lease_is_closed() public {
        bytes16 other = _openAnother(2);
        vm.warp(_end);
        escrow.free(_keys(_no));
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _close(ask, bid, 1_440_000, 0, 0);
        assertEq(escrow.balanceOf(buyer), FUNDS - 1e18 - _lease(other).locked);
        assertEq(escrow.capacityUsed(provider, 7), 1000, "the other lease's");
    }

    function test_freed_lease_cannot_be_stopped_or_topped_up() public {
        vm.warp(_end);
        escrow.free(_keys(_no));
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 60);
    }

    /// @dev Whatever has become of leases, each frees its own size once, and all of them leave nothing behind.
    function testFuzz_capacity_is_what_active_leases_have(uint8[8] memory ends, uint24[8] memory times) public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        uint256 active = 1000;
        for (uint64 i = 0; i < 8; i++) {
            bid.salt = i + 10;
            ask.gpuMilli = 100_000;
            (bid.gpuMilli, bid.limits[0].rate) = (uint32(1000 * (i + 1)), type(uint64).max);
            bytes16 leaseNo = escrow.open(_match(ask, bid));
            active += bid.gpuMilli;
            vm.warp(block.timestamp + times[i] % 10_000);
            bool freed = _tryEnd(leaseNo, ask, bid, ends[i]);
            if (freed) active -= bid.gpuMilli;
            _tryEnd(leaseNo, ask, bid, ends[i] >> 4);
            if (!freed && _lease(leaseNo).state != LeaseState.Active) active -= bid.gpuMilli;
            assertEq(escrow.capacityUsed(provider, 7), active);
        }
    }

    /// @dev Tries to end a lease in one of four ways. Says whether it is no longer active.
    function _tryEnd(bytes16 leaseNo, Ask memory ask, Bid memory bid, uint8 how) private returns (bool) {
        if (how % 4 == 0) {
            vm.prank(buyer);
            try escrow.stop(_key(leaseNo), how % 8 == 0) {} catch {}
        } else if (how % 4 == 1) {
            escrow.free(_keys(leaseNo));
        } else if (how % 4 == 2) {
            try escrow.refund(_key(leaseNo)) {} catch {}
        } else if (_lease(leaseNo).state != LeaseState.Closed) {
            _close(ask, bid, 0, 0, 0);
        }
        return _lease(leaseNo).state != LeaseState.Active;
    }
}
