// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowCore, LeaseKey, LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {LeaseSlot} from "../../src/libraries/LeaseSlot.sol";
import {TypedData} from "../support/TypedData.sol";
import {EscrowProofs} from "./EscrowProofs.sol";

/// @notice stop, free and refund, from any state of a lease.
contract EndingProofs is EscrowProofs {
    function _stop(bool again) private view returns (bytes memory) {
        return abi.encodeCall(IEscrowCore.stop, (_named(), again));
    }

    function _refund() private view returns (bytes memory) {
        return abi.encodeCall(IEscrowCore.refund, (_named()));
    }

    function _free() private view returns (bytes memory) {
        LeaseKey[] memory keys = new LeaseKey[](1);
        keys[0] = _named();
        return abi.encodeCall(IEscrowCore.free, (keys));
    }

    uint256 private constant STATE = 0x3f;
    uint256 private constant AGAIN = 0x40;
    uint256 private constant END_FUNDED_START_AND_STATE = uint256(type(uint88).max) << 64 | STATE;

    /* STOP */

    /// @notice A stop pays back exactly what the lock shrinks by.
    function check_stop_conserves(uint256 word, uint40 time, uint96 has) external {
        LeaseSlot slot = _slot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.start() <= time);
        vm.assume(time < slot.end());
        uint256 lock = slot.fullTime(SCALE);
        uint256 kept = slot.endedAt(time).withState(LeaseState.Stopped).fullTime(SCALE);
        vm.assume(kept <= lock); // fuzzed: testFuzz_costs_and_fees_grow_with_time
        unchecked {
            vm.assume(lock - kept <= type(uint96).max - has); // holdings are below 2^96
            _begin(slot, time, has, 0);
            assert(_try(BUYER, _stop(false)));
            assert(open.slotOf(key).fullTime(SCALE) == kept);
            assert(_held() == has + (lock - kept));
        }
    }

    /// @notice A stopped lease started when it did and ends now, or where it would have; all else of it stays.
    function check_stop_ends_the_lease_now(uint256 word, uint40 time) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.start() <= time);
        _begin(slot, time, 0, 0);
        assert(_try(WITNESS, _stop(false)));
        LeaseSlot next = open.slotOf(key);
        assert(next.state() == LeaseState.Stopped);
        assert(next.end() == (slot.end() < time ? slot.end() : time));
        assert(next.start() == slot.start());
        assert(next.paidSeconds() <= slot.paidSeconds());
        assert(_bits(next) & ~END_FUNDED_START_AND_STATE == _bits(slot) & ~END_FUNDED_START_AND_STATE);
    }

    /// @notice Nobody but buyer, provider and witness stops a lease by calling, or marks it.
    function check_stop_is_for_parties(uint256 word, uint40 time, address sender, bool again) external {
        vm.assume(sender != BUYER);
        vm.assume(sender != PROVIDER);
        vm.assume(sender != WITNESS);
        vm.assume(sender != address(0)); // a purse that there is not has no owner
        _begin(_slot(word, LeaseState.Active), time, 0, 0);
        assert(!_try(sender, _stop(again)));
    }

    /// @notice Only an active lease is stopped.
    function check_stop_is_for_active_leases(uint256 word, uint40 time) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active)) continue;
            _begin(_slot(word, LeaseState(state)), time, 0, 0);
            assert(!_try(BUYER, _stop(false)));
        }
    }

    /// @notice A stop frees the node of what the lease took, and a second one of nothing.
    function check_stop_frees_the_node_once(uint256 word, uint40 time, uint32 others) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeShaped(slot);
        vm.assume(slot.start() <= time);
        _begin(slot, time, 0, 0);
        open.putCapacity(PROVIDER, NODE, others + slot.gpuMilli());
        assert(_try(BUYER, _stop(false)));
        assert(open.capacityOf(PROVIDER, NODE) == others);
        assert(_try(BUYER, _stop(true)));
        assert(!_try(BUYER, _stop(false)));
        assert(open.capacityOf(PROVIDER, NODE) == others);
    }

    /* MARKS */

    /// @notice The provider's stop never marks, in any state, at any time.
    function check_provider_never_marks(uint256 word, uint40 time) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            LeaseSlot slot = _slot(word, LeaseState(state));
            _begin(slot, time, 0, 0);
            assert(!_try(PROVIDER, _stop(true)));
            assert(_bits(open.slotOf(key)) == _bits(slot));
        }
    }

    /// @notice A signature that is neither the witness's nor the buyer's never marks: the meter's included.
    function check_signatures_of_others_never_mark(
        uint256 word,
        uint40 time,
        uint40 deadline,
        bytes32 proof,
        bytes32 r,
        bytes32 s,
        bool high
    ) external {
        uint8 v = high ? 28 : 27;
        bytes32 structHash = TypedData.stop(BUYER, PROVIDER, leaseNo, true, deadline);
        address signer = ecrecover(TypedData.digest(escrow.domainSeparator(), structHash), v, r, s);
        vm.assume(signer != WITNESS);
        vm.assume(signer != BUYER);
        LeaseSlot slot = _slot(word, LeaseState.Stopped);
        _begin(slot, time, 0, 0);
        bytes memory signature = abi.encodePacked(r, s, v);
        assert(!_try(METER, abi.encodeCall(IEscrowCore.stopBySignature, (_named(), true, deadline, proof, signature))));
        assert(_bits(open.slotOf(key)) == _bits(slot));
    }

    /// @notice After its deadline nobody's signature stops or marks.
    function check_late_signatures_do_nothing(
        uint256 word,
        uint40 time,
        uint40 deadline,
        bool again,
        bytes32 proof,
        bytes32 r,
        bytes32 s
    ) external {
        vm.assume(time > deadline);
        LeaseSlot slot = _slot(word, LeaseState.Active);
        _begin(slot, time, 0, 0);
        bytes memory signature = abi.encodePacked(r, s, uint8(27));
        assert(!_try(BUYER, abi.encodeCall(IEscrowCore.stopBySignature, (_named(), again, deadline, proof, signature))));
        assert(_bits(open.slotOf(key)) == _bits(slot));
    }

    /// @notice Marking a lease that has ended changes that bit alone, and no money; what never was is not marked.
    function check_a_mark_changes_nothing_else(uint256 word, uint40 time, uint96 has, bool marked) external {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            if (state == uint256(LeaseState.Active)) continue;
            LeaseSlot slot = _marked(_slot(word, LeaseState(state)), marked);
            _begin(slot, time, has, 0);
            assert(_try(WITNESS, _stop(true)) == (state != uint256(LeaseState.None)));
            LeaseSlot next = open.slotOf(key);
            assert(next.again() == (marked || state != uint256(LeaseState.None)));
            assert(_bits(next) & ~AGAIN == _bits(slot) & ~AGAIN);
            assert(_held() == has);
            assert(open.capacityOf(PROVIDER, NODE) == slot.gpuMilli());
        }
    }

    /* FREE */

    /// @notice Anyone frees the node of an active lease whose end has passed, and of no other; it changes the state alone,
    /// no end, no mark, no money.
    function check_free_changes_no_end_and_no_money(uint256 word, uint40 time, uint96 has, bool again, address sender)
        external
    {
        for (uint256 state = 0; state <= uint256(LeaseState.Closed); state++) {
            LeaseSlot slot = _marked(_slot(word, LeaseState(state)), again);
            _begin(slot, time, has, 0);
            assert(_try(sender, _free()));
            bool due = state == uint256(LeaseState.Active) && slot.end() <= time;
            assert(_bits(open.slotOf(key)) == _bits(due ? slot.withState(LeaseState.Stopped) : slot));
            assert(_held() == has);
        }
    }

    /// @notice The node is freed of the lease once, however often anyone asks.
    function check_free_frees_the_node_once(uint256 word, uint40 time, uint32 others, address sender) external {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _begin(slot, time, 0, 0);
        open.putCapacity(PROVIDER, NODE, others + slot.gpuMilli());
        assert(_try(sender, _free()));
        assert(open.capacityOf(PROVIDER, NODE) == (slot.end() <= time ? others : others + slot.gpuMilli()));
        assert(_try(sender, _free()));
        assert(open.capacityOf(PROVIDER, NODE) == (slot.end() <= time ? others : others + slot.gpuMilli()));
    }

    /* REFUND */

    /// @notice A refund pays the buyer exactly what of the lock was not earned, whoever calls.
    function check_refund_conserves(uint256 word, uint96 has, address sender) external {
        LeaseSlot slot = _slot(word, LeaseState.Stopped);
        vm.assume(slot.startSeconds() <= slot.funded());
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

    /// @notice A refund frees the node if the lease still held it; no refund marks.
    function check_refund_frees_what_is_active_and_marks_nothing(
        uint256 word,
        uint40 time,
        uint32 others,
        bool again,
        address sender
    ) external {
        for (uint256 state = uint256(LeaseState.Active); state <= uint256(LeaseState.Stopped); state++) {
            LeaseSlot slot = _marked(_freeSlot(word, LeaseState(state)), again);
            bool holds = state == uint256(LeaseState.Active);
            _begin(slot, time, 0, 0);
            open.putCapacity(PROVIDER, NODE, holds ? others + slot.gpuMilli() : others);
            vm.assume(_try(sender, _refund()));
            assert(open.capacityOf(PROVIDER, NODE) == others);
            assert(open.slotOf(key).again() == again);
        }
    }

    /* STRANGERS */

    /// @notice A stranger's call takes nothing from buyer or provider, and leaves usage, end, mark and rate of a lease that is
    /// not over as they are.
    function check_strangers_worsen_nothing(uint256 word, uint40 time, uint96 has, address sender, uint8 which)
        external
    {
        LeaseSlot slot = _freeSlot(word, LeaseState.Active);
        _assumeSound(slot, time);
        _assumeStranger(sender);
        _begin(slot, time, has, has);
        bytes[4] memory calls = [_stop(false), _stop(true), _free(), _refund()];
        vm.assume(which < 4);
        for (uint256 i = 0; i < 4; i++) {
            if (i == which) _try(sender, calls[i]);
        }
        LeaseSlot next = open.slotOf(key);
        assert(open.accountOf(BUYER).balance >= has);
        assert(open.accountOf(PROVIDER).balance >= has);
        assert(_bits(next) & ~STATE == _bits(slot) & ~STATE);
        assert(next.state() == LeaseState.Active || slot.end() <= time);
        assert(next.state() != LeaseState.Closed || slot.end() + SETTLE_WINDOW < time);
    }

    function _assumeStranger(address sender) private pure {
        vm.assume(sender != address(0));
        vm.assume(sender != BUYER);
        vm.assume(sender != PROVIDER);
        vm.assume(sender != WITNESS);
    }
}
