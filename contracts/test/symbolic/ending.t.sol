// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {IEscrowCore} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice stop and refund, from any state of a lease.
contract EndingProofs is EscrowProofs {
    function _stop() private view returns (bytes memory) {
        return abi.encodeCall(IEscrowCore.stop, (BUYER, PROVIDER, WITNESS, leaseNo));
    }

    function _refund() private view returns (bytes memory) {
        return abi.encodeCall(IEscrowCore.refund, (BUYER, PROVIDER, WITNESS, leaseNo));
    }

    uint256 private constant END_FUNDED_AND_STATE = uint256(type(uint72).max) << 80 | 0x7f;

    /// @notice A stop pays back exactly what the lock shrinks by.
    function check_stop_conserves(uint256 word, uint40 time, uint96 has) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.start() <= time);
        vm.assume(time < slot.end());
        uint256 lock = slot.fullTime(SCALE);
        uint256 kept = slot.withEnd(time).withState(LeaseState.Stopped).fullTime(SCALE);
        vm.assume(kept <= lock); // fuzzed, likewise
        unchecked {
            vm.assume(lock - kept <= type(uint96).max - has); // holdings are below 2^96
            _begin(slot, time, has, 0);
            assert(_try(BUYER, _stop()));
            assert(open.slotOf(key).fullTime(SCALE) == kept);
            assert(_held() == has + (lock - kept));
        }
    }

    /// @notice A stopped lease started when it did and ends now, or where it would have; all else of it stays.
    function check_stop_ends_the_lease_now(uint256 word, uint40 time) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.start() <= time);
        _begin(slot, time, 0, 0);
        assert(_try(WITNESS, _stop()));
        LeaseSlot next = open.slotOf(key);
        assert(next.state() == LeaseState.Stopped);
        assert(next.end() == (slot.end() < time ? slot.end() : time));
        assert(next.start() == slot.start());
        assert(_bits(next) & ~END_FUNDED_AND_STATE == _bits(slot) & ~END_FUNDED_AND_STATE);
    }

    /// @notice Nobody but buyer, provider and witness stops a lease by calling.
    function check_stop_is_for_parties(uint256 word, uint40 time, address sender) external {
        vm.assume(sender != BUYER);
        vm.assume(sender != PROVIDER);
        vm.assume(sender != WITNESS);
        _begin(_slot(word, LeaseState.Active), time, 0, 0);
        assert(!_try(sender, _stop()));
    }

    /// @notice Only an active lease is stopped.
    function check_stop_is_for_active_leases(uint256 word, uint40 time) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active)) continue;
            _begin(_slot(word, LeaseState(state)), time, 0, 0);
            assert(!_try(BUYER, _stop()));
        }
    }

    /// @notice A refund pays the buyer exactly what of the lock was not earned, whoever calls.
    function check_refund_conserves(uint256 word, uint96 has, address sender) external {
        LeaseSlot slot = _slot(word, LeaseState.Stopped);
        uint256 refunded;
        unchecked {
            vm.assume(slot.paidTime(SCALE) <= slot.fullTime(SCALE)); // fuzzed: testFuzz_costs_and_fees_grow_with_time
            refunded = slot.fullTime(SCALE) - slot.paidTime(SCALE);
            vm.assume(refunded <= type(uint96).max - has);
            _begin(slot, uint40(slot.end() + SETTLE_WINDOW + 1), has, 0);
        }
        vm.assume(_try(sender, _refund()));
        unchecked {
            assert(open.accountOf(BUYER).balance == has + refunded);
            assert(_held() == has + refunded);
        }
        assert(_bits(open.slotOf(key)) == _bits(slot.withState(LeaseState.Closed)));
    }

    /// @notice From the first second after the window anyone's refund of an open lease goes through; not before.
    function check_refund_is_live_after_the_window(uint256 word, uint40 time, address sender) external {
        for (uint256 state = uint256(LeaseState.Active); state <= uint256(LeaseState.Stopped); state++) {
            LeaseSlot slot = _freeSlot(word, LeaseState(state));
            _begin(slot, time, 0, 0);
            assert(_try(sender, _refund()) == (time > slot.end() + SETTLE_WINDOW));
        }
    }

    /// @notice What is not open is not refunded, whenever.
    function check_refund_is_for_open_leases(uint256 word, uint40 time) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active) || state == uint256(LeaseState.Stopped)) continue;
            _begin(_slot(word, LeaseState(state)), time, 0, 0);
            assert(!_try(BUYER, _refund()));
        }
    }
}
