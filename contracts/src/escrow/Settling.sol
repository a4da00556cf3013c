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
        Batch memory batch = _newBatch(entries.count(Vouchers.USAGE_BYTES, MAX_ENTRIES));
        uint256 offset = 0;
        while (offset < entries.length) {
            offset = _settleRun(batch, entries, offset, Vouchers.USAGE_BYTES, SETTLED_BYTES, _settleOne);
            if (batch.settled.length > 0) emit Settled(batch.voucher.provider, batch.settled);
        }
        return batch.skipped;
    }

    /// @inheritdoc IEscrowCore
    function settleMetered(bytes calldata entries) external returns (bytes memory) {
        Batch memory batch = _newBatch(entries.count(Vouchers.METERED_BYTES, MAX_METERED));
        uint256 offset = 0;
        while (offset < entries.length) {
            offset =
                _settleRun(batch, entries, offset, Vouchers.METERED_BYTES, SETTLED_METERED_BYTES, _settleMeteredOne);
            if (batch.settled.length > 0) emit SettledMetered(batch.voucher.provider, batch.settled);
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
            (batch.voucher.provider, batch.gross, batch.fee) = (entries.runProvider(offset), 0, 0);
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
        _pay(batch.voucher.provider, batch.gross, batch.fee);
        return offset;
    }

    /// @return Packed leaseNo 16 | ms 5 as stored.
    function _settleOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        unchecked {
            Voucher memory voucher = batch.voucher;
            LeaseBox storage box = _leases[voucher.readUsage(entries, offset, batch.domain)];
            LeaseSlot slot = box.slot;
            (bool due, uint256 ms) = _payable(slot, voucher.ms);
            if (!due || ms <= slot.usedMs()) return 0;

            (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
            _earn(batch, paid, total);
            box.slot = slot.withUsedMs(ms);
            return bytes32(voucher.leaseNo) | bytes32(ms << 88);
        }
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored.
    function _settleMeteredOne(Batch memory batch, bytes calldata entries, uint256 offset) private returns (bytes32) {
        unchecked {
            Voucher memory voucher = batch.voucher;
            LeaseBox storage box = _leases[voucher.readMetered(entries, offset, batch.domain)];
            LeaseSlot slot = box.slot;
            (bool due, uint256 ms) = _payable(slot, voucher.ms);
            if (!due || !slot.hasCounted()) return 0;

            CountedSlot used = box.counted;
            CountedSlot next = used.raised(voucher.egressMib, voucher.units);
            bool counts = CountedSlot.unwrap(next) != CountedSlot.unwrap(used);
            if (ms > slot.usedMs()) {
                (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
                _earn(batch, paid, total);
                box.slot = slot.withUsedMs(ms);
            } else if (counts) {
                ms = slot.usedMs();
            } else {
                return 0;
            }
            if (counts) {
                _earn(batch, used.paid(SCALE), next.paid(SCALE));
                box.counted = next;
            }
            return bytes32(voucher.leaseNo) | bytes32((ms << 88) | next.usedBits(24));
        }
    }

    /// @return due Whether usage of `ms` may be paid now: not too late, nor ahead of the time since the lease opened.
    /// @return What of it is paid: at most the funded time.
    function _payable(LeaseSlot slot, uint256 ms) private view returns (bool due, uint256) {
        unchecked {
            (uint256 end, uint256 fundedMs) = (slot.end(), slot.funded() * Units.MS);
            due = slot.isOpen() && block.timestamp <= end + SETTLE_WINDOW
                && ms <= (block.timestamp - end) * Units.MS + fundedMs;
            return (due, ms < fundedMs ? ms : fundedMs);
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
