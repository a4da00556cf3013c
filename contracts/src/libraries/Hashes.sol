// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CloseData} from "../interfaces/IComputeEscrow.sol";

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

    /// @notice Struct hash of `Close`.
    function close(bytes32 typeHash, CloseData memory data) internal pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, typeHash)
            mcopy(add(ptr, 0x20), data, 0xe0) // all seven members but the last
            digest := keccak256(ptr, 0x100)
        }
    }
}
