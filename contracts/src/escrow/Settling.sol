// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {Hashes} from "../libraries/Hashes.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Signatures} from "../libraries/Signatures.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Settling
/// @notice Payments for usage that witnesses signed, in batches.
/// @dev Unchecked: offsets stay within the calldata that `Entries.count` walked, sums of a run within the locks of its
/// leases, and those within the tokens held.
abstract contract Settling is Leases {
    using Entries for bytes;

    uint256 internal constant MAX_ENTRIES = 1000;
    uint256 internal constant MAX_METERED = 500;

    bytes32 private constant USAGE_TYPEHASH =
        keccak256("Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)");
    bytes32 private constant METERED_TYPEHASH = keccak256(
        "MeteredUsage(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)"
    );

    uint256 private constant USAGE_BYTES = 105;
    uint256 private constant METERED_BYTES = 113;
    uint256 private constant SETTLED_BYTES = 21;
    uint256 private constant SETTLED_METERED_BYTES = 29;

    /// @dev A batch on its way. All but the first three are of the run at hand.
    struct Batch {
        bytes32 domain;
        bytes skipped;
        uint256 index;
        address provider;
        bytes settled;
        uint256 gross;
        uint256 fee;
    }

    /// @inheritdoc IComputeEscrow
    function settle(bytes calldata entries) external returns (bytes memory) {
        Batch memory batch = _newBatch(entries.count(USAGE_BYTES, MAX_ENTRIES));
        uint256 offset = 0;
        while (offset < entries.length) {
            offset = _settleRun(batch, entries, offset, USAGE_BYTES, SETTLED_BYTES, _settleOne);
            if (batch.settled.length > 0) emit Settled(batch.provider, batch.settled);
        }
        return batch.skipped;
    }

    /// @inheritdoc IComputeEscrow
    function settleMetered(bytes calldata entries) external returns (bytes memory) {
        Batch memory batch = _newBatch(entries.count(METERED_BYTES, MAX_METERED));
        uint256 offset = 0;
        while (offset < entries.length) {
            offset = _settleRun(batch, entries, offset, METERED_BYTES, SETTLED_METERED_BYTES, _settleMeteredOne);
            if (batch.settled.length > 0) emit SettledMetered(batch.provider, batch.settled);
        }
        return batch.skipped;
    }

    function _newBatch(uint256 count) private view returns (Batch memory batch) {
        batch.domain = _domainSeparatorV4();
        batch.skipped = Entries.bitmap(count);
    }

    /// @dev Settles the run at `offset`, pays its provider once, and returns the offset of the next run.
    /// @param settleOne Settles one entry and returns what the event says of it, zero where it is skipped.
    function _settleRun(
        Batch memory batch,
        bytes calldata entries,
        uint256 offset,
        uint256 entryBytes,
        uint256 settledBytes,
        function(Batch memory, bytes calldata, uint256) internal returns (bytes32) settleOne
    ) private returns (uint256) {
        unchecked {
            uint256 length = entries.runLength(offset);
            (batch.provider, batch.gross, batch.fee) = (entries.runProvider(offset), 0, 0);
            batch.settled = Entries.room(length * settledBytes);
            offset += Entries.HEADER_BYTES;
            uint256 end = offset + length * entryBytes;
            uint256 index = batch.index;
            for (; offset < end; offset += entryBytes) {
                bytes32 settled = settleOne(batch, entries, offset);
                if (settled == 0) batch.skipped.setBit(index);
                else batch.settled.push(settled, settledBytes);
                index++;
            }
            batch.index = index;
        }
        _pay(batch.provider, batch.gross, batch.fee);
        return offset;
    }

    /// @return Packed leaseNo 16 | ms 5 as stored.
    function _settleOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        unchecked {
            address buyer = address(bytes20(entries.word(offset)));
            bytes16 leaseNo = bytes16(entries.word(offset + 20));
            uint256 ms = uint40(bytes5(entries.word(offset + 36)));
            bytes32 structHash = Hashes.usage(USAGE_TYPEHASH, buyer, batch.provider, leaseNo, ms);
            bytes32 key = _keyBySigner(batch, structHash, entries, offset + 41, buyer, leaseNo);
            LeaseSlot slot = _leases[key];

            if (!_isPayable(slot, ms)) return 0;
            ms = _min(ms, slot.funded() * Units.MS);
            if (ms <= slot.usedMs()) return 0;

            _advance(batch, key, slot, ms);
            return bytes32(leaseNo) | bytes32(ms << 88);
        }
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored.
    function _settleMeteredOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        unchecked {
            address buyer = address(bytes20(entries.word(offset)));
            bytes16 leaseNo = bytes16(entries.word(offset + 20));
            bytes32 figures = entries.word(offset + 36); // ms 5 | egressMib 4 | units 4
            uint256 ms = uint40(bytes5(figures));
            uint256 egressMib = uint32(bytes4(figures << 40));
            uint256 units = uint32(bytes4(figures << 72));
            bytes32 key = Hashes.metered(METERED_TYPEHASH, buyer, batch.provider, leaseNo, ms, egressMib, units);
            key = _keyBySigner(batch, key, entries, offset + 49, buyer, leaseNo);
            figures = _advanceMetered(batch, key, ms, egressMib, units);
            return figures == 0 ? bytes32(0) : bytes32(leaseNo) | figures;
        }
    }

    /// @dev Key of the lease that the entry's signer witnesses; a key of no lease where the signature is bad.
    function _keyBySigner(
        Batch memory batch,
        bytes32 structHash,
        bytes calldata entries,
        uint256 offset,
        address buyer,
        bytes16 leaseNo
    ) private view returns (bytes32) {
        bytes32 vs;
        unchecked {
            vs = entries.word(offset + 32);
        }
        address witness = Signatures.recover(batch.domain, structHash, entries.word(offset), vs);
        return Hashes.leaseKey(witness, buyer, batch.provider, leaseNo);
    }

    /// @dev Whether usage of `ms` may be paid now: not too late, nor ahead of the time since the lease opened.
    function _isPayable(LeaseSlot slot, uint256 ms) private view returns (bool) {
        unchecked {
            uint256 end = slot.end();
            return slot.isOpen() && block.timestamp <= end + settleWindow
                && ms <= (block.timestamp - end + slot.funded()) * Units.MS;
        }
    }

    /// @dev Moves a lease on to `ms` and adds what that earns to the run's payment.
    function _advance(Batch memory batch, bytes32 key, LeaseSlot slot, uint256 ms) private {
        LeaseSlot next = slot.withUsedMs(ms);
        _earn(batch, slot.paidTime(SCALE), next.paidTime(SCALE));
        _leases[key] = next;
    }

    /// @dev Moves a lease on to those figures that are higher than its own.
    /// @return figures Zero where none is; else all as stored, where the event has them: ms 5 | egressMib 4 | units 4.
    function _advanceMetered(Batch memory batch, bytes32 key, uint256 ms, uint256 egressMib, uint256 units)
        private
        returns (bytes32 figures)
    {
        LeaseSlot slot = _leases[key];
        if (!_isPayable(slot, ms) || !slot.hasCounted()) return 0;
        unchecked {
            ms = _max(_min(ms, slot.funded() * Units.MS), slot.usedMs());
        }
        CountedSlot used = _counted[key];
        CountedSlot next = used.withUsed(
            _max(used.egressUsed(), _min(egressMib, used.egressCap())),
            _max(used.unitsUsed(), _min(units, used.unitsCap()))
        );
        bool counts = CountedSlot.unwrap(next) != CountedSlot.unwrap(used);
        if (ms == slot.usedMs() && !counts) return 0;

        if (ms > slot.usedMs()) _advance(batch, key, slot, ms);
        if (counts) {
            _earn(batch, used.paid(SCALE), next.paid(SCALE));
            _counted[key] = next;
        }
        return bytes32((ms << 88) | (next.egressUsed() << 56) | (next.unitsUsed() << 24));
    }

    /// @dev Adds the growth of a lease's earnings to the run's payment.
    function _earn(Batch memory batch, uint256 paid, uint256 total) private view {
        (uint256 gross, uint256 fee) = _growth(paid, total);
        unchecked {
            batch.gross += gross;
            batch.fee += fee;
        }
    }
}
