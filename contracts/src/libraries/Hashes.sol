// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Hashes
/// @notice Keccak-256 of a few words, as if by `abi.encode`, without allocating memory.
/// @dev Shifting left and back clears bits that the compiler may leave above a value narrower than a word.
library Hashes {
    /// @notice Key of a lease: keccak256(abi.encode(witness, buyer, provider, leaseNo)).
    function leaseKey(address witness, address buyer, address provider, bytes16 leaseNo)
        internal
        pure
        returns (bytes32 key)
    {
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, shr(96, shl(96, witness)))
            mstore(add(ptr, 0x20), shr(96, shl(96, buyer)))
            mstore(add(ptr, 0x40), shr(96, shl(96, provider)))
            mstore(add(ptr, 0x60), shl(128, shr(128, leaseNo)))
            key := keccak256(ptr, 0x80)
        }
    }

    /// @notice Struct hash of `MeteredUsage` and of `Close`, which differ only in their type hash.
    function metered(
        bytes32 typeHash,
        address buyer,
        address provider,
        bytes16 leaseNo,
        uint256 ms,
        uint256 egressMib,
        uint256 units
    ) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mstore(add(ptr, 0x20), shr(96, shl(96, buyer)))
            mstore(add(ptr, 0x40), shr(96, shl(96, provider)))
            mstore(add(ptr, 0x60), shl(128, shr(128, leaseNo)))
            mstore(add(ptr, 0x80), ms)
            mstore(add(ptr, 0xa0), egressMib)
            mstore(add(ptr, 0xc0), units)
            digest := keccak256(ptr, 0xe0)
        }
    }
}
