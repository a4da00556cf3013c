// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {ClaimTest} from "../support/ClaimTest.sol";

contract ContestTest is ClaimTest {
    /* REFUSED */

    function test_others_cannot_contest() public {
        _claimed();
        address[6] memory others = [provider, witness, meter, arbiter, feeRecipient, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotBuyer.selector, buyer, others[i]));
            vm.prank(others[i]);
            escrow.contest(buyer, provider, witness, _no);
        }
    }

    function test_contest_of_nothing_reverts() public {
        _claimed();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.None);
        vm.prank(stranger);
        escrow.contest(stranger, provider, witness, _no);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.None);
        vm.prank(buyer);
        escrow.contest(buyer, stranger, witness, _no);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.None);
        vm.prank(buyer);
        escrow.contest(buyer, provider, stranger, _no);
    }

    function test_open_lease_cannot_be_contested() public {
        vm.warp(_start + 100);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Active);
        _contest();
        vm.prank(buyer);
        escrow.stop(buyer, provider, witness, _no);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Stopped);
        _contest();
    }

    function test_second_contest_reverts() public {
        _contested();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Contested);
        _contest();
    }

    function test_closed_claim_cannot_be_contested() public {
        _claimed();
        vm.warp(_until() + 1);
        _closeClaim();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Closed);
        _contest();
    }

    function test_contest_after_the_dispute_window_reverts() public {
        _claimed();
        uint256 last = _start + 1000 + DISPUTE_WINDOW;
        vm.warp(last + 1);
        _expect(IEscrowBase.ContestTooLate.selector, last, last + 1);
        _contest();
    }

    function test_contest_without_a_bond_reverts() public {
        _claimed();
        vm.startPrank(buyer);
        escrow.withdraw(buyer, escrow.balanceOf(buyer) - AMOUNT + 1);
        vm.stopPrank();
        _expect(IEscrowBase.InsufficientBalance.selector, AMOUNT - 1, AMOUNT);
        _contest();
    }

    /* CONTESTED */

    function _assertContested(uint256 at) private view {
        _assertState(_no, LeaseState.Contested);
        assertEq(_lease(_no).released, PAID);
        assertEq(_lease(_no).locked, AMOUNT);
        assertEq(_lease(_no).end, _start + 1000, "the end stays");
        assertEq(escrow.claimOf(buyer, provider, witness, _no).amount, AMOUNT);
        assertEq(_until(), at + RULING_WINDOW);
        _assertBalances(FUNDS - PAID - 2 * AMOUNT, BONDS + PAID - PAID_FEE - AMOUNT, PAID_FEE, 2 * AMOUNT);
    }

    function test_contest_at_once() public {
        _claimed();
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Contested(_no, buyer, provider, AMOUNT, uint40(block.timestamp + RULING_WINDOW));
        vm.recordLogs();
        _contest();
        assertEq(vm.getRecordedLogs().length, 1);
        _assertContested(_start + 1000);
    }

    function test_contest_in_the_last_second_of_the_dispute_window() public {
        _claimed();
        vm.warp(_start + 1000 + DISPUTE_WINDOW);
        _contest();
        _assertContested(_start + 1000 + DISPUTE_WINDOW);
    }

    function test_bond_of_exactly_the_amount_suffices() public {
        _claimed();
        vm.startPrank(buyer);
        escrow.withdraw(buyer, escrow.balanceOf(buyer) - AMOUNT);
        vm.stopPrank();
        _contest();
        assertEq(escrow.balanceOf(buyer), 0);
    }

    function test_contested_lease_takes_nothing_else() public {
        _contested();
        _assertFrozen(LeaseState.Contested);
        assertEq(_lease(_no).locked, AMOUNT);
        assertEq(escrow.claimOf(buyer, provider, witness, _no).amount, AMOUNT);
    }

    function test_contested_lease_counts_in_full_against_the_budget() public {
        _contested();
        _assertSpent(PAID + AMOUNT);
    }

    function testFuzz_bond_equals_whatever_was_claimed(uint32 ms) public {
        ms = uint32(bound(ms, 1, 100_000));
        vm.warp(_start + 100);
        _claim(ms);
        uint256 amount = escrow.claimOf(buyer, provider, witness, _no).amount;
        uint256 before = escrow.balanceOf(buyer);
        _contest();
        assertEq(escrow.balanceOf(buyer), before - amount);
        _assertBalances(FUNDS - 2 * amount, BONDS - amount, 0, 2 * amount);
    }
}
