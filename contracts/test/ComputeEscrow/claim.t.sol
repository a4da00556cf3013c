// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    Claim,
    Counted,
    IEscrowBase,
    Lease,
    LeaseOrders,
    LeaseState,
    Match
} from "../../src/interfaces/IComputeEscrow.sol";
import {ClaimTest} from "../support/ClaimTest.sol";
import {TypedData} from "../support/TypedData.sol";

contract ClaimActionTest is ClaimTest {
    /// @dev Opens a lease of other orders and returns them with its number.
    function _openOther(Ask memory ask, Bid memory bid) private returns (LeaseOrders memory orders, bytes16 leaseNo) {
        bid.salt = 2;
        leaseNo = escrow.open(_match(ask, bid));
        orders = _leaseOrders(ask, bid);
    }

    function _claimOf(bytes16 leaseNo) private view returns (Claim memory) {
        return escrow.claimOf(buyer, provider, witness, leaseNo);
    }

    /* REFUSED */

    function test_others_cannot_claim() public {
        vm.warp(_start + 100);
        address[6] memory others = [buyer, witness, meter, arbiter, feeRecipient, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotProvider.selector, provider, others[i]));
            vm.prank(others[i]);
            escrow.claim(_theOrders(), 72_000);
        }
    }

    function _changeOrders(LeaseOrders memory orders, uint256 i) private view {
        if (i == 0) orders.ask.meter = stranger;
        if (i == 1) orders.ask.arbiter = stranger;
        if (i == 2) orders.ask.node++;
        if (i == 3) orders.ask.maxSeconds++;
        if (i == 4) orders.ask.floor.gpuHour++;
        if (i == 5) orders.ask.salt++;
        if (i == 6) orders.bidHash = keccak256("other");
    }

    function test_claim_by_other_orders_finds_no_lease() public {
        vm.warp(_start + 100);
        for (uint256 i = 0; i < 7; i++) {
            LeaseOrders memory orders = _theOrders();
            _changeOrders(orders, i);
            bytes32 ordersHash = keccak256(abi.encode(orders.bidHash, TypedData.hash(orders.ask)));
            bytes16 leaseNo = bytes16(keccak256(abi.encode(ordersHash, orders.ask.meter)));
            assertNotEq(leaseNo, _no);
            _expectState(IEscrowBase.LeaseNotOpen.selector, leaseNo, LeaseState.None);
            vm.prank(provider);
            escrow.claim(orders, 72_000);
        }
    }

    function test_claim_of_other_parties_finds_no_lease() public {
        vm.warp(_start + 100);
        LeaseOrders memory orders = _theOrders();
        orders.buyer = stranger;
        _expectState(IEscrowBase.LeaseNotOpen.selector, _no, LeaseState.None);
        vm.prank(provider);
        escrow.claim(orders, 72_000);
        (orders.buyer, orders.witness) = (buyer, stranger);
        _expectState(IEscrowBase.LeaseNotOpen.selector, _no, LeaseState.None);
        vm.prank(provider);
        escrow.claim(orders, 72_000);
    }

    function test_lease_without_arbiter_cannot_be_claimed() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (ask.arbiter, bid.arbiter) = (address(0), address(0));
        (LeaseOrders memory orders,) = _openOther(ask, bid);
        vm.warp(_start + 100);
        vm.expectRevert(IEscrowBase.NoArbiter.selector);
        vm.prank(provider);
        escrow.claim(orders, 72_000);
    }

    function test_closed_lease_cannot_be_claimed() public {
        vm.warp(_start + 1000);
        _close(_theAsk(), _theBid(), 900_000, 0, 0);
        _expectState(IEscrowBase.LeaseNotOpen.selector, _no, LeaseState.Closed);
        _claim(972_000);
    }

    function test_claim_after_the_settle_window_reverts() public {
        uint256 last = _start + 4200 + SETTLE_WINDOW;
        vm.warp(last + 1);
        _expect(IEscrowBase.ClaimTooLate.selector, last, last + 1);
        _claim(72_000);
    }

    function test_claim_of_nothing_more_reverts() public {
        _expect(IEscrowBase.NothingClaimed.selector, 0, 0);
        _claim(0);
        _settled();
        _expect(IEscrowBase.NothingClaimed.selector, 900_000, 900_000);
        _claim(900_000);
        _expect(IEscrowBase.NothingClaimed.selector, 900_000, 899_999);
        _claim(899_999);
    }

    /// @dev What was used at all has paid the minimum charge: nothing below it is left to claim.
    function test_claim_within_the_minimum_charge_reverts() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 1));
        _expect(IEscrowBase.NothingClaimed.selector, 1, 30_000);
        _claim(30_000);
    }

    function test_claim_of_what_costs_nothing_reverts() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        ask.floor.gpuHour = 0;
        (LeaseOrders memory orders,) = _openOther(ask, bid);
        vm.warp(_start + 100);
        _expect(IEscrowBase.NothingClaimed.selector, 0, 72_000);
        vm.prank(provider);
        escrow.claim(orders, 72_000);
    }

    function test_claim_of_more_than_two_intervals_reverts() public {
        _settled();
        vm.warp(_start + 2000);
        _expect(IEscrowBase.ClaimTooLarge.selector, 1_020_000, 1_020_001);
        _claim(1_020_001);
    }

    function test_claim_of_more_than_the_lease_reverts() public {
        vm.warp(_start + 50);
        _expect(IEscrowBase.ClaimTooLarge.selector, 50_000, 50_001);
        _claim(50_001);
        vm.prank(buyer);
        escrow.stop(buyer, provider, witness, _no);
        vm.warp(_start + 500);
        _expect(IEscrowBase.ClaimTooLarge.selector, 50_000, 50_001);
        _claim(50_001);
        _expect(IEscrowBase.ClaimTooLarge.selector, 50_000, type(uint64).max);
        _claim(type(uint64).max);
    }

    function test_claim_without_a_bond_reverts() public {
        vm.warp(_start + 100);
        vm.prank(provider);
        escrow.withdraw(provider, BONDS - AMOUNT + 1);
        _expect(IEscrowBase.InsufficientBalance.selector, AMOUNT - 1, AMOUNT);
        _claim(72_000);
    }

    function test_second_claim_reverts() public {
        _claimed();
        _expectState(IEscrowBase.LeaseNotOpen.selector, _no, LeaseState.Claimed);
        _claim(973_000);
    }

    /* CLAIMED */

    function _assertClaimed(uint256 end) private view {
        Lease memory lease = _lease(_no);
        assertEq(uint256(lease.state), uint256(LeaseState.Claimed), "state");
        assertEq(lease.start, _start, "start");
        assertEq(lease.end, end, "end");
        assertEq(lease.fundedSeconds, end - _start, "funded");
        assertEq(lease.usedMs, 900_000, "only settled time is used");
        assertEq(lease.released, PAID, "released");
        assertEq(lease.locked, AMOUNT, "locked");
        assertEq(_claimOf(_no).amount, AMOUNT, "amount");
        assertEq(_claimOf(_no).until, block.timestamp + DISPUTE_WINDOW, "until");
        assertEq(escrow.capacityUsed(provider, 7), 0, "the node is free");
        _assertBalances(FUNDS - PAID - AMOUNT, BONDS + PAID - PAID_FEE - AMOUNT, PAID_FEE, AMOUNT);
    }

    function test_claim_of_an_active_lease_ends_it() public {
        _settled();
        uint256 lock = (uint256(2.5e18) * 4200 + 3599) / 3600;
        uint40 now_ = uint40(block.timestamp);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Claimed(
            _no, buyer, provider, 972_000, now_, AMOUNT, lock - PAID - AMOUNT, now_ + uint40(DISPUTE_WINDOW)
        );
        vm.recordLogs();
        _claim(972_000);
        assertEq(vm.getRecordedLogs().length, 1);
        _assertClaimed(_start + 1000);
    }

    function test_claim_of_a_stopped_lease_leaves_its_end() public {
        _settled();
        vm.prank(witness);
        escrow.stop(buyer, provider, witness, _no);
        vm.warp(_start + 1500);
        vm.expectEmit(address(escrow));
        uint256 refunded = (uint256(2.5e18) * 1000 + 3599) / 3600 - PAID - AMOUNT;
        emit IEscrowBase.Claimed(
            _no,
            buyer,
            provider,
            972_000,
            uint40(_start + 1000),
            AMOUNT,
            refunded,
            uint40(_start + 1500 + DISPUTE_WINDOW)
        );
        _claim(972_000);
        _assertClaimed(_start + 1000);
    }

    function test_claim_in_the_last_second_of_the_settle_window() public {
        _settled();
        vm.warp(_start + 4200 + SETTLE_WINDOW);
        _claim(972_000);
        _assertClaimed(_start + 4200);
    }

    function test_claim_of_all_that_may_be_claimed() public {
        _settled();
        vm.warp(_start + 1020);
        _claim(1_020_000);
        uint256 total = uint256(2.5e18) * 1020 / 3600;
        assertEq(_claimOf(_no).amount, total - PAID);
    }

    function test_claim_of_unused_time_leaves_the_minimum_charge_out() public {
        vm.warp(_start + 100);
        _claim(1);
        uint256 amount = uint256(2.5e18) / 3_600_000;
        assertEq(_claimOf(_no).amount, amount);
        _assertBalances(FUNDS - amount, BONDS - amount, 0, amount);
        vm.warp(_until() + 1);
        _closeClaim();
        assertEq(_lease(_no).released, amount, "nor is it paid once the claim is closed");
    }

    function test_claim_past_the_minimum_charge_is_of_what_it_did_not_pay() public {
        vm.warp(_start + 100);
        assertTrue(_settle(_no, 1));
        _claim(30_001);
        assertEq(_claimOf(_no).amount, uint256(2.5e18) * 30_001 / 3_600_000 - uint256(2.5e18) * 30 / 3600);
    }

    function test_bond_of_exactly_the_amount_suffices() public {
        vm.warp(_start + 100);
        vm.prank(provider);
        escrow.withdraw(provider, BONDS - AMOUNT);
        _claim(72_000);
        assertEq(escrow.balanceOf(provider), 0);
    }

    function test_claimed_lease_takes_nothing_else() public {
        _claimed();
        _assertFrozen(LeaseState.Claimed);
        assertEq(_lease(_no).released, PAID);
        assertEq(_lease(_no).locked, AMOUNT);
        assertEq(_claimOf(_no).amount, AMOUNT);
    }

    function test_claimed_lease_frees_its_node() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (bid.salt, bid.gpuMilli, bid.limits[0].rate) = (2, 8000, 20e12);
        Match memory order = _match(ask, bid);
        _expect(IEscrowBase.NodeFull.selector, 7000, 8000);
        escrow.open(order);
        _claimed();
        escrow.open(order);
        assertEq(escrow.capacityUsed(provider, 7), 8000);
    }

    function test_claimed_lease_counts_in_full_against_the_budget() public {
        _claimed();
        _assertSpent(PAID + AMOUNT);
    }

    function test_claim_leaves_counted_figures_and_returns_the_rest() public {
        (Ask memory ask, Bid memory bid) = _countedOrders();
        (ask.expiry, bid.expiry) = (type(uint40).max, type(uint40).max);
        uint256 before = escrow.balanceOf(buyer);
        (LeaseOrders memory orders, bytes16 leaseNo) = _openOther(ask, bid);
        vm.warp(_start + 1000);
        assertTrue(_settleMetered(leaseNo, 900_000, 1024, 100)); // 0.08 and 0.1 beside the time
        vm.prank(provider);
        escrow.claim(orders, 972_000);

        Counted memory counted = _counted(leaseNo);
        assertEq(counted.egressMib, 1024);
        assertEq(counted.units, 100);
        assertEq(_claimOf(leaseNo).amount, AMOUNT);
        assertEq(_lease(leaseNo).released, PAID + 0.18e18);
        assertEq(_lease(leaseNo).locked, AMOUNT);
        assertEq(escrow.balanceOf(buyer), before - PAID - 0.18e18 - AMOUNT);
        assertFalse(_settleMetered(leaseNo, 900_000, 2048, 200), "nor are there more to come");

        vm.warp(block.timestamp + DISPUTE_WINDOW + 1);
        escrow.closeClaim(buyer, provider, witness, leaseNo);
        assertEq(_lease(leaseNo).released, PAID + 0.18e18 + AMOUNT);
        assertEq(_lease(leaseNo).locked, 0);
        uint256 fees = escrow.feesOf(provider);
        assertEq(fees, PAID_FEE + 0.0045e18 + AMOUNT_FEE);
        assertEq(escrow.balanceOf(provider), BONDS + PAID + 0.18e18 + AMOUNT - fees);
    }

    /// @dev However dear or cheap, and whatever was settled before: a claim is what one payment would have added.
    function testFuzz_claim_is_a_difference_of_floored_totals(uint64 price, uint32 usedMs, uint32 moreMs) public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        ask.floor.gpuHour = uint64(bound(price, 1, 10e9));
        usedMs = uint32(bound(usedMs, 0, 3_600_000));
        moreMs = uint32(bound(moreMs, 1, 120_000));
        uint256 before = escrow.balanceOf(buyer);
        (LeaseOrders memory orders, bytes16 leaseNo) = _openOther(ask, bid);
        vm.warp(_start + 3720);
        if (usedMs > 0) assertTrue(_settle(leaseNo, usedMs));

        uint256 perMs = uint256(ask.floor.gpuHour) * 1000 * 1e18;
        uint256 paid = usedMs == 0 ? 0 : perMs * (usedMs < 30_000 ? 30_000 : usedMs) / 3.6e18;
        uint256 total = perMs * (uint256(usedMs) + moreMs) / 3.6e18;
        if (total <= paid) _expect(IEscrowBase.NothingClaimed.selector, usedMs, usedMs + moreMs);
        vm.prank(provider);
        escrow.claim(orders, uint64(usedMs) + moreMs);
        if (total <= paid) return;

        assertEq(_claimOf(leaseNo).amount, total - paid);
        assertEq(_lease(leaseNo).released, paid);
        assertEq(_lease(leaseNo).locked, total - paid);
        assertEq(escrow.balanceOf(buyer), before - total, "all else went back");
        vm.warp(block.timestamp + DISPUTE_WINDOW + 1);
        escrow.closeClaim(buyer, provider, witness, leaseNo);
        assertEq(escrow.feesOf(provider), total * FEE_BPS / 10_000, "fees of floored totals, too");
        assertEq(escrow.balanceOf(provider), BONDS + total - total * FEE_BPS / 10_000);
    }
}
