// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowExtension} from "../interfaces/IComputeEscrow.sol";
import {Entries} from "../libraries/Entries.sol";
import {CountedSlot, LeaseSlot} from "../libraries/LeaseSlot.sol";
import {Vouchers} from "../libraries/Vouchers.sol";
import {Extended} from "./Extended.sol";

/// @title Metering
/// @notice Payments for time and counted resources that witnesses signed, in batches. As `Settling`, with two slots a lease.
/// @dev Unchecked for the same reasons as there.
abstract contract Metering is Extended, IEscrowExtension {
    using Entries for bytes;

    uint256 internal constant MAX_METERED = 500;
    uint256 private constant SETTLED_METERED_BYTES = 29;

    /// @dev What a run pays its provider.
    struct Payment {
        uint256 gross;
        uint256 fee;
    }

    /// @inheritdoc IEscrowExtension
    function settleMetered(bytes calldata entries) external forEscrow returns (bytes memory skipped) {
        Vouchers.begin();
        Vouchers.setDomain(_domainSeparatorV4());
        (uint256 at, uint256 end, uint256 count) = entries.walk(Vouchers.METERED_BYTES, MAX_METERED);
        skipped = Entries.bitmap(count);
        uint256 index;
        while (at < end) {
            (at, index) = _settleRun(skipped, at, index);
        }
    }

    /// @dev Settles the run at `at`, whose first entry has this index, and pays its provider once. Returns where the next
    /// run begins, and the index of its first entry.
    function _settleRun(bytes memory skipped, uint256 at, uint256 index) private returns (uint256, uint256) {
        Payment memory payment;
        bytes memory settled = Entries.room(Entries.runLength(at) * SETTLED_METERED_BYTES);
        Vouchers.setProvider(Entries.runProvider(at));
        unchecked {
            index += Entries.runLength(at);
            uint256 end = at + Entries.HEADER_BYTES + Entries.runLength(at) * Vouchers.METERED_BYTES;
            at += Entries.HEADER_BYTES;
            for (; at < end; at += Vouchers.METERED_BYTES) {
                Vouchers.readCounts(at);
                bytes32 entry = _settleOne(
                    payment,
                    _lease(
                        Vouchers.read(at, Vouchers.METERED_TYPEHASH, Vouchers.METERED_WORDS, Vouchers.METERED_SIGNATURE)
                    )
                );
                if (entry == 0) skipped.setBit(index - (end - at) / Vouchers.METERED_BYTES);
                else settled.push(entry, SETTLED_METERED_BYTES);
            }
        }
        _pay(Vouchers.provider(), payment.gross, payment.fee);
        if (settled.length > 0) emit SettledMetered(Vouchers.provider(), settled);
        return (at, index);
    }

    /// @return Packed leaseNo 16 | ms 5 | egressMib 4 | units 4 as stored; zero if the entry is skipped.
    function _settleOne(Payment memory payment, LeaseBox storage box) private returns (bytes32) {
        LeaseSlot slot = box.slot;
        (LeaseSlot next, uint256 paid, uint256 total) =
            slot.settled(Vouchers.ms(), block.timestamp, SETTLE_WINDOW, SCALE);
        if (LeaseSlot.unwrap(next) == 0 || !slot.hasCounted()) return 0;
        bool later = LeaseSlot.unwrap(next) > LeaseSlot.unwrap(slot);
        if (later) {
            _earn(payment, paid, total);
            box.slot = next;
        }

        CountedSlot counts = box.counted;
        CountedSlot raised = counts.raised(Vouchers.egressMib(), Vouchers.units());
        if (CountedSlot.unwrap(raised) != CountedSlot.unwrap(counts)) {
            _earn(payment, counts.paid(SCALE), raised.paid(SCALE));
            box.counted = raised;
        } else if (!later) {
            return 0;
        }
        return Vouchers.leaseNo() | bytes32((next.usedMs() << 88) | raised.usedBits(24));
    }

    /// @dev Adds the growth of a lease's earnings to the run's payment.
    function _earn(Payment memory payment, uint256 paid, uint256 total) private view {
        unchecked {
            payment.gross += total - paid;
            payment.fee += _feeGrowth(paid, total);
        }
    }
}
