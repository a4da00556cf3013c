// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Match, Numbered} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice cancel, by the account and by its signature. What that signature binds: signatures.t.sol.
contract CancelTest is EscrowTest {
    uint64 private constant LAST = type(uint64).max;

    function _cancelAs(address account, uint64 salt, bool andOlder) private {
        vm.prank(account);
        escrow.cancel(account, Numbered.Orders, salt, andOlder, "");
    }

    function _matchOf(uint64 askSalt, uint64 bidSalt) private view returns (Match memory) {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        (ask.salt, bid.salt) = (askSalt, bidSalt);
        return _match(ask, bid);
    }

    function _expectCancelled(address account, uint64 salt) private {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.CancelledOrder.selector, account, salt));
    }

    function _isCancelled(address account, uint64 salt) private view returns (bool cancelled) {
        (, cancelled) = escrow.saltState(account, Numbered.Orders, salt);
    }

    /* REFUSED */

    function test_others_cannot_cancel() public {
        address[4] memory others = [provider, witness, meter, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            _expect(IEscrowBase.InvalidSignature.selector, buyer);
            vm.prank(others[i]);
            escrow.cancel(buyer, Numbered.Orders, 1, false, "");
        }
    }

    function test_nobody_cancels_for_the_zero_account() public {
        _expect(IEscrowBase.InvalidSignature.selector, address(0));
        escrow.cancel(address(0), Numbered.Orders, 1, false, new bytes(65));
    }

    /// @dev All older than the last number would leave no order to sign ever again.
    function test_cancel_of_the_last_number_and_all_older_reverts() public {
        _expect(IEscrowBase.SaltTooLarge.selector, LAST - 1, LAST);
        _cancelAs(buyer, LAST, true);
    }

    /* CANCELLED */

    function test_cancelled_bid_does_not_open() public {
        Match memory order = _matchOf(1, 1);
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Cancelled(buyer, Numbered.Orders, 1, false);
        vm.recordLogs();
        _cancelAs(buyer, 1, false);
        assertEq(vm.getRecordedLogs().length, 1);
        assertTrue(_isCancelled(buyer, 1));
        assertFalse(_isUsed(buyer, 1), "nor has it opened");
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 0);
        _expectCancelled(buyer, 1);
        escrow.open(order);
        escrow.open(_matchOf(1, 0));
        escrow.open(_matchOf(1, 2));
    }

    function test_cancelled_ask_does_not_open() public {
        _cancelAs(provider, 1, false);
        _expectCancelled(provider, 1);
        escrow.open(_matchOf(1, 1));
        escrow.open(_matchOf(0, 1));
        escrow.open(_matchOf(2, 2));
    }

    function test_cancelled_with_all_older() public {
        vm.expectEmit(address(escrow));
        emit IEscrowBase.Cancelled(buyer, Numbered.Orders, 5, true);
        _cancelAs(buyer, 5, true);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 6);
        uint64[3] memory old = [uint64(0), 4, 5];
        for (uint256 i = 0; i < 3; i++) {
            assertTrue(_isCancelled(buyer, old[i]));
            _expectCancelled(buyer, old[i]);
            escrow.open(_matchOf(1, old[i]));
        }
        assertFalse(_isCancelled(buyer, 6));
        escrow.open(_matchOf(1, 6));
    }

    function test_asks_cancelled_with_all_older() public {
        _cancelAs(provider, 5, true);
        _expectCancelled(provider, 5);
        escrow.open(_matchOf(5, 1));
        escrow.open(_matchOf(6, 1));
    }

    function test_last_number_is_cancelled_alone() public {
        _cancelAs(buyer, LAST, false);
        _expectCancelled(buyer, LAST);
        escrow.open(_matchOf(1, LAST));
        escrow.open(_matchOf(1, LAST - 1));
        _cancelAs(buyer, LAST - 1, true);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), LAST);
    }

    /// @dev What is void stays void.
    function test_cancel_of_older_ones_never_goes_back() public {
        _cancelAs(buyer, 5, true);
        _cancelAs(buyer, 3, true);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 6);
        _cancelAs(buyer, 5, true);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 6);
        _cancelAs(buyer, 6, true);
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 7);
    }

    function test_second_cancel_changes_nothing() public {
        _cancelAs(buyer, 1, false);
        _cancelAs(buyer, 1, false);
        assertTrue(_isCancelled(buyer, 1));
        assertFalse(_isUsed(buyer, 1));
        assertFalse(_isCancelled(buyer, 2));
    }

    function test_anyone_brings_the_accounts_signature() public {
        bytes memory signature = _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 1, false));
        vm.startPrank(stranger);
        escrow.cancel(buyer, Numbered.Orders, 1, false, signature);
        assertTrue(_isCancelled(buyer, 1));
        escrow.cancel(buyer, Numbered.Orders, 1, false, signature); // a replay is of no use to anyone
        escrow.cancel(
            buyer, Numbered.Orders, 7, true, _sign(buyerKey, TypedData.cancel(buyer, Numbered.Orders, 7, true))
        );
        assertEq(escrow.saltsFrom(buyer, Numbered.Orders), 8);
    }

    function test_accounts_do_not_touch_each_other() public {
        _cancelAs(stranger, 1, false);
        _cancelAs(stranger, 100, true);
        assertFalse(_isCancelled(buyer, 1));
        escrow.open(_matchOf(1, 1));
    }

    function test_batch_skips_cancelled_orders() public {
        _cancelAs(buyer, 1, false);
        Match[] memory orders = new Match[](2);
        (orders[0], orders[1]) = (_matchOf(1, 1), _matchOf(1, 2));
        assertEq(escrow.openBatch(orders), hex"01");
    }

    /* OPEN LEASES */

    function test_open_lease_goes_on_when_both_orders_are_cancelled() public {
        Match memory order = _matchOf(1, 1);
        bytes16 leaseNo = escrow.open(order);
        _cancelAs(buyer, 1, true);
        _cancelAs(provider, 1, false);
        assertTrue(_isUsed(buyer, 1), "it has opened, still");
        vm.warp(block.timestamp + 1440);
        assertTrue(_settle(leaseNo, 1_440_000));
        assertEq(_lease(leaseNo).released, 1e18);
        _close(order.ask, order.bid, 1_440_000, 0, 0);
        _assertState(leaseNo, LeaseState.Closed);
    }

    function test_lease_of_a_cancelled_bid_is_not_followed() public {
        Match memory order = _matchOf(1, 1);
        escrow.open(order);
        vm.prank(buyer);
        escrow.stop(_key(_leaseNo(order.ask, order.bid)), true);
        _cancelAs(buyer, 1, false);
        Match memory next = _matchOf(2, 1);
        next.previous = _previous(order.ask);
        _expectCancelled(buyer, 1);
        escrow.open(next);
    }

    function test_seats_of_a_cancelled_bid_stay_closed() public {
        Match memory order = _matchOf(1, 1);
        order.bid.nodes = 2;
        escrow.open(_match(order.ask, order.bid));
        _cancelAs(buyer, 1, false);
        order.ask.salt = 2;
        Match memory next = _match(order.ask, order.bid);
        next.seat = 1;
        _expectCancelled(buyer, 1);
        escrow.open(next);
    }

    /// @dev Orders share words of two bits each: one is set and no other one changes.
    /// @dev Numbers of 64 bits, down to a difference in any one of them.
    function test_numbers_that_differ_in_one_bit_are_apart() public {
        _cancelAs(buyer, 5, false);
        for (uint256 bit = 0; bit < 64; bit++) {
            assertFalse(_isCancelled(buyer, uint64(5 ^ (1 << bit))));
        }
    }

    function testFuzz_numbers_do_not_touch_each_other(uint64 salt, uint64 other, bool near) public {
        if (near) other = uint64(bound(other, salt < 256 ? 0 : salt - 256, salt));
        vm.assume(salt != other);
        _cancelAs(buyer, salt, false);
        assertTrue(_isCancelled(buyer, salt));
        assertFalse(_isUsed(buyer, salt));
        assertFalse(_isCancelled(buyer, other));
        assertFalse(_isUsed(buyer, other));
        escrow.open(_matchOf(1, other));
        assertTrue(_isUsed(buyer, other));
        assertFalse(_isCancelled(buyer, other));
        assertFalse(_isUsed(buyer, salt));
    }

    function testFuzz_all_up_to_a_number_are_void_and_none_above(uint64 salt, uint64 other) public {
        salt = uint64(bound(salt, 0, LAST - 1));
        _cancelAs(buyer, salt, true);
        assertEq(_isCancelled(buyer, other), other <= salt);
        if (other <= salt) _expectCancelled(buyer, other);
        escrow.open(_matchOf(1, other));
        assertEq(_isUsed(buyer, other), other > salt);
    }
}
