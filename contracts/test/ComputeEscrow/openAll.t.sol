// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {Ask, Bid, CloseData, IEscrowBase, LeaseState, LeaseTerms, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice openAll, and the seats of bids of several nodes.
contract OpenAllTest is EscrowTest {
    uint16 private _nodes = 3;
    uint256 private _budget = 9e18;

    function _theBid() private view returns (Bid memory bid) {
        (, bid) = _lastingOrders();
        (bid.nodes, bid.budget) = (_nodes, uint128(_budget));
    }

    /// @dev The n-th ask, on a node of its own, without a start allowance.
    function _askOf(uint256 n) private view returns (Ask memory ask) {
        (ask,) = _lastingOrders();
        (ask.salt, ask.node, ask.startLimitSeconds) = (uint64(n), uint24(n), 0);
    }

    function _seatOf(uint256 n, uint16 seat) private view returns (Match memory order) {
        order = _match(_askOf(n), _theBid());
        order.seat = seat;
    }

    function _nextOf(uint256 n, uint16 seat, uint256 previous) private view returns (Match memory order) {
        order = _seatOf(n, seat);
        order.previous = _previous(_askOf(previous));
    }

    /// @dev A match for every seat: the n-th ask in seat n - 1.
    function _gang() private view returns (Match[] memory orders) {
        orders = new Match[](_nodes);
        for (uint16 seat = 0; seat < _nodes; seat++) {
            orders[seat] = _seatOf(seat + 1, seat);
        }
    }

    function _leaseNoOf(uint256 n, uint16 seat) private view returns (bytes16) {
        Ask memory ask = _askOf(n);
        return _leaseNo(ask, _theBid(), ask.floor, seat);
    }

    /// @dev The n-th ask's lease in the seat that `_gang` gives it.
    function _leaseNoOf(uint256 n) private view returns (bytes16) {
        return _leaseNoOf(n, uint16(n - 1));
    }

    function _stopNow(bytes16 leaseNo) private {
        vm.prank(witness);
        escrow.stop(_key(leaseNo), true);
    }

    function _assertRecord(uint16 seat, bytes16 latest, uint256 spent) private view {
        (bytes16 latest_, uint128 spent_) = escrow.bidRecord(TypedData.hash(_theBid()), seat);
        assertEq(latest_, latest, "latest");
        assertEq(spent_, spent, "spent");
    }

    /* ALL */

    function test_too_many_reverts() public {
        Match[] memory orders = new Match[](201);
        _expect(IEscrowBase.BatchTooLarge.selector, 200, 201);
        escrow.openAll(orders);
    }

    function test_nothing_opens_nothing() public {
        vm.recordLogs();
        escrow.openAll(new Match[](0));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    /// @dev Whichever of them fails, the error is its own and nothing is left of the others.
    function testFuzz_one_that_fails_undoes_all(uint256 bad) public {
        Match[] memory orders = _gang();
        bad = bound(bad, 0, 2);
        orders[bad].bidSignature[0] ^= 0x01;
        _expect(IEscrowBase.InvalidSignature.selector, buyer);
        escrow.openAll(orders);
        for (uint16 seat = 0; seat < 3; seat++) {
            _assertState(_leaseNoOf(seat + 1), LeaseState.None);
            _assertRecord(seat, 0, 0);
            assertEq(escrow.capacityUsed(provider, seat + 1), 0);
        }
        assertFalse(_isUsed(buyer, 1));
        assertEq(escrow.balanceOf(buyer), FUNDS);
    }

    function test_balance_that_covers_all_but_one_opens_none() public {
        Match[] memory orders = _gang();
        vm.prank(buyer);
        escrow.withdraw(buyer, FUNDS - 7.5e18 + 1);
        _expect(IEscrowBase.InsufficientBalance.selector, 2.5e18 - 1, 2.5e18);
        escrow.openAll(orders);
        assertEq(escrow.balanceOf(buyer), 7.5e18 - 1);
    }

    function test_same_order_twice_opens_none() public {
        Match[] memory orders = new Match[](2);
        (orders[0], orders[1]) = (_match(_ask(), _bid()), _match(_ask(), _bid()));
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, _leaseNo(_ask(), _bid())));
        escrow.openAll(orders);
        assertFalse(_isUsed(buyer, 1));
    }

    function test_named_opener_is_the_sender_of_all() public {
        Match[] memory orders = new Match[](1);
        Bid memory bid = _bid();
        bid.opener = stranger;
        orders[0] = _match(_ask(), bid);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotOpener.selector, stranger, address(this)));
        escrow.openAll(orders);
        vm.prank(stranger);
        escrow.openAll(orders);
        _assertState(_leaseNo(_ask(), bid), LeaseState.Active);
    }

    function test_all_seats_open_at_once() public {
        Match[] memory orders = _gang();
        vm.recordLogs();
        escrow.openAll(orders);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 3, "Opened of each");
        for (uint16 seat = 0; seat < 3; seat++) {
            bytes16 leaseNo = _leaseNoOf(seat + 1);
            _assertState(leaseNo, LeaseState.Active);
            assertEq(_lease(leaseNo).locked, 2.5e18);
            assertEq(escrow.capacityUsed(provider, seat + 1), 1000);
            _assertRecord(seat, leaseNo, 0);
            assertEq(logs[seat].topics[0], IEscrowBase.Opened.selector);
            assertEq(logs[seat].topics[1], leaseNo);
            LeaseTerms memory terms = abi.decode(logs[seat].data, (LeaseTerms));
            assertEq(terms.seat, seat);
            assertEq(terms.bidHash, TypedData.hash(_theBid()));
        }
        assertTrue(_isUsed(buyer, 1));
        assertEq(escrow.balanceOf(buyer), FUNDS - 7.5e18);
    }

    /* SEATS */

    function test_seat_out_of_range_reverts() public {
        Match memory order = _seatOf(1, 3);
        _expect(IEscrowBase.SeatOutOfRange.selector, 3, 3);
        escrow.open(order);
        order.seat = type(uint16).max;
        _expect(IEscrowBase.SeatOutOfRange.selector, 3, type(uint16).max);
        escrow.open(order);
    }

    function test_bid_of_no_nodes_has_no_seat() public {
        _nodes = 0;
        Match memory order = _seatOf(1, 0);
        _expect(IEscrowBase.SeatOutOfRange.selector, 0, 0);
        escrow.open(order);
    }

    function test_taken_seat_does_not_open_again() public {
        escrow.open(_seatOf(1, 1));
        Match memory order = _seatOf(2, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.SeatTaken.selector, TypedData.hash(_theBid()), uint256(1)));
        escrow.open(order);
        order.seat = 2;
        escrow.open(order);
        order.seat = 1;
        vm.warp(block.timestamp + 3600);
        vm.expectPartialRevert(IEscrowBase.SeatTaken.selector); // nor when its lease has ended
        escrow.open(order);
    }

    /// @dev A number is one bid's alone, however many nodes that bid and the other have.
    function test_number_of_a_bid_with_seats_opens_no_other_bid() public {
        escrow.open(_seatOf(1, 0));
        for (uint16 nodes = 1; nodes < 3; nodes++) {
            _nodes = nodes; // another bid, signed under the same number
            Match memory order = _seatOf(2, 0);
            vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NonceUsed.selector, buyer, _theBid().salt));
            escrow.open(order);
        }
        _nodes = 3;
        escrow.open(_seatOf(3, 2));
    }

    function test_number_of_a_bid_of_one_node_opens_no_seat() public {
        _nodes = 1;
        escrow.open(_seatOf(1, 0));
        _nodes = 3;
        Match memory order = _seatOf(2, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NonceUsed.selector, buyer, _theBid().salt));
        escrow.open(order);
    }

    /// @dev A node with room for several seats needs one signed ask.
    function test_one_ask_takes_several_seats() public {
        Match[] memory orders = new Match[](3);
        for (uint16 seat = 0; seat < 3; seat++) {
            orders[seat] = _seatOf(1, seat);
        }
        escrow.openAll(orders);
        for (uint16 seat = 0; seat < 3; seat++) {
            _assertState(_leaseNoOf(1, seat), LeaseState.Active);
            _assertRecord(seat, _leaseNoOf(1, seat), 0);
        }
        assertEq(escrow.capacityUsed(provider, 1), 3000);
        assertNotEq(_leaseNoOf(1, 0), _leaseNoOf(1, 1));
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, _leaseNoOf(1, 1)));
        escrow.open(orders[1]);
    }

    function test_one_ask_takes_no_more_seats_than_its_node_has_room() public {
        Match[] memory orders = new Match[](3);
        for (uint16 seat = 0; seat < 3; seat++) {
            orders[seat] = _seatOf(1, seat);
            orders[seat].ask.gpuMilli = 2000;
            orders[seat].askSignature = _sign(providerKey, TypedData.hash(orders[seat].ask));
        }
        _expect(IEscrowBase.NodeFull.selector, 0, 1000);
        escrow.openAll(orders);
        assertEq(escrow.openBatch(orders), hex"04");
    }

    /// @dev A seat kept back for later would be a right to the buyer's budget at yesterday's price.
    function test_first_leases_of_all_seats_open_within_ten_minutes_of_the_first() public {
        uint256 start = block.timestamp;
        escrow.open(_seatOf(1, 2));
        vm.warp(start + 10 minutes);
        escrow.open(_seatOf(2, 0));
        vm.warp(start + 10 minutes + 1);
        Match memory order = _seatOf(3, 1);
        _expect(IEscrowBase.SeatsClosed.selector, start + 10 minutes, start + 10 minutes + 1);
        escrow.open(order);
        _assertRecord(1, 0, 0);
        vm.warp(start + 30 days);
        order.previous = _previous(_askOf(1)); // nor as a lease that follows another seat's
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotLatestLease.selector, bytes16(0), _leaseNoOf(1, 1)));
        escrow.open(order);
    }

    function test_seat_is_followed_after_the_ten_minutes() public {
        escrow.openAll(_gang());
        vm.warp(block.timestamp + 1 hours);
        _stopNow(_leaseNoOf(2));
        escrow.open(_nextOf(4, 1, 2));
        _assertState(_leaseNoOf(4, 1), LeaseState.Active);
    }

    function test_seats_open_one_by_one_in_any_order() public {
        escrow.open(_seatOf(1, 2));
        _assertRecord(0, 0, 0);
        _assertRecord(2, _leaseNoOf(1, 2), 0);
        escrow.open(_seatOf(2, 0));
        escrow.open(_seatOf(3, 1));
        uint16[3] memory seats = [uint16(2), 0, 1];
        for (uint256 n = 1; n <= 3; n++) {
            _assertState(_leaseNoOf(n, seats[n - 1]), LeaseState.Active);
        }
    }

    function test_budget_is_divided_among_seats() public {
        (_nodes, _budget) = (4, 6e18 + 3); // 1.5 each, the rest to nobody
        escrow.openAll(_gang());
        for (uint256 n = 1; n <= 4; n++) {
            assertEq(_lease(_leaseNoOf(n)).fundedSeconds, 2160);
            assertEq(_lease(_leaseNoOf(n)).locked, 1.5e18);
        }
    }

    function test_budget_too_small_for_a_seat_reverts() public {
        uint256 least = (uint256(2.5e18) * 60 + 3599) / 3600;
        _budget = 3 * least - 1;
        Match memory order = _seatOf(1, 0);
        _expect(IEscrowBase.BudgetTooSmall.selector, least, least - 1);
        escrow.open(order);
        _budget = 3 * least;
        escrow.open(_seatOf(1, 0));
    }

    function test_seat_without_a_lease_has_none_to_follow() public {
        escrow.open(_seatOf(1, 0));
        vm.warp(block.timestamp + 3600);
        Match memory order = _nextOf(2, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotLatestLease.selector, bytes16(0), _leaseNoOf(1, 1)));
        escrow.open(order);
    }

    function test_lease_of_another_seat_cannot_be_followed() public {
        escrow.openAll(_gang());
        vm.warp(block.timestamp + 3600);
        Match memory order = _nextOf(4, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotLatestLease.selector, _leaseNoOf(2), _leaseNoOf(1, 1)));
        escrow.open(order);
    }

    function test_running_lease_of_a_seat_cannot_be_followed() public {
        escrow.openAll(_gang());
        Match memory order = _nextOf(4, 1, 2);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotMarkedAgain.selector, _leaseNoOf(2)));
        escrow.open(order);
        vm.warp(block.timestamp + 3600);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotMarkedAgain.selector, _leaseNoOf(2)));
        escrow.open(order);
    }

    function test_only_the_latest_lease_of_a_seat_can_be_followed() public {
        escrow.openAll(_gang());
        vm.warp(block.timestamp + 600);
        _stopNow(_leaseNoOf(2));
        escrow.open(_nextOf(4, 1, 2));
        Match memory order = _nextOf(5, 1, 2);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotLatestLease.selector, _leaseNoOf(4, 1), _leaseNoOf(2)));
        escrow.open(order);
    }

    function test_seat_is_followed_within_its_part_of_the_budget() public {
        escrow.openAll(_gang()); // 2.5 of 3 locked in each seat
        vm.warp(block.timestamp + 1440);
        _stopNow(_leaseNoOf(2)); // may still pay 1
        escrow.open(_nextOf(4, 1, 2));
        assertEq(_lease(_leaseNoOf(4, 1)).locked, 2e18, "what 1 leaves of 3");
        _assertRecord(1, _leaseNoOf(4, 1), 1e18);
        _assertRecord(0, _leaseNoOf(1), 0);
        _assertRecord(2, _leaseNoOf(3), 0);
        assertEq(_lease(_leaseNoOf(1)).locked, 2.5e18);
        assertEq(_lease(_leaseNoOf(3)).locked, 2.5e18);
    }

    /* BIDS OF ONE NODE */

    function test_bid_of_one_node_has_seat_zero_alone_and_no_record() public {
        _nodes = 1;
        Match memory order = _seatOf(1, 1);
        _expect(IEscrowBase.SeatOutOfRange.selector, 1, 1);
        escrow.open(order);
        vm.recordLogs();
        escrow.open(_seatOf(1, 0));
        assertEq(vm.getRecordedLogs().length, 1, "Opened alone");
        _assertRecord(0, 0, 0);
        order = _seatOf(2, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NonceUsed.selector, buyer, uint256(1)));
        escrow.open(order);
    }

    /* FUZZ */

    /// @dev Ends the n-th lease, one way or the other, and opens another in its seat where the budget allows.
    function _endAndFollow(uint256 n, bool closes, uint256 next, uint16 seat) private returns (bool ok) {
        bytes16 leaseNo = _leaseNoOf(n, seat);
        uint64 ms = uint64(block.timestamp - _lease(leaseNo).start) * 1000;
        if (closes) {
            CloseData memory data = _closeData(_askOf(n), _theBid(), ms, 0, 0);
            (data.leaseNo, data.again) = (leaseNo, true);
            data.termsHash = _termsHash(_askOf(n), _theBid(), _askOf(n).floor, seat);
            _close(data);
        } else {
            _stopNow(leaseNo);
        }
        (ok,) = address(escrow).call(abi.encodeCall(escrow.open, (_nextOf(next, seat, n))));
    }

    /// @dev However seats are followed and settled, the leases of a bid together pay at most its budget.
    function testFuzz_seats_pay_at_most_the_budget(
        uint96 budget,
        uint8 nodes,
        uint16[6] memory times,
        bool[6] memory closes
    ) public {
        _nodes = uint16(bound(nodes, 2, 4));
        _budget = bound(budget, uint256(_nodes) * 0.1e18, 12e18);
        escrow.openAll(_gang());
        uint256[4] memory latest = [uint256(1), 2, 3, 4];
        uint256 opened = _nodes;
        bytes16[10] memory leaseNos;
        for (uint256 n = 1; n <= opened; n++) {
            leaseNos[n - 1] = _leaseNoOf(n);
        }
        for (uint16 i = 0; i < 6; i++) {
            uint16 seat = i % _nodes;
            vm.warp(block.timestamp + times[i] % 3601);
            if (!_endAndFollow(latest[seat], closes[i], opened + 1, seat)) break;
            leaseNos[opened] = _leaseNoOf(opened + 1, seat);
            latest[seat] = ++opened;
        }
        uint256 most = 0;
        for (uint256 n = 0; n < opened; n++) {
            bytes16 leaseNo = leaseNos[n];
            _settle(leaseNo, uint64(_lease(leaseNo).fundedSeconds) * 1000);
            most += _lease(leaseNo).released + _lease(leaseNo).locked;
        }
        assertLe(most, _budget);
        assertEq(escrow.balanceOf(buyer), FUNDS - most);
    }
}
