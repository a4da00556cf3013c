// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Check
/// @notice Checks of bounds that revert with a custom error of two words: the expected value and the given one.
/// @dev These reverts are built in one place because the contract is near its size limit.
library Check {
    /// @notice Reverts with `selector(most, given)` if `given` is above `most`.
    function atMost(uint256 most, uint256 given, bytes4 selector) internal pure {
        if (given > most) fail(most, given, selector);
    }

    /// @notice Reverts with `selector(least, given)` if `given` is below `least`.
    function atLeast(uint256 least, uint256 given, bytes4 selector) internal pure {
        if (given < least) fail(least, given, selector);
    }

    /// @notice Reverts with `selector(expected, given)`.
    function fail(uint256 expected, uint256 given, bytes4 selector) internal pure {
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, selector)
            mstore(add(ptr, 0x04), expected)
            mstore(add(ptr, 0x24), given)
            revert(ptr, 0x44)
        }
    }
}
