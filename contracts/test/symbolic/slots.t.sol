// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, CountedSlots, LeaseSlot, LeaseSlots} from "../../src/libraries/LeaseSlot.sol";

/// @notice Packed words, for every value of every field.
contract SlotProofs is Test {
    uint256 private constant USED = uint256(type(uint40).max) << 152;
    uint256 private constant END_AND_FUNDED = uint256(type(uint72).max) << 80;
    uint256 private constant END_FUNDED_AND_START = uint256(type(uint88).max) << 64;
    uint256 private constant AGAIN = 0x40;
    uint256 private constant STATE = 0x3f;

    /// @notice What is packed is what is read.
    function check_pack_keeps_each_field(
        uint64 rate,
        uint40 end,
        uint32 funded,
        uint16 startSeconds,
        uint32 gpuMilli,
        uint24 node,
        bool counted
    ) external pure {
        LeaseSlot slot = LeaseSlots.pack(rate, end, funded, startSeconds, gpuMilli, node, counted);
        assert(slot.rate() == rate);
        assert(slot.usedMs() == 0);
        assert(slot.end() == end);
        assert(slot.funded() == funded);
        assert(slot.startSeconds() == startSeconds);
        assert(slot.gpuMilli() == gpuMilli);
        assert(slot.node() == node);
        assert(slot.hasCounted() == counted);
        assert(!slot.again());
        assert(slot.state() == LeaseState.Active);
    }

    /// @notice A new figure changes that field and nothing else.
    function check_used_changes_alone(uint256 word, uint40 ms) external pure {
        LeaseSlot next = LeaseSlot.wrap(word).withUsedMs(ms);
        assert(next.usedMs() == ms);
        assert(LeaseSlot.unwrap(next) & ~USED == word & ~USED);
    }

    /// @dev A slot between whose start and end `end` lies.
    function _assumeEnds(LeaseSlot slot, uint256 end) private pure {
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.startSeconds() <= slot.funded());
        vm.assume(slot.start() <= end);
        vm.assume(end <= slot.end());
    }

    /// @notice A new end keeps the start, and every field but end, funded and start seconds.
    function check_ended_keeps_the_start_and_the_rest(uint256 word, uint40 end) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        _assumeEnds(slot, end);
        LeaseSlot next = slot.endedAt(end);
        assert(next.end() == end);
        assert(next.start() == slot.start());
        assert(LeaseSlot.unwrap(next) & ~END_FUNDED_AND_START == word & ~END_FUNDED_AND_START);
    }

    /// @notice What a new end cuts off is the start seconds first, and paid seconds never grow.
    function check_ended_cuts_start_seconds_first(uint256 word, uint40 end) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        _assumeEnds(slot, end);
        LeaseSlot next = slot.endedAt(end);
        assert(next.startSeconds() <= next.funded());
        assert(next.paidSeconds() <= slot.paidSeconds());
        assert(next.paidSeconds() == slot.paidSeconds() || next.startSeconds() == 0);
    }

    /// @notice As many seconds stay paid as have passed since the start, if so many were: whatever was used stays payable.
    function check_ended_keeps_what_passed_paid(uint256 word, uint40 end) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        _assumeEnds(slot, end);
        uint256 passed = end - slot.start();
        uint256 paid = slot.endedAt(end).paidSeconds();
        assert(paid >= passed || paid == slot.paidSeconds());
    }

    /// @notice A top-up adds paid seconds and moves the end by as many; every other field stays.
    function check_extended_adds_paid_seconds_alone(uint256 word, uint32 more) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.startSeconds() <= slot.funded());
        vm.assume(slot.funded() + more <= type(uint32).max);
        vm.assume(slot.end() + more <= type(uint40).max);
        LeaseSlot next = slot.extended(more);
        assert(next.paidSeconds() == slot.paidSeconds() + more);
        assert(next.end() == slot.end() + more);
        assert(next.start() == slot.start());
        assert(LeaseSlot.unwrap(next) & ~END_AND_FUNDED == word & ~END_AND_FUNDED);
    }

    /// @notice A mark changes its bit alone.
    function check_again_changes_alone(uint256 word) external pure {
        LeaseSlot next = LeaseSlot.wrap(word).withAgain();
        assert(next.again());
        assert(LeaseSlot.unwrap(next) & ~AGAIN == word & ~AGAIN);
    }

    /// @notice A new state changes those bits alone: the mark stays.
    function check_state_changes_alone(uint256 word, uint8 state) external pure {
        vm.assume(state <= uint8(LeaseState.Closed));
        LeaseSlot next = LeaseSlot.wrap(word).withState(LeaseState(state));
        assert(LeaseSlot.unwrap(next) & STATE == state);
        assert(LeaseSlot.unwrap(next) & ~STATE == word & ~STATE);
    }

    /// @notice Of any time no more than the paid seconds counts.
    function check_paid_part_is_within_paid_seconds(uint256 word, uint64 ms) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        vm.assume(slot.startSeconds() <= slot.funded());
        uint256 most = slot.paidSeconds() * 1000;
        assert(slot.paidPart(ms) == (ms < most ? ms : most));
    }

    /// @notice A lease is open exactly where it is active or stopped.
    function check_open_is_active_or_stopped(uint256 word) external pure {
        uint256 state = word & STATE;
        assert(LeaseSlot.wrap(word).isOpen() == (state == 1 || state == 2));
    }

    /// @notice Counted figures are read as written, beside prices and caps that never change.
    function check_counted_keeps_each_field(uint64[2] calldata prices, uint32[2] calldata caps, uint32[2] calldata used)
        external
        pure
    {
        CountedSlot slot = CountedSlots.pack(prices[0], prices[1], caps[0], caps[1]).withUsed(used[0], used[1]);
        assert(slot.egressPrice() == prices[0] && slot.unitPrice() == prices[1]);
        assert(slot.egressCap() == caps[0] && slot.unitsCap() == caps[1]);
        assert(slot.egressUsed() == used[0] && slot.unitsUsed() == used[1]);
    }

    /// @notice Counted figures never fall, and rise to their caps at most.
    function check_raised_stays_within_caps(uint256 word, uint32 egressMib, uint32 units) external pure {
        CountedSlot slot = CountedSlot.wrap(word);
        vm.assume(slot.egressUsed() <= slot.egressCap());
        vm.assume(slot.unitsUsed() <= slot.unitsCap());
        CountedSlot next = slot.raised(egressMib, units);
        assert(next.egressUsed() >= slot.egressUsed() && next.egressUsed() <= slot.egressCap());
        assert(next.unitsUsed() >= slot.unitsUsed() && next.unitsUsed() <= slot.unitsCap());
        assert(next.egressCap() == slot.egressCap() && next.unitsCap() == slot.unitsCap());
        assert(next.egressPrice() == slot.egressPrice() && next.unitPrice() == slot.unitPrice());
    }
}
