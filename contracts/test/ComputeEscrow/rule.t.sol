// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase, LeaseOrders, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {ClaimTest} from "../support/ClaimTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice rule, by the arbiter as sender and by its signature. What that signature binds: signatures.t.sol.
contract RuleTest is ClaimTest {
    uint128 private constant AWARD = 0.02e18;
    uint256 private constant AWARD_FEE = 0.0005e18;

    /* REFUSED */

    function test_others_cannot_rule() public {
        _contested();
        address[6] memory others = [buyer, provider, witness, meter, feeRecipient, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            _expect(IEscrowBase.InvalidSignature.selector, arbiter);
            vm.prank(others[i]);
            escrow.rule(_theOrders(), AWARD, "");
        }
    }

    function test_arbiter_of_other_orders_cannot_rule() public {
        _contested();
        LeaseOrders memory orders = _theOrders();
        orders.ask.arbiter = stranger;
        vm.expectPartialRevert(IEscrowBase.LeaseNotContested.selector);
        vm.prank(stranger);
        escrow.rule(orders, AWARD, "");
    }

    function test_lease_that_nobody_contested_cannot_be_ruled_on() public {
        _expectState(IEscrowBase.LeaseNotContested.selector, _no, LeaseState.Active);
        _rule(0);
        _claimed();
        _expectState(IEscrowBase.LeaseNotContested.selector, _no, LeaseState.Claimed);
        _rule(AWARD);
        LeaseOrders memory orders = _theOrders();
        orders.buyer = stranger;
        _expectState(IEscrowBase.LeaseNotContested.selector, _no, LeaseState.None);
        vm.prank(arbiter);
        escrow.rule(orders, AWARD, "");
    }

    function test_second_ruling_reverts() public {
        _contested();
        _rule(AWARD);
        _expectState(IEscrowBase.LeaseNotContested.selector, _no, LeaseState.Closed);
        _rule(AWARD);
    }

    function test_ruling_after_its_window_reverts() public {
        _contested();
        uint256 last = _start + 1000 + RULING_WINDOW;
        vm.warp(last + 1);
        _expect(IEscrowBase.RulingTooLate.selector, last, last + 1);
        _rule(AWARD);
    }

    function test_award_above_the_claim_reverts() public {
        _contested();
        _expect(IEscrowBase.AwardTooLarge.selector, AMOUNT, AMOUNT + 1);
        _rule(uint128(AMOUNT + 1));
        _expect(IEscrowBase.AwardTooLarge.selector, AMOUNT, type(uint128).max);
        _rule(type(uint128).max);
    }

    /* RULED */

    function _assertRuled(uint256 award, uint256 fee) private view {
        _assertState(_no, LeaseState.Closed);
        assertEq(_lease(_no).released, PAID + award);
        assertEq(_lease(_no).locked, 0);
        assertEq(escrow.claimOf(buyer, provider, witness, _no).amount, award, "what was awarded");
        assertEq(_until(), 0);
        // Of the claim and both bonds the provider has the award's part, less the fee on the award alone.
        uint256 buyer_ = FUNDS - PAID - 2 * AMOUNT + 3 * (AMOUNT - award);
        uint256 provider_ = BONDS + PAID - PAID_FEE - AMOUNT + 3 * award - fee;
        _assertBalances(buyer_, provider_, PAID_FEE + fee, 0);
    }

    function test_arbiter_divides_the_pot() public {
        _contested();
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClaimClosed(_no, buyer, provider, AWARD, 2 * AWARD, 3 * (AMOUNT - AWARD));
        vm.recordLogs();
        _rule(AWARD);
        assertEq(vm.getRecordedLogs().length, 1);
        _assertRuled(AWARD, AWARD_FEE);
    }

    function test_award_of_all_gives_the_provider_both_bonds() public {
        _contested();
        _rule(uint128(AMOUNT));
        _assertRuled(AMOUNT, AMOUNT_FEE);
    }

    function test_award_of_nothing_gives_the_buyer_both_bonds() public {
        _contested();
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClaimClosed(_no, buyer, provider, 0, 0, 3 * AMOUNT);
        _rule(0);
        _assertRuled(0, 0);
    }

    function test_anyone_brings_the_arbiters_signature() public {
        _contested();
        bytes memory signature = _sign(_arbiterKey, TypedData.ruling(buyer, provider, _no, AWARD));
        vm.prank(stranger);
        escrow.rule(_theOrders(), AWARD, signature);
        _assertRuled(AWARD, AWARD_FEE);
    }

    function test_ruling_in_the_last_second_of_its_window() public {
        _contested();
        vm.warp(_start + 1000 + RULING_WINDOW);
        _rule(AWARD);
        _assertRuled(AWARD, AWARD_FEE);
    }

    function test_ruling_does_not_touch_the_node_again() public {
        _contested();
        vm.warp(block.timestamp + 60);
        _assertSpent(PAID + AMOUNT); // a lease that follows, on the same node
        assertEq(escrow.capacityUsed(provider, 7), 1000);
        _rule(AWARD);
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_ruled_lease_takes_nothing_else() public {
        _contested();
        _rule(AWARD);
        _assertFrozen(LeaseState.Closed);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Closed);
        _contest();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Closed);
        _closeClaim();
        _assertRuled(AWARD, AWARD_FEE);
    }

    function test_ruled_lease_counts_its_award_against_the_budget() public {
        _contested();
        _rule(AWARD);
        _assertSpent(PAID + AWARD);
    }

    /// @dev Whatever was claimed and awarded: not an atom is made or lost, and fees are of floored totals.
    function testFuzz_division_conserves_to_the_atom(uint32 settledMs, uint32 claimedMs, uint128 award) public {
        vm.warp(_start + 1000);
        settledMs = uint32(bound(settledMs, 30_000, 900_000));
        assertTrue(_settle(_no, settledMs));
        _claim(settledMs + uint64(bound(claimedMs, 1, 100_000)));
        uint256 amount = escrow.claimOf(buyer, provider, witness, _no).amount;
        award = uint128(bound(award, 0, amount));
        _contest();
        _rule(award);

        uint256 paid = uint256(2.5e18) * settledMs / 3_600_000;
        uint256 fees = (paid + award) * FEE_BPS / 10_000;
        assertEq(_lease(_no).released, paid + award);
        assertEq(_lease(_no).locked, 0);
        uint256 buyer_ = FUNDS - paid - 2 * amount + 3 * (amount - award);
        _assertBalances(buyer_, BONDS + paid - amount + 3 * uint256(award) - fees, fees, 0);
    }
}
