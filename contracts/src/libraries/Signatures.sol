// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @dev Half the order of secp256k1. A higher s is the other form of the same signature and is refused (EIP-2).
uint256 constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

/// @title Signatures
/// @notice Signers of EIP-712 messages by compact signatures (ERC-2098).
library Signatures {
    uint256 private constant S_MASK = type(uint256).max >> 1;

    /// @notice What is signed for `structHash` under `domain`.
    function digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32 value) {
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, hex"1901")
            mstore(add(ptr, 0x02), domain)
            mstore(add(ptr, 0x22), structHash)
            value := keccak256(ptr, 0x42)
        }
    }

    /// @notice The signer of a digest; zero if the signature is bad.
    function recover(bytes32 digest_, bytes32 r, bytes32 vs) internal view returns (address signer) {
        uint256 s = uint256(vs) & S_MASK;
        if (s > HALF_ORDER) return address(0);
        assembly ("memory-safe") {
            let ptr := mload(0x40)
            mstore(ptr, digest_)
            mstore(add(ptr, 0x20), add(27, shr(255, vs)))
            mstore(add(ptr, 0x40), r)
            mstore(add(ptr, 0x60), s)
            mstore(0x00, 0) // the precompile answers nothing where there is no signer
            pop(staticcall(gas(), 1, ptr, 0x80, 0x00, 0x20))
            signer := mload(0x00)
        }
    }
}
