// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowBase} from "../interfaces/IComputeEscrow.sol";
import {Check} from "./Check.sol";

/// @title Entries
/// @notice Reads packed settlement entries from calldata, and writes packed event payloads and bitmaps.
/// @dev Places are byte offsets into the whole calldata. `walk` checks the layout of the array once, so that later reads
/// are within its bounds. Only words may reach past the end; callers drop their surplus low bits.
library Entries {
    uint256 internal constant HEADER_BYTES = 22;

    /// @notice Where the array begins and ends, and the number of entries of `size` bytes in all runs. Reverts unless the
    /// runs end with the array.
    /// @dev Unchecked: a run spans less than 2^23 bytes.
    function walk(bytes calldata entries, uint256 size, uint256 most)
        internal
        pure
        returns (uint256 begin, uint256 end, uint256 total)
    {
        unchecked {
            assembly ("memory-safe") {
                begin := entries.offset
            }
            end = begin + entries.length;
            uint256 at = begin;
            while (at < end) {
                uint256 inRun = runLength(at);
                uint256 next = at + HEADER_BYTES + inRun * size;
                if (inRun == 0 || next > end) revert IEscrowBase.MalformedEntries(at - begin);
                total += inRun;
                at = next;
            }
        }
        Check.atMost(most, total, IEscrowBase.BatchTooLarge.selector);
    }

    /// @notice The provider that the run at `at` pays.
    function runProvider(uint256 at) internal pure returns (address provider) {
        assembly ("memory-safe") {
            provider := shr(96, calldataload(at))
        }
    }

    /// @notice The number of entries in the run at `at`.
    function runLength(uint256 at) internal pure returns (uint256 count) {
        assembly ("memory-safe") {
            count := shr(240, calldataload(add(at, 20)))
        }
    }

    /// @notice An empty array with room for `size` bytes, and for the word that `push` writes last.
    function room(uint256 size) internal pure returns (bytes memory array) {
        assembly ("memory-safe") {
            array := mload(0x40)
            mstore(0x40, add(array, and(add(size, 0x5f), not(0x1f))))
            mstore(array, 0)
        }
    }

    /// @notice Appends the high `size` bytes of `value`. The array must have `room`.
    function push(bytes memory array, bytes32 value, uint256 size) internal pure {
        assembly ("memory-safe") {
            let length := mload(array)
            mstore(add(add(array, 0x20), length), value)
            mstore(array, add(length, size))
        }
    }

    /// @notice A bitmap of `bits` zeros, lowest bit of the first byte first.
    function bitmap(uint256 bits) internal pure returns (bytes memory) {
        unchecked {
            return new bytes((bits + 7) / 8);
        }
    }

    function setBit(bytes memory bits, uint256 index) internal pure {
        bits[index >> 3] |= bytes1(uint8(1 << (index & 7)));
    }
}
