// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {LeaseState} from "../../src/interfaces/IComputeEscrow.sol";
import {CountedSlot, CountedSlots, LeaseSlot, LeaseSlots} from "../../src/libraries/LeaseSlot.sol";

/// @notice Packed words, for every value of every field.
contract SlotProofs is Test {
    /// @notice What is packed is what is read.
    function check_pack_keeps_each_field(
        uint64 rate,
        uint40 end,
        uint32 funded,
        uint32 gpuMilli,
        uint24 node,
        bool counted
    ) external pure {
        LeaseSlot slot = LeaseSlots.pack(rate, end, funded, gpuMilli, node, counted);
        assert(slot.rate() == rate);
        assert(slot.usedMs() == 0);
        assert(slot.end() == end);
        assert(slot.funded() == funded);
        assert(uint16(LeaseSlot.unwrap(slot) >> 64) == 0); // unused
        assert(slot.gpuMilli() == gpuMilli);
        assert(slot.node() == node);
        assert(slot.hasCounted() == counted);
        assert(slot.state() == LeaseState.Active);
    }

    uint256 private constant USED = uint256(type(uint40).max) << 152;
    uint256 private constant END_AND_FUNDED = uint256(type(uint72).max) << 80;

    /// @notice A new figure changes that field and nothing else.
    function check_used_changes_alone(uint256 word, uint40 ms) external pure {
        LeaseSlot next = LeaseSlot.wrap(word).withUsedMs(ms);
        assert(next.usedMs() == ms);
        assert(LeaseSlot.unwrap(next) & ~USED == word & ~USED);
    }

    /// @notice A new end keeps the start, and all else.
    function check_end_moves_and_start_stays(uint256 word, uint40 end) external pure {
        LeaseSlot slot = LeaseSlot.wrap(word);
        vm.assume(slot.funded() <= slot.end());
        vm.assume(slot.start() <= end && end - slot.start() <= type(uint32).max);
        LeaseSlot next = slot.withEnd(end);
        assert(next.end() == end);
        assert(next.start() == slot.start());
        assert(LeaseSlot.unwrap(next) & ~END_AND_FUNDED == word & ~END_AND_FUNDED);
    }

    /// @notice A new state changes those bits alone.
    function check_state_changes_alone(uint256 word, uint8 state) external pure {
        vm.assume(state <= uint8(LeaseState.Closed));
        LeaseSlot next = LeaseSlot.wrap(word).withState(LeaseState(state));
        assert(uint8(LeaseSlot.unwrap(next) & 0x7f) == state);
        assert(LeaseSlot.unwrap(next) & ~uint256(0x7f) == word & ~uint256(0x7f));
    }

    /// @notice A lease is open exactly where it is active or stopped.
    function check_open_is_active_or_stopped(uint256 word) external pure {
        uint256 state = word & 0x7f;
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
}
