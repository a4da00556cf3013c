// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowBase, LeaseState, Match, Numbered, Relay} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";
import {OwnedWallet} from "../support/Wallets.sol";

/// @notice Leases that a purse pays for: its operator signs their bids, its owner or operator ends them.
contract PurseLeasesTest is EscrowTest {
    uint256 private constant AMOUNT = 6e18; // of two leases at 2.5, and 1

    address private _owner;
    uint256 private _ownerKey;
    address private _operator;
    uint256 private _operatorKey;
    uint40 private _expiry;
    address private _purse;

    /// @dev From here on the usual buyer is the purse, whose bids the operator's key signs.
    function setUp() public override {
        super.setUp();
        (_operator, _operatorKey) = makeAddrAndKey("operator");
        (_owner, _ownerKey) = (buyer, buyerKey);
        _expiry = uint40(block.timestamp + 1 days);
        vm.prank(_owner);
        _purse = escrow.createPurse(_operator, 1, _expiry, AMOUNT);
        (buyer, buyerKey) = (_purse, _operatorKey);
    }

    function _orderOf(uint64 salt) private view returns (Match memory) {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        bid.salt = salt;
        return _match(ask, bid);
    }

    function _topUp(address sender) private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        vm.prank(sender);
        escrow.topUp(ask, bid, TypedData.hash(ask.floor), 0, 60);
    }

    /* OPEN */

    function test_operators_bid_opens_from_the_purse_alone() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        assertEq(_lease(leaseNo).locked, 2.5e18);
        assertEq(escrow.balanceOf(_purse), AMOUNT - 2.5e18);
        assertEq(escrow.balanceOf(_owner), FUNDS - AMOUNT);
        assertEq(escrow.balanceOf(_operator), 0);
        assertTrue(_isUsed(_purse, 1));
        assertFalse(_isUsed(_operator, 1));
        assertFalse(_isUsed(_owner, 1));
    }

    function test_others_bids_do_not_open_from_a_purse() public {
        uint256[3] memory keys = [_ownerKey, providerKey, witnessKey];
        for (uint256 i = 0; i < 3; i++) {
            Match memory order = _orderOf(1);
            order.bidSignature = _sign(keys[i], TypedData.hash(order.bid));
            _expect(IEscrowBase.InvalidSignature.selector, _purse);
            escrow.open(order);
        }
    }

    function test_operator_of_another_purse_opens_nothing() public {
        vm.prank(_owner);
        address other = escrow.createPurse(stranger, 1, _expiry, AMOUNT);
        Match memory order = _orderOf(1);
        order.bid.buyer = other;
        order.bidSignature = _sign(_operatorKey, TypedData.hash(order.bid));
        _expect(IEscrowBase.InvalidSignature.selector, other);
        escrow.open(order);
    }

    /// @dev An operator spends on compute: a purse is nobody's provider.
    function test_purse_sells_nothing() public {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        ask.provider = _purse;
        Match memory order = _match(ask, bid);
        order.askSignature = _sign(_operatorKey, TypedData.hash(ask));
        _expect(IEscrowBase.InvalidSignature.selector, _purse);
        escrow.open(order);
    }

    function test_purse_opens_up_to_and_including_its_expiry() public {
        Match memory order = _orderOf(1);
        vm.warp(uint256(_expiry) + 1);
        _expect(IEscrowBase.PurseExpired.selector, _expiry, uint256(_expiry) + 1);
        escrow.open(order);
        vm.warp(_expiry);
        escrow.open(order);
    }

    function test_purse_that_its_owner_expired_opens_nothing() public {
        Match[] memory orders = new Match[](1);
        orders[0] = _orderOf(1);
        vm.prank(_owner);
        escrow.expirePurse(_purse, uint40(block.timestamp - 1));
        _expect(IEscrowBase.PurseExpired.selector, block.timestamp - 1, block.timestamp);
        escrow.open(orders[0]);
        assertEq(escrow.openBatch(orders), hex"01");
    }

    /// @dev However much the operator signs for, it spends what was put in and no more.
    function test_operator_cannot_overdraw_a_purse_by_several_leases() public {
        escrow.open(_orderOf(1));
        escrow.open(_orderOf(2));
        Match memory order = _orderOf(3);
        _expect(IEscrowBase.InsufficientBalance.selector, 1e18, 2.5e18);
        escrow.open(order);
        Match[] memory orders = new Match[](2);
        (orders[0], orders[1]) = (_orderOf(4), _orderOf(5));
        assertEq(escrow.openBatch(orders), hex"03");
        assertEq(escrow.balanceOf(_purse), 1e18);
        assertEq(escrow.balanceOf(_owner), FUNDS - AMOUNT);
        vm.prank(_owner);
        escrow.sweepPurse(_purse, 1e18);
        _expect(IEscrowBase.InsufficientBalance.selector, 0, uint256(2.5e18) * 60 / 3600 + 1);
        _topUp(_operator);
    }

    function test_operator_may_be_a_contract() public {
        OwnedWallet wallet = new OwnedWallet(_operator);
        vm.prank(_owner);
        buyer = escrow.createPurse(address(wallet), 1, _expiry, AMOUNT);
        bytes16 leaseNo = escrow.open(_orderOf(1));
        _assertState(leaseNo, LeaseState.Active);
        uint40 deadline = type(uint40).max;
        bytes memory signature = _sign(_operatorKey, TypedData.stop(buyer, provider, leaseNo, true, deadline));
        escrow.stopBySignature(_key(leaseNo), true, deadline, 0, signature);
        assertTrue(_lease(leaseNo).again);
    }

    /* WHAT COMES BACK */

    function test_what_leases_return_goes_to_the_purse() public {
        bytes16 stopped = escrow.open(_orderOf(1));
        Match memory order = _orderOf(2);
        bytes16 closed = escrow.open(order);
        vm.warp(block.timestamp + 1440);
        vm.prank(_operator);
        escrow.stop(_key(stopped), false);
        assertEq(escrow.balanceOf(_purse), 1e18 + 1.5e18);
        _close(order.ask, order.bid, 720_000, 0, 0);
        assertEq(escrow.balanceOf(_purse), 1e18 + 1.5e18 + 2e18);
        vm.warp(block.timestamp + SETTLE_WINDOW + 1);
        escrow.refund(_key(stopped));
        assertEq(escrow.balanceOf(_purse), AMOUNT - 0.5e18);
        assertEq(escrow.balanceOf(_owner), FUNDS - AMOUNT);
        _assertState(closed, LeaseState.Closed);

        vm.warp(uint256(_expiry) + 1);
        vm.prank(_owner);
        escrow.sweepPurse(_purse, AMOUNT - 0.5e18);
        assertEq(escrow.balanceOf(_owner), FUNDS - 0.5e18);
        assertEq(escrow.balanceOf(_purse), 0);
    }

    /// @dev A sweep takes what is free: it cannot break a lease.
    function test_sweep_leaves_what_is_locked() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        _expect(IEscrowBase.InsufficientBalance.selector, AMOUNT - 2.5e18, AMOUNT);
        vm.prank(_owner);
        escrow.sweepPurse(_purse, AMOUNT);
        vm.prank(_owner);
        escrow.sweepPurse(_purse, AMOUNT - 2.5e18);
        vm.warp(block.timestamp + 3600);
        assertTrue(_settle(leaseNo, 3_600_000));
        assertEq(_lease(leaseNo).released, 2.5e18);
    }

    /* TOP UP */

    function test_owner_and_operator_top_up_before_the_expiry() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        _topUp(_operator);
        _topUp(_owner);
        assertEq(_lease(leaseNo).fundedSeconds, 4320);
        assertEq(escrow.balanceOf(_purse), AMOUNT - _lease(leaseNo).locked);
        address[3] memory others = [provider, witness, stranger];
        for (uint256 i = 0; i < 3; i++) {
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotBuyer.selector, _purse, others[i]));
            _topUp(others[i]);
        }
    }

    function test_nobody_tops_up_after_the_expiry() public {
        escrow.open(_orderOf(1));
        vm.prank(_owner);
        escrow.expirePurse(_purse, uint40(block.timestamp + 10));
        vm.warp(block.timestamp + 10);
        _topUp(_operator);
        vm.warp(block.timestamp + 1);
        address[2] memory senders = [_operator, _owner];
        for (uint256 i = 0; i < 2; i++) {
            _expect(IEscrowBase.PurseExpired.selector, block.timestamp - 1, block.timestamp);
            _topUp(senders[i]);
        }
    }

    function _topUpBy(uint256 key, uint96 fee) private {
        (Ask memory ask, Bid memory bid) = _lastingOrders();
        Relay memory relay = Relay(uint64(key % 1000 + fee), type(uint40).max, address(0), fee);
        bytes memory signature = _sign(key, TypedData.topUp(_purse, provider, _leaseNo(ask, bid), 60, relay));
        vm.prank(stranger);
        escrow.topUpBySignature(ask, bid, TypedData.hash(ask.floor), 0, 60, relay, signature);
    }

    /// @dev A fee would be a way to carry a purse's money out: only its owner pays one.
    function test_operator_pays_no_relay_fee() public {
        escrow.open(_orderOf(1));
        _expect(IEscrowBase.InvalidSignature.selector, _purse);
        _topUpBy(_operatorKey, 1);
        assertEq(escrow.balanceOf(stranger), 0);
        _topUpBy(_operatorKey, 0);
        _topUpBy(_ownerKey, 5);
        assertEq(escrow.balanceOf(stranger), 5);
        assertEq(_lease(_leaseNo(_orderOf(1).ask, _orderOf(1).bid)).fundedSeconds, 4320);
        _expect(IEscrowBase.InvalidSignature.selector, _purse);
        _topUpBy(providerKey, 0);
    }

    function test_nobody_tops_up_by_signature_after_the_expiry() public {
        escrow.open(_orderOf(1));
        vm.prank(_owner);
        escrow.expirePurse(_purse, uint40(block.timestamp - 1));
        uint256[2] memory keys = [_operatorKey, _ownerKey];
        for (uint256 i = 0; i < 2; i++) {
            _expect(IEscrowBase.PurseExpired.selector, block.timestamp - 1, block.timestamp);
            _topUpBy(keys[i], 0);
        }
    }

    /* STOP */

    function test_owner_and_operator_stop_and_mark_also_after_the_expiry() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        vm.prank(_owner);
        escrow.expirePurse(_purse, 0);
        vm.prank(_operator);
        escrow.stop(_key(leaseNo), false);
        _assertState(leaseNo, LeaseState.Stopped);
        assertEq(escrow.balanceOf(_purse), AMOUNT);
        vm.prank(_owner);
        escrow.stop(_key(leaseNo), true);
        assertTrue(_lease(leaseNo).again);
    }

    function test_owner_and_operator_stop_by_signature_also_after_the_expiry() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        vm.prank(_owner);
        escrow.expirePurse(_purse, 0);
        uint40 deadline = type(uint40).max;
        bytes32 structHash = TypedData.stop(_purse, provider, leaseNo, true, deadline);
        uint256 snapshot = vm.snapshotState();
        uint256[2] memory keys = [_ownerKey, _operatorKey];
        for (uint256 i = 0; i < 2; i++) {
            bytes memory signature = _sign(keys[i], structHash);
            vm.prank(stranger);
            escrow.stopBySignature(_key(leaseNo), true, deadline, 0, signature);
            _assertState(leaseNo, LeaseState.Stopped);
            assertTrue(_lease(leaseNo).again);
            vm.revertToState(snapshot);
        }
    }

    function test_others_stop_no_lease_of_a_purse() public {
        bytes16 leaseNo = escrow.open(_orderOf(1));
        vm.prank(stranger);
        address other = escrow.createPurse(stranger, 1, _expiry, 0);
        address[2] memory others = [stranger, other];
        for (uint256 i = 0; i < 2; i++) {
            _expect(IEscrowBase.NotAParty.selector, others[i]);
            vm.prank(others[i]);
            escrow.stop(_key(leaseNo), false);
        }
    }

    /* FOLLOW AND CANCEL */

    function test_seat_does_not_open_again_after_the_expiry() public {
        Match memory order = _orderOf(1);
        bytes16 leaseNo = escrow.open(order);
        vm.prank(_owner);
        escrow.stop(_key(leaseNo), true);
        Ask memory ask = order.ask;
        ask.salt = 2;
        Match memory next = _match(ask, order.bid);
        next.previous = _previous(_orderOf(1).ask);
        uint256 snapshot = vm.snapshotState();
        escrow.open(next);
        vm.revertToState(snapshot);
        vm.prank(_owner);
        escrow.expirePurse(_purse, uint40(block.timestamp - 1));
        vm.expectPartialRevert(IEscrowBase.PurseExpired.selector);
        escrow.open(next);
    }

    function test_bid_that_the_owner_cancelled_does_not_open() public {
        Match memory order = _orderOf(1);
        vm.prank(_owner);
        escrow.cancel(_purse, Numbered.Orders, 1, false, "");
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.CancelledOrder.selector, _purse, 1));
        escrow.open(order);
        escrow.open(_orderOf(2));
    }
}
