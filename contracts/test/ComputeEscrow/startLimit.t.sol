// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, Lease, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";

/// @notice The time that an ask allows itself to start in: the bid bounds it, and it is neither locked nor paid.
contract StartLimitTest is EscrowTest {
    uint256 private constant LONGEST = type(uint16).max;
    uint256 private constant COST = uint256(2.5e18) * 300 / 3600 + 1; // of five minutes, rounded up
    uint64 private constant PAID_MS = 300_000;

    /// @dev Five minutes of work from a provider that takes as long as it can to start.
    function _slowOrders() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _lastingOrders();
        (ask.startLimitSeconds, bid.maxStartSeconds, bid.maxSeconds) = (uint16(LONGEST), uint16(LONGEST), 300);
    }

    function _slowCounted() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _countedOrders();
        (ask.expiry, bid.expiry) = (type(uint40).max, type(uint40).max);
        (ask.startLimitSeconds, bid.maxStartSeconds, bid.maxSeconds) = (uint16(LONGEST), uint16(LONGEST), 300);
    }

    /* REFUSED */

    function test_start_limit_beyond_the_bids_is_refused() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        uint16[3] memory accepted = [uint16(0), 300, type(uint16).max - 1];
        for (uint256 i = 0; i < 3; i++) {
            (bid.maxStartSeconds, ask.startLimitSeconds) = (accepted[i], accepted[i] + 1);
            vm.expectRevert(
                abi.encodeWithSelector(IEscrowBase.StartTooLong.selector, accepted[i], uint256(accepted[i]) + 1)
            );
            escrow.open(_match(ask, bid));
        }
    }

    function testFuzz_start_limit_is_within_the_bids(uint16 limit, uint16 most) public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        (ask.startLimitSeconds, bid.maxStartSeconds) = (limit, most);
        if (limit > most) _expect(IEscrowBase.StartTooLong.selector, most, limit);
        escrow.open(_match(ask, bid));
        if (limit > most) return;
        assertEq(_lease(_leaseNo(ask, bid)).startSeconds, limit);
        assertEq(_lease(_leaseNo(ask, bid)).fundedSeconds, uint256(limit) + 300);
    }

    /* NEITHER LOCKED NOR PAID */

    /// @dev Paid start time would cost this buyer eighteen hours for five minutes.
    function test_longest_start_limit_locks_only_the_bids_time() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        Lease memory lease = _lease(leaseNo);
        assertEq(lease.locked, COST);
        assertEq(escrow.balanceOf(buyer), FUNDS - COST);
        assertEq(lease.fundedSeconds, LONGEST + 300);
        assertEq(lease.end, block.timestamp + LONGEST + 300);
    }

    function test_budget_need_not_cover_the_start_limit() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bid.budget = uint128(COST);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(_lease(leaseNo).locked, COST);
        assertEq(_lease(leaseNo).fundedSeconds, LONGEST + 300, "nothing was cut off");
    }

    function _assertPaid(bytes16 leaseNo) private view {
        assertEq(_lease(leaseNo).usedMs, PAID_MS);
        assertEq(_lease(leaseNo).released, COST - 1);
        assertEq(escrow.balanceOf(provider) + escrow.feesOf(provider), COST - 1);
        assertEq(escrow.balanceOf(buyer) + _lease(leaseNo).locked, FUNDS - (COST - 1));
    }

    function test_settle_pays_only_the_bids_time() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + LONGEST + 300);
        assertTrue(_settle(leaseNo, uint64(LONGEST + 300) * 1000));
        _assertPaid(leaseNo);
        assertFalse(_settle(leaseNo, uint64(LONGEST + 300) * 1000));
    }

    function test_metered_settle_pays_only_the_bids_time() public {
        (Ask memory ask, Bid memory bid) = _slowCounted();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + LONGEST + 300);
        assertTrue(_settleMetered(leaseNo, uint64(LONGEST + 300) * 1000, 0, 0));
        _assertPaid(leaseNo);
    }

    function test_close_pays_only_the_bids_time() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + LONGEST + 300);
        _close(ask, bid, uint64(LONGEST + 300) * 1000, 0, 0);
        _assertPaid(leaseNo);
        _assertState(leaseNo, LeaseState.Closed);
    }

    /// @dev What the start limit is for: work that begins in its last second is paid in full.
    function test_late_start_leaves_all_of_the_paid_time() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + LONGEST + 299);
        vm.prank(buyer);
        escrow.stop(_key(leaseNo), false);
        assertEq(_lease(leaseNo).locked, COST, "a stop in the last second unlocks nothing");
        assertTrue(_settle(leaseNo, PAID_MS));
        _assertPaid(leaseNo);
    }

    function test_usage_is_not_ahead_of_time_for_all_that() public {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        vm.warp(block.timestamp + 299);
        assertFalse(_settle(leaseNo, PAID_MS));
        vm.warp(block.timestamp + 1);
        assertTrue(_settle(leaseNo, PAID_MS));
    }

    function testFuzz_no_lease_pays_more_than_its_paid_time(uint16 limit, uint32 maxSeconds, uint24 at, uint24 stop)
        public
    {
        (Ask memory ask, Bid memory bid) = _slowOrders();
        (ask.startLimitSeconds, bid.maxSeconds) = (limit, uint32(bound(maxSeconds, 60, 24 hours)));
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        uint256 start = block.timestamp;
        uint256 locked = _lease(leaseNo).locked;
        assertEq(locked, (uint256(2.5e18) * bid.maxSeconds + 3599) / 3600);
        uint256 elapsed = stop % (bid.maxSeconds + uint256(limit) + 1);
        vm.warp(start + elapsed);
        vm.prank(witness);
        escrow.stop(_key(leaseNo), false);
        vm.warp(block.timestamp + at % SETTLE_WINDOW);
        _settle(leaseNo, uint64(block.timestamp - start) * 1000);
        uint256 paid = elapsed < bid.maxSeconds ? elapsed : bid.maxSeconds;
        assertEq(_lease(leaseNo).usedMs, paid * 1000);
        assertLe(_lease(leaseNo).released, locked);
    }

    function test_longest_time_fits_its_width() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = 0;
        (ask.maxSeconds, bid.maxSeconds) = (type(uint32).max, type(uint32).max);
        (ask.startLimitSeconds, bid.maxStartSeconds) = (type(uint16).max, type(uint16).max);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(_lease(leaseNo).fundedSeconds, 1_000_000_000 + 65_535);
        vm.warp(block.timestamp + 1_000_000_000 + 65_535);
        assertTrue(_settle(leaseNo, 1_000_000_000_000 + 65_535_000));
        assertEq(_lease(leaseNo).usedMs, 1_000_000_000_000);
    }
}
