// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    Counted,
    IEscrowBase,
    Lease,
    LeaseState,
    LeaseTerms,
    Match,
    Prices,
    TierLimit
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice open: what it refuses, what it locks and reserves. Quotes: quote.t.sol. Later leases of a
/// bid: follow.t.sol.
contract OpenTest is EscrowTest {
    /* REFUSED: PARTIES */

    function test_opener_is_whom_either_order_names() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.opener = stranger;
        Match memory order = _match(ask, bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotOpener.selector, stranger, address(this)));
        escrow.open(order);

        (ask.opener, bid.opener) = (address(0), stranger);
        order = _match(ask, bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotOpener.selector, stranger, address(this)));
        escrow.open(order);

        ask.opener = stranger;
        order = _match(ask, bid);
        vm.prank(stranger);
        escrow.open(order);
    }

    function _refuseParty(Ask memory ask, Bid memory bid, address account) private {
        Match memory order = _match(ask, bid);
        _expect(IEscrowBase.InvalidParty.selector, account);
        escrow.open(order);
    }

    function test_provider_must_be_named() public {
        Ask memory ask = _ask();
        ask.provider = address(0);
        _refuseParty(ask, _bid(), address(0));
    }

    function test_meter_must_be_named() public {
        Ask memory ask = _ask();
        ask.meter = address(0);
        _refuseParty(ask, _bid(), address(0));
    }

    function test_buyer_must_be_named() public {
        Bid memory bid = _bid();
        bid.buyer = address(0);
        _refuseParty(_ask(), bid, address(0));
    }

    function test_witness_must_be_named() public {
        Bid memory bid = _bid();
        bid.witness = address(0);
        _refuseParty(_ask(), bid, address(0));
    }

    function test_witness_is_not_the_provider() public {
        Bid memory bid = _bid();
        bid.witness = provider;
        _refuseParty(_ask(), bid, provider);
    }

    function test_witness_is_not_the_meter() public {
        Bid memory bid = _bid();
        bid.witness = meter;
        _refuseParty(_ask(), bid, meter);
    }

    /* REFUSED: TIME AND FEE */

    function _refuse(Ask memory ask, Bid memory bid, bytes4 selector, uint256 expected, uint256 given) private {
        Match memory order = _match(ask, bid);
        _expect(selector, expected, given);
        escrow.open(order);
    }

    function test_expired_orders() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.expiry = uint40(block.timestamp - 1);
        _refuse(ask, bid, IEscrowBase.OrderExpired.selector, ask.expiry, block.timestamp);
        (ask.expiry, bid.expiry) = (uint40(block.timestamp), uint40(block.timestamp - 1));
        _refuse(ask, bid, IEscrowBase.OrderExpired.selector, bid.expiry, block.timestamp);
        bid.expiry = uint40(block.timestamp); // the last second counts
        escrow.open(_match(ask, bid));
    }

    function test_ask_that_has_not_started() public {
        Ask memory ask = _ask();
        ask.startsAt = uint40(block.timestamp + 1);
        _refuse(ask, _bid(), IEscrowBase.AskNotStarted.selector, ask.startsAt, block.timestamp);
        ask.startsAt = uint40(block.timestamp);
        escrow.open(_match(ask, _bid()));
    }

    function test_fee_above_what_an_order_accepts() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.maxFeeBps = uint16(FEE_BPS - 1);
        _refuse(ask, bid, IEscrowBase.FeeNotAccepted.selector, FEE_BPS - 1, FEE_BPS);
        (ask.maxFeeBps, bid.maxFeeBps) = (uint16(FEE_BPS), uint16(FEE_BPS - 1));
        _refuse(ask, bid, IEscrowBase.FeeNotAccepted.selector, FEE_BPS - 1, FEE_BPS);
        bid.maxFeeBps = uint16(FEE_BPS);
        escrow.open(_match(ask, bid));
    }

    function test_duration_outside_the_asks() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.maxSeconds = ask.maxSeconds + 1;
        _refuse(ask, bid, IEscrowBase.DurationTooLong.selector, ask.maxSeconds, bid.maxSeconds);
        bid.maxSeconds = ask.minSeconds - 1;
        _refuse(ask, bid, IEscrowBase.DurationTooShort.selector, ask.minSeconds, bid.maxSeconds);
    }

    function test_bid_of_no_node() public {
        Bid memory bid = _bid();
        bid.nodes = 0;
        _refuse(_ask(), bid, IEscrowBase.SeatOutOfRange.selector, 0, 0);
    }

    /* REFUSED: SIZES */

    function test_gpu_sizes_that_are_no_share_and_not_whole() public {
        Bid memory bid = _bid();
        bid.gpuMilli = 1500;
        Match memory order = _match(_ask(), bid);
        _expect(IEscrowBase.InvalidGpuSize.selector, bytes32(uint256(1500)));
        escrow.open(order);
    }

    function test_share_needs_both_flags() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.gpuMilli = 999;
        ask.flags = 1;
        _refuse(ask, bid, IEscrowBase.FlagNotAccepted.selector, 1, 0);
        (ask.flags, bid.flags) = (2, 3);
        _refuse(ask, bid, IEscrowBase.FlagNotAccepted.selector, 2, 3);
        (ask.flags, bid.flags) = (0xffff, 0xffff);
        escrow.open(_match(ask, bid));
    }

    function test_sizes_beyond_the_asks() public {
        Ask memory ask = _ask();
        bytes4 selector = IEscrowBase.SizeTooLarge.selector;
        Bid memory bid = _bid();
        bid.gpuMilli = 9000;
        _refuse(ask, bid, selector, 8000, 9000);
        bid = _bid();
        bid.cpuMilli = ask.cpuMilli + 1;
        _refuse(ask, bid, selector, ask.cpuMilli, bid.cpuMilli);
        bid = _bid();
        bid.memoryMib = ask.memoryMib + 1;
        _refuse(ask, bid, selector, ask.memoryMib, bid.memoryMib);
        bid = _bid();
        bid.storageMib = ask.storageMib + 1;
        _refuse(ask, bid, selector, ask.storageMib, bid.storageMib);
    }

    function test_units_that_differ_or_have_no_name() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bid.unit = "token";
        _refuse(ask, bid, IEscrowBase.UnitMismatch.selector, uint256(UNIT), uint256(bytes32("token")));
        bid.unit = bytes32(uint256(UNIT) + 1);
        _refuse(ask, bid, IEscrowBase.UnitMismatch.selector, uint256(UNIT), uint256(UNIT) + 1);
        (bid.unit, bid.units) = (bytes32(uint256(UNIT) - 1), 1);
        _refuse(ask, bid, IEscrowBase.UnitMismatch.selector, uint256(UNIT), uint256(UNIT) - 1);
        (ask.unit, bid.unit) = (0, 0);
        _refuse(ask, bid, IEscrowBase.UnitMismatch.selector, 0, 0);
        bid.units = 0;
        escrow.open(_match(ask, bid));
    }

    /// @dev A node's thousandths are counted one by one.
    function test_odd_shares_of_a_node() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        (ask.flags, bid.flags, ask.gpuMilli, bid.gpuMilli) = (1, 1, 1000, 333);
        for (uint64 i = 1; i < 4; i++) {
            bid.salt = i;
            escrow.open(_match(ask, bid));
            assertEq(escrow.capacityUsed(provider, 7), 333 * i);
        }
        bid.salt = 4;
        _refuse(ask, bid, IEscrowBase.NodeFull.selector, 1, 333);
    }

    /// @dev One resource of the least size is enough for a lease to have counted ones.
    function test_either_counted_resource_is_counted() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        uint256 time = 2.5e18;
        (bid.egressMib, bid.units) = (1, 0);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertTrue(_lease(leaseNo).hasCounted);
        assertEq(_lease(leaseNo).locked, time + uint256(0.08e18) / 1024);
        assertEq(_counted(leaseNo).egressMibCap, 1);
        (bid.egressMib, bid.units, bid.salt) = (0, 1, 2);
        leaseNo = escrow.open(_match(ask, bid));
        assertTrue(_lease(leaseNo).hasCounted);
        assertEq(_lease(leaseNo).locked, time + 0.001e18);
        assertEq(_counted(leaseNo).unitsCap, 1);
    }

    function test_full_node() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.gpuMilli = 7000;
        bid.limits[0].rate = type(uint64).max;
        escrow.open(_match(ask, bid));
        bid.gpuMilli = 2000;
        bid.salt = 2;
        _refuse(ask, bid, IEscrowBase.NodeFull.selector, 1000, 2000);
        ask.gpuMilli = 3000; // another ask for less of the same node
        _refuse(ask, bid, IEscrowBase.NodeFull.selector, 0, 2000);
        (ask.node, ask.gpuMilli) = (8, 2000);
        escrow.open(_match(ask, bid));
        assertEq(escrow.capacityUsed(provider, 7), 7000);
        assertEq(escrow.capacityUsed(provider, 8), 2000);
    }

    /* REFUSED: MONEY */

    function test_tier_without_a_limit() public {
        Ask memory ask = _ask();
        ask.tier = "A100";
        Match memory order = _match(ask, _bid());
        _expect(IEscrowBase.TierNotInBid.selector, bytes32("A100"));
        escrow.open(order);
    }

    function test_too_many_limits() public {
        Bid memory bid = _bid();
        bid.limits = new TierLimit[](33);
        _refuse(_ask(), bid, IEscrowBase.TooManyLimits.selector, 32, 33);
        bid.limits = new TierLimit[](32);
        bid.limits[31] = TierLimit(TIER, 2.5e12, 0, 0);
        escrow.open(_match(_ask(), bid));
    }

    function test_first_limit_of_a_tier_counts() public {
        Bid memory bid = _bid();
        bid.limits = new TierLimit[](2);
        bid.limits[0] = TierLimit(TIER, 2.5e12 - 1, 0, 0);
        bid.limits[1] = TierLimit(TIER, type(uint64).max, 0, 0);
        _refuse(_ask(), bid, IEscrowBase.PriceAboveLimit.selector, 2.5e12 - 1, 2.5e12);
    }

    function test_prices_above_the_limits() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bytes4 selector = IEscrowBase.PriceAboveLimit.selector;
        bid.limits[0] = TierLimit(TIER, 2.5e12, 0.08e9 - 1, 0.001e9);
        _refuse(ask, bid, selector, 0.08e9 - 1, 0.08e9);
        bid.limits[0] = TierLimit(TIER, 2.5e12, 0.08e9, 0.001e9 - 1);
        _refuse(ask, bid, selector, 0.001e9 - 1, 0.001e9);
        bid.limits[0] = TierLimit(TIER, 2.5e12, 0, 0);
        (bid.egressMib, bid.units) = (1, 0);
        _refuse(ask, bid, selector, 0, 0.08e9);
        (bid.egressMib, bid.units) = (0, 1);
        _refuse(ask, bid, selector, 0, 0.001e9);
        (bid.egressMib, bid.units) = (0, 0); // nothing counted: those limits do not matter
        escrow.open(_match(ask, bid));
    }

    function test_rate_beyond_its_width() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = type(uint64).max;
        uint256 rate = uint256(type(uint64).max) * 1000;
        _refuse(ask, bid, IEscrowBase.RateTooLarge.selector, type(uint64).max, rate);
    }

    function test_budget_that_cannot_fund_the_least_time() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        uint256 least = (uint256(2.5e18) * 60 + 3599) / 3600; // the start limit costs nothing
        bid.budget = uint128(least - 1);
        _refuse(ask, bid, IEscrowBase.BudgetTooSmall.selector, least, least - 1);
        bid.budget = uint128(least);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(_lease(leaseNo).fundedSeconds, 660);
    }

    function test_budget_that_cannot_fund_the_least_time_by_an_atom() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        (ask.minSeconds, ask.startLimitSeconds) = (1440, 0); // a whole token
        bid.budget = 1e18 - 1;
        _refuse(ask, bid, IEscrowBase.BudgetTooSmall.selector, 1e18, 1e18 - 1);
        bid.budget = 1e18;
        assertEq(_lease(escrow.open(_match(ask, bid))).locked, 1e18);
    }

    function test_budget_that_cannot_fund_the_counted() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        bid.budget = 5.8e18 - 1;
        _refuse(ask, bid, IEscrowBase.BudgetTooSmall.selector, 5.8e18, 5.8e18 - 1);
        uint256 least = (uint256(2.5e18) * 60 + 3599) / 3600 + 5.8e18;
        bid.budget = uint128(least - 1);
        _refuse(ask, bid, IEscrowBase.BudgetTooSmall.selector, least, least - 1);
    }

    function test_no_time_at_all() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        (ask.minSeconds, ask.startLimitSeconds, bid.maxSeconds) = (0, 0, 0);
        uint256 second = (uint256(2.5e18) + 3599) / 3600;
        _refuse(ask, bid, IEscrowBase.BudgetTooSmall.selector, second, bid.budget);
    }

    function test_balance_below_the_lock() public {
        bytes16 leaseNo = _leaseNo(_ask(), _bid());
        vm.prank(buyer);
        escrow.withdraw(buyer, FUNDS - 1);
        uint256 lock = 2.5e18;
        _refuse(_ask(), _bid(), IEscrowBase.InsufficientBalance.selector, 1, lock);
        _assertState(leaseNo, LeaseState.None);
        assertFalse(_isUsed(buyer, 1));
    }

    /* REFUSED: AGAIN */

    function test_pair_opens_once() public {
        Match memory order = _match(_ask(), _bid());
        bytes16 leaseNo = escrow.open(order);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, leaseNo));
        escrow.open(order);
    }

    function test_closed_pair_stays_closed() public {
        Match memory order = _match(_ask(), _bid());
        bytes16 leaseNo = escrow.open(order);
        _close(order.ask, order.bid, 0, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, leaseNo));
        escrow.open(order);
        order.previous = _previous(order.ask);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, leaseNo));
        escrow.open(order);
    }

    function test_nonce_is_used_once() public {
        _open();
        assertTrue(_isUsed(buyer, 1));
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.salt = 2; // same bid, other ask, no previous lease named
        Match memory order = _match(ask, bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NonceUsed.selector, buyer, 1));
        escrow.open(order);
        bid.jobHash = 0; // another bid with the same salt
        order = _match(ask, bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NonceUsed.selector, buyer, 1));
        escrow.open(order);
    }

    function testFuzz_nonces_are_apart(uint64 salt, uint64 other) public {
        vm.assume(salt != other);
        Bid memory bid = _bid();
        bid.salt = salt;
        escrow.open(_match(_ask(), bid));
        assertTrue(_isUsed(buyer, salt));
        assertFalse(_isUsed(buyer, other));
        assertFalse(_isUsed(stranger, salt));
        bid.salt = other;
        escrow.open(_match(_ask(), bid));
        assertTrue(_isUsed(buyer, other));
    }

    /* OPENED */

    function test_opened_lease_has_the_orders_terms() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        bid.maxSeconds = 3599; // costs no whole number of atoms
        bytes16 leaseNo = _leaseNo(ask, bid);
        uint256 lock = uint256(2.5e18) * 3599 / 3600 + 1;
        uint40 end = uint40(block.timestamp + 4199);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Opened(
            leaseNo,
            buyer,
            provider,
            LeaseTerms({
                witness: witness,
                meter: meter,
                bidHash: TypedData.hash(bid),
                askHash: TypedData.hash(ask),
                pricesHash: TypedData.hash(ask.floor),
                rate: 2.5e12,
                gpuMilli: 1000,
                node: 7,
                seat: 0,
                end: end,
                funded: 4199,
                startSeconds: 600,
                locked: lock,
                bidSalt: 1
            })
        );
        vm.recordLogs();
        vm.prank(stranger);
        assertEq(escrow.open(_match(ask, bid)), leaseNo);
        assertEq(vm.getRecordedLogs().length, 1);

        Lease memory lease = _lease(leaseNo);
        assertEq(uint256(lease.state), uint256(LeaseState.Active));
        assertFalse(lease.hasCounted);
        assertFalse(lease.again);
        assertEq(lease.rate, 2.5e12);
        assertEq(lease.usedMs, 0);
        assertEq(lease.start, block.timestamp);
        assertEq(lease.end, end);
        assertEq(lease.fundedSeconds, 4199);
        assertEq(lease.startSeconds, 600);
        assertEq(lease.gpuMilli, 1000);
        assertEq(lease.node, 7);
        assertEq(lease.released, 0);
        assertEq(lease.locked, lock);
        assertEq(escrow.balanceOf(buyer), FUNDS - lock);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_opened_counted_lease_has_caps_and_prices() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        vm.expectEmit(address(escrow));
        emit IEscrowBase.OpenedCounted(_leaseNo(ask, bid), 0.08e9, 0.001e9, 10_240, 5000);
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertTrue(_lease(leaseNo).hasCounted);
        Counted memory counted = _counted(leaseNo);
        assertEq(counted.egressGib, 0.08e9);
        assertEq(counted.unit, 0.001e9);
        assertEq(counted.egressMib, 0);
        assertEq(counted.units, 0);
        assertEq(counted.egressMibCap, 10_240);
        assertEq(counted.unitsCap, 5000);
    }

    function testFuzz_rate_is_the_sum_of_its_parts(Prices memory floor, uint32[3] memory sizes) public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        floor.gpuHour = uint64(bound(floor.gpuHour, 0, 1e15));
        floor.cpuHour = uint64(bound(floor.cpuHour, 0, 1e9));
        floor.memoryGibHour = uint64(bound(floor.memoryGibHour, 0, 1e9));
        floor.storageGibHour = uint64(bound(floor.storageGibHour, 0, 1e9));
        ask.floor = floor;
        (ask.cpuMilli, ask.memoryMib, ask.storageMib) = (type(uint32).max, type(uint32).max, type(uint32).max);
        (bid.cpuMilli, bid.memoryMib, bid.storageMib) = (sizes[0], sizes[1], sizes[2]);
        bid.limits[0].rate = type(uint64).max;
        (ask.minSeconds, ask.startLimitSeconds) = (0, 0);
        bid.budget = type(uint128).max;
        _fund(buyer, 800_000_000e18);
        uint256 timesThousandAndTwentyFour = (uint256(floor.gpuHour) * 1000 + uint256(floor.cpuHour) * sizes[0]) * 1024
            + (uint256(floor.memoryGibHour) * sizes[1] + uint256(floor.storageGibHour) * sizes[2]) * 1000;
        vm.assume(timesThousandAndTwentyFour / 1024 <= 5e19 && timesThousandAndTwentyFour / 1024 <= type(uint64).max);
        bid.maxSeconds = 60;
        bytes16 leaseNo = escrow.open(_match(ask, bid));
        assertEq(_lease(leaseNo).rate, timesThousandAndTwentyFour / 1024);
    }

    function testFuzz_lock_is_within_budget_and_covers_funded_time(uint64 price, uint128 budget, uint32 maxSeconds)
        public
    {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = uint64(bound(price, 0, 1e12));
        bid.limits[0].rate = 1e15;
        bid.maxSeconds = uint32(bound(maxSeconds, 60, 24 hours));
        uint256 rate = uint256(ask.floor.gpuHour) * 1000;
        uint256 least = (rate * 60_000 + 3.6e18 - 1) / 3.6e18 * 1e18 + 1e18;
        bid.budget = uint128(bound(budget, least, 100_000_000e18));
        _fund(buyer, 100_000_000e18);
        uint256 before = escrow.balanceOf(buyer);
        Lease memory lease = _lease(escrow.open(_match(ask, bid)));
        assertLe(lease.locked, bid.budget);
        assertEq(escrow.balanceOf(buyer), before - lease.locked);
        assertEq(lease.startSeconds, 600);
        uint256 paid = lease.fundedSeconds - 600;
        assertGe(lease.locked, escrow.cost(lease.rate, uint64(paid) * 1000));
        assertLe(lease.locked, escrow.cost(lease.rate, uint64(paid) * 1000) + 1);
        assertLe(paid, bid.maxSeconds);
        if (paid < bid.maxSeconds) {
            uint256 next = uint256(lease.rate) * (paid + 1) * 1000 * 1e18;
            assertGt(next, uint256(bid.budget) * 3.6e18, "one more second would have been affordable");
        }
    }

    function test_free_lease_locks_nothing() public {
        (Ask memory ask, Bid memory bid) = (_ask(), _bid());
        ask.floor.gpuHour = 0;
        bid.budget = 0;
        Lease memory lease = _lease(escrow.open(_match(ask, bid)));
        assertEq(lease.fundedSeconds, 4200);
        assertEq(lease.locked, 0);
    }
}
