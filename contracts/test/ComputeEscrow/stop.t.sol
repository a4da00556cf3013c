// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseKey, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice stop by a sender. By signature: stopBySignature.t.sol. The mark that a seat may open again: again.t.sol.
contract StopTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;
    uint256 private _lock;

    function setUp() public override {
        super.setUp();
        _no = _open();
        _start = block.timestamp;
        _lock = _lease(_no).locked;
    }

    function _stopAs(address sender) private {
        vm.prank(sender);
        escrow.stop(_key(_no), false);
    }

    /* REFUSED */

    function test_others_cannot_stop() public {
        address[4] memory others = [stranger, meter, escrow.extension(), feeRecipient];
        for (uint256 i = 0; i < others.length; i++) {
            _expect(IEscrowBase.NotAParty.selector, others[i]);
            _stopAs(others[i]);
        }
    }

    function test_party_of_nothing_stops_nothing() public {
        vm.startPrank(stranger);
        address[3][3] memory parties =
            [[stranger, provider, witness], [buyer, stranger, witness], [buyer, provider, stranger]];
        for (uint256 i = 0; i < 3; i++) {
            _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.None);
            escrow.stop(LeaseKey(parties[i][0], parties[i][1], parties[i][2], _no), false);
        }
    }

    /// @dev An account without a purse has no owner and no operator, and nobody calls from the zero account.
    function test_zero_account_speaks_for_nobody() public {
        _expect(IEscrowBase.NotAParty.selector, stranger);
        _stopAs(stranger);
        LeaseKey memory key = _key(_no);
        (key.buyer, key.witness) = (address(0), address(0));
        _expect(IEscrowBase.NotAParty.selector, stranger);
        vm.prank(stranger);
        escrow.stop(key, false);
    }

    function test_stopped_lease_cannot_stop_again() public {
        vm.warp(_start + 100);
        _stopAs(buyer);
        vm.warp(_start + 200);
        address[3] memory senders = [buyer, provider, witness];
        for (uint256 i = 0; i < 3; i++) {
            _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
            _stopAs(senders[i]);
        }
        assertEq(_lease(_no).end, _start + 100);
    }

    function test_closed_lease_cannot_stop() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        _close(ask, bid, 0, 0, 0);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Closed);
        _stopAs(buyer);
    }

    /* STOPPED */

    function _assertStopped(uint256 seconds_) private view {
        _assertState(_no, LeaseState.Stopped);
        assertEq(_lease(_no).start, _start);
        assertEq(_lease(_no).end, _start + seconds_);
        assertEq(_lease(_no).fundedSeconds, seconds_);
        assertEq(_lease(_no).startSeconds, seconds_ > 3600 ? seconds_ - 3600 : 0);
        uint256 lock = (uint256(2.5e18) * (seconds_ > 3600 ? 3600 : seconds_) + 3599) / 3600;
        assertEq(_lease(_no).locked, lock);
        assertEq(escrow.balanceOf(buyer), FUNDS - lock);
        assertFalse(_lease(_no).again);
        assertEq(escrow.capacityUsed(provider, 7), 0, "the node is free");
    }

    function test_buyer_provider_and_witness_stop_as_senders() public {
        address[3] memory senders = [buyer, provider, witness];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < 3; i++) {
            vm.warp(_start + 100);
            _stopAs(senders[i]);
            _assertStopped(100);
            vm.revertToState(snapshot);
        }
    }

    function test_stop_says_what_it_unlocked() public {
        vm.warp(_start + 100);
        uint256 lock = (uint256(2.5e18) * 100 + 3599) / 3600;
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_start + 100), _lock - lock);
        vm.recordLogs();
        _stopAs(buyer);
        assertEq(vm.getRecordedLogs().length, 1);
    }

    /// @dev Time for a late start goes first: usage may still fill all of the paid time.
    function test_stop_within_the_time_for_a_late_start_unlocks_nothing() public {
        vm.warp(_start + 3900);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_start + 3900), 0);
        _stopAs(buyer);
        _assertStopped(3900);
        assertTrue(_settle(_no, 3_900_000));
        assertEq(_lease(_no).usedMs, 3_600_000);
    }

    function test_stop_after_the_end_moves_nothing() public {
        vm.warp(_start + 5000);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Stopped(_no, buyer, provider, uint40(_start + 4200), 0);
        _stopAs(provider);
        _assertStopped(4200);
    }

    function test_stop_at_once_unlocks_all() public {
        _stopAs(witness);
        _assertStopped(0);
        assertEq(escrow.balanceOf(buyer), FUNDS);
    }

    function testFuzz_stop_at_any_time_keeps_what_can_be_used(uint16 at) public {
        vm.warp(_start + at);
        _stopAs(buyer);
        _assertStopped(at < 4200 ? at : 4200);
    }

    function test_counted_lock_stays_whole() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bid.salt = 2;
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.prank(buyer);
        escrow.stop(_key(leaseNo), false);
        assertEq(_lease(leaseNo).locked, 5.8e18);
        assertTrue(_settleMetered(leaseNo, 0, 1024, 0));
    }

    function testFuzz_stop_keeps_what_was_earned(uint16 used, uint16 at, uint16 later) public {
        vm.warp(_start + used);
        _settle(_no, uint64(used) * 1000);
        uint256 released = _lease(_no).released;
        vm.warp(_start + used + at);
        _stopAs(buyer);
        assertEq(_lease(_no).released, released);
        assertEq(_lease(_no).released + _lease(_no).locked + escrow.balanceOf(buyer), FUNDS);
        uint256 end = _lease(_no).end;
        vm.warp(block.timestamp + later);
        _settle(_no, uint64(block.timestamp - _start) * 1000);
        assertLe(_lease(_no).usedMs, (end - _start) * 1000, "nothing accrues after the end");
        assertEq(_lease(_no).released + _lease(_no).locked + escrow.balanceOf(buyer), FUNDS);
    }

    /* CAPACITY */

    /// @dev With capacity held until a lease closes, one second of stopped leases blocked a node for a settle window.
    function test_leases_stopped_in_their_first_second_leave_the_node_free() public {
        uint256 free = FUNDS - _lock;
        Bid memory bid = _bid();
        bid.gpuMilli = 7000; // all that the first lease leaves
        bid.limits[0].rate = type(uint64).max;
        for (uint64 i = 2; i < 22; i++) {
            bid.salt = i;
            bytes16 leaseNo = escrow.open(_match(_ask(), bid));
            assertEq(escrow.capacityUsed(provider, 7), 8000);
            vm.prank(buyer);
            escrow.stop(_key(leaseNo), false);
            assertEq(escrow.capacityUsed(provider, 7), 1000);
            assertEq(escrow.balanceOf(buyer), free, "nor is anything locked");
        }
        bid.salt = 22;
        escrow.open(_match(_ask(), bid));
    }

    /// @dev Another lease of the same size would otherwise lose its place.
    function test_capacity_is_freed_once() public {
        bytes16 other = escrow.open(_match(_ask(), _bidOf(2)));
        assertEq(escrow.capacityUsed(provider, 7), 2000);
        _stopAs(buyer);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
        uint256 snapshot = vm.snapshotState();
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        _close(ask, bid, 0, 0, 0);
        assertEq(escrow.capacityUsed(provider, 7), 1000, "stopped, then closed");
        vm.revertToState(snapshot);
        vm.warp(_start + SETTLE_WINDOW + 1);
        escrow.refund(_key(_no));
        assertEq(escrow.capacityUsed(provider, 7), 1000, "stopped, then refunded");
        _assertState(other, LeaseState.Active);
    }
}
