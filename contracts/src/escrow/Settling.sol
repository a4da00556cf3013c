// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowCore} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Units} from "../libraries/Units.sol";
import {Voucher, Vouchers} from "../libraries/Vouchers.sol";
import {Leases} from "./Leases.sol";

/// @title Settling
/// @notice Payments for usage that witnesses signed, in batches.
/// @dev Unchecked: offsets stay within the calldata that `Entries.count` walked, sums of a run within the locks of its
/// leases, and those within the tokens held.
abstract contract Settling is Leases, IEscrowCore {
    using Entries for bytes;
    using Vouchers for Voucher;

    uint256 internal constant MAX_ENTRIES = 1000;
    uint256 internal constant MAX_METERED = 500;

    uint256 private constant SETTLED_BYTES = 21;
    uint256 private constant SETTLED_METERED_BYTES = 29;

    /// @dev A batch on its way. `settled`, `gross` and `fee` are of the run at hand, as is the voucher's provider.
    struct Batch {
        bytes32 domain;
        bytes skipped;
        uint256 index;
        Voucher voucher;
        bytes settled;
        uint256 gross;
        uint256 fee;
    }

    /// @inheritdoc IEscrowCore
    function settle(bytes calldata entries) external returns (bytes memory) {
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.USAGE_BYTES, MAX_ENTRIES);
        Batch memory batch = _newBatch(count);
        while (at < end) {
            at = _settleRun(batch, at, Vouchers.USAGE_BYTES, SETTLED_BYTES, _settleOne);
            if (batch.settled.length > 0) emit Settled(batch.voucher.provider, batch.settled);
        }
        return batch.skipped;
    }

    /// @inheritdoc IEscrowCore
    function settleMetered(bytes calldata entries) external returns (bytes memory) {
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.METERED_BYTES, MAX_METERED);
        Batch memory batch = _newBatch(count);
        while (at < end) {
            at = _settleRun(batch, at, Vouchers.METERED_BYTES, SETTLED_METERED_BYTES, _settleMeteredOne);
            if (batch.settled.length > 0) emit SettledMetered(batch.voucher.provider, batch.settled);
        }
        return batch.skipped;
    }

    function _newBatch(uint256 count) private view returns (Batch memory batch) {
        batch.domain = _domainSeparatorV4();
        batch.skipped = Entries.bitmap(count);
    }

    /// @dev Settles the run at `at`, pays its provider once, and returns where the next run begins.
    /// @param settleOne Settles the entry at a place and returns what the event says of it, zero where it is skipped.
    function _settleRun(
        Batch memory batch,
        uint256 at,
        uint256 entryBytes,
        uint256 settledBytes,
        function(Batch memory, uint256) internal returns (bytes32) settleOne
    ) private returns (uint256) {
        unchecked {
            uint256 length = Entries.runLength(at);
            (batch.voucher.provider, batch.gross, batch.fee) = (Entries.runProvider(at), 0, 0);
            batch.settled = Entries.room(length * settledBytes);
            at += Entries.HEADER_BYTES;
            uint256 end = at + length * entryBytes;
            uint256 index = batch.index;
            for (; at < end; at += entryBytes) {
                bytes32 settled = settleOne(batch, at);
                if (settled == 0) batch.skipped.setBit(index);
                else batch.settled.push(settled, settledBytes);
                index++;
            }
            batch.index = index;
        }
        _pay(batch.voucher.provider, batch.gross, batch.fee);
        return at;
    }

    /// @return Packed leaseNo 16 | ms 5 as stored.
    function _settleOne(Batch memory batch, uint256 at) private returns (bytes32) {
        unchecked {
            Voucher memory voucher = batch.voucher;
            LeaseBox storage box = _lease(voucher.readUsage(at, batch.domain));
            LeaseSlot slot = box.slot;
            uint256 ms = voucher.ms;
            if (!_isDue(slot, ms)) return 0;

            uint256 most = slot.paidSeconds() * Units.MS;
            if (ms > most) ms = most;
            if (ms <= slot.usedMs()) return 0;
            (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
            _earn(batch, paid, total);
            box.slot = slot.withUsedMs(ms);
            return bytes32(voucher.leaseNo) | bytes32(ms << 88);
        }
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored.
    function _settleMeteredOne(Batch memory batch, uint256 at) private returns (bytes32) {
        unchecked {
            Voucher memory voucher = batch.voucher;
            LeaseBox storage box = _lease(voucher.readMetered(at, batch.domain));
            LeaseSlot slot = box.slot;
            uint256 ms = voucher.ms;
            if (!_isDue(slot, ms) || !slot.hasCounted()) return 0;

            CountedSlot counts = box.counted;
            CountedSlot next = counts.raised(voucher.egressMib, voucher.units);
            bool raised = CountedSlot.unwrap(next) != CountedSlot.unwrap(counts);
            ms = slot.paidPart(ms);
            uint256 used = slot.usedMs();
            if (ms > used) {
                (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
                _earn(batch, paid, total);
                box.slot = slot.withUsedMs(ms);
            } else {
                if (!raised) return 0;
                ms = used;
            }
            if (raised) {
                _earn(batch, counts.paid(SCALE), next.paid(SCALE));
                box.counted = next;
            }
            return bytes32(voucher.leaseNo) | bytes32((ms << 88) | next.usedBits(24));
        }
    }

    /// @dev Whether usage of `ms` may be paid now: not too late, nor ahead of the time since the lease opened.
    function _isDue(LeaseSlot slot, uint256 ms) private view returns (bool) {
        unchecked {
            uint256 end = slot.end();
            return slot.isOpen() && block.timestamp <= end + SETTLE_WINDOW
                && ms <= (block.timestamp - end + slot.funded()) * Units.MS;
        }
    }

    /// @dev Adds the growth of a lease's earnings to the run's payment.
    function _earn(Batch memory batch, uint256 paid, uint256 total) private view {
        unchecked {
            batch.gross += total - paid;
            batch.fee += _feeGrowth(paid, total);
        }
    }
}
