// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Signatures} from "./Signatures.sol";

/// @notice One entry of a settlement. In memory the first members are encoded as EIP-712 encodes `Usage`, and all of them as
/// `MeteredUsage`. With the witness as `head`, the first four are the words that a lease's key is the hash of.
struct Voucher {
    bytes32 head;
    address buyer;
    address provider;
    bytes16 leaseNo;
    uint256 ms;
    uint256 egressMib;
    uint256 units;
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

    /// @notice Reads buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32 at a place in calldata. Returns the key of the lease whose
    /// witness signed it; if the signature is bad, the key is of no lease.
    function readUsage(Voucher memory voucher, uint256 at, bytes32 domain) internal view returns (bytes32) {
        bytes32 typeHash = USAGE_TYPEHASH;
        bytes32 structHash;
        bytes32 r;
        bytes32 vs;
        assembly ("memory-safe") {
            mstore(voucher, typeHash)
            mstore(add(voucher, 0x20), shr(96, calldataload(at)))
            mstore(add(voucher, 0x60), shl(128, calldataload(add(at, 4)))) // bytes 20 to 35
            mstore(add(voucher, 0x80), shr(216, calldataload(add(at, 36))))
            structHash := keccak256(voucher, 0xa0)
            r := calldataload(add(at, 41))
            vs := calldataload(add(at, 73))
        }
        return _key(voucher, Signatures.recover(domain, structHash, r, vs));
    }

    /// @notice As `readUsage` for buyer 20 | leaseNo 16 | ms 5 | egressMib 4 | units 4 | r 32 | vs 32.
    function readMetered(Voucher memory voucher, uint256 at, bytes32 domain) internal view returns (bytes32) {
        bytes32 typeHash = METERED_TYPEHASH;
        bytes32 structHash;
        bytes32 r;
        bytes32 vs;
        assembly ("memory-safe") {
            mstore(voucher, typeHash)
            mstore(add(voucher, 0x20), shr(96, calldataload(at)))
            mstore(add(voucher, 0x60), shl(128, calldataload(add(at, 4))))
            mstore(add(voucher, 0x80), shr(216, calldataload(add(at, 36))))
            mstore(add(voucher, 0xa0), shr(224, calldataload(add(at, 41))))
            mstore(add(voucher, 0xc0), shr(224, calldataload(add(at, 45))))
            structHash := keccak256(voucher, 0xe0)
            r := calldataload(add(at, 49))
            vs := calldataload(add(at, 81))
        }
        return _key(voucher, Signatures.recover(domain, structHash, r, vs));
    }

    function _key(Voucher memory voucher, address witness) private pure returns (bytes32 key) {
        assembly ("memory-safe") {
            mstore(voucher, witness)
            key := keccak256(voucher, 0x80)
        }
    }
}
