// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ask, Bid, IEscrowExtension, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {TypedData} from "../support/TypedData.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice topUp of a lease in any state, by any number of seconds.
contract AmendingProofs is EscrowProofs {
    function _topUp(address sender, uint32 more) private returns (bool) {
        (Ask memory ask, Bid memory bid) = _orders();
        bytes32 pricesHash = TypedData.hash(ask.floor);
        return _try(sender, abi.encodeCall(IEscrowExtension.topUp, (ask, bid, pricesHash, 0, more)));
    }

    /// @notice A top-up adds its seconds to the paid ones, within the ask's, and moves the end by as many; all else stays.
    function check_top_up_adds_paid_seconds(uint256 word, uint40 time, uint32 more) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.end() < type(uint40).max - 1 days); // the year 36,000
        _begin(slot, time, 0, 0);
        vm.assume(_topUp(BUYER, more));
        LeaseSlot next = open.slotOf(key);
        assert(more > 0 && next.paidSeconds() <= 1 days);
        assert(time < slot.end());
        assert(_bits(next) == _bits(slot.extended(more))); // check_extended_adds_paid_seconds_alone says what that is
    }

    /// @notice What the buyer pays is what the lock grows by.
    function check_top_up_conserves(uint256 word, uint40 time, uint96 has, uint32 more) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.end() < type(uint40).max - 1 days);
        vm.assume(slot.paidSeconds() + more <= 1 days); // else refused
        uint256 lock = slot.fullTime(SCALE);
        uint256 grown = slot.extended(more).fullTime(SCALE);
        vm.assume(lock <= grown); // fuzzed: testFuzz_costs_and_fees_grow_with_time
        _begin(slot, time, has, 0);
        vm.assume(_topUp(BUYER, more));
        assert(grown - lock <= has);
        assert(_held() == has - (grown - lock));
    }

    /// @notice Nobody but the buyer tops up.
    function check_top_up_is_for_the_buyer(uint256 word, uint40 time, address sender, uint32 more) external {
        vm.assume(sender != BUYER);
        vm.assume(sender != address(0));
        _begin(_freeSlot(word, LeaseState.Active), time, 0, 0);
        assert(!_topUp(sender, more));
    }

    /// @notice Only an active lease is topped up, and only before its end.
    function check_top_up_is_for_running_leases(uint256 word, uint40 time, uint32 more) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            LeaseSlot slot = _freeSlot(word, LeaseState(state));
            if (state == uint256(LeaseState.Active)) vm.assume(slot.end() <= time);
            _begin(slot, time, 0, 0);
            assert(!_topUp(BUYER, more));
        }
    }
}
