// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, CloseData, IEscrowBase, Match} from "../../src/interfaces/IComputeEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {TypedData} from "../support/TypedData.sol";

/// @notice Later leases of one bid: fail-over from node to node within one budget.
contract FollowTest is EscrowTest {
    uint256 private constant BUDGET = 4e18;

    uint64 private _salt = 1;
    uint40 private _expiry = type(uint40).max;

    function _theBid() private view returns (Bid memory bid) {
        bid = _bid();
        bid.budget = uint128(BUDGET);
        bid.salt = _salt;
        bid.expiry = _expiry;
    }

    /// @dev The n-th ask, on a node of its own.
    function _askOf(uint256 n) private view returns (Ask memory ask) {
        ask = _ask();
        ask.salt = uint64(n);
        ask.node = uint24(n);
        ask.startLimitSeconds = 0;
        ask.expiry = type(uint40).max;
    }

    function _orderOf(uint256 n, uint256 previous) private view returns (Match memory order) {
        order = _match(_askOf(n), _theBid());
        if (previous > 0) order.previous = _previous(_askOf(previous));
    }

    function _leaseNoOf(uint256 n) private view returns (bytes16) {
        return _leaseNo(_askOf(n), _theBid());
    }

    function _stopNow(uint256 n) private {
        vm.prank(witness);
        escrow.stop(_key(_leaseNoOf(n)), true);
    }

    /* REFUSED */

    function _refuseUnmarked(Match memory order) private {
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotMarkedAgain.selector, _leaseNoOf(1)));
        escrow.open(order);
    }

    /// @dev Whoever ends a lease, only the buyer's side lets the next one have the rest of the budget.
    function test_lease_without_the_mark_cannot_be_followed() public {
        escrow.open(_orderOf(1, 0));
        uint256 end = _lease(_leaseNoOf(1)).end;
        Match memory order = _orderOf(2, 1);
        uint256 snapshot = vm.snapshotState();
        _refuseUnmarked(order); // running
        vm.warp(end + 1);
        _refuseUnmarked(order); // ended
        escrow.free(_keys(_leaseNoOf(1)));
        _refuseUnmarked(order);
        vm.warp(end + SETTLE_WINDOW + 1);
        escrow.refund(_key(_leaseNoOf(1)));
        order.bid.expiry = _expiry;
        _refuseUnmarked(order);
        vm.revertToState(snapshot);

        address[3] memory enders = [buyer, witness, provider];
        for (uint256 i = 0; i < 3; i++) {
            vm.prank(enders[i]);
            escrow.stop(_key(_leaseNoOf(1)), false);
            _refuseUnmarked(order);
            vm.revertToState(snapshot);
        }
        _close(_askOf(1), _theBid(), 0, 0, 0);
        _refuseUnmarked(order);
        vm.prank(witness);
        escrow.stop(_key(_leaseNoOf(1)), true);
        escrow.open(order);
    }

    function test_unknown_lease_cannot_be_followed() public {
        Match memory order = _orderOf(2, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.UnknownLease.selector, _leaseNoOf(1)));
        escrow.open(order);
    }

    function test_lease_of_another_bid_cannot_be_followed() public {
        Bid memory other = _bid();
        other.salt = 2;
        escrow.open(_match(_askOf(1), other));
        _salt = 3;
        Match memory order = _orderOf(2, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.UnknownLease.selector, _leaseNoOf(1)));
        escrow.open(order);
    }

    function test_lease_of_another_provider_cannot_be_followed() public {
        escrow.open(_orderOf(1, 0));
        Match memory order = _orderOf(2, 1);
        order.previous.provider = stranger;
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.UnknownLease.selector, _leaseNoOf(1)));
        escrow.open(order);
    }

    function test_only_the_latest_lease_can_be_followed() public {
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 60);
        _stopNow(1);
        escrow.open(_orderOf(2, 1));
        vm.warp(block.timestamp + 60);
        _stopNow(2);
        Match memory order = _orderOf(3, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.NotLatestLease.selector, _leaseNoOf(2), _leaseNoOf(1)));
        escrow.open(order);
        escrow.open(_orderOf(3, 2));
    }

    function test_budget_spent_by_earlier_leases() public {
        escrow.open(_orderOf(1, 0)); // an hour: 2.5 of the budget's 4
        vm.warp(block.timestamp + 3600);
        _stopNow(1);
        escrow.open(_orderOf(2, 1)); // what 1.5 funds: 2160 s
        assertEq(_lease(_leaseNoOf(2)).fundedSeconds, 2160);
        vm.warp(block.timestamp + 2160);
        _stopNow(2);
        Match memory order = _orderOf(3, 2);
        uint256 least = (uint256(2.5e18) * 60 + 3599) / 3600;
        _expect(IEscrowBase.BudgetTooSmall.selector, least, 0);
        escrow.open(order);
    }

    /* FOLLOWED */

    function test_stopped_lease_counts_what_it_may_still_pay() public {
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 1440);
        _stopNow(1); // may still pay 1
        escrow.open(_orderOf(2, 1));
        (bytes16 latest, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(latest, _leaseNoOf(2));
        assertEq(spent, 1e18);
        assertEq(_lease(_leaseNoOf(2)).locked, 2.5e18);
        assertTrue(_settle(_leaseNoOf(1), 1_440_000), "the old lease still pays");
    }

    function test_closed_lease_counts_what_it_paid() public {
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 1440);
        CloseData memory data = _closeData(_askOf(1), _theBid(), 720_000, 0, 0);
        data.again = true;
        _close(data);
        escrow.open(_orderOf(2, 1));
        (, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(spent, 0.5e18);
    }

    function test_ended_lease_counts_all_that_it_may_still_pay() public {
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 3600);
        escrow.free(_keys(_leaseNoOf(1)));
        _stopNow(1);
        escrow.open(_orderOf(2, 1));
        (, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(spent, 2.5e18);
    }

    /// @dev Marked late, after the refund: by then it is known what the lease came to.
    function test_refunded_lease_counts_what_it_paid() public {
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 3600);
        assertTrue(_settle(_leaseNoOf(1), 720_000));
        vm.warp(block.timestamp + SETTLE_WINDOW + 1);
        escrow.refund(_key(_leaseNoOf(1)));
        _stopNow(1);
        escrow.open(_orderOf(2, 1));
        (, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(spent, 0.5e18);
        assertEq(_lease(_leaseNoOf(2)).locked, 2.5e18);
    }

    /// @dev The same ask follows itself only at another price.
    function test_lease_of_the_same_terms_cannot_be_opened_twice() public {
        escrow.open(_orderOf(1, 0));
        _stopNow(1);
        Match memory order = _orderOf(1, 1);
        vm.expectRevert(abi.encodeWithSelector(IEscrowBase.LeaseExists.selector, _leaseNoOf(1)));
        escrow.open(order);
    }

    function test_lease_of_other_prices_cannot_be_followed() public {
        escrow.open(_orderOf(1, 0));
        _stopNow(1);
        Match memory order = _orderOf(2, 1);
        order.previous.pricesHash = keccak256("prices");
        vm.expectPartialRevert(IEscrowBase.UnknownLease.selector);
        escrow.open(order);
    }

    function test_first_lease_leaves_no_record() public {
        escrow.open(_orderOf(1, 0));
        (bytes16 latest, uint128 spent) = escrow.bidRecord(TypedData.hash(_theBid()), 0);
        assertEq(latest, bytes16(0));
        assertEq(spent, 0);
    }

    function test_expired_bid_cannot_follow() public {
        _expiry = uint40(block.timestamp + 100);
        escrow.open(_orderOf(1, 0));
        vm.warp(block.timestamp + 101);
        _stopNow(1);
        Match memory order = _orderOf(2, 1);
        _expect(IEscrowBase.OrderExpired.selector, _expiry, block.timestamp);
        escrow.open(order);
    }

    /// @dev However a bid's leases end and settle, all of them together pay at most its budget.
    function testFuzz_leases_of_one_bid_pay_at_most_its_budget(uint16[8] memory seconds_, uint8[8] memory ends) public {
        uint256 opened = 0;
        for (uint256 i = 0; i < 8; i++) {
            (bool ok,) = address(escrow).call(abi.encodeCall(escrow.open, (_orderOf(i + 1, i))));
            if (!ok) break;
            opened++;
            vm.warp(block.timestamp + seconds_[i] % 3601);
            uint64 ms = uint64(block.timestamp - _lease(_leaseNoOf(opened)).start) * 1000;
            if (ends[i] % 3 == 0) _settle(_leaseNoOf(opened), ms);
            if (ends[i] % 2 == 0) _close(_askOf(opened), _theBid(), ms, 0, 0);
            _stopNow(opened);
        }
        uint256 paid = 0;
        for (uint256 i = 1; i <= opened; i++) {
            _settle(_leaseNoOf(i), uint64(_lease(_leaseNoOf(i)).fundedSeconds) * 1000);
            paid += _lease(_leaseNoOf(i)).released;
        }
        assertLe(paid, BUDGET);
    }
}
