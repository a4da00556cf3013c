// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Leases} from "./Leases.sol";

/// @title Settling
/// @notice Payments for usage that witnesses signed, in batches.
abstract contract Settling is Leases {
    using Entries for bytes;

    uint256 public constant MAX_ENTRIES = 1000;
    uint256 public constant MAX_METERED = 500;

    bytes32 private constant USAGE_TYPEHASH =
        keccak256("Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)");
    bytes32 private constant METERED_TYPEHASH = keccak256(
        "MeteredUsage(address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units)"
    );

    uint256 private constant USAGE_BYTES = 105;
    uint256 private constant METERED_BYTES = 113;
    uint256 private constant SETTLED_BYTES = 21;
    uint256 private constant SETTLED_METERED_BYTES = 29;

    /// @dev A batch on its way. `provider`, `settled`, `gross` and `fee` are of the run at hand.
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
        (batch.provider, batch.gross, batch.fee) = (entries.runProvider(offset), 0, 0);
        uint256 left = entries.runLength(offset);
        batch.settled = Entries.room(left * settledBytes);
        offset += Entries.HEADER_BYTES;
        for (; left > 0; left--) {
            bytes32 settled = settleOne(batch, entries, offset);
            if (settled == 0) batch.skipped.setBit(batch.index);
            else batch.settled.push(settled, settledBytes);
            batch.index++;
            offset += entryBytes;
        }
        _pay(batch.provider, batch.gross, batch.fee);
        return offset;
    }

    /// @return Packed leaseNo 16 | ms 5 as stored.
    function _settleOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        address buyer = address(bytes20(entries.word(offset)));
        bytes16 leaseNo = bytes16(entries.word(offset + 20));
        uint256 ms = uint40(bytes5(entries.word(offset + 36)));
        bytes32 structHash = keccak256(abi.encode(USAGE_TYPEHASH, buyer, batch.provider, leaseNo, ms));
        bytes32 key = _keyBySigner(batch, structHash, entries, offset + 41, buyer, leaseNo);
        LeaseSlot slot = _leases[key];

        bool payable_;
        (payable_, ms) = _payableMs(slot, ms);
        if (!payable_ || ms <= slot.usedMs()) return 0;

        _advance(batch, key, slot, ms);
        return bytes32(leaseNo) | bytes32(ms << 88);
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored.
    function _settleMeteredOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        address buyer = address(bytes20(entries.word(offset)));
        bytes16 leaseNo = bytes16(entries.word(offset + 20));
        bytes32 figures = entries.word(offset + 36); // ms 5 | egressMib 4 | units 4
        uint256 ms = uint40(bytes5(figures));
        uint256 egressMib = uint32(bytes4(figures << 40));
        uint256 units = uint32(bytes4(figures << 72));
        bytes32 structHash =
            keccak256(abi.encode(METERED_TYPEHASH, buyer, batch.provider, leaseNo, ms, egressMib, units));
        bytes32 key = _keyBySigner(batch, structHash, entries, offset + 49, buyer, leaseNo);
        figures = _advanceMetered(batch, key, ms, egressMib, units);
        return figures == 0 ? bytes32(0) : bytes32(leaseNo) | figures;
    }

    /// @dev Key of the lease that the entry's signer witnesses; a key of no lease where the signature is bad.
    function _keyBySigner(
        Batch memory batch,
        bytes32 structHash,
        bytes calldata entries,
        uint256 offset,
        address buyer,
        bytes16 leaseNo
    ) private pure returns (bytes32) {
        bytes32 digest = MessageHashUtils.toTypedDataHash(batch.domain, structHash);
        (address witness,,) = ECDSA.tryRecover(digest, entries.word(offset), entries.word(offset + 32));
        return _keyOf(buyer, batch.provider, witness, leaseNo);
    }

    /// @dev Whether usage of `ms` may be paid now, and the part of it that may.
    function _payableMs(LeaseSlot slot, uint256 ms) private view returns (bool, uint256) {
        if (!slot.isOpen() || block.timestamp > slot.end() + settleWindow) return (false, 0);
        if (ms > (block.timestamp - slot.start()) * Units.MS) return (false, 0);
        return (true, _min(ms, slot.funded() * Units.MS));
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
        bool payable_;
        (payable_, ms) = _payableMs(slot, ms);
        if (!payable_ || !slot.hasCounted()) return 0;
        CountedSlot used = _counted[key];
        CountedSlot next = used.withUsed(
            _max(used.egressUsed(), _min(egressMib, used.egressCap())),
            _max(used.unitsUsed(), _min(units, used.unitsCap()))
        );
        bool counts = CountedSlot.unwrap(next) != CountedSlot.unwrap(used);
        if (ms <= slot.usedMs() && !counts) return 0;

        if (ms > slot.usedMs()) _advance(batch, key, slot, ms);
        if (counts) {
            _earn(batch, used.paid(SCALE), next.paid(SCALE));
            _counted[key] = next;
        }
        return bytes32((_max(ms, slot.usedMs()) << 88) | (next.egressUsed() << 56) | (next.unitsUsed() << 24));
    }

    /// @dev Adds the growth of a lease's earnings to the run's payment.
    function _earn(Batch memory batch, uint256 paid, uint256 total) private view {
        (uint256 gross, uint256 fee) = _growth(paid, total);
        batch.gross += gross;
        batch.fee += fee;
    }
}
