// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowExtension} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Voucher, Vouchers} from "../libraries/Vouchers.sol";
import {Extended} from "./Extended.sol";

/// @title Metering
/// @notice Payments for time and counted resources that witnesses signed, in batches. As `Settling`, with two slots a lease.
/// @dev Unchecked for the same reasons as there.
abstract contract Metering is Extended, IEscrowExtension {
    using Entries for bytes;
    using Vouchers for Voucher;

    uint256 internal constant MAX_METERED = 500;
    uint256 private constant SETTLED_METERED_BYTES = 29;

    /// @dev What a run pays its provider.
    struct Payment {
        uint256 gross;
        uint256 fee;
    }

    /// @inheritdoc IEscrowExtension
    function settleMetered(bytes calldata entries) external forEscrow returns (bytes memory skipped) {
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.METERED_BYTES, MAX_METERED);
        Voucher memory voucher = Vouchers.blank(_domainSeparatorV4());
        skipped = Entries.bitmap(count);
        uint256 index;
        while (at < end) {
            (at, index) = _settleRun(skipped, voucher, at, index);
        }
    }

    /// @dev Settles the run at `at`, whose first entry has this index, and pays its provider once. Returns where the next
    /// run begins, and the index of its first entry.
    function _settleRun(bytes memory skipped, Voucher memory voucher, uint256 at, uint256 index)
        private
        returns (uint256, uint256)
    {
        Payment memory payment;
        bytes memory settled = Entries.room(Entries.runLength(at) * SETTLED_METERED_BYTES);
        voucher.provider = Entries.runProvider(at);
        unchecked {
            uint256 end = index + Entries.runLength(at);
            at += Entries.HEADER_BYTES;
            for (; index < end; index++) {
                bytes32 entry = _settleOne(payment, voucher, _lease(voucher.readMetered(at)));
                at += Vouchers.METERED_BYTES;
                if (entry == 0) skipped.setBit(index);
                else settled.push(entry, SETTLED_METERED_BYTES);
            }
        }
        _pay(voucher.provider, payment.gross, payment.fee);
        if (settled.length > 0) emit SettledMetered(voucher.provider, settled);
        return (at, index);
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored; zero if the entry is skipped.
    function _settleOne(Payment memory payment, Voucher memory voucher, LeaseBox storage box)
        private
        returns (bytes32)
    {
        unchecked {
            LeaseSlot slot = box.slot;
            uint256 ms = voucher.ms;
            if (!slot.isDue(ms, block.timestamp, SETTLE_WINDOW) || !slot.hasCounted()) return 0;

            CountedSlot counts = box.counted;
            CountedSlot next = counts.raised(voucher.egressMib, voucher.units);
            bool raised = CountedSlot.unwrap(next) != CountedSlot.unwrap(counts);
            ms = slot.paidPart(ms);
            uint256 used = slot.usedMs();
            if (ms > used) {
                (uint256 paid, uint256 total) = slot.earned(ms, SCALE);
                _earn(payment, paid, total);
                box.slot = slot.withUsedMs(ms);
            } else {
                if (!raised) return 0;
                ms = used;
            }
            if (raised) {
                _earn(payment, counts.paid(SCALE), next.paid(SCALE));
                box.counted = next;
            }
            return bytes32(voucher.leaseNo) | bytes32((ms << 88) | next.usedBits(24));
        }
    }

    /// @dev Adds the growth of a lease's earnings to the run's payment.
    function _earn(Payment memory payment, uint256 paid, uint256 total) private view {
        unchecked {
            payment.gross += total - paid;
            payment.fee += _feeGrowth(paid, total);
        }
    }
}
