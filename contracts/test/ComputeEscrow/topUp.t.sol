// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    CloseData,
    Counted,
    IEscrowBase,
    Lease,
    LeaseState,
    Match,
    Numbered,
    Previous
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice topUp of the usual lease, which is paid for 3600 s and ends after 4200 s. By signature: topUpBySignature.t.sol.
contract TopUpTest is EscrowTest {
    bytes16 private _no;
    uint256 private _start;
    uint256 private _lock;

    function setUp() public override {
        super.setUp();
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _no = escrow.open(_match(ask, bid));
        _start = block.timestamp;
        _lock = _lockOf(3600);
        assertEq(_lease(_no).locked, _lock);
    }

    function _lockOf(uint256 seconds_) private pure returns (uint256) {
        return (uint256(2.5e18) * seconds_ + 3599) / 3600;
    }

    function _topUp(uint32 seconds_) private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, seconds_);
    }

    function _openOther(Ask memory ask, Bid memory bid) private returns (bytes16) {
        bid.salt = 2;
        return escrow.open(_match(ask, bid));
    }

    /* REFUSED */

    function test_others_cannot_top_up() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        address[5] memory others = [provider, witness, meter, feeRecipient, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotBuyer.selector, buyer, others[i]));
            vm.prank(others[i]);
            escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 60);
        }
    }

    /// @dev An ask with a longer time, say, is another ask, and no lease was opened from it.
    function test_top_up_by_another_ask_finds_no_lease() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        ask.maxSeconds++;
        _expectState(IEscrowBase.LeaseNotActive.selector, _leaseNo(ask, bid), LeaseState.None);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 60);
    }

    function _refuseOther(address sender, Ask memory ask, Bid memory bid, uint16 seat) private {
        _expectState(IEscrowBase.LeaseNotActive.selector, _leaseNo(ask, bid, ask.floor, seat), LeaseState.None);
        vm.prank(sender);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), seat, 60);
    }

    function test_top_up_of_other_parties_finds_no_lease() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.buyer = stranger;
        _refuseOther(stranger, ask, bid, 0);
        (bid.buyer, bid.witness) = (buyer, stranger);
        _refuseOther(buyer, ask, bid, 0);
        (ask.provider, bid.witness) = (stranger, witness);
        _refuseOther(buyer, ask, bid, 0);
    }

    /// @dev A bid with a larger budget is not the one that the lease was opened from.
    function test_top_up_by_another_bid_finds_no_lease() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.budget++;
        _refuseOther(buyer, ask, bid, 0);
    }

    function test_top_up_at_other_prices_finds_no_lease() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bytes32 prices = keccak256("prices");
        vm.expectPartialRevert(IEscrowBase.LeaseNotActive.selector);
        vm.prank(buyer);
        escrow.topUp(ask, bid, prices, 0, 60);
    }

    function test_stopped_lease_cannot_be_topped_up() public {
        vm.warp(_start + 100);
        vm.prank(buyer);
        escrow.stop(_key(_no), false);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Stopped);
        _topUp(60);
    }

    function test_closed_lease_cannot_be_topped_up() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        _close(ask, bid, 0, 0, 0);
        _expectState(IEscrowBase.LeaseNotActive.selector, _no, LeaseState.Closed);
        _topUp(60);
    }

    function test_lease_at_its_end_cannot_be_topped_up() public {
        vm.warp(_start + 4200);
        _expect(IEscrowBase.LeaseEnded.selector, _start + 4200, _start + 4200);
        _topUp(60);
        vm.warp(_start + 4207);
        _expect(IEscrowBase.LeaseEnded.selector, _start + 4200, _start + 4207);
        _topUp(60);
    }

    function test_top_up_of_nothing_reverts() public {
        vm.expectRevert(IEscrowBase.ZeroAmount.selector);
        _topUp(0);
    }

    function test_top_up_beyond_the_asks_longest_time_reverts() public {
        uint256 most = 24 hours;
        _expect(IEscrowBase.DurationTooLong.selector, most, most + 1);
        _topUp(uint32(most + 1 - 3600));
        _expect(IEscrowBase.DurationTooLong.selector, most, uint256(3600) + type(uint32).max);
        _topUp(type(uint32).max);
    }

    function test_top_up_beyond_the_longest_time_of_all_reverts() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (ask.maxSeconds, ask.floor.gpuHour) = (type(uint32).max, 0);
        _openOther(ask, bid);
        _expect(IEscrowBase.DurationTooLong.selector, 1_000_000_000, 1_000_000_001);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1_000_000_001 - 3600);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1_000_000_000 - 3600);
    }

    function test_top_up_beyond_the_budget_reverts() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.budget = uint128(_lockOf(5000)) - 1;
        bytes16 leaseNo = _openOther(ask, bid);
        _expect(IEscrowBase.BudgetTooSmall.selector, bid.budget, _lockOf(5000));
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1400);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1399);
        assertEq(_lease(leaseNo).fundedSeconds, 5599);
    }

    function test_top_up_beyond_the_free_balance_reverts() public {
        uint256 more = _lockOf(3660) - _lock;
        vm.startPrank(buyer);
        escrow.withdraw(buyer, escrow.balanceOf(buyer) - more + 1);
        vm.stopPrank();
        _expect(IEscrowBase.InsufficientBalance.selector, more - 1, more);
        _topUp(60);
    }

    function test_seat_that_the_bid_has_not_cannot_be_topped_up() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        for (uint16 seat = 1; seat < 3; seat++) {
            _refuseOther(buyer, ask, bid, seat);
        }
    }

    /* TOPPED UP */

    function test_top_up_moves_end_and_lock() public {
        vm.warp(_start + 1000);
        assertTrue(_settle(_no, 720_000));
        uint256 more = _lockOf(3660) - _lock;
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ToppedUp(_no, buyer, provider, uint40(_start + 4260), more);
        vm.recordLogs();
        _topUp(60);
        assertEq(vm.getRecordedLogs().length, 1);

        Lease memory lease = _lease(_no);
        assertEq(uint256(lease.state), uint256(LeaseState.Active));
        assertEq(lease.start, _start);
        assertEq(lease.end, _start + 4260);
        assertEq(lease.fundedSeconds, 4260);
        assertEq(lease.startSeconds, 600);
        assertEq(lease.usedMs, 720_000);
        assertEq(lease.released, 0.5e18);
        assertEq(lease.locked, _lockOf(3660) - 0.5e18);
        assertEq(escrow.balanceOf(buyer), FUNDS - _lockOf(3660));
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_top_up_in_the_last_second() public {
        vm.warp(_start + 4199);
        _topUp(60);
        vm.warp(_start + 4260);
        assertTrue(_settle(_no, 4_260_000), "the time is used");
        assertEq(_lease(_no).usedMs, 3_660_000);
        assertEq(_lease(_no).released, uint256(2.5e18) * 3660 / 3600);
    }

    function test_top_up_to_the_asks_longest_time() public {
        _topUp(24 hours - 3600);
        assertEq(_lease(_no).fundedSeconds, 24 hours + 600);
    }

    function test_top_up_of_the_whole_budget() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.budget = uint128(_lockOf(5000));
        bytes16 leaseNo = _openOther(ask, bid);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1400);
        assertEq(_lease(leaseNo).locked, bid.budget);
    }

    function test_top_up_with_the_last_of_the_free_balance() public {
        uint256 more = _lockOf(3660) - _lock;
        vm.startPrank(buyer);
        escrow.withdraw(buyer, escrow.balanceOf(buyer) - more);
        vm.stopPrank();
        _topUp(60);
        assertEq(escrow.balanceOf(buyer), 0);
    }

    function test_lease_of_cancelled_orders_is_topped_up() public {
        vm.prank(provider);
        escrow.cancel(provider, Numbered.Orders, 1, true, "");
        vm.prank(buyer);
        escrow.cancel(buyer, Numbered.Orders, 1, true, "");
        _topUp(60);
        assertEq(_lease(_no).fundedSeconds, 4260);
    }

    function test_top_up_leaves_counted_resources() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        (bid.budget, bid.salt) = (uint128(_lockOf(5000) + 5.8e18), 2);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        _expect(IEscrowBase.BudgetTooSmall.selector, bid.budget, _lockOf(5001) + 5.8e18);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1401);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 1400);
        Counted memory counted = _counted(leaseNo);
        assertEq(counted.egressMibCap, 10 * 1024);
        assertEq(counted.unitsCap, 5000);
        assertEq(_lease(leaseNo).locked, _lockOf(5000) + 5.8e18);
    }

    /// @dev Locks are differences of totals that are rounded up once: splitting never adds an atom.
    function testFuzz_split_top_ups_lock_what_one_would(uint16[4] memory seconds_) public {
        uint256 paidSeconds = 3600;
        for (uint256 i = 0; i < 4; i++) {
            uint256 more = uint256(seconds_[i]) % 20_000 + 1;
            _topUp(uint32(more));
            paidSeconds += more;
            assertEq(_lease(_no).fundedSeconds, paidSeconds + 600);
            assertEq(_lease(_no).locked, _lockOf(paidSeconds));
            assertEq(escrow.balanceOf(buyer), FUNDS - _lockOf(paidSeconds));
        }
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        vm.warp(_start + paidSeconds);
        _close(ask, bid, uint64(paidSeconds) * 1000, 0, 0);
        uint256 paid = uint256(2.5e18) * paidSeconds / 3600;
        assertEq(escrow.balanceOf(buyer), FUNDS - paid, "dust comes back");
    }

    /* BUDGETS OF SEVERAL LEASES */

    function test_top_up_of_a_following_lease_counts_its_predecessors() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.budget = uint128(1e18 + _lockOf(3700));
        _openOther(ask, bid);
        vm.warp(_start + 1440);
        CloseData memory data = _closeData(ask, bid, 1_440_000, 0, 0); // paid 1
        data.again = true;
        _close(data);
        Previous memory previous = _previous(ask);
        ask.salt = 2;
        Match memory order = _match(ask, bid);
        order.previous = previous;
        bytes16 leaseNo = escrow.open(order);
        assertEq(_lease(leaseNo).fundedSeconds, 4200);

        _expect(IEscrowBase.BudgetTooSmall.selector, bid.budget, 1e18 + _lockOf(3701));
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 101);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 100);
        assertEq(_lease(leaseNo).locked, _lockOf(3700));
    }

    function _gangBid() private view returns (Bid memory bid) {
        (, bid) = _lastingOrders();
        (bid.nodes, bid.budget, bid.salt) = (2, uint128(2 * _lockOf(3700) + 1), 2);
    }

    function test_top_up_of_a_seat_has_its_part_of_the_budget() public {
        (Ask memory ask,) = _lastingOrders();
        Bid memory bid = _gangBid();
        Match memory order = _match(ask, bid);
        order.seat = 1;
        bytes16 leaseNo = escrow.open(order);
        _expect(IEscrowBase.BudgetTooSmall.selector, _lockOf(3700), _lockOf(3701));
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 1, 101);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 1, 100);
        assertEq(_lease(leaseNo).locked, _lockOf(3700));
    }

    /// @dev Else a lease could be topped up from the part of another seat, which has spent less.
    function test_lease_of_one_seat_cannot_be_topped_up_as_another() public {
        (Ask memory ask,) = _lastingOrders();
        Bid memory bid = _gangBid();
        bytes16 first = escrow.open(_match(ask, bid));
        _refuseOther(buyer, ask, bid, 1);

        (Ask memory other,) = _lastingOrders();
        other.salt = 2;
        Match memory order = _match(other, bid);
        order.seat = 1;
        bytes16 second = escrow.open(order);
        _refuseOther(buyer, ask, bid, 1);
        _refuseOther(buyer, other, bid, 0);
        vm.prank(buyer);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 60);
        assertEq(_lease(first).fundedSeconds, 4260);
        assertEq(_lease(second).fundedSeconds, 4200);
    }
}
