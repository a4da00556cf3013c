// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {ClaimTest} from "../support/ClaimTest.sol";

contract CloseClaimTest is ClaimTest {
    /* REFUSED */

    function test_lease_without_claim_has_none_to_close() public {
        _settled();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Active);
        _closeClaim();
        vm.prank(buyer);
        escrow.stop(buyer, provider, witness, _no);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Stopped);
        _closeClaim();
        _close(_theAsk(), _theBid(), 900_000, 0, 0);
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Closed);
        _closeClaim();
    }

    function test_claim_of_other_parties_cannot_be_closed() public {
        _claimed();
        vm.warp(_until() + 1);
        address[3][3] memory parties =
            [[stranger, provider, witness], [buyer, stranger, witness], [buyer, provider, stranger]];
        for (uint256 i = 0; i < 3; i++) {
            _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.None);
            escrow.closeClaim(parties[i][0], parties[i][1], parties[i][2], _no);
        }
    }

    function test_claim_cannot_be_closed_within_the_dispute_window() public {
        _claimed();
        uint256 last = _start + 1000 + DISPUTE_WINDOW;
        _expect(IEscrowBase.ClaimCloseTooEarly.selector, last, _start + 1000);
        _closeClaim();
        vm.warp(last);
        _expect(IEscrowBase.ClaimCloseTooEarly.selector, last, last);
        _closeClaim();
    }

    function test_contested_claim_cannot_be_closed_within_the_ruling_window() public {
        _claimed();
        vm.warp(_start + 1000 + DISPUTE_WINDOW);
        _contest();
        uint256 last = block.timestamp + RULING_WINDOW;
        vm.warp(last);
        _expect(IEscrowBase.ClaimCloseTooEarly.selector, last, last);
        _closeClaim();
    }

    function test_second_close_reverts() public {
        _claimed();
        vm.warp(_until() + 1);
        _closeClaim();
        _expectState(IEscrowBase.LeaseNotClaimed.selector, _no, LeaseState.Closed);
        _closeClaim();
    }

    /* CLOSED */

    function _assertReleased() private view {
        _assertState(_no, LeaseState.Closed);
        assertEq(_lease(_no).released, PAID + AMOUNT);
        assertEq(_lease(_no).locked, 0);
        assertEq(escrow.claimOf(buyer, provider, witness, _no).amount, AMOUNT, "what was awarded");
        assertEq(_until(), 0);
        uint256 fees = PAID_FEE + AMOUNT_FEE;
        _assertBalances(FUNDS - PAID - AMOUNT, BONDS + PAID + AMOUNT - fees, fees, 0);
    }

    function test_claim_that_nobody_contested_is_released() public {
        _claimed();
        vm.warp(_start + 1000 + DISPUTE_WINDOW + 1);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClaimClosed(_no, buyer, provider, AMOUNT, AMOUNT, 0);
        vm.recordLogs();
        _closeClaim();
        assertEq(vm.getRecordedLogs().length, 1);
        _assertReleased();
    }

    function test_claim_on_which_nobody_ruled_goes_back() public {
        _contested();
        vm.warp(_start + 1000 + RULING_WINDOW + 1);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.ClaimClosed(_no, buyer, provider, 0, AMOUNT, 2 * AMOUNT);
        _closeClaim();
        _assertState(_no, LeaseState.Closed);
        assertEq(_lease(_no).released, PAID);
        assertEq(_lease(_no).locked, 0);
        assertEq(escrow.claimOf(buyer, provider, witness, _no).amount, 0, "nothing was awarded");
        _assertBalances(FUNDS - PAID, BONDS + PAID - PAID_FEE, PAID_FEE, 0);
    }

    function test_claim_is_closed_however_late() public {
        _claimed();
        vm.warp(block.timestamp + 3650 days);
        _closeClaim();
        _assertReleased();
    }

    function test_closed_claim_takes_nothing_else() public {
        _claimed();
        vm.warp(_until() + 1);
        _closeClaim();
        _assertFrozen(LeaseState.Closed);
        _expectState(IEscrowBase.LeaseNotContested.selector, _no, LeaseState.Closed);
        _rule(0);
        _assertReleased();
    }

    function test_closing_does_not_touch_the_node_again() public {
        _claimed();
        _assertSpent(PAID + AMOUNT); // a lease that follows, on the same node
        assertEq(escrow.capacityUsed(provider, 7), 1000);
        vm.warp(_until() + 1);
        _closeClaim();
        assertEq(escrow.capacityUsed(provider, 7), 1000);
    }

    function test_released_claim_counts_against_the_budget() public {
        _claimed();
        vm.warp(_until() + 1);
        _closeClaim();
        _assertSpent(PAID + AMOUNT);
    }

    function test_claim_that_went_back_does_not_count_against_the_budget() public {
        _contested();
        vm.warp(_until() + 1);
        _closeClaim();
        _assertSpent(PAID);
    }

    /// @dev One end or the other, nobody gains or loses more than what was claimed.
    function testFuzz_closing_conserves_to_the_atom(uint32 ms, bool contested) public {
        ms = uint32(bound(ms, 1, 100_000));
        vm.warp(_start + 100);
        _claim(ms);
        uint256 amount = uint256(2.5e18) * ms / 3_600_000;
        if (contested) _contest();
        vm.warp(_until() + 1);
        _closeClaim();
        uint256 released = contested ? 0 : amount;
        uint256 fees = released * FEE_BPS / 10_000;
        assertEq(_lease(_no).released, released);
        _assertBalances(FUNDS - released, BONDS + released - fees, fees, 0);
    }
}
