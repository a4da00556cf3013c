// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Signatures} from "./Signatures.sol";

/// @notice One entry of a settlement, and what its signer is recovered from. In memory the first members are encoded as
/// EIP-712 encodes `Usage`, and the first seven as `MeteredUsage`. With the witness as `head`, the first four are the words
/// that a lease's key is the hash of. `prefix` to `structHash` end in the 66 bytes that the digest is the hash of, and
/// `digest` to `s` are what the precompile ecrecover reads.
struct Voucher {
    bytes32 head;
    address buyer;
    address provider;
    bytes16 leaseNo;
    uint256 ms;
    uint256 egressMib;
    uint256 units;
    uint256 prefix;
    bytes32 domain;
    bytes32 structHash;
    bytes32 digest;
    uint256 v;
    bytes32 r;
    uint256 s;
}

/// @title Vouchers
/// @notice Reads entries and finds their leases. One voucher in memory serves a whole batch.
library Vouchers {
    bytes32 internal constant USAGE_TYPEHASH =
        keccak256("Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)");
    bytes32 internal constant METERED_TYPEHASH = keccak256(
        "MeteredUsage(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)"
    );
    uint256 internal constant USAGE_BYTES = 105;
    uint256 internal constant METERED_BYTES = 113;

    /// @notice A voucher to read entries into; until then only what all share is set.
    function blank(bytes32 domain) internal pure returns (Voucher memory voucher) {
        assembly ("memory-safe") {
            voucher := mload(0x40)
            mstore(0x40, add(voucher, 0x1c0))
            mstore(add(voucher, 0xe0), 0x1901)
            mstore(add(voucher, 0x100), domain)
        }
    }

    /// @notice Reads buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32 at a place in calldata. Returns the key of the lease whose
    /// witness signed it; if the signature is bad, the key is of no lease.
    function readUsage(Voucher memory voucher, uint256 at) internal view returns (bytes32) {
        bytes32 typeHash = USAGE_TYPEHASH;
        assembly ("memory-safe") {
            mstore(voucher, typeHash)
            mstore(add(voucher, 0x20), shr(96, calldataload(at)))
            mstore(add(voucher, 0x60), shl(128, calldataload(add(at, 4)))) // bytes 20 to 35
            mstore(add(voucher, 0x80), shr(216, calldataload(add(at, 36))))
            mstore(add(voucher, 0x120), keccak256(voucher, 0xa0))
        }
        return _key(voucher, at + 41);
    }

    /// @notice As `readUsage` for buyer 20 | leaseNo 16 | ms 5 | egressMib 4 | units 4 | r 32 | vs 32.
    function readMetered(Voucher memory voucher, uint256 at) internal view returns (bytes32) {
        bytes32 typeHash = METERED_TYPEHASH;
        assembly ("memory-safe") {
            mstore(voucher, typeHash)
            mstore(add(voucher, 0x20), shr(96, calldataload(at)))
            mstore(add(voucher, 0x60), shl(128, calldataload(add(at, 4))))
            mstore(add(voucher, 0x80), shr(216, calldataload(add(at, 36))))
            mstore(add(voucher, 0xa0), shr(224, calldataload(add(at, 41))))
            mstore(add(voucher, 0xc0), shr(224, calldataload(add(at, 45))))
            mstore(add(voucher, 0x120), keccak256(voucher, 0xe0))
        }
        return _key(voucher, at + 49);
    }

    /// @dev The precompile writes the signer over the type hash. If there is none, it writes nothing, and no lease's key has
    /// a type hash in place of its witness.
    function _key(Voucher memory voucher, uint256 signature) private view returns (bytes32 key) {
        uint256 half = Signatures.HALF_ORDER;
        assembly ("memory-safe") {
            mstore(add(voucher, 0x140), keccak256(add(voucher, 0xfe), 0x42))
            let s := calldataload(add(signature, 0x20))
            mstore(add(voucher, 0x160), add(27, shr(255, s)))
            s := shr(1, shl(1, s))
            mstore(add(voucher, 0x180), calldataload(signature))
            mstore(add(voucher, 0x1a0), s)
            if iszero(gt(s, half)) { pop(staticcall(gas(), 1, add(voucher, 0x140), 0x80, voucher, 0x20)) }
            key := keccak256(voucher, 0x80)
        }
    }
}
