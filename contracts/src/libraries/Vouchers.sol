// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HALF_ORDER} from "./Signatures.sol";

/// @title Vouchers
/// @notice Reads entries of a settlement and finds their leases. One place in memory serves a whole batch.
/// @dev The place is where free memory begins, so that each field has a fixed address: a batch is read for hardly more than
/// the precompile costs. From `HEAD` on lies `Usage` or `MeteredUsage` as EIP-712 encodes it; with the witness in place of
/// the type hash, four words that a lease's key is the hash of. `PREFIX` to `STRUCT_HASH` end in the 66 bytes that the
/// digest is the hash of, and `DIGEST` to `S` are what the precompile ecrecover reads.
library Vouchers {
    bytes32 internal constant USAGE_TYPEHASH =
        keccak256("Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)");
    bytes32 internal constant METERED_TYPEHASH = keccak256(
        "MeteredUsage(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)"
    );
    /// @dev Of an entry: buyer 20 | leaseNo 16 | ms 5 | r 32 | vs 32; with counted resources, after ms, egressMib 4 | units 4.
    uint256 internal constant USAGE_BYTES = 105;
    uint256 internal constant METERED_BYTES = 113;

    uint256 internal constant USAGE_SIGNATURE = 41;
    uint256 internal constant METERED_SIGNATURE = 49;
    uint256 internal constant USAGE_WORDS = 0xa0;
    uint256 internal constant METERED_WORDS = 0xe0;

    // Where each field is in memory.
    uint256 private constant HEAD = 0x80;
    uint256 private constant BUYER = 0xa0;
    uint256 private constant PROVIDER = 0xc0;
    uint256 private constant LEASE_NO = 0xe0;
    uint256 private constant MS = 0x100;
    uint256 private constant EGRESS_MIB = 0x120;
    uint256 private constant UNITS = 0x140;
    uint256 private constant PREFIX = 0x160;
    uint256 private constant DOMAIN = 0x180;
    uint256 private constant STRUCT_HASH = 0x1a0;
    uint256 private constant DIGEST = 0x1c0;
    uint256 private constant V = 0x1e0;
    uint256 private constant R = 0x200;
    uint256 private constant S = 0x220;
    uint256 private constant END = 0x240;

    /// @notice Takes the place in memory. Nothing may have been allocated before.
    function begin() internal pure {
        assembly ("memory-safe") {
            if iszero(eq(mload(0x40), HEAD)) { revert(0, 0) }
            mstore(0x40, END)
            mstore(PREFIX, 0x1901)
        }
    }

    /// @notice Sets the domain of all entries. Working it out may allocate memory, so it comes after `begin`.
    function setDomain(bytes32 domain) internal pure {
        assembly ("memory-safe") {
            mstore(DOMAIN, domain)
        }
    }

    /// @notice Sets the provider of the entries that are read next.
    function setProvider(address provider_) internal pure {
        assembly ("memory-safe") {
            mstore(PROVIDER, provider_)
        }
    }

    /// @notice Reads the counted figures of an entry of `settleMetered`, which `read` hashes.
    function readCounts(uint256 at) internal pure {
        assembly ("memory-safe") {
            mstore(EGRESS_MIB, shr(224, calldataload(add(at, 41))))
            mstore(UNITS, shr(224, calldataload(add(at, 45))))
        }
    }

    /// @notice Reads the entry at a place in calldata. Returns the key of the lease whose witness signed it; if the signature is
    /// bad, the key is of no lease.
    /// @dev The precompile writes the signer over the type hash. If there is none, it writes nothing, and no lease's key has
    /// a type hash in place of its witness. Called with constants, not through a function for each kind, which costs gas.
    /// @param words Bytes of the struct as EIP-712 encodes it.
    /// @param signature Where the signature is in the entry.
    function read(uint256 at, bytes32 typeHash, uint256 words, uint256 signature) internal view returns (bytes32 key) {
        assembly ("memory-safe") {
            mstore(HEAD, typeHash)
            mstore(BUYER, shr(96, calldataload(at)))
            mstore(LEASE_NO, shl(128, calldataload(add(at, 4)))) // bytes 20 to 35
            mstore(MS, shr(216, calldataload(add(at, 36))))
            mstore(STRUCT_HASH, keccak256(HEAD, words))
            mstore(DIGEST, keccak256(add(PREFIX, 30), 66))
            signature := add(at, signature)
            mstore(R, calldataload(signature))
            let s := calldataload(add(signature, 32))
            mstore(V, add(27, shr(255, s)))
            s := shr(1, shl(1, s))
            mstore(S, s)
            if iszero(gt(s, HALF_ORDER)) { pop(staticcall(gas(), 1, DIGEST, 0x80, HEAD, 0x20)) }
            key := keccak256(HEAD, 0x80)
        }
    }

    /* WHAT WAS READ LAST */

    function provider() internal pure returns (address value) {
        assembly ("memory-safe") {
            value := mload(PROVIDER)
        }
    }

    function leaseNo() internal pure returns (bytes32 value) {
        assembly ("memory-safe") {
            value := mload(LEASE_NO)
        }
    }

    function ms() internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(MS)
        }
    }

    function egressMib() internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(EGRESS_MIB)
        }
    }

    function units() internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(UNITS)
        }
    }
}
