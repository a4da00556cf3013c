// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {LeaseState} from "../interfaces/IComputeEscrow.sol";
import {Units} from "./Units.sol";

/// @notice A lease in one storage word. From the highest bit down:
/// rate 64 | usedMs 40 | end 40 | funded 32 | startSeconds 16 | gpuMilli 32 | node 24 | counted 1 | again 1 | state 6.
type LeaseSlot is uint256;

using LeaseSlots for LeaseSlot global;

/// @notice Prices, usage and caps of a lease's counted resources in one storage word. From the highest bit down:
/// egress price 64 | unit price 64 | egressMib used 32 | units used 32 | egressMib cap 32 | units cap 32.
type CountedSlot is uint256;

using CountedSlots for CountedSlot global;

/// @title LeaseSlots
/// @notice Fields of a packed lease. Callers keep every value within its width, the end at or after the start, and
/// `startSeconds` within `funded`.
library LeaseSlots {
    uint256 private constant USED_SHIFT = 152;
    uint256 private constant END_SHIFT = 112;
    uint256 private constant FUNDED_SHIFT = 80;
    uint256 private constant START_SHIFT = 64;
    uint256 private constant GPU_SHIFT = 32;
    uint256 private constant NODE_SHIFT = 8;
    uint256 private constant COUNTED_BIT = 0x80;
    uint256 private constant AGAIN_BIT = 0x40;
    uint256 private constant STATE_MASK = 0x3f;

    function pack(
        uint64 rate_,
        uint40 end_,
        uint32 funded_,
        uint16 startSeconds_,
        uint32 gpuMilli_,
        uint24 node_,
        bool hasCounted_
    ) internal pure returns (LeaseSlot) {
        uint256 word =
            (uint256(rate_) << 192) | (uint256(end_) << END_SHIFT) | (uint256(funded_) << FUNDED_SHIFT);
        word |= (uint256(startSeconds_) << START_SHIFT) | (uint256(gpuMilli_) << GPU_SHIFT)
            | (uint256(node_) << NODE_SHIFT);
        word |= (hasCounted_ ? COUNTED_BIT : 0) | uint256(LeaseState.Active);
        return LeaseSlot.wrap(word);
    }

    /// @return 1e-12 token per hour.
    function rate(LeaseSlot self) internal pure returns (uint256) {
        return LeaseSlot.unwrap(self) >> 192;
    }

    function usedMs(LeaseSlot self) internal pure returns (uint256) {
        return uint40(LeaseSlot.unwrap(self) >> USED_SHIFT);
    }

    /// @return First second that no longer counts as usage.
    function end(LeaseSlot self) internal pure returns (uint256) {
        return uint40(LeaseSlot.unwrap(self) >> END_SHIFT);
    }

    /// @return Seconds from start to end.
    function funded(LeaseSlot self) internal pure returns (uint256) {
        return uint32(LeaseSlot.unwrap(self) >> FUNDED_SHIFT);
    }

    function start(LeaseSlot self) internal pure returns (uint256) {
        unchecked {
            return self.end() - self.funded();
        }
    }

    /// @return Milliseconds from the start to `time`, which is not before it.
    function elapsedMs(LeaseSlot self, uint256 time) internal pure returns (uint256) {
        unchecked {
            return (time - self.start()) * Units.MS;
        }
    }

    /// @return Seconds of the funded time that are neither locked nor paid.
    function startSeconds(LeaseSlot self) internal pure returns (uint256) {
        return uint16(LeaseSlot.unwrap(self) >> START_SHIFT);
    }

    /// @return Seconds that may be paid, at most.
    function paidSeconds(LeaseSlot self) internal pure returns (uint256) {
        unchecked {
            return self.funded() - self.startSeconds();
        }
    }

    function gpuMilli(LeaseSlot self) internal pure returns (uint256) {
        return uint32(LeaseSlot.unwrap(self) >> GPU_SHIFT);
    }

    function node(LeaseSlot self) internal pure returns (uint24) {
        return uint24(LeaseSlot.unwrap(self) >> NODE_SHIFT);
    }

    function hasCounted(LeaseSlot self) internal pure returns (bool) {
        return LeaseSlot.unwrap(self) & COUNTED_BIT != 0;
    }

    /// @return Whether the bid's seat may open once more.
    function again(LeaseSlot self) internal pure returns (bool) {
        return LeaseSlot.unwrap(self) & AGAIN_BIT != 0;
    }

    function state(LeaseSlot self) internal pure returns (LeaseState) {
        return LeaseState(LeaseSlot.unwrap(self) & STATE_MASK);
    }

    /// @return Whether usage can still be paid: active or stopped.
    function isOpen(LeaseSlot self) internal pure returns (bool) {
        unchecked {
            return (LeaseSlot.unwrap(self) & STATE_MASK) - uint256(LeaseState.Active) < 2; // they follow each other
        }
    }

    function withUsedMs(LeaseSlot self, uint256 usedMs_) internal pure returns (LeaseSlot) {
        uint256 word = LeaseSlot.unwrap(self) & ~(uint256(type(uint40).max) << USED_SHIFT);
        return LeaseSlot.wrap(word | (usedMs_ << USED_SHIFT));
    }

    /// @notice The slot as it is once `seconds_` of paid time are added.
    function extended(LeaseSlot self, uint256 seconds_) internal pure returns (LeaseSlot) {
        unchecked {
            return LeaseSlot.wrap(LeaseSlot.unwrap(self) + (seconds_ << END_SHIFT) + (seconds_ << FUNDED_SHIFT));
        }
    }

    /// @notice The slot as it is if the lease ends at `end_`, which is neither after its end nor before its start.
    /// @dev Paid time is kept as far as there is room for it: what is cut off first is the time for a late start.
    function endedAt(LeaseSlot self, uint256 end_) internal pure returns (LeaseSlot) {
        unchecked {
            uint256 cut = self.end() - end_;
            uint256 start_ = self.startSeconds();
            uint256 startCut = cut < start_ ? cut : start_;
            return LeaseSlot.wrap(
                LeaseSlot.unwrap(self) - (cut << END_SHIFT) - (cut << FUNDED_SHIFT) - (startCut << START_SHIFT)
            );
        }
    }

    function withAgain(LeaseSlot self) internal pure returns (LeaseSlot) {
        return LeaseSlot.wrap(LeaseSlot.unwrap(self) | AGAIN_BIT);
    }

    function withState(LeaseSlot self, LeaseState state_) internal pure returns (LeaseSlot) {
        return LeaseSlot.wrap((LeaseSlot.unwrap(self) & ~STATE_MASK) | uint256(state_));
    }

    /// @return `ms`, at most the time that may be paid.
    function paidPart(LeaseSlot self, uint256 ms) internal pure returns (uint256) {
        unchecked {
            uint256 most = self.paidSeconds() * Units.MS;
            return ms < most ? ms : most;
        }
    }

    /// @notice What settling `ms` milliseconds at `time` makes of the slot: usage rises to them, at most to the paid time, and
    /// never falls.
    /// @dev Written out: a batch does it for each entry, and a call costs more than a field.
    /// @return next Zero if they are not due: the lease is not open, the settle window is over, or so much time has not passed.
    /// @return paid Atoms that time has earned so far.
    /// @return total Atoms that time will have earned.
    function settled(LeaseSlot self, uint256 ms, uint256 time, uint256 window, uint256 scale)
        internal
        pure
        returns (LeaseSlot next, uint256 paid, uint256 total)
    {
        unchecked {
            uint256 word = LeaseSlot.unwrap(self);
            uint256 end_ = uint40(word >> END_SHIFT);
            uint256 funded_ = uint32(word >> FUNDED_SHIFT);
            if ((word & STATE_MASK) - uint256(LeaseState.Active) > 1 || time > end_ + window) return (next, 0, 0);
            if (ms > (time - end_ + funded_) * Units.MS) return (next, 0, 0);
            uint256 most = (funded_ - uint16(word >> START_SHIFT)) * Units.MS;
            if (ms > most) ms = most;
            uint256 used = uint40(word >> USED_SHIFT);
            if (ms < used) ms = used;
            next = LeaseSlot.wrap((word & ~(uint256(type(uint40).max) << USED_SHIFT)) | (ms << USED_SHIFT));
            scale *= word >> 192;
            paid = (scale * used) / Units.RATE_MS_PER_TOKEN;
            total = (scale * ms) / Units.RATE_MS_PER_TOKEN;
        }
    }

    /// @return Atoms that `ms` milliseconds cost, rounded down.
    function timeCost(LeaseSlot self, uint256 ms, uint256 scale) internal pure returns (uint256) {
        return Units.costDown(self.rate(), ms, scale);
    }

    /// @return Atoms that time has earned so far.
    function paidTime(LeaseSlot self, uint256 scale) internal pure returns (uint256) {
        return self.timeCost(self.usedMs(), scale);
    }

    /// @return The most atoms that time may ever cost, rounded up.
    function fullTime(LeaseSlot self, uint256 scale) internal pure returns (uint256) {
        unchecked {
            return Units.costUp(self.rate(), self.paidSeconds() * Units.MS, scale);
        }
    }
}

/// @title CountedSlots
/// @notice Fields of a lease's packed counted resources.
library CountedSlots {
    uint256 private constant USED_MASK = uint256(type(uint64).max) << 64;

    function pack(uint64 egressPrice_, uint64 unitPrice_, uint32 egressCap_, uint32 unitsCap_)
        internal
        pure
        returns (CountedSlot)
    {
        return CountedSlot.wrap(
            (uint256(egressPrice_) << 192) | (uint256(unitPrice_) << 128) | (uint256(egressCap_) << 32)
                | uint256(unitsCap_)
        );
    }

    /// @return 1e-9 token per GiB.
    function egressPrice(CountedSlot self) internal pure returns (uint256) {
        return CountedSlot.unwrap(self) >> 192;
    }

    /// @return 1e-9 token per unit.
    function unitPrice(CountedSlot self) internal pure returns (uint256) {
        return uint64(CountedSlot.unwrap(self) >> 128);
    }

    function egressUsed(CountedSlot self) internal pure returns (uint256) {
        return uint32(CountedSlot.unwrap(self) >> 96);
    }

    function unitsUsed(CountedSlot self) internal pure returns (uint256) {
        return uint32(CountedSlot.unwrap(self) >> 64);
    }

    function egressCap(CountedSlot self) internal pure returns (uint256) {
        return uint32(CountedSlot.unwrap(self) >> 32);
    }

    function unitsCap(CountedSlot self) internal pure returns (uint256) {
        return uint32(CountedSlot.unwrap(self));
    }

    function withUsed(CountedSlot self, uint256 egressMib, uint256 units) internal pure returns (CountedSlot) {
        return CountedSlot.wrap((CountedSlot.unwrap(self) & ~USED_MASK) | (egressMib << 96) | (units << 64));
    }

    /// @return The slot with each figure raised to the new one if that is higher, up to its cap.
    function raised(CountedSlot self, uint256 egressMib, uint256 units) internal pure returns (CountedSlot) {
        (uint256 cap, uint256 used) = (self.egressCap(), self.egressUsed());
        if (egressMib > cap) egressMib = cap;
        if (egressMib < used) egressMib = used;
        (cap, used) = (self.unitsCap(), self.unitsUsed());
        if (units > cap) units = cap;
        if (units < used) units = used;
        return self.withUsed(egressMib, units);
    }

    /// @return egressMib 4 bytes | units 4 bytes, shifted left by `shift` bits.
    function usedBits(CountedSlot self, uint256 shift) internal pure returns (uint256) {
        return uint256(uint64(CountedSlot.unwrap(self) >> 64)) << shift;
    }

    /// @return Atoms that counted resources have earned so far, rounded down.
    function paid(CountedSlot self, uint256 scale) internal pure returns (uint256) {
        return Units.countedDown(self.egressPrice(), self.unitPrice(), self.egressUsed(), self.unitsUsed(), scale);
    }

    /// @return The most atoms that counted resources may ever cost, rounded up.
    function full(CountedSlot self, uint256 scale) internal pure returns (uint256) {
        return Units.countedUp(self.egressPrice(), self.unitPrice(), self.egressCap(), self.unitsCap(), scale);
    }
}
