// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Units
/// @notice Converts prices, sizes and time into atoms of the token.
/// @dev `scale` is 10^decimals of the token, at most 1e18. Rates are 1e-12 token per hour. Bounds: a rate is below
/// 2^64, milliseconds below 2^40, so every product here stays below 2^172 and nothing overflows.
library Units {
    /// @dev Rate × milliseconds that make one token: 1e12 × 3.6e6.
    uint256 internal constant RATE_MS_PER_TOKEN = 3.6e18;
    /// @dev Counted products that make one token: prices are 1e-9 token, sizes thousand-and-twenty-fourths.
    uint256 internal constant COUNTED_PER_TOKEN = 1024 * 1e9;
    uint256 internal constant BPS = 10_000;
    uint256 internal constant MS = 1000;

    /// @notice Atoms that `ms` milliseconds at `rate` cost, rounded down.
    function costDown(uint256 rate, uint256 ms, uint256 scale) internal pure returns (uint256) {
        unchecked {
            return (rate * ms * scale) / RATE_MS_PER_TOKEN;
        }
    }

    /// @notice Atoms that `ms` milliseconds at `rate` cost, rounded up.
    function costUp(uint256 rate, uint256 ms, uint256 scale) internal pure returns (uint256) {
        unchecked {
            return _divUp(rate * ms * scale, RATE_MS_PER_TOKEN);
        }
    }

    /// @notice Atoms that counted resources cost, rounded down once, on their sum.
    /// @param egressPrice 1e-9 token per GiB.
    /// @param unitPrice 1e-9 token per unit.
    function countedDown(uint256 egressPrice, uint256 unitPrice, uint256 egressMib, uint256 units, uint256 scale)
        internal
        pure
        returns (uint256)
    {
        unchecked {
            return ((egressPrice * egressMib + unitPrice * units * 1024) * scale) / COUNTED_PER_TOKEN;
        }
    }

    /// @notice As `countedDown`, rounded up.
    function countedUp(uint256 egressPrice, uint256 unitPrice, uint256 egressMib, uint256 units, uint256 scale)
        internal
        pure
        returns (uint256)
    {
        unchecked {
            return _divUp((egressPrice * egressMib + unitPrice * units * 1024) * scale, COUNTED_PER_TOKEN);
        }
    }

    /// @notice Whole seconds at `rate` that `atoms` pay for, rounded down; unbounded when the rate is zero.
    function affordableSeconds(uint256 rate, uint256 atoms, uint256 scale) internal pure returns (uint256) {
        if (rate == 0) return type(uint256).max;
        unchecked {
            return (atoms * RATE_MS_PER_TOKEN) / (rate * MS * scale);
        }
    }

    function _divUp(uint256 a, uint256 b) private pure returns (uint256) {
        unchecked {
            return (a + b - 1) / b;
        }
    }
}
