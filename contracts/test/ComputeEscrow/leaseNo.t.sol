// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {
    Ask,
    Bid,
    CloseData,
    IEscrowBase,
    LeaseState,
    Match,
    Previous,
    Prices,
    Quote
} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice A lease's number is of its bid, ask, prices, seat and meter: what is signed for one of them touches no other.
contract LeaseNoTest is EscrowTest {
    uint256 private _start;

    function setUp() public override {
        super.setUp();
        _start = block.timestamp;
    }

    function _gangOrders() private view returns (Ask memory ask, Bid memory bid) {
        (ask, bid) = _lastingOrders();
        bid.nodes = 2;
    }

    function _quoted(Ask memory ask, Bid memory bid, Prices memory prices) private view returns (Match memory order) {
        order = _match(ask, bid);
        order.quote = Quote(TypedData.hash(ask), prices, type(uint40).max);
        order.quoteSignature = _sign(meterKey, TypedData.hash(order.quote));
    }

    /// @dev A witnessed entry and both keys' Close and Stop for `signed`, sent for `other`, which must not move.
    function _assertApart(bytes16 signed, bytes32 terms, bytes16 other, bytes32 otherTerms) private {
        vm.warp(_start + 1000);
        bytes memory entry = _single(_entry(signed, 500_000));
        assertEq(escrow.settle(entry), hex"00");
        assertEq(_lease(signed).usedMs, 500_000);
        assertEq(_lease(other).usedMs, 0);

        bytes memory stop = _sign(meterKey, TypedData.stop(buyer, provider, signed, false, type(uint40).max));
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.stopBySignature(_key(other), false, type(uint40).max, otherTerms, stop);
        escrow.stopBySignature(_key(signed), false, type(uint40).max, terms, stop);
        _assertState(other, LeaseState.Active);

        CloseData memory data = CloseData(buyer, provider, signed, 500_000, 0, 0, false, otherTerms);
        (bytes32 r, bytes32 vs) = _compact(meterKey, TypedData.close(data));
        (bytes32 witnessR, bytes32 witnessVs) = _compact(witnessKey, TypedData.close(data));
        _expect(IEscrowBase.NotMeter.selector, meter);
        escrow.close(data, r, vs, witnessR, witnessVs);
        data.leaseNo = other;
        vm.expectPartialRevert(IEscrowBase.NotMeter.selector);
        escrow.close(data, r, vs, witnessR, witnessVs);
        (data.leaseNo, data.termsHash) = (signed, terms);
        escrow.close(data, r, vs, witnessR, witnessVs);
        _assertState(signed, LeaseState.Closed);
        _assertState(other, LeaseState.Active);
        assertEq(_lease(other).usedMs, 0);
    }

    function test_what_is_signed_for_one_seat_touches_no_other() public {
        (Ask memory ask, Bid memory bid) = _gangOrders();
        Match memory order = _match(ask, bid);
        bytes16 first = escrow.open(order);
        order.seat = 1;
        bytes16 second = escrow.open(order);
        assertEq(first, _leaseNo(ask, bid, ask.floor, 0));
        assertEq(second, _leaseNo(ask, bid, ask.floor, 1));
        _assertApart(first, _termsHash(ask, bid, ask.floor, 0), second, _termsHash(ask, bid, ask.floor, 1));
    }

    /// @dev One ask and one bid, at the floor and at a quote.
    function test_what_is_signed_for_one_price_touches_no_other() public {
        (Ask memory ask, Bid memory bid) = _gangOrders();
        Prices memory prices = Prices(3e9, 0, 0, 0, 0, 0);
        bytes16 first = escrow.open(_match(ask, bid));
        Match memory order = _quoted(ask, bid, prices);
        order.seat = 1;
        bytes16 second = escrow.open(order);
        assertEq(second, _leaseNo(ask, bid, prices, 1));
        assertEq(_lease(second).rate, 3e12);
        _assertApart(second, _termsHash(ask, bid, prices, 1), first, _termsHash(ask, bid, ask.floor, 0));
    }

    /// @dev Usage that the witness signs at the agreed price is not paid on a lease that somebody opened at another one.
    function test_lease_opened_without_the_quote_is_not_the_one_agreed_on() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        Prices memory prices = Prices(3e9, 0, 0, 0, 0, 0);
        bytes16 agreed = _leaseNo(ask, bid, prices, 0);
        Match memory order = _quoted(ask, bid, prices);
        order.quoteSignature = ""; // dropped on the way
        bytes16 opened = escrow.open(order);
        assertNotEq(opened, agreed);
        assertEq(opened, _leaseNo(ask, bid));
        vm.warp(_start + 100);
        assertFalse(_settle(agreed, 100_000));
        assertEq(escrow.balanceOf(provider), 0);
    }

    /// @dev Two quotes of the same prices name the same lease, whenever they expire.
    function test_quote_at_the_floor_is_the_floor() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        escrow.open(_quoted(ask, bid, ask.floor));
        Match memory order = _match(ask, bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, _leaseNo(ask, bid)));
        escrow.open(order);
    }

    /// @dev An ask follows itself at another price, and `Previous` names the price of the lease before.
    function test_lease_of_a_quote_is_followed_by_the_same_ask() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        Prices memory prices = Prices(3e9, 0, 0, 0, 0, 0);
        bytes16 first = escrow.open(_quoted(ask, bid, prices));
        vm.prank(buyer);
        escrow.stop(_key(first), true);
        Match memory order = _match(ask, bid);
        order.previous = _previous(ask); // at the floor, where no lease was
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.UnknownLease.selector, _leaseNo(ask, bid)));
        escrow.open(order);
        order.previous = Previous(provider, TypedData.hash(ask), TypedData.hash(prices), meter);
        assertEq(escrow.open(order), _leaseNo(ask, bid));
    }

    function test_top_up_names_prices_and_seat() public {
        (Ask memory ask, Bid memory bid) = _gangOrders();
        Prices memory prices = Prices(3e9, 0, 0, 0, 0, 0);
        Match memory order = _quoted(ask, bid, prices);
        order.seat = 1;
        bytes16 leaseNo = escrow.open(order);
        vm.startPrank(buyer);
        _expectState(IEscrowBase.LeaseNotActive.selector, _leaseNo(ask, bid, ask.floor, 1), LeaseState.None);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 1, 60);
        _expectState(IEscrowBase.LeaseNotActive.selector, _leaseNo(ask, bid, prices, 0), LeaseState.None);
        escrow.topUp(ask, bid, TypedData.hash(prices), 0, 60);
        escrow.topUp(ask, bid, TypedData.hash(prices), 1, 60);
        assertEq(_lease(leaseNo).locked, uint256(3e18) * 3660 / 3600);
    }
}
